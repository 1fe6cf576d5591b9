//! What only a person decides, from the worker's side.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use serde_json::Value;
use steadfast::run::{Amounts, ApprovalId, Decision, budget::Budget};
use steadfast_workers::tools::{Tool, ToolContext};

use super::{
    walls::{only, spec},
    *,
};

/// Pays at once, but the first time its answer never comes.
#[derive(Clone, Default)]
struct Pay {
    paid: Arc<AtomicUsize>,
}

#[async_trait]
impl Tool for Pay {
    fn spec(&self) -> ToolSpec {
        spec("pay")
    }

    fn retry_safe(&self) -> bool {
        false
    }

    async fn call(&self, _: &Value, _: &ToolContext) -> Result<String, String> {
        if self.paid.fetch_add(1, Ordering::SeqCst) == 0 {
            std::future::pending::<()>().await;
        }
        Ok("paid".into())
    }
}

impl House {
    /// A run whose payment was under way when its worker was killed, with another worker at hand.
    async fn cut_off(&self, pay: &Pay) -> (RunId, CancellationToken) {
        let box_of = || Toolbox::default().with(pay.clone());
        // A runtime of its own dies as a process does: with every task it had.
        let machine = tokio::runtime::Runtime::new().expect("a runtime");
        {
            let _on_it = machine.enter();
            drop(self.worker_with("w1", Duration::ZERO, box_of()));
        }
        let run_id = self.post_with("go", None, |request| request.server_tools = only("pay", false));
        let run_id = run_id.await;
        self.until(run_id, "paying", |_| pay.paid.load(Ordering::SeqCst) == 1)
            .await;
        machine.shutdown_background();
        let (stop, _) = self.worker_with("w2", Duration::ZERO, box_of());
        self.until(run_id, "waiting", |loaded| loaded.head.status == Status::Waiting)
            .await;
        (run_id, stop)
    }

    async fn open_approval(&self, run_id: RunId) -> ApprovalId {
        let loaded = self.load(run_id).await;
        loaded.run.open_approvals().next().expect("a question").id
    }

    async fn resolve(&self, run_id: RunId, decision: Decision) {
        let approval_id = self.open_approval(run_id).await;
        let command = Command::ResolveApproval {
            now: chrono::Utc::now(),
            approval_id,
            arguments_sha256: None,
            decision,
            by: "ada".into(),
        };
        self.add(run_id, command).await;
    }
}

#[tokio::test]
async fn a_cut_off_payment_is_made_again_only_once_a_person_said_so() {
    let (house, pay) = (House::new().await, Pay::default());
    let (run_id, _stop) = house.cut_off(&pay).await;
    let waiting = house.load(run_id).await;
    assert!(matches!(waiting.run.waiting_on(), Some(WaitingOn::Approval { .. })));
    assert_eq!((waiting.head.lease_owner, pay.paid.load(Ordering::SeqCst)), (None, 1));
    house.resolve(run_id, Decision::Allow).await;
    assert_eq!(house.ended(run_id).await.head.status, Status::Completed);
    assert_eq!(pay.paid.load(Ordering::SeqCst), 2);
    let names = house.names(run_id).await;
    let told: Vec<&str> = (names.iter().map(String::as_str))
        .filter(|name| name.starts_with("approval") || *name == "tool_call.started")
        .collect();
    assert_eq!(
        told,
        [
            "tool_call.started",
            "approval.requested",
            "approval.granted",
            "tool_call.started"
        ]
    );
}

#[tokio::test]
async fn a_cut_off_payment_that_a_person_accounts_for_is_not_made_again() {
    for decision in [
        Decision::Deny { reason: None },
        Decision::Edit {
            output: "receipt 7".into(),
        },
    ] {
        let (house, pay) = (House::new().await, Pay::default());
        let (run_id, _stop) = house.cut_off(&pay).await;
        house.resolve(run_id, decision).await;
        assert_eq!(house.ended(run_id).await.head.status, Status::Completed);
        assert_eq!(pay.paid.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test]
async fn a_run_short_of_budget_is_let_go_of_and_goes_on_when_it_is_raised() {
    let house = House::new().await;
    let (_stop, _worker) = house.worker("w1", Duration::ZERO);
    let tokens = |tokens| Amounts {
        tokens: Some(tokens),
        ..Amounts::default()
    };
    let run_id = house.post_with("What is 6 * 7?", None, |request| {
        request.terms.budget = Budget {
            amounts: tokens(10),
            ..Budget::default()
        };
    });
    let run_id = run_id.await;
    let waiting = house
        .until(run_id, "waiting", |loaded| loaded.head.status == Status::Waiting)
        .await;
    assert_eq!((waiting.head.lease_owner, waiting.run.step), (None, 0));
    assert!(waiting.head.due_at.is_some(), "its deadline ends it if nobody answers");
    let raise = Command::RaiseBudget {
        now: chrono::Utc::now(),
        to: tokens(1_000_000),
        by: "ada".into(),
    };
    house.add(run_id, raise).await;
    assert_eq!(house.ended(run_id).await.head.status, Status::Completed);
}
