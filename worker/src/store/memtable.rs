//! Rows that are committed to the redo log and not in the table yet.
//!
//! A commit of many small rows is cheap as one row of a log, and dear as many rows of a table with an index. So a write
//! over a row that is known goes to the log, and stays here until the table has it. Most keys that are written often
//! are written again before that, and only their last version has to go (as in the memtable of Bigtable, section 5.3,
//! Chang et al. 2006, with a table that is updated in place).
//!
//! ```text
//!   commit ──▶ redo log ──▶ memtable ──apply──▶ table ──▶ the log's old end is deleted
//! ```
//!
//! Plain rules: the store tells what is committed and applied, and when, and asks what to do next.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use tercet_common::{Ballot, KeyHash, PARTITIONS, PartitionId, Row};

use super::Place;

/// Weight of the rows here. At it, rows go to the table at once; at half of it, applying begins.
const MEMTABLE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The length of the log at which applying begins, for the sake of the next start. At twice as much, rows go to the table
/// at once.
const REDO_BYTES_TARGET: usize = 128 * 1024 * 1024;
/// How long a row may be missing in the table, as long as it can be helped.
const AGE_MAX: Duration = Duration::from_secs(30);
/// So long after the last commit, all is applied.
const QUIET: Duration = Duration::from_secs(1);

/// Rows that one batch is chosen from. Commits wait meanwhile.
const LOOKED_AT_MAX: usize = 16 * 1_024;

/// See the module.
#[derive(Debug)]
pub(super) struct Memtable {
    partitions: Vec<Partition>,
    /// What each commit brought, by its seq. Rows that have been written over since are still listed.
    log: BTreeMap<u64, Logged>,
    /// Of the commits in `log`.
    log_bytes: usize,
    /// Weight of all rows.
    bytes: usize,
    rows: usize,
    last_insert: Option<Instant>,
    /// Rows that newer ones in the table have outdated, ever.
    outdated: u64,
    /// What is being applied.
    out: Out,
}

/// A batch between its making and its end.
#[derive(Debug, Default)]
struct Out {
    /// The seq of the oldest commit that it was taken from, and the length of all of them.
    oldest: Option<u64>,
    bytes: usize,
    /// Of its rows. One that has left the memtable meanwhile may still be written.
    partitions: BTreeSet<PartitionId>,
}

#[derive(Debug, Default)]
struct Partition {
    rows: HashMap<KeyHash, Held>,
    /// Of them, those that expire.
    expiring: usize,
}

#[derive(Debug)]
struct Held {
    row: Row,
    /// Of the commit that brought it.
    seq: u64,
    /// The table has a newer version, which went there at once: the how manieth of these it was.
    outdated: Option<u64>,
}

/// A time in the life of a memtable: how many rows had become outdated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Since(u64);

/// A memtable for one who has read the table since: it may not have seen what came there meanwhile.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    memtable: &'a Memtable,
    since: Since,
}

#[derive(Debug)]
struct Logged {
    places: Vec<Place>,
    bytes: usize,
    at: Instant,
}

/// Rows to bring into the table, in the order of their places.
pub(super) type Batch = Vec<(Place, Row)>;

impl Held {
    fn counts(&self, since: Since) -> bool {
        self.outdated.is_none_or(|nth| nth > since.0)
    }
}

impl Memtable {
    pub(super) fn new() -> Self {
        Self {
            partitions: (0..PARTITIONS).map(|_| Partition::default()).collect(),
            log: BTreeMap::new(),
            log_bytes: 0,
            bytes: 0,
            rows: 0,
            last_insert: None,
            outdated: 0,
            out: Out::default(),
        }
    }

    /// Whether another commit may go to the log.
    pub(super) fn has_room(&self) -> bool {
        self.bytes < MEMTABLE_BYTES_MAX && self.log_bytes < 2 * REDO_BYTES_TARGET
    }

    /// Takes what a commit brought, in `bytes` of the log. An older version never replaces a newer one. `true`: applying is
    /// due earlier than it was, or for the first time.
    pub(super) fn insert(
        &mut self,
        seq: u64,
        rows: impl IntoIterator<Item = (Place, Row)>,
        bytes: usize,
        now: Instant,
    ) -> bool {
        let (empty, pressed) = (self.log.is_empty(), self.is_pressed());
        let mut places = Vec::new();
        for (place, row) in rows {
            let partition = &mut self.partitions[place.0.index()];
            let (expires, weight) = (row.content.expires_at().is_some(), row.weight());
            let new = |row| Held { row, seq, outdated: None };
            let old = match partition.rows.entry(place.1) {
                Entry::Occupied(held) if held.get().row.ballot >= row.ballot => continue,
                Entry::Occupied(mut held) => Some(held.insert(new(row))),
                Entry::Vacant(free) => {
                    free.insert(new(row));
                    None
                }
            };
            partition.expiring += usize::from(expires);
            self.bytes += weight;
            self.rows += 1;
            if let Some(old) = old {
                self.gone(place.0, &old.row);
            }
            places.push(place);
        }
        self.last_insert = Some(now);
        self.log_bytes += bytes;
        self.log.insert(seq, Logged { places, bytes, at: now });
        empty || !pressed && self.is_pressed()
    }

    /// Whether there is so much that applying must not wait.
    fn is_pressed(&self) -> bool {
        self.bytes >= MEMTABLE_BYTES_MAX / 2 || self.log_bytes >= REDO_BYTES_TARGET
    }

    /// Counts a row off that was taken out.
    fn gone(&mut self, partition: PartitionId, row: &Row) {
        self.partitions[partition.index()].expiring -= usize::from(row.content.expires_at().is_some());
        self.bytes -= row.weight();
        self.rows -= 1;
    }

    /// The newest version of a key, unless the table has it.
    pub(super) fn get(&self, place: &Place) -> Option<&Row> {
        self.held(place).filter(|held| held.outdated.is_none()).map(|held| &held.row)
    }

    /// Now, for who is about to read the table.
    pub(super) fn now(&self) -> Since {
        Since(self.outdated)
    }

    /// For one who has read the table since.
    pub(super) fn since(&self, since: Since) -> View<'_> {
        View { memtable: self, since }
    }

    fn held(&self, (partition, hash): &Place) -> Option<&Held> {
        self.partitions[partition.index()].rows.get(hash)
    }

    /// Rows.
    pub(super) fn len(&self) -> usize {
        self.rows
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows == 0
    }

    pub(super) fn log_bytes(&self) -> usize {
        self.log_bytes
    }

    /// Rows of a partition.
    pub(super) fn len_of(&self, partition: PartitionId) -> usize {
        self.partitions[partition.index()].rows.len()
    }

    /// Whether the table has all there is of a partition, and nothing is being written to it.
    pub(super) fn is_settled(&self, partition: PartitionId) -> bool {
        self.len_of(partition) == 0 && !self.out.partitions.contains(&partition)
    }

    /// A newer version of a key went to the table. Who read the table before that still finds the older one here.
    pub(super) fn outdate(&mut self, (partition, hash): Place, ballot: Ballot) {
        let held = self.partitions[partition.index()].rows.get_mut(&hash);
        if let Some(held) = held.filter(|held| held.row.ballot < ballot) {
            self.outdated += 1;
            held.outdated = Some(self.outdated);
        }
    }

    /// The table has this version of a key, or a higher one.
    fn in_table(&mut self, (partition, hash): Place, ballot: Ballot) {
        let rows = &mut self.partitions[partition.index()].rows;
        if rows.get(&hash).is_some_and(|held| held.row.ballot <= ballot)
            && let Some(held) = rows.remove(&hash)
        {
            self.gone(partition, &held.row);
        }
    }

    /// When applying is due next, if nothing comes in between; `None`: there is nothing to apply.
    pub(super) fn due_at(&self) -> Option<Instant> {
        let oldest = self.log.first_key_value()?.1.at;
        if self.is_pressed() {
            return Some(oldest);
        }
        let quiet = self.last_insert.unwrap_or(oldest) + QUIET;
        Some(quiet.min(oldest + AGE_MAX))
    }

    /// The rows of the oldest commits that nothing has replaced since: about `rows_max` (the last commit is taken whole), or
    /// fewer, even none, where most were replaced. Say [`Self::applied`] or [`Self::not_applied`] before the next batch.
    pub(super) fn oldest(&mut self, rows_max: usize) -> Batch {
        let (mut rows, mut looked_at) = (Vec::new(), 0);
        while rows.len() < rows_max && looked_at < LOOKED_AT_MAX {
            let Some((seq, logged)) = self.log.pop_first() else { break };
            looked_at += logged.places.len();
            self.log_bytes -= logged.bytes;
            self.out.bytes += logged.bytes;
            let before = rows.len();
            for place in logged.places {
                let held = self.partitions[place.0.index()].rows.get(&place.1);
                rows.extend(held.filter(|held| held.seq == seq).map(|held| (place, held.row.clone())));
            }
            if rows.len() > before {
                self.out.oldest.get_or_insert(seq);
            }
        }
        self.begin(rows)
    }

    /// All rows of these partitions. As [`Self::oldest`].
    pub(super) fn all_of(&mut self, partitions: &[PartitionId]) -> Batch {
        let of = |id: &PartitionId| {
            let id = *id;
            self.partitions[id.index()].rows.iter().map(move |(hash, held)| ((id, *hash), held.row.clone()))
        };
        let rows = partitions.iter().flat_map(of).collect();
        self.begin(rows)
    }

    fn begin(&mut self, mut rows: Batch) -> Batch {
        rows.sort_unstable_by_key(|(place, _)| *place);
        // What was tried before is listed twice.
        rows.dedup_by_key(|(place, _)| *place);
        self.out.partitions.extend(rows.iter().map(|(place, _)| place.0));
        rows
    }

    /// The batch is in the table, durably. What was written over meanwhile stays.
    pub(super) fn applied(&mut self, batch: &[(Place, Row)]) {
        for (place, row) in batch {
            self.in_table(*place, row.ballot);
        }
        self.out = Out::default();
        self.forget_empty();
    }

    /// It is not, and has to be tried again.
    pub(super) fn not_applied(&mut self, batch: &[(Place, Row)], now: Instant) {
        for (place, row) in batch {
            let held = self.partitions[place.0.index()].rows.get(&place.1);
            if let Some(held) = held.filter(|held| held.row.ballot == row.ballot) {
                let none = || Logged { places: Vec::new(), bytes: 0, at: now };
                self.log.entry(held.seq).or_insert_with(none).places.push(*place);
            }
        }
        let bytes = mem::take(&mut self.out).bytes;
        if let Some(mut oldest) = self.log.first_entry() {
            oldest.get_mut().bytes += bytes;
            self.log_bytes += bytes;
        }
    }

    /// Forgets the oldest commits of which nothing is left here.
    fn forget_empty(&mut self) {
        while let Some(mut oldest) = self.log.first_entry() {
            let (seq, logged) = (*oldest.key(), oldest.get_mut());
            let lives = |(partition, hash): &Place| {
                let held = self.partitions[partition.index()].rows.get(hash);
                held.is_some_and(|held| held.seq == seq)
            };
            // From the end, so that what was looked at in vain is not looked at again.
            while logged.places.last().is_some_and(|place| !lives(place)) {
                logged.places.pop();
            }
            if !logged.places.is_empty() {
                return;
            }
            self.log_bytes -= mem::take(&mut logged.bytes);
            oldest.remove();
        }
    }

    /// Of the oldest commit whose rows are not all in the table; `None`: there is no such commit.
    pub(super) fn oldest_seq(&self) -> Option<u64> {
        let logged = self.log.first_key_value().map(|(seq, _)| *seq);
        self.out.oldest.into_iter().chain(logged).min()
    }
}

impl<'a> View<'a> {
    /// The newest version of a key, unless the table that was read had a newer one.
    pub(super) fn newest(self, place: &Place) -> Option<&'a Row> {
        self.memtable.held(place).filter(|held| held.counts(self.since)).map(|held| &held.row)
    }

    /// Those of a partition at or behind a hash, in no order.
    pub(super) fn newest_from(self, (partition, from): Place) -> impl Iterator<Item = (KeyHash, &'a Row)> {
        let rows = self.memtable.partitions[partition.index()].rows.iter();
        let rows = rows.filter(move |(hash, held)| **hash >= from && held.counts(self.since));
        rows.map(|(hash, held)| (*hash, &held.row))
    }

    /// Whether any row of a partition expires.
    pub(super) fn has_expiring(self, partition: PartitionId) -> bool {
        self.memtable.partitions[partition.index()].expiring > 0
    }
}

#[cfg(test)]
mod tests {
    use tercet_common::UnixMillis;

    use super::super::{place_of, suite};
    use super::*;

    fn row(key: &str, seq: u64) -> (Place, Row) {
        let row = suite::row(key, seq, "v");
        (place_of(&row), row)
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn keys(batch: &Batch) -> Vec<(String, u64)> {
        let mut keys: Vec<_> = batch
            .iter()
            .map(|(_, row)| (String::from_utf8_lossy(row.key.as_bytes()).into_owned(), row.ballot.seq))
            .collect();
        keys.sort();
        keys
    }

    fn named(names: &[(&str, u64)]) -> Vec<(String, u64)> {
        names.iter().map(|(name, seq)| ((*name).to_owned(), *seq)).collect()
    }

    fn get(table: &Memtable, key: &str) -> Option<u64> {
        table.get(&row(key, 0).0).map(|row| row.ballot.seq)
    }

    #[test]
    fn only_the_last_version_of_a_key_is_applied() {
        let (mut table, now) = (Memtable::new(), Instant::now());
        table.insert(1, [row("a", 1), row("b", 2)], 10, now);
        table.insert(2, [row("a", 3)], 10, now);
        let batch = table.oldest(1);
        assert_eq!(keys(&batch), named(&[("b", 2)]), "a is in the later commit");
        table.applied(&batch);
        assert_eq!((get(&table, "a"), get(&table, "b"), table.len()), (Some(3), None, 1));
        assert_eq!(keys(&table.oldest(9)), named(&[("a", 3)]));
    }

    #[test]
    fn what_is_written_over_while_it_is_applied_stays() {
        let (mut table, now) = (Memtable::new(), Instant::now());
        table.insert(1, [row("a", 1)], 10, now);
        let batch = table.oldest(9);
        table.insert(2, [row("a", 2)], 10, now);
        table.applied(&batch);
        assert_eq!((get(&table, "a"), table.oldest_seq()), (Some(2), Some(2)));
    }

    #[test]
    fn an_older_version_never_replaces_a_newer_one() {
        let (mut table, now) = (Memtable::new(), Instant::now());
        table.insert(2, [row("a", 5)], 10, now);
        table.insert(1, [row("a", 4)], 10, now);
        assert_eq!((get(&table, "a"), table.len()), (Some(5), 1));
    }

    #[test]
    fn the_log_is_needed_until_all_of_a_commit_is_in_the_table() {
        let (mut table, now) = (Memtable::new(), Instant::now());
        table.insert(7, [row("a", 1), row("b", 1)], 10, now);
        table.insert(8, [row("c", 1)], 10, now);
        let batch = table.oldest(1);
        assert_eq!(table.oldest_seq(), Some(7), "it may fail yet");
        table.not_applied(&batch, now);
        assert_eq!(table.oldest_seq(), Some(7));
        let batch = table.oldest(1);
        assert_eq!(keys(&batch), named(&[("a", 1), ("b", 1)]), "tried again");
        table.applied(&batch);
        assert_eq!(table.oldest_seq(), Some(8));
        let batch = table.all_of(&[row("c", 1).0.0]);
        table.applied(&batch);
        assert_eq!((table.oldest_seq(), table.len(), table.log_bytes()), (None, 0, 0));
    }

    #[test]
    fn a_row_that_went_to_the_table_at_once_outdates_the_one_here() {
        let (mut table, now) = (Memtable::new(), Instant::now());
        table.insert(1, [row("a", 3)], 10, now);
        let place = row("a", 0).0;
        table.outdate(place, row("a", 2).1.ballot);
        assert_eq!(get(&table, "a"), Some(3), "the table has an older one");
        let before = table.now();
        table.outdate(place, row("a", 4).1.ballot);
        assert_eq!(get(&table, "a"), None);
        assert!(
            table.since(before).newest(&place).is_some(),
            "who read the table before may have seen nothing"
        );
        assert!(table.since(table.now()).newest(&place).is_none());
        let batch = table.oldest(9);
        table.applied(&batch);
        assert!(table.is_empty() && table.is_settled(place.0));
    }

    #[test]
    fn a_partition_is_not_settled_while_a_row_of_it_may_still_be_written() {
        let (mut table, now) = (Memtable::new(), Instant::now());
        table.insert(1, [row("a", 3)], 10, now);
        let partition = row("a", 0).0.0;
        let batch = table.oldest(9);
        // As if something else had brought it there meanwhile.
        table.in_table(row("a", 3).0, row("a", 3).1.ballot);
        assert!(table.len_of(partition) == 0 && !table.is_settled(partition));
        table.applied(&batch);
        assert!(table.is_settled(partition));
    }

    #[test]
    fn what_cannot_be_applied_keeps_the_log_as_long_as_it_is() {
        let (mut table, now) = (Memtable::new(), Instant::now());
        table.insert(1, [row("a", 1)], 10, now);
        table.insert(2, [row("a", 2)], 10, now);
        for _ in 0..3 {
            let batch = table.oldest(9);
            table.not_applied(&batch, now);
            assert_eq!(table.log_bytes(), 20);
            let batch = table.all_of(&[row("a", 0).0.0]);
            table.not_applied(&batch, now);
        }
        assert_eq!(keys(&table.oldest(9)), named(&[("a", 2)]), "once");
    }

    #[test]
    fn applying_is_due_when_it_is_quiet_or_old_or_much() {
        let (mut table, now) = (Memtable::new(), Instant::now());
        assert_eq!(table.due_at(), None);
        table.insert(1, [row("a", 1)], 10, now);
        assert_eq!(table.due_at(), Some(now + QUIET));
        for second in 1..60 {
            table.insert(1 + second, [row("b", second)], 10, now + seconds(second));
        }
        assert_eq!(table.due_at(), Some(now + AGE_MAX), "never quiet");
        table.insert(99, [row("c", 1)], REDO_BYTES_TARGET, now + seconds(60));
        assert_eq!(table.due_at(), Some(now), "at once");
        assert!(table.has_room());
        table.insert(100, [row("d", 1)], REDO_BYTES_TARGET, now + seconds(60));
        assert!(!table.has_room());
    }

    #[test]
    fn what_expires_is_counted() {
        let (mut table, now) = (Memtable::new(), Instant::now());
        let mut expiring = row("a", 1);
        expiring.1.content = tercet_common::Content::string("v", Some(UnixMillis(5)));
        let id = expiring.0.0;
        table.insert(1, [expiring], 10, now);
        assert!(table.since(table.now()).has_expiring(id));
        table.insert(2, [row("a", 2)], 10, now);
        let view = table.since(table.now());
        assert!(!view.has_expiring(id));
        assert_eq!(view.newest_from((id, KeyHash([0; 16]))).count(), 1);
        assert_eq!(view.newest_from((id, KeyHash([0xff; 16]))).count(), 0);
    }
}
