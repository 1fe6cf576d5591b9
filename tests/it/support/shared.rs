//! One stack of each mode for all tests that leave it as they found it.

use std::time::Duration;

use steadfast_tests::{
    Settings,
    system::{Layout, LogsOnPanic, Mode, Stack, room},
};
use tokio::sync::OnceCell;

/// Of one test on a shared stack.
const TEST_MAX: Duration = Duration::from_secs(100);
/// Fast, and yet an answer of a thousand words (`[[tokens:1000]]`) is slow enough to be met in the middle.
const MODEL: Settings = Settings {
    ttft_ms: 1,
    token_ms: 2,
    tokens: 24,
    error_rate: 0.0,
    cut_rate: 0.0,
    hang_rate: 0.0,
    outage_rate: 0.0,
    retry_after_s: Some(1),
    strict: true,
};

async fn shared(mode: Mode) -> &'static Stack {
    static EMBEDDED: OnceCell<Stack> = OnceCell::const_new();
    static DISTRIBUTED: OnceCell<Stack> = OnceCell::const_new();
    match mode {
        Mode::Embedded => {
            EMBEDDED
                .get_or_init(|| Layout::embedded().model(MODEL).start_unbounded())
                .await
        }
        Mode::Distributed => {
            DISTRIBUTED
                .get_or_init(|| Layout::distributed().gateways(2).model(MODEL).start_unbounded())
                .await
        }
    }
}

/// Runs a test on the shared stack of a mode.
pub async fn on_shared(mode: Mode, test: impl AsyncFnOnce(&Stack)) {
    let _room = room().await;
    let stack = shared(mode).await;
    let _logs = LogsOnPanic(stack);
    let ended = tokio::time::timeout(TEST_MAX, test(stack)).await;
    assert!(ended.is_ok(), "the test did not end within {TEST_MAX:?}");
}

/// Each of these functions becomes a test of each mode: `embedded::name` and `distributed::name`.
macro_rules! in_both_modes {
    ($($test:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test]
            async fn $test() {
                crate::support::on_shared(crate::support::Mode::Embedded, super::$test).await;
            })*
        }

        mod distributed {
            $(#[tokio::test]
            async fn $test() {
                crate::support::on_shared(crate::support::Mode::Distributed, super::$test).await;
            })*
        }
    };
}
pub(crate) use in_both_modes;
