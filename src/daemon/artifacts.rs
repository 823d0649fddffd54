//! The one service that several rooms answer together: content by apply, reports by the roster, questions by inspect.

use futures::stream::{BoxStream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use crate::apply::Stager;
use crate::inspect::Inspector;
use crate::model::NodeId;
use crate::roster::Roster;
use crate::rpc::Caller;
use crate::wire::proto::artifacts_server::Artifacts;
use crate::wire::proto::{
    ContentPart, ContentRequest, FetchRequest, InspectLine, InspectRequest, Parcel, Report, StageReply,
};

/// Answers what peers ask about content and reports.
pub struct ArtifactsService {
    stager: Stager,
    roster: Roster,
    inspector: Inspector,
}

impl ArtifactsService {
    /// Over the rooms that know the answers.
    #[must_use]
    pub fn new(stager: Stager, roster: Roster, inspector: Inspector) -> Self {
        Self { stager, roster, inspector }
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

    type FetchStream = BoxStream<'static, Result<Parcel, Status>>;

    async fn fetch(&self, request: Request<FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        let parcels = self.stager.fetch(request.into_inner()).await?;
        Ok(Response::new(parcels.boxed()))
    }

    async fn exchange(&self, request: Request<Report>) -> Result<Response<Report>, Status> {
        let from = sender(&request)?;
        match self.roster.exchange(from, request.get_ref()) {
            Ok(report) => Ok(Response::new(report)),
            Err(error) => Err(Status::invalid_argument(error.to_string())),
        }
    }

    type InspectStream = BoxStream<'static, Result<InspectLine, Status>>;

    async fn inspect(
        &self,
        request: Request<InspectRequest>,
    ) -> Result<Response<Self::InspectStream>, Status> {
        Ok(Response::new(self.inspector.inspect(request.get_ref())?.boxed()))
    }

    type ContentStream = BoxStream<'static, Result<ContentPart, Status>>;

    async fn content(
        &self,
        request: Request<ContentRequest>,
    ) -> Result<Response<Self::ContentStream>, Status> {
        Ok(Response::new(self.inspector.content(request.get_ref())?.boxed()))
    }
}
