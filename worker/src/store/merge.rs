//! What was read from the table, with the rows that are not there yet.

use tercet_common::sync::DigestEntry;
use tercet_common::{Ballot, KeyHash, PartitionId, Row};

use super::memtable::View;
use super::{Filling, Page, Place, ScanFrom, ScanOptions, Stretch, digest_entry, place_of};

/// A page that the table gave, with the rows that belong between `from` and its end. It may become shorter.
pub(super) fn page(
    table: Page,
    from: ScanFrom,
    options: ScanOptions,
    memtable: View<'_>,
    flush: impl Fn(PartitionId) -> Ballot,
) -> Page {
    let Page { rows, next } = table;
    let newer =
        |place: &Place, row: &Row| memtable.newest(place).is_some_and(|held| held.ballot >= row.ballot);
    let rows = rows.into_iter().map(|row| (place_of(&row), row));
    let mut rows = rows.filter(|(place, row)| !newer(place, row)).peekable();
    let mut page = Filling::new(options);
    let first = PartitionId::all().skip(from.partition.index());
    for partition in first.take_while(|id| *id <= options.last_partition) {
        if next.is_some_and(|next| partition > next.0) {
            break;
        }
        let mut merged: Vec<(Place, usize, Row)> = Vec::new();
        if options.expired_by.is_none() || memtable.has_expiring(partition) {
            let low = if partition == from.partition { from.hash } else { KeyHash([0; 16]) };
            for (hash, row) in memtable.newest_from((partition, low)) {
                let place = (partition, hash);
                let is_here = next.is_none_or(|next| place < next);
                if is_here && options.wants(row) && row.ballot >= flush(partition) {
                    merged.push((place, row.weight(), options.shown(row)));
                }
            }
        }
        // One of each place: where the table has the newer one, the memtable's goes.
        let held = merged.len();
        while let Some((place, row)) = rows.next_if(|(place, _)| place.0 == partition) {
            merged.push((place, row.weight(), row));
        }
        if held > 0 {
            merged.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| b.2.ballot.cmp(&a.2.ballot)));
            merged.dedup_by_key(|(place, ..)| *place);
        }
        for (place, weight, row) in merged {
            if !page.push(place, weight, row) {
                return page.page;
            }
        }
    }
    Page { next, ..page.page }
}

/// A stretch that the table gave, with the rows that belong between `from` and its end. It may become shorter.
pub(super) fn stretch(
    table: Stretch,
    (partition, from): Place,
    limit: usize,
    memtable: View<'_>,
    flush: Ballot,
) -> Stretch {
    let Stretch { entries, mut next } = table;
    let here = memtable.newest_from((partition, from)).map(|(hash, _)| hash);
    let here = here.filter(|hash| next.is_none_or(|next| *hash < next));
    let mut entries = self::entries(entries, here, partition, memtable, flush);
    if let Some(left_out) = entries.get(limit) {
        next = Some(left_out.hash);
        entries.truncate(limit);
    }
    Stretch { entries, next }
}

/// What the table has of some keys, with what it does not have yet.
pub(super) fn entries(
    mut table: Vec<DigestEntry>,
    hashes: impl Iterator<Item = KeyHash>,
    partition: PartitionId,
    memtable: View<'_>,
    flush: Ballot,
) -> Vec<DigestEntry> {
    for hash in hashes {
        let held = memtable.newest(&(partition, hash)).filter(|row| row.ballot >= flush);
        table.extend(held.map(|row| digest_entry(hash, row)));
    }
    table.sort_unstable_by_key(|entry| (entry.hash, std::cmp::Reverse(entry.ballot)));
    table.dedup_by_key(|entry| entry.hash);
    table
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tercet_common::Content;

    use super::super::memtable::Memtable;
    use super::super::suite;
    use super::*;

    const EVERYTHING: ScanOptions = ScanOptions {
        last_partition: PartitionId::new(tercet_common::PARTITIONS - 1).unwrap(),
        limit: 100,
        bytes_max: usize::MAX,
        with_data: true,
        with_tombstones: true,
        expired_by: None,
    };
    const START: ScanFrom = ScanFrom { partition: PartitionId::MIN, hash: KeyHash([0; 16]) };

    fn sorted(mut rows: Vec<Row>) -> Vec<Row> {
        rows.sort_by_key(place_of);
        rows
    }

    fn rows(names: &[(&str, u64)]) -> Vec<Row> {
        sorted(names.iter().map(|(name, seq)| suite::row(name, *seq, "v")).collect())
    }

    fn memtable(rows: Vec<Row>) -> Memtable {
        let mut memtable = Memtable::new();
        memtable.insert(1, rows.into_iter().map(|row| (place_of(&row), row)), 10, Instant::now());
        memtable
    }

    #[test]
    fn a_page_has_the_newest_of_both_and_ends_where_it_is_full() {
        let table = rows(&[("a", 1), ("b", 9), ("c", 3), ("d", 4)]);
        let held = memtable(rows(&[("a", 5), ("b", 2), ("e", 5), ("f", 6)]));
        let all = rows(&[("a", 5), ("b", 9), ("c", 3), ("d", 4), ("e", 5), ("f", 6)]);
        let merged =
            |page: Page, options| super::page(page, START, options, held.since(held.now()), |_| Ballot::ZERO);
        let whole = Page { rows: table.clone(), next: None };
        assert_eq!(merged(whole.clone(), EVERYTHING), Page { rows: all.clone(), next: None });
        let short = merged(whole, ScanOptions { limit: 2, ..EVERYTHING });
        assert_eq!(short, Page { rows: all[..2].to_vec(), next: Some(place_of(&all[2])) });
        // What lies behind the table's page is not its business.
        let cut = Page { rows: table[..1].to_vec(), next: Some(place_of(&table[1])) };
        let part = merged(cut, EVERYTHING);
        let expected: Vec<_> =
            all.iter().filter(|row| place_of(row) < place_of(&table[1])).cloned().collect();
        assert_eq!(part, Page { rows: expected, next: Some(place_of(&table[1])) });
    }

    #[test]
    fn a_row_that_is_deleted_in_the_memtable_or_below_the_flush_is_not_shown() {
        let mut gone = rows(&[("a", 5)]);
        gone[0].content = Content::Tombstone;
        gone.extend(rows(&[("b", 2)]));
        let held = memtable(gone);
        let table = Page { rows: rows(&[("a", 1)]), next: None };
        let live = ScanOptions { with_tombstones: false, ..EVERYTHING };
        let flush = suite::ballot(3);
        assert_eq!(super::page(table, START, live, held.since(held.now()), |_| flush), Page::default());
    }

    #[test]
    fn a_stretch_ends_where_it_is_full() {
        let names: Vec<_> = (0..20).map(|n| format!("{{t}}{n}")).collect();
        let all = rows(&names.iter().map(|name| (name.as_str(), 2)).collect::<Vec<_>>());
        let partition = all[0].key.partition();
        let entry = |row: &Row| DigestEntry { hash: row.key.hash(), ballot: row.ballot, tombstone: false };
        let (table, held): (Vec<_>, Vec<_>) = all.iter().cloned().enumerate().partition(|(n, _)| n % 2 == 0);
        let held = memtable(held.into_iter().map(|(_, row)| row).collect());
        let table = table.iter().map(|(_, row)| entry(row)).collect::<Vec<_>>();
        let from = (partition, KeyHash([0; 16]));
        let whole = Stretch { entries: table, next: None };
        let first = stretch(whole, from, 7, held.since(held.now()), Ballot::ZERO);
        let expected = all[..7].iter().map(entry).collect();
        assert_eq!(first, Stretch { entries: expected, next: Some(all[7].key.hash()) });
    }
}
