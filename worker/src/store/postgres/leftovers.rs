//! Gives back the space of partitions that went to other workers.

use tercet_common::PartitionId;

use super::super::StoreError;
use super::Session;
use super::columns::smallint;
use super::connect::within;
use super::redo;

/// Rows of one transaction.
const STEP_ROWS_MAX: usize = 500;

/// `$1` partitions, `$2` rows. Found through the primary key, and locked in its order.
pub(super) const DROP: &str = "DELETE FROM tercet.entry WHERE ctid = ANY (ARRAY(SELECT e.ctid \
       FROM unnest($1::smallint[]) AS u (id) CROSS JOIN LATERAL (SELECT ctid FROM tercet.entry \
         WHERE partition = u.id ORDER BY key_hash LIMIT $2::bigint FOR UPDATE) AS e LIMIT $2))";

pub(super) async fn drop_leftovers(
    session: &Session,
    partitions: &[PartitionId],
    limit: usize,
) -> Result<u64, StoreError> {
    redo::settle(session, partitions).await?;
    let mut partitions: Vec<i16> = partitions.iter().copied().map(smallint).collect();
    partitions.sort_unstable();
    partitions.dedup();
    let mut dropped = 0;
    while dropped < limit {
        let step = STEP_ROWS_MAX.min(limit - dropped);
        let _repair = session.repairs.acquire().await;
        let client = session.writers.get().await?;
        let gone = within(session.patience, client.execute(DROP, &[&partitions, &(step as i64)])).await?;
        dropped += usize::try_from(gone).unwrap_or(usize::MAX);
        if gone < step as u64 {
            break;
        }
    }
    Ok(dropped as u64)
}
