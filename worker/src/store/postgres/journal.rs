//! What was written behind a seq, out of the journal.

use std::collections::BTreeSet;

use tercet_common::sync::Changes;

use super::super::StoreError;
use super::super::codec::decode_places;
use super::Session;
use super::columns::{partition_id, signed, unsigned};
use super::read::query;

/// Journal rows of one statement. Each may name thousands of keys.
const STEP_ROWS: i64 = 64;
/// Journal rows of one call, which may all name nothing.
const ROWS_MAX: u64 = 8_192;

/// `$1` the seq behind which to begin, `$2` the last one, `$3` rows. How far the journal reaches comes from the same
/// snapshot as its rows; without any, there is one row of nulls.
const CHANGES: &str = "SELECT i.pruned_seq, j.seq, j.places, j.flushed \
     FROM tercet.identity AS i LEFT JOIN LATERAL (SELECT * FROM tercet.journal AS j \
       WHERE j.seq > $1::bigint AND j.seq <= $2::bigint ORDER BY j.seq LIMIT $3::bigint) AS j ON true \
     ORDER BY j.seq";

pub(super) async fn changes(session: &Session, since: u64, limit: usize) -> Result<Changes, StoreError> {
    // Commits that begin from now on have higher seqs, and all up to this one are there to be read.
    let settled = signed(session.ledger.lock().settled_seq())?;
    let mut changes = Changes { upto: since, ..Changes::default() };
    let (mut entries, mut flushed, mut rows) = (BTreeSet::new(), BTreeSet::new(), 0);
    'reading: loop {
        let step = query(session, CHANGES, &[&signed(changes.upto)?, &settled, &STEP_ROWS]).await?;
        for stored in &step {
            if unsigned(stored.get(0))? > changes.upto {
                changes.pruned = true;
                break 'reading;
            }
            let Some(seq) = stored.get::<_, Option<i64>>(1) else { break 'reading };
            let places = decode_places(stored.get(2))?;
            if rows > 0 && (entries.len() + places.len() > limit || rows == ROWS_MAX) {
                changes.more = true;
                break 'reading;
            }
            entries.extend(places);
            for partition in stored.get::<_, Vec<i16>>(3) {
                flushed.insert(partition_id(partition)?);
            }
            changes.upto = unsigned(seq)?;
            rows += 1;
        }
        if step.len() < STEP_ROWS as usize {
            break;
        }
    }
    if changes.pruned {
        // Whatever was told so far is not all.
        return Ok(Changes { upto: since, pruned: true, ..Changes::default() });
    }
    changes.entries = entries.into_iter().collect();
    changes.flushed = flushed.into_iter().collect();
    Ok(changes)
}
