//! A planned change of manager, told step by step to whoever ordered it.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::daemon::control::{ControlError, Line};
use crate::daemon::view::View;
use crate::model::{ClusterState, Coordinator, Epoch, Order};

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
    // Not what is applied here: where the log lags, the manager that goes may not be in office yet.
    let confirmed = view.cluster.confirm().await.ok_or_else(|| {
        ControlError::refused(
            "no leader said in time who is manager now, so nothing was ordered",
            "see `syncd status` for which candidates are not heard, then try again",
        )
    })?;
    let before = confirmed.epoch();
    let former = confirmed.appointment.as_ref().and_then(|current| confirmed.members.get(&current.manager));
    let former = former.map(|member| member.name.clone());
    let ordered = view.cluster.order(Order::Switchover { to: order.to.clone() }).await?;
    tell(ordered.sentence, None, None).await;
    let deadline = Instant::now() + DONE_WITHIN;
    let mut appointed = None;
    loop {
        let now = view.state.borrow().as_ref().and_then(|state| appointed_after(before, state));
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
            let last = last_step(former.as_deref(), order.to.as_deref(), name, *epoch)?;
            tell(last.said, last.manager, last.epoch).await;
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

/// Who is appointed in a later epoch than `before`.
fn appointed_after(before: Epoch, state: &ClusterState) -> Option<(Epoch, String)> {
    let current = state.appointment.as_ref().filter(|current| current.epoch > before)?;
    Some((current.epoch, state.members.get(&current.manager)?.name.clone()))
}

/// What is said once `name` is in office, after `former`.
fn last_step(
    former: Option<&str>,
    ordered: Option<&str>,
    name: &str,
    epoch: Epoch,
) -> Result<SwitchoverStep, ControlError> {
    if former == Some(name) {
        return Err(ControlError::critical(
            format!("{name} let go and is manager again (epoch {epoch}): nobody else could take over"),
            "see `syncd status` for what bars the others, then try again",
        ));
    }
    if ordered.is_some_and(|to| to != name) {
        // Not a refusal: the manager did change.
        return Err(ControlError::critical(
            format!("{name} is manager now: it was the better choice when the office was free"),
            "see `syncd status` for what became of the other, then try again",
        ));
    }
    let said = format!("{name} is manager now (epoch {epoch})");
    Ok(SwitchoverStep { said, manager: Some(name.to_owned()), epoch: Some(epoch) })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::model::{Appointment, ClusterId, Member, Role, Seed};

    #[test]
    fn only_a_later_epoch_counts_as_the_new_manager() {
        let member = Member {
            name: "gw1".to_owned(),
            address: String::new(),
            role: Role::Candidate,
            incarnation: [0; 16],
        };
        let members = BTreeMap::from([(1, member)]);
        let mut state = ClusterState::new(ClusterId([0; 16]), members, [1].into(), Seed::Anyone);
        assert_eq!(appointed_after(0, &state), None);
        let lease = Duration::from_secs(1);
        state.appointment = Some(Appointment { epoch: 5, replaced: 0, manager: 1, lease });
        assert_eq!(appointed_after(5, &state), None, "the one that goes");
        assert_eq!(appointed_after(4, &state), Some((5, "gw1".to_owned())));
    }

    #[test]
    fn another_manager_than_the_ordered_one_is_no_refusal() {
        for ordered in [None, Some("gw1")] {
            let last = last_step(Some("gw3"), ordered, "gw1", 5).unwrap();
            assert_eq!(last.manager.as_deref(), Some("gw1"));
        }
        assert!(last_step(Some("gw3"), Some("gw2"), "gw1", 5).unwrap_err().critical, "the manager changed");
    }

    #[test]
    fn a_manager_that_is_appointed_again_was_not_replaced() {
        for ordered in [None, Some("gw2")] {
            assert!(last_step(Some("gw1"), ordered, "gw1", 7).unwrap_err().critical);
        }
    }
}
