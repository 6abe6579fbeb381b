//! The copy of one partition to a worker that becomes a replica of it (design 6, step 3).
//!
//! The worker may be empty, or hold what it had when it was a replica before: rows that were replaced or deleted since,
//! rows that were never chosen, and mostly rows that are still right. Afterwards it holds exactly
//!
//! - of each key, the highest version among a **majority** of the old replicas, each asked after its fence, so that any
//!   version that was chosen before is among them, and absence at one of them never hides a row at another; and
//! - what it accepted itself in the joint epoch, where that is higher.
//!
//! ```text
//! Begin (flush of the sources)       all of its own from before is hidden
//! digests, side by side              w1 w2 │ newcomer        the same stretch of hashes
//!   evict   what it has and the sources have not, or at a lower ballot
//!   install what it has not, fetched from the source that has it; shown up to the end of the stretch
//! Finish (floor, vector, highest)    all is shown
//! ```
//!
//! A flush of the joint epoch can come at any time. It hides rows of the sources, so that a copy that goes on would
//! lack them without the flush that explains it: it starts again, under the higher flush. The rows that it has
//! installed already are not sent again. A newcomer never lowers a flush of the joint epoch on Begin.
//!
//! Two copies may run at once, of a frontend that is given up for dead and of its successor. The one that began last
//! goes on; once one has finished, there is nothing left to copy, and the newcomer says so to whoever begins.

use futures_util::future::join_all;
use tercet_common::mutants::{self, Mutant};
use tercet_common::quorum::majority;
use tercet_common::sync::{PartitionState, SYNC_ENTRIES_MAX, SyncReply};
use tercet_common::{Ballot, Epoch, KeyHash, PartitionId, Row, SyncRequest};

use super::stretch::{START, Stretch, digest};
use super::{HealError, Peers, Scope, fetch, order};
use crate::coordinator::core::WorkerIx;

/// One message to the newcomer holds no more rows than this, and no more bytes unless one row alone is larger.
pub const INSTALL_ROWS_MAX: usize = 1_024;
pub const INSTALL_BYTES_MAX: usize = 1024 * 1024;
/// How often a copy starts again because of a flush, before it is given up for the moment.
const PASSES_MAX: u32 = 4;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CopyJob {
    pub partition: PartitionId,
    /// The joint epoch.
    pub epoch: Epoch,
    /// All old replicas, those to be asked first in front. A majority of them is asked.
    pub old: Vec<WorkerIx>,
    pub newcomer: WorkerIx,
    /// Names the copy: no other one of the partition has it, also of another frontend. Drawn at random.
    pub name: u64,
}

/// What a copy has done so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Copied {
    /// Rows sent to the newcomer, and their bytes.
    pub rows: u64,
    pub bytes: u64,
    /// Rows that it had already.
    pub kept: u64,
    /// Rows of its own that it had to give up.
    pub evicted: u64,
    pub stretches: u64,
}

/// Copies. `done` is what was done, also after an error; `progress` is called whenever it grows.
///
/// Replaces a source that fails by another old replica, as long as a majority is left. May be dropped at any time and
/// run again: what the newcomer has by then is not sent again.
pub async fn copy<P: Peers>(
    peers: &P,
    job: &CopyJob,
    done: &mut Copied,
    progress: &mut (dyn FnMut(&Copied) + Send),
) -> Result<(), HealError> {
    let needed = if mutants::on(Mutant::CopyFromOne) { 1 } else { majority(job.old.len()) };
    let (sources, spare) = job.old.split_at(needed.min(job.old.len()));
    let mut run = Run {
        peers,
        scope: Scope { partition: job.partition, epoch: job.epoch },
        copy: job.name,
        newcomer: job.newcomer,
        sources: sources.to_vec(),
        spare: spare.to_vec(),
        merged: PartitionState::default(),
        done,
        progress,
    };
    for _ in 0..PASSES_MAX {
        if run.pass().await? {
            return Ok(());
        }
    }
    Err(HealError::Unsteady)
}

/// What these workers have beside their rows, in their order.
async fn states<P: Peers>(
    peers: &P,
    scope: Scope,
    workers: &[WorkerIx],
) -> Result<Vec<PartitionState>, HealError> {
    let asks = workers.iter().map(|worker| digest(peers, scope, *worker, START, 1));
    join_all(asks).await.into_iter().map(|answer| Ok(answer?.state)).collect()
}

struct Run<'a, P> {
    peers: &'a P,
    scope: Scope,
    copy: u64,
    newcomer: WorkerIx,
    /// A majority of the old replicas, and those that may take the place of one of them.
    sources: Vec<WorkerIx>,
    spare: Vec<WorkerIx>,
    /// Joined from all that the sources said.
    merged: PartitionState,
    done: &'a mut Copied,
    progress: &'a mut (dyn FnMut(&Copied) + Send),
}

/// What to do about one stretch.
#[derive(Default)]
struct Plan {
    evict: Vec<(KeyHash, Ballot)>,
    /// By position of the source.
    wanted: Vec<(usize, KeyHash, Ballot)>,
    kept: u64,
}

/// How a stretch ended.
enum Step {
    Done,
    /// The flush has grown: begin again.
    Flushed,
}

impl<P: Peers> Run<'_, P> {
    /// Goes once through the partition. `false`: a flush came in between.
    async fn pass(&mut self) -> Result<bool, HealError> {
        if !self.begin().await? {
            return Ok(true);
        }
        let mut from = START;
        loop {
            let mut workers = self.sources.clone();
            workers.push(self.newcomer);
            let stretch = match Stretch::read(self.peers, self.scope, &workers, from).await {
                Ok(stretch) => stretch,
                Err(error) => {
                    self.replace_source(error)?;
                    continue;
                }
            };
            match self.stretch(&stretch).await {
                Ok(Step::Done) => {}
                Ok(Step::Flushed) => return Ok(false),
                Err(error) => {
                    self.replace_source(error)?;
                    continue;
                }
            }
            self.done.stretches += 1;
            (self.progress)(self.done);
            match stretch.next {
                Some(next) => from = next,
                None => break,
            }
        }
        if !self.is_steady().await? {
            return Ok(false);
        }
        let (Scope { partition, epoch }, copy) = (self.scope, self.copy);
        let PartitionState { floor, vector, highest, .. } = self.merged.clone();
        order(
            self.peers,
            self.newcomer,
            SyncRequest::Finish { partition, epoch, copy, floor, vector, highest },
        )
        .await?;
        Ok(true)
    }

    /// Whether no source has been flushed since it began. A digest may miss rows that a flush hides whose commit has been
    /// read, but not reported yet; this look stands behind it.
    async fn is_steady(&mut self) -> Result<bool, HealError> {
        let under = self.merged.flush;
        let states = states(self.peers, self.scope, &self.sources).await?;
        states.iter().for_each(|state| self.learn(state));
        Ok(self.merged.flush == under)
    }

    /// Another old replica in the place of the source that is to blame for the error, if there is one.
    fn replace_source(&mut self, error: HealError) -> Result<(), HealError> {
        let Some(at) = error.worker().and_then(|worker| self.sources.iter().position(|w| *w == worker))
        else {
            return Err(error);
        };
        if self.spare.is_empty() {
            return Err(HealError::TooFewSources);
        }
        self.sources[at] = self.spare.remove(0);
        Ok(())
    }

    /// `false`: another copy has finished in the meantime, so that there is nothing to do.
    async fn begin(&mut self) -> Result<bool, HealError> {
        let own = loop {
            let mut workers = self.sources.clone();
            workers.push(self.newcomer);
            match states(self.peers, self.scope, &workers).await {
                Ok(mut states) => {
                    let own = states.pop().unwrap_or_default();
                    states.iter().for_each(|state| self.learn(state));
                    break own;
                }
                Err(error) => self.replace_source(error)?,
            }
        };
        // What it accepted in the joint epoch is its own to keep.
        if own.flush.epoch >= self.scope.epoch && own.flush > self.merged.flush {
            (self.merged.flush, self.merged.flush_clock) = (own.flush, own.flush_clock);
        }
        let (Scope { partition, epoch }, copy) = (self.scope, self.copy);
        let (flush, flush_clock) = (self.merged.flush, self.merged.flush_clock.clone());
        let request = SyncRequest::Begin { partition, epoch, copy, flush, flush_clock };
        let worker = self.newcomer;
        match self.peers.ask(worker, request).await {
            Ok(SyncReply::Done) => Ok(true),
            Ok(SyncReply::Whole) => Ok(false),
            Ok(_) => Err(HealError::Malformed { worker }),
            Err(why) => Err(HealError::of(worker, why)),
        }
    }

    fn learn(&mut self, state: &PartitionState) {
        let merged = &mut self.merged;
        if state.flush > merged.flush {
            (merged.flush, merged.flush_clock) = (state.flush, state.flush_clock.clone());
        }
        merged.floor = merged.floor.max(state.floor);
        merged.vector.follow(&mut merged.highest, state.highest, &state.vector);
    }

    async fn stretch(&mut self, stretch: &Stretch) -> Result<Step, HealError> {
        let begun_under = self.merged.flush;
        let newcomer = self.newcomer;
        for part in stretch.parts.iter().filter(|part| part.worker != newcomer) {
            self.learn(&part.state);
        }
        if self.merged.flush > begun_under {
            return Ok(Step::Flushed);
        }
        let plan = self.plan(stretch);
        for evict in plan.evict.chunks(SYNC_ENTRIES_MAX) {
            self.install(Vec::new(), evict.to_vec(), None).await?;
            self.done.evicted += evict.len() as u64;
        }
        let Some(rest) = self.send(plan.wanted).await? else { return Ok(Step::Flushed) };
        if !rest.is_empty() || stretch.next.is_some() {
            self.install(rest, Vec::new(), stretch.next).await?;
        }
        self.done.kept += plan.kept;
        Ok(Step::Done)
    }

    fn plan(&self, stretch: &Stretch) -> Plan {
        let mut plan = Plan::default();
        for (hash, mut across) in stretch.hashes() {
            // The newcomer was named last.
            let own = across.pop().flatten().map(|entry| entry.ballot);
            let shown = across
                .iter()
                .enumerate()
                .filter_map(|(source, entry)| Some((source, entry.as_ref()?.ballot)));
            let highest =
                shown.filter(|(_, ballot)| *ballot > self.merged.flush).max_by_key(|(_, ballot)| *ballot);
            let merged = highest.map_or(Ballot::ZERO, |(_, ballot)| ballot);
            let stale = |own: &Ballot| *own > merged && own.epoch < self.scope.epoch;
            if let Some(own) = own.filter(stale).filter(|_| !mutants::on(Mutant::StaleRowsKept)) {
                plan.evict.push((hash, own));
            } else if own.is_some_and(|own| own >= merged) {
                plan.kept += 1;
                continue;
            }
            plan.wanted.extend(highest.map(|(source, ballot)| (source, hash, ballot)));
        }
        plan
    }

    /// Sends the rows but for the last message, which it hands back. `None`: a row has vanished under a flush.
    async fn send(&mut self, wanted: Vec<(usize, KeyHash, Ballot)>) -> Result<Option<Vec<Row>>, HealError> {
        let (mut rows, mut bytes) = (Vec::new(), 0);
        for source in 0..self.sources.len() {
            let of_it = wanted.iter().filter(|(of, ..)| *of == source);
            let (hashes, ballots): (Vec<_>, Vec<_>) = of_it.map(|(_, hash, ballot)| (*hash, *ballot)).unzip();
            let mut at = 0;
            while at < hashes.len() {
                let worker = self.sources[source];
                let fetched = fetch(self.peers, self.scope, worker, &hashes[at..]).await?;
                for row in fetched {
                    let Some(row) = row else { return Ok(None) };
                    // It may be newer by now: of the joint epoch, and higher than what the others showed.
                    if row.ballot < ballots[at] {
                        return Err(HealError::Malformed { worker });
                    }
                    at += 1;
                    if !rows.is_empty()
                        && (rows.len() >= INSTALL_ROWS_MAX || bytes + row.weight() > INSTALL_BYTES_MAX)
                    {
                        self.install(std::mem::take(&mut rows), Vec::new(), None).await?;
                        bytes = 0;
                    }
                    bytes += row.weight();
                    rows.push(row);
                }
            }
        }
        Ok(Some(rows))
    }

    async fn install(
        &mut self,
        rows: Vec<Row>,
        evict: Vec<(KeyHash, Ballot)>,
        copied_to: Option<KeyHash>,
    ) -> Result<(), HealError> {
        let (count, bytes) = (rows.len() as u64, rows.iter().map(Row::weight).sum::<usize>() as u64);
        let (Scope { partition, epoch }, copy) = (self.scope, self.copy);
        let request = SyncRequest::Install { partition, epoch, copy, rows, evict, copied_to };
        order(self.peers, self.newcomer, request).await?;
        self.done.rows += count;
        self.done.bytes += bytes;
        (self.progress)(self.done);
        Ok(())
    }
}
