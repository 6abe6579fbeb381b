//! What the tests stand on: a cluster, clients, a load with a memory.

pub(crate) mod cluster;
pub(crate) mod http;
pub(crate) mod load;
pub(crate) mod processes;
pub(crate) mod resp;
pub(crate) mod shared;

use std::fmt::Display;
use std::time::{Duration, Instant};

pub(crate) use cluster::{Cluster, tercet};
pub(crate) use shared::{alone, shared, turn};

/// Ends a run that hangs. Nothing is asserted about how long anything takes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
/// How often something is asked for that will come.
pub(crate) const POLL: Duration = Duration::from_millis(20);

/// The one place where tests wait: asks until there is an answer, and tells what it waited for if there is none.
pub(crate) async fn eventually<T>(what: &str, ask: impl AsyncFnMut() -> Option<T>) -> T {
    within(DEADLINE, POLL, || what, ask).await
}

/// The same with another deadline, asking less often.
pub(crate) async fn within<T, W: Display>(
    deadline: Duration,
    poll: Duration,
    what: impl Fn() -> W,
    mut ask: impl AsyncFnMut() -> Option<T>,
) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(begun.elapsed() < deadline, "waited {deadline:?} in vain: {}", what());
        tokio::time::sleep(poll).await;
    }
}

/// `future`, which must end in time.
pub(crate) async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(answer) => answer,
        Err(_) => panic!("waited {DEADLINE:?} in vain: {what}"),
    }
}
