//! Another member, played: a real server with a store of its own.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;
use tokio_stream::StreamExt;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

use super::*;
use crate::delta::{self, ChunkReader};
use crate::wire::Header;
use crate::wire::proto::artifacts_server::{Artifacts, ArtifactsServer};
use crate::wire::proto::{FetchRequest, Parcel, Report, RestorePart, RestoreReply, StageReply, parcel::Part};

/// Why a member refuses some generations that build on others.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Refusal {
    None,
    /// So often, for a reason that no parcel would change.
    Full(u64),
    /// Once, for want of what it should have.
    Incomplete,
}

/// A member that stages into a store of its own.
struct Peer(Store, Arc<Mutex<Refusal>>);

#[tonic::async_trait]
impl Artifacts for Peer {
    async fn stage(&self, request: Request<Streaming<Parcel>>) -> Result<Response<StageReply>, Status> {
        let mut parcels = request.into_inner();
        let mut header = None;
        let mut pieces = Vec::new();
        while let Some(parcel) = parcels.next().await {
            match parcel?.part.unwrap() {
                Part::Header(message) => header = Some(Header::try_from(message).unwrap()),
                Part::Data(piece) => pieces.push(piece),
            }
        }
        let header = header.unwrap();
        let mut pieces = pieces.into_iter();
        let input = ChunkReader::new(|| io::Result::Ok(pieces.next()));
        let Ok(Some(basis)) = self.0.basis(header.base, header.base_digest.as_ref()) else {
            let refused = "the base is not here".to_owned();
            return Ok(Response::new(StageReply { refused, ..StageReply::default() }));
        };
        let refusal = match &mut *self.1.lock().unwrap() {
            Refusal::Full(left @ 1..) if header.base > 0 => {
                *left -= 1;
                Some(false)
            }
            refusal @ Refusal::Incomplete if header.base > 0 => {
                *refusal = Refusal::None;
                Some(true)
            }
            _ => None,
        };
        if let Some(incomplete) = refusal {
            let (refused, newest) = ("played".to_owned(), header.base);
            return Ok(Response::new(StageReply { pinned: false, refused, newest, incomplete }));
        }
        let rules = header.rules.clone().unwrap_or_else(|| basis.rules.clone());
        let forest = basis.forest.clone().under(&rules);
        let time = |place: &Place| basis.time(place).map_err(io::Error::other);
        let mut batch = self.0.batch();
        let changes = delta::decode(
            input,
            &header,
            &delta::Base { forest: &forest, time: &time },
            |hash| Ok::<_, PublishError>(self.0.open_blob(hash)?),
            |_| Ok(Vec::new()),
            |hash, size, content| Ok(batch.put(hash, size, content).map(|_| ())?),
        )
        .unwrap();
        let pinned = batch.pin(&header.proposal(rules, changes));
        let newest = self.0.pins().iter().map(|pin| pin.number).max().unwrap_or(0);
        let refused = pinned.as_ref().err().map(ToString::to_string).unwrap_or_default();
        let incomplete = pinned.is_err();
        Ok(Response::new(StageReply { pinned: !incomplete, refused, newest, incomplete }))
    }

    type FetchStream = tokio_stream::Empty<Result<Parcel, Status>>;

    async fn fetch(&self, _: Request<FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        Err(Status::unimplemented("not played"))
    }

    async fn restore(&self, _: Request<Streaming<RestorePart>>) -> Result<Response<RestoreReply>, Status> {
        Err(Status::unimplemented("not played"))
    }

    async fn offer(
        &self,
        _: Request<Streaming<Parcel>>,
    ) -> Result<Response<crate::wire::proto::OfferReply>, Status> {
        Err(Status::unimplemented("not played"))
    }

    async fn exchange(&self, _: Request<Report>) -> Result<Response<Report>, Status> {
        Err(Status::unimplemented("not played"))
    }
}

pub(super) async fn serve_peer(dir: &Path, node: NodeId, stop: &CancellationToken) -> (String, Store) {
    serve_refusing(dir, node, Refusal::None, stop).await
}

pub(super) async fn serve_refusing(
    dir: &Path,
    node: NodeId,
    refusal: Refusal,
    stop: &CancellationToken,
) -> (String, Store) {
    let store = Store::open(&dir.join(format!("peer{node}")), &dir.join(format!("peer{node}-q"))).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let identity = Identity::new();
    identity.set(Me { cluster: CLUSTER, node });
    let routes = Routes::new(ArtifactsServer::new(Peer(store.clone(), Arc::new(Mutex::new(refusal)))));
    let stop = stop.clone();
    tokio::spawn(async move { rpc::serve(listener, None, identity, routes, stop).await });
    (address, store)
}
