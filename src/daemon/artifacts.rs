//! The one service that two rooms answer together: content by apply, reports by the roster.

use futures::stream::{BoxStream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use crate::apply::{Restorer, Stager, Taker};
use crate::model::NodeId;
use crate::roster::Roster;
use crate::rpc::Caller;
use crate::wire::proto::artifacts_server::Artifacts;
use crate::wire::proto::{FetchRequest, OfferReply, Parcel, Report, RestorePart, RestoreReply, StageReply};

/// Answers what peers ask about content and reports.
pub struct ArtifactsService {
    stager: Stager,
    restorer: Restorer,
    taker: Taker,
    roster: Roster,
}

impl ArtifactsService {
    /// Over the two rooms that know the answers.
    #[must_use]
    pub fn new(stager: Stager, taker: Taker, restorer: Restorer, roster: Roster) -> Self {
        Self { stager, taker, restorer, roster }
    }
}

/// The member that calls. Every call of this service passed the check that knows it.
fn sender<T>(request: &Request<T>) -> Result<NodeId, Status> {
    match request.extensions().get() {
        Some(Caller(from)) => Ok(*from),
        None => Err(Status::failed_precondition("a call needs a sender")),
    }
}

#[tonic::async_trait]
impl Artifacts for ArtifactsService {
    async fn stage(&self, request: Request<Streaming<Parcel>>) -> Result<Response<StageReply>, Status> {
        let from = sender(&request)?;
        self.stager.stage(from, request.into_inner()).await.map(Response::new)
    }

    async fn offer(&self, request: Request<Streaming<Parcel>>) -> Result<Response<OfferReply>, Status> {
        let from = sender(&request)?;
        self.taker.offer(from, request.into_inner()).await.map(Response::new)
    }

    type FetchStream = BoxStream<'static, Result<Parcel, Status>>;

    async fn fetch(&self, request: Request<FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        let from = sender(&request)?;
        let parcels = self.stager.fetch(from, request.into_inner()).await?;
        Ok(Response::new(parcels.boxed()))
    }

    async fn restore(
        &self,
        request: Request<Streaming<RestorePart>>,
    ) -> Result<Response<RestoreReply>, Status> {
        sender(&request)?;
        self.restorer.serve(request.into_inner()).await.map(Response::new)
    }

    async fn exchange(&self, request: Request<Report>) -> Result<Response<Report>, Status> {
        let from = sender(&request)?;
        match self.roster.exchange(from, request.get_ref()) {
            Ok(report) => Ok(Response::new(report)),
            Err(error) => Err(Status::invalid_argument(error.to_string())),
        }
    }
}
