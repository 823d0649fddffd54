//! The one place where the server looks at who calls whom.

use std::task::{Context, Poll};

use futures::future::{Either, Ready, ready};
use hyper::http::{HeaderMap, Request, Response};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use crate::model::NodeId;
use crate::rpc::identity::{CLUSTER, FROM, Identity, TO};

/// Calls of nodes that need not know each other yet.
const OPEN: [&str; 4] = [
    "/syncd.v1.Coordination/Hello",
    "/syncd.v1.Coordination/Form",
    "/syncd.v1.Coordination/Present",
    "/syncd.v1.Coordination/Join",
];

/// Who calls, as the call says itself; in the extensions of every request that passed the check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller(pub NodeId);

/// Puts the check before a service.
#[derive(Clone, Debug)]
pub(super) struct CheckLayer {
    identity: Identity,
}

impl CheckLayer {
    pub(super) fn new(identity: Identity) -> Self {
        Self { identity }
    }
}

impl<S> Layer<S> for CheckLayer {
    type Service = Check<S>;
    fn layer(&self, inner: S) -> Check<S> {
        Check { inner, identity: self.identity.clone() }
    }
}

/// See [`CheckLayer`].
#[derive(Clone, Debug)]
pub(super) struct Check<S> {
    inner: S,
    identity: Identity,
}

impl<S> Service<Request<Body>> for Check<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if !OPEN.contains(&request.uri().path()) {
            match check(&self.identity, request.headers()) {
                Ok(caller) => {
                    request.extensions_mut().insert(caller);
                }
                Err(status) => return Either::Right(ready(Ok(status.into_http()))),
            }
        }
        Either::Left(self.inner.call(request))
    }
}

fn check(identity: &Identity, headers: &HeaderMap) -> Result<Caller, Status> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let Some(me) = identity.get() else {
        return Err(Status::failed_precondition("this node belongs to no cluster yet"));
    };
    if text(CLUSTER) != me.cluster.to_string() {
        return Err(Status::failed_precondition("another cluster"));
    }
    if text(TO) != me.node.to_string() {
        return Err(Status::failed_precondition("another node"));
    }
    text(FROM)
        .parse()
        .map(Caller)
        .map_err(|_| Status::failed_precondition("the caller does not say who it is"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ClusterId;
    use crate::rpc::Me;

    #[test]
    fn only_calls_for_this_node_of_this_cluster_pass() {
        let identity = Identity::new();
        let headers = |cluster: &str, from: &str, to: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CLUSTER, cluster.parse().unwrap());
            headers.insert(FROM, from.parse().unwrap());
            headers.insert(TO, to.parse().unwrap());
            headers
        };
        let own = ClusterId([7; 16]).to_string();
        let message =
            |headers: &HeaderMap| check(&identity, headers).map_err(|status| status.message().to_owned());
        assert_eq!(message(&headers(&own, "1", "2")), Err("this node belongs to no cluster yet".to_owned()));
        identity.set(Me { cluster: ClusterId([7; 16]), node: 2 });
        assert_eq!(message(&headers(&own, "1", "2")), Ok(Caller(1)));
        assert_eq!(message(&headers(&own, "1", "3")), Err("another node".to_owned()));
        let other = ClusterId([8; 16]).to_string();
        assert_eq!(message(&headers(&other, "1", "2")), Err("another cluster".to_owned()));
        assert_eq!(message(&HeaderMap::new()), Err("another cluster".to_owned()));
        assert!(message(&headers(&own, "x", "2")).is_err());
    }
}
