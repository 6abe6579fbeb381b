//! Removes expired keys that nobody reads.
//!
//! A worker only lists rows whose expiry has passed; whether they are expired is for the owner to say, and it does so by
//! an ordinary read: "expired" is answered only once the tombstone is acknowledged (design 7).

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use tercet_common::{PartitionId, UnixMillis};

use super::api::{Coordinator, ReadLevel, ScanFilter, ScanPosition};

/// Keys looked at in one page.
const PAGE: usize = 500;
/// Reads under way at once: the sweeper stays well below client traffic.
const AT_ONCE: usize = 16;
/// Pages of one round; the next round goes on.
const PAGES_MAX: usize = 20;

/// Runs for as long as it is polled.
pub async fn run(coordinator: Coordinator, interval: Duration) {
    let mut from = None;
    loop {
        tokio::time::sleep(interval).await;
        if coordinator.status().ready {
            from = sweep(&coordinator, from).await;
        }
    }
}

/// One round: looks at the keys that have expired by now, and reads them. `from`: where the round before this one ended,
/// and what is returned: where this one did; `None`: at the end. So rows that stay listed, as a replica that missed
/// their deletion does not know better, never keep the rounds from those behind them.
pub async fn sweep(coordinator: &Coordinator, from: Option<ScanPosition>) -> Option<ScanPosition> {
    let filter = ScanFilter { limit: PAGE, with_data: false, expired_by: Some(UnixMillis::now()) };
    // All replicas, where all can be reached: one that missed the deletion, and so lists the row, is repaired by it.
    let whole = coordinator.status().partitions.under_replicated == 0;
    let level = if whole { ReadLevel::All } else { ReadLevel::Quorum };
    let mut from = from.or_else(|| PartitionId::new(0).map(ScanPosition::start_of));
    for _ in 0..PAGES_MAX {
        let Some(position) = from else { break };
        let page = match coordinator.scan(position, filter).await {
            Ok(page) => page,
            Err(error) => {
                tracing::debug!(%error, "the sweeper could not look for expired keys");
                break;
            }
        };
        let reads = page.rows.into_iter().map(|row| coordinator.read(row.key, level));
        // What fails is found again in the next round.
        stream::iter(reads).buffer_unordered(AT_ONCE).for_each(|_| async {}).await;
        from = page.next;
    }
    from
}
