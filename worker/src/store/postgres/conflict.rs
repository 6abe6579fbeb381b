//! Versions that contradict each other, kept for people.

use std::sync::LazyLock;

use super::super::{CONFLICT_BYTES_MAX, CONFLICTS_MAX, Conflict, StoreError};
use super::Session;
use super::columns::RowColumns;
use super::connect::within;

/// `$1` to `$11` are [`RowColumns::params`] of two rows, the one with the higher ballot first. The table has to be small
/// already for the look at what is there; it is.
static KEEP: LazyLock<String> = LazyLock::new(|| {
    let same = |copy: &str, at: usize| {
        format!(
            "({copy}.partition, {copy}.key_hash, {copy}.epoch, {copy}.n, {copy}.incarnation, {copy}.seq) = \
               (($1::smallint[])[{at}], ($2::bytea[])[{at}], ($4::bigint[])[{at}], ($5::bigint[])[{at}], \
                ($6::bigint[])[{at}], ($7::bigint[])[{at}])"
        )
    };
    format!(
        "WITH one AS MATERIALIZED (SELECT gen_random_uuid() AS incident) \
         INSERT INTO tercet.conflict (incident, kept, partition, key_hash, key, epoch, n, incarnation, seq, clock, \
           kind, value, expires_at) \
         SELECT one.incident, u.ord = 1, u.partition, u.key_hash, u.key, u.epoch, u.n, u.incarnation, u.seq, \
           u.clock, u.kind, u.value, u.expires_at \
         FROM one CROSS JOIN unnest($1::smallint[], $2::bytea[], $3::bytea[], $4::bigint[], $5::bigint[], \
           $6::bigint[], $7::bigint[], $8::bytea[], $9::smallint[], $10::bytea[], $11::bigint[]) WITH ORDINALITY \
           AS u (partition, key_hash, key, epoch, n, incarnation, seq, clock, kind, value, expires_at, ord) \
         WHERE (SELECT count(*) < {rows} AND coalesce(sum(octet_length(c.value)), 0) < {CONFLICT_BYTES_MAX} \
             FROM tercet.conflict AS c) \
           AND NOT EXISTS (SELECT FROM tercet.conflict AS a JOIN tercet.conflict AS b USING (incident) \
             WHERE {higher} AND {lower})",
        rows = CONFLICTS_MAX * 2,
        higher = same("a", 1),
        lower = same("b", 2),
    )
});

pub(super) async fn keep(session: &Session, conflict: &Conflict) -> Result<bool, StoreError> {
    let rows = RowColumns::of_rows([&conflict.higher, &conflict.lower])?;
    let _repair = session.repairs.acquire().await;
    let client = session.writers.get().await?;
    let written = within(session.patience, client.execute(KEEP.as_str(), &rows.params())).await?;
    Ok(written > 0)
}
