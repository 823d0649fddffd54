//! The service that peers call.

use futures::stream::{BoxStream, StreamExt};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::inspect::{Inspector, peers};
use crate::wire::proto::inspection_server::Inspection;
use crate::wire::proto::{ContentPart, ContentRequest, InspectLine, InspectRequest};

#[tonic::async_trait]
impl Inspection for Inspector {
    type InspectStream = BoxStream<'static, Result<InspectLine, Status>>;

    async fn inspect(
        &self,
        request: Request<InspectRequest>,
    ) -> Result<Response<Self::InspectStream>, Status> {
        let Some(question) = peers::question(request.get_ref()) else {
            return Err(Status::unimplemented("this version does not know that question"));
        };
        let lines = ReceiverStream::new(self.answer(question));
        Ok(Response::new(lines.map(|told| Ok(peers::line(&told))).boxed()))
    }

    type ContentStream = BoxStream<'static, Result<ContentPart, Status>>;

    async fn content(
        &self,
        request: Request<ContentRequest>,
    ) -> Result<Response<Self::ContentStream>, Status> {
        Ok(Response::new(self.giver.give(request.get_ref())?.boxed()))
    }
}
