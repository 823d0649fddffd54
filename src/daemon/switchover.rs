//! A planned change of manager, told step by step to whoever ordered it.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::daemon::control::{ControlError, Line};
use crate::daemon::view::View;
use crate::model::{Coordinator, Order};

/// How long the new manager may take to be in office: it brings its folder to the head first.
const DONE_WITHIN: Duration = Duration::from_secs(60);
/// How often it is looked whether it is.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// What is ordered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchoverOrder {
    /// The node that is to take over; none lets the leader choose the best one.
    pub to: Option<String>,
}

/// What there is to say while it goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchoverStep {
    /// In a sentence.
    pub said: String,
    /// The new manager, once it is in office; the last step has it.
    pub manager: Option<String>,
    /// Its epoch.
    pub epoch: Option<u64>,
}

/// Orders it, and tells until the new manager is in office. Goes on in the cluster also when nobody listens any more.
pub async fn switchover(view: Arc<View>, order: SwitchoverOrder, steps: mpsc::Sender<Line<SwitchoverStep>>) {
    let outcome = run(&view, order, &steps).await;
    if let Err(error) = outcome {
        // Whoever left does not want to know.
        let _ = steps.send(Err(error)).await;
    }
}

async fn run(
    view: &View,
    order: SwitchoverOrder,
    steps: &mpsc::Sender<Line<SwitchoverStep>>,
) -> Result<(), ControlError> {
    let tell = async |said: String, manager: Option<String>, epoch: Option<u64>| {
        // As above; the switch goes on.
        let _ = steps.send(Ok(SwitchoverStep { said, manager, epoch })).await;
    };
    let before = view.state.borrow().as_ref().map_or(0, |state| state.epoch());
    let ordered = view.cluster.order(Order::Switchover { to: order.to.clone() }).await?;
    tell(ordered.sentence, None, None).await;
    let deadline = Instant::now() + DONE_WITHIN;
    let mut appointed = None;
    loop {
        let now = view.state.borrow().as_ref().and_then(|state| {
            let current = state.appointment.as_ref().filter(|current| current.epoch > before)?;
            Some((current.epoch, state.members.get(&current.manager)?.name.clone()))
        });
        if let Some((epoch, name)) = &now
            && appointed != now
        {
            tell(
                format!("{name} is appointed (epoch {epoch}) and brings its folder to the head"),
                None,
                None,
            )
            .await;
            appointed.clone_from(&now);
        }
        let status = view.status();
        if let (Some((epoch, name)), Some(manager)) = (&appointed, &status.manager)
            && status.epoch == Some(*epoch)
            && name == manager
        {
            if order.to.as_ref().is_some_and(|to| to != name) {
                let why = format!("{name} is manager now: it was the better choice when the office was free");
                return Err(ControlError::refused(
                    why,
                    "see `syncd status` for what became of the other, then try again",
                ));
            }
            tell(format!("{name} is manager now (epoch {epoch})"), Some(name.clone()), Some(*epoch)).await;
            return Ok(());
        }
        if Instant::now() >= deadline {
            let why = match appointed {
                Some((_, name)) => {
                    format!("{name} is appointed, but was not seen in office within {DONE_WITHIN:?}")
                }
                None => {
                    format!("the switch was ordered, but no manager was appointed within {DONE_WITHIN:?}")
                }
            };
            return Err(ControlError::critical(
                why,
                "see `syncd status` for who is manager and what it waits for",
            ));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
