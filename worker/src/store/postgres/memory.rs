//! What is remembered of other workers. Rare and small, on a writer's connection.

use tercet_common::WorkerId;
use tercet_common::sync::{Memory, Position, Witness};
use tokio_postgres::types::ToSql;

use super::super::StoreError;
use super::Session;
use super::columns::{signed, unsigned};
use super::connect::within;
use super::read::query;

/// `$1` peers, `$2` seqs; `$3` workers, `$4` uuids, `$5` boot generations, `$6` journal seqs. In one order, for the locks.
const REMEMBER: &str = "WITH positions AS ( \
       INSERT INTO tercet.peer_position AS p (peer, seq) \
       SELECT u.peer, max(u.seq) FROM unnest($1::text[], $2::bigint[]) AS u (peer, seq) GROUP BY u.peer ORDER BY u.peer \
       ON CONFLICT (peer) DO UPDATE SET seq = excluded.seq WHERE excluded.seq > p.seq \
     ) INSERT INTO tercet.witness AS w (worker, uuid, boot_generation, journal_seq) \
     SELECT DISTINCT ON (u.worker) u.worker, u.uuid, u.boot_generation, u.journal_seq \
     FROM unnest($3::text[], $4::text[], $5::bigint[], $6::bigint[]) WITH ORDINALITY \
       AS u (worker, uuid, boot_generation, journal_seq, ord) ORDER BY u.worker, u.ord DESC \
     ON CONFLICT (worker) DO UPDATE SET uuid = excluded.uuid, \
       boot_generation = CASE WHEN w.uuid = excluded.uuid \
         THEN GREATEST(w.boot_generation, excluded.boot_generation) ELSE excluded.boot_generation END, \
       journal_seq = CASE WHEN w.uuid = excluded.uuid \
         THEN GREATEST(w.journal_seq, excluded.journal_seq) ELSE excluded.journal_seq END";

pub(super) async fn remember(session: &Session, memory: &Memory) -> Result<(), StoreError> {
    let peers: Vec<_> = memory.positions.iter().map(|position| position.peer.as_str()).collect();
    let seqs = memory.positions.iter().map(|position| signed(position.seq)).collect::<Result<Vec<_>, _>>()?;
    let workers: Vec<_> = memory.witnesses.iter().map(|witness| witness.worker.as_str()).collect();
    let uuids: Vec<_> = memory.witnesses.iter().map(|witness| witness.uuid.as_str()).collect();
    let numbers = |number: fn(&Witness) -> u64| {
        memory.witnesses.iter().map(|witness| signed(number(witness))).collect::<Result<Vec<_>, _>>()
    };
    let (generations, journal_seqs) = (numbers(|w| w.boot_generation)?, numbers(|w| w.journal_seq)?);
    let params: [&(dyn ToSql + Sync); 6] = [&peers, &seqs, &workers, &uuids, &generations, &journal_seqs];
    let _repair = session.repairs.acquire().await;
    let client = session.writers.get().await?;
    within(session.patience, client.execute(REMEMBER, &params)).await.map(drop)
}

pub(super) async fn recall(session: &Session) -> Result<Memory, StoreError> {
    // The database's own order of texts depends on its locale.
    const POSITIONS: &str = "SELECT peer, seq FROM tercet.peer_position ORDER BY peer COLLATE \"C\"";
    const WITNESSES: &str = "SELECT worker, uuid, boot_generation, journal_seq FROM tercet.witness \
         ORDER BY worker COLLATE \"C\"";
    let mut memory = Memory::default();
    for stored in query(session, POSITIONS, &[]).await? {
        memory.positions.push(Position { peer: stored.get(0), seq: unsigned(stored.get(1))? });
    }
    for stored in query(session, WITNESSES, &[]).await? {
        let worker = WorkerId::new(stored.get::<_, &str>(0))
            .map_err(|_| StoreError::Failed("a stored worker id is damaged".to_owned()))?;
        memory.witnesses.push(Witness {
            worker,
            uuid: stored.get(1),
            boot_generation: unsigned(stored.get(2))?,
            journal_seq: unsigned(stored.get(3))?,
        });
    }
    Ok(memory)
}
