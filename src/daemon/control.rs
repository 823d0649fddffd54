//! The control socket: what the command line of this host asks, and orders.
//!
//! Owns its routes and the shape of their answers. Whoever may open the socket may do all of it: its permissions are
//! the only ones. What was asked is answered as JSON, artifact paths included; an order that is not obeyed is answered
//! with a [`ControlError`]; what takes long is answered with [`lines`], one JSON value each.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::daemon::approving::{ApproveOrder, approve};
use crate::daemon::http::read;
use crate::daemon::redeploying::RedeployOrder;
use crate::daemon::restoring::{QuarantineShown, RestoreOrder};
use crate::daemon::status::QuarantineRow;
use crate::daemon::switchover::{SwitchoverOrder, switchover};
use crate::daemon::view::View;
use crate::inspect::Question;
use crate::model::{Coordinator, Order, OrderError, OrderOutcome};

/// A long answer has a line at least this often, so that whoever waits can tell it from a hung daemon.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// The paths of the control socket, which only the daemon's own user and group reach.
pub fn control(view: Arc<View>) -> Router {
    Router::new()
        .route("/status", read(|State(view): State<Arc<View>>| async move { Json(view.status()) }))
        .route("/history", read(history))
        .route("/quarantine", read(quarantine))
        .route("/inspect", post(inspect))
        .route("/quarantine/{id}", read(shown))
        .route("/quarantine/{id}/content", read(kept_content))
        .route("/quarantine/{id}/published", read(published_content))
        .route("/quarantine/{id}/drop", post(drop_kept))
        .route("/restore", post(restore))
        .route("/pause", post(pause))
        .route("/resume", post(resume))
        .route("/bootstrap", post(bootstrap))
        .route("/switchover", post(switch))
        .route("/remove", post(remove))
        .route("/redeploy", post(redeploy))
        .route("/approve", post(agree))
        .route("/seed", post(seed))
        .with_state(view)
}

/// Why an order of the command line was not obeyed, or may not have been.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{error}; remedy: {remedy}")]
pub struct ControlError {
    /// What is wrong, in a sentence.
    pub error: String,
    /// What to do about it.
    pub remedy: String,
    /// Whether the command line ends with 2 instead of 1: the daemon failed, does not know what became of it, or
    /// something else came of it than was ordered.
    pub critical: bool,
}

impl ControlError {
    /// The order is refused: nothing was done.
    #[must_use]
    pub fn refused(error: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { error: error.into(), remedy: remedy.into(), critical: false }
    }

    /// The daemon failed, does not know what became of the order, or something else came of it.
    #[must_use]
    pub fn critical(error: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { error: error.into(), remedy: remedy.into(), critical: true }
    }
}

impl From<OrderError> for ControlError {
    fn from(error: OrderError) -> Self {
        match error {
            OrderError::Refused(refusal) => Self::refused(refusal.why, refusal.remedy),
            unknown @ OrderError::Unknown { .. } => Self::critical(
                unknown.to_string(),
                "see `syncd status` for what is so now, then decide whether to repeat it",
            ),
        }
    }
}

impl IntoResponse for ControlError {
    fn into_response(self) -> Response {
        let status = if self.critical { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::CONFLICT };
        (status, Json(self)).into_response()
    }
}

/// One line of a long answer: what there is to say, or how it failed, which is the last.
pub type Line<T> = Result<T, ControlError>;

/// An answer that is written while the work goes on: one JSON value in each line, a [`ControlError`] in the last one if
/// it failed. Empty lines mean that it still goes on. Sending fails once nobody listens any more.
pub fn lines<T: Serialize + Send + 'static>(lines: mpsc::Receiver<Line<T>>) -> Response {
    let body = Body::from_stream(with_signs_of_life(ReceiverStream::new(lines).map(|line| {
        let text = match line {
            Ok(value) => serde_json::to_string(&value),
            Err(error) => serde_json::to_string(&error),
        };
        text.unwrap_or_else(|error| {
            format!("{{\"error\":{:?},\"remedy\":\"see the log\",\"critical\":true}}", error.to_string())
        })
    })));
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

fn with_signs_of_life(
    lines: impl Stream<Item = String> + Send + 'static,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static {
    futures::stream::unfold(Box::pin(lines), |mut lines| async move {
        let line = match tokio::time::timeout(LINE_EVERY, lines.next()).await {
            Ok(line) => line?,
            Err(_) => String::new(),
        };
        Some((Ok(Bytes::from(line + "\n")), lines))
    })
}

#[derive(serde::Deserialize)]
struct HistoryQuery {
    n: Option<usize>,
}

async fn history(State(view): State<Arc<View>>, Query(query): Query<HistoryQuery>) -> Response {
    let listed = tokio::task::spawn_blocking(move || view.history(query.n.unwrap_or(20).min(10_000))).await;
    answer(listed)
}

async fn quarantine(State(view): State<Arc<View>>) -> Response {
    answer(tokio::task::spawn_blocking(move || view.quarantine()).await)
}

fn answer<T: Serialize>(
    outcome: Result<Result<T, crate::store::StoreError>, tokio::task::JoinError>,
) -> Response {
    match outcome {
        Ok(Ok(value)) => Json(value).into_response(),
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn shown(
    State(view): State<Arc<View>>,
    Path(id): Path<String>,
) -> Result<Json<QuarantineShown>, ControlError> {
    view.show(&id).await.map(Json)
}

async fn kept_content(State(view): State<Arc<View>>, Path(id): Path<String>) -> Result<Bytes, ControlError> {
    view.kept_content(&id).await
}

async fn drop_kept(
    State(view): State<Arc<View>>,
    Path(id): Path<String>,
) -> Result<Json<QuarantineRow>, ControlError> {
    view.drop_kept(&id).await.map(Json)
}

async fn published_content(
    State(view): State<Arc<View>>,
    Path(id): Path<String>,
) -> Result<Bytes, ControlError> {
    view.published_content(&id).await
}

async fn restore(State(view): State<Arc<View>>, Json(order): Json<RestoreOrder>) -> Response {
    let (said, told) = mpsc::channel(1);
    tokio::spawn(async move {
        // Whoever asked may have gone; the restore goes on, and its generation says so.
        let _ = said.send(view.restore(order).await).await;
    });
    lines(told)
}

async fn pause(State(view): State<Arc<View>>) -> Result<Json<OrderOutcome>, ControlError> {
    Ok(Json(view.cluster.order(Order::Pause).await?))
}

async fn resume(State(view): State<Arc<View>>) -> Result<Json<OrderOutcome>, ControlError> {
    Ok(Json(view.cluster.order(Order::Resume).await?))
}

/// What the command line asks nodes to say of themselves.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InspectOrder {
    /// What is asked.
    pub question: Question,
    /// The node that is asked; none: this one.
    pub node: Option<String>,
    /// Ask every member instead.
    pub everyone: bool,
}

async fn inspect(State(view): State<Arc<View>>, Json(order): Json<InspectOrder>) -> Response {
    let mut answer = match order.everyone {
        true => view.inspector.ask_all(order.question),
        false => view.inspector.ask(order.question, order.node.as_deref()),
    };
    let (told, rows) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Some(line) = answer.recv().await {
            if told.send(Ok(line)).await.is_err() {
                return;
            }
        }
    });
    lines(rows)
}

/// How a cluster is to form although the hosts are not as they should be.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct BootstrapOrder {
    /// Without these listed voters.
    pub without: BTreeSet<String>,
    /// A new cluster, whatever marks the roots carry.
    pub anew: bool,
}

async fn bootstrap(
    State(view): State<Arc<View>>,
    Json(order): Json<BootstrapOrder>,
) -> Result<Json<String>, ControlError> {
    let formed = view.cluster.bootstrap(order.without, order.anew).await;
    Ok(Json(formed.map_err(|refusal| ControlError::refused(refusal.why, refusal.remedy))?))
}

async fn switch(State(view): State<Arc<View>>, Json(order): Json<SwitchoverOrder>) -> Response {
    let (steps, told) = mpsc::channel(8);
    tokio::spawn(switchover(view, order, steps));
    lines(told)
}

async fn agree(State(view): State<Arc<View>>, Json(order): Json<ApproveOrder>) -> Response {
    let (steps, told) = mpsc::channel(8);
    tokio::spawn(approve(view, order, steps));
    lines(told)
}

async fn seed(
    State(view): State<Arc<View>>,
    Json(Named { name }): Json<Named>,
) -> Result<Json<OrderOutcome>, ControlError> {
    Ok(Json(view.cluster.order(Order::Seed { node: name }).await?))
}

/// Names a member, in an order about it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Named {
    /// Its name.
    pub name: String,
}

async fn remove(
    State(view): State<Arc<View>>,
    Json(Named { name }): Json<Named>,
) -> Result<Json<OrderOutcome>, ControlError> {
    Ok(Json(view.cluster.order(Order::Remove { name }).await?))
}

async fn redeploy(
    State(view): State<Arc<View>>,
    Json(order): Json<RedeployOrder>,
) -> Result<Json<OrderOutcome>, ControlError> {
    Ok(Json(view.redeploy(&order).await?))
}
