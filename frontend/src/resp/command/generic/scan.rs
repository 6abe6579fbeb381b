//! `SCAN cursor [MATCH pattern] [COUNT count] [TYPE type]`
//!
//! A cursor is a place in the order of the engine's scans, so the server keeps nothing between two calls, and a cursor
//! stays good through restarts and ring changes.
//!
//! ```text
//!  51      42 41                                0
//! ┌──────────┬───────────────────────────────────┐
//! │partition │ first 42 bits of the key's hash   │   0 is the start, and as an answer the end
//! └──────────┴───────────────────────────────────┘
//! ```
//!
//! 52 bits, because JavaScript clients keep it in a double. A page therefore ends between two hashes that differ in
//! their first 42 bits; keys that share them are always on one page.

use bytes::Bytes;
use tercet_common::{KeyHash, PARTITIONS, PartitionId, Row};

use super::type_of;
use crate::coordinator::{Coordinator, OpError, ScanFilter, ScanPage, ScanPosition};
use crate::resp::command::{Args, CommandError, Flag, Handler, Keys, Pending, Spec};
use crate::resp::glob::glob_match;
use crate::resp::reply::Reply;

pub(super) const SCAN: Spec = Spec {
    name: "scan",
    arity: -2,
    flags: &[Flag::ReadOnly],
    keys: Keys::NONE,
    group: "generic",
    summary: "Iterates over the key names in the database.",
    since: "2.8.0",
    complexity: "O(1) for every call. O(N) for a complete iteration. N is the number of keys inside the database.",
    notes: "A key that is there from the first call to the last is returned at least once. COUNT above 10000 counts \
            as 10000.",
    subcommands: &[],
    run: Handler::Data(run),
};

/// What COUNT may ask of one call.
const COUNT_MAX: usize = 10_000;
const COUNT_DEFAULT: usize = 10;

const PREFIX_BITS: u32 = 42;
/// The bits of a hash that a cursor does not hold.
const TAIL_BITS: u32 = 128 - PREFIX_BITS;

/// A place between two keys; see the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Cursor(u64);

impl Cursor {
    /// The start; as an answer, the end.
    const ZERO: Self = Self(0);

    fn parse(text: &[u8]) -> Result<Self, CommandError> {
        let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
        number.map(Self).ok_or(CommandError::text("ERR invalid cursor"))
    }

    /// The place before all keys that share the position's partition and prefix.
    fn before(position: ScanPosition) -> Self {
        let prefix = u128::from_be_bytes(position.hash.0) >> TAIL_BITS;
        // 42 bits are left of it.
        Self(u64::from(position.partition.get()) << PREFIX_BITS | prefix as u64)
    }

    /// `None` behind the last partition, as for cursors that were never given out.
    fn position(self) -> Option<ScanPosition> {
        let partition = u16::try_from(self.0 >> PREFIX_BITS).ok().filter(|id| *id < PARTITIONS)?;
        let prefix = self.0 & ((1 << PREFIX_BITS) - 1);
        let hash = KeyHash((u128::from(prefix) << TAIL_BITS).to_be_bytes());
        Some(ScanPosition { partition: PartitionId::new(partition)?, hash })
    }

    fn of(row: &Row) -> Self {
        Self::before(ScanPosition { partition: row.key.partition(), hash: row.key.hash() })
    }
}

struct Options {
    pattern: Option<Bytes>,
    count: usize,
    type_name: Option<Bytes>,
}

impl Options {
    fn parse(args: &mut Args) -> Result<Self, CommandError> {
        let mut options = Self { pattern: None, count: COUNT_DEFAULT, type_name: None };
        while args.len() >= 2 {
            if args.take_keyword("MATCH") {
                options.pattern = Some(args.next_bytes()?);
            } else if args.take_keyword("COUNT") {
                let count = usize::try_from(args.next_i64()?).ok().filter(|count| *count > 0);
                options.count = count.ok_or(CommandError::SYNTAX)?.min(COUNT_MAX);
            } else if args.take_keyword("TYPE") {
                options.type_name = Some(args.next_bytes()?);
            } else {
                return Err(CommandError::SYNTAX);
            }
        }
        args.finish()?;
        Ok(options)
    }

    fn wants(&self, row: &Row) -> bool {
        let of_type = |name: &Bytes| name.eq_ignore_ascii_case(type_of::name(row).as_bytes());
        self.type_name.as_ref().is_none_or(of_type)
            && self.pattern.as_ref().is_none_or(|pattern| glob_match(pattern, row.key.as_bytes(), false))
    }
}

fn run(coordinator: &Coordinator, mut args: Args) -> Result<Pending, CommandError> {
    let cursor = Cursor::parse(&args.next_bytes()?)?;
    let options = Options::parse(&mut args)?;
    let filter = ScanFilter { limit: options.count, with_data: false, expired_by: None };
    let coordinator = coordinator.clone();
    Ok(Pending::later(async move {
        let (rows, next) = match cursor.position() {
            Some(from) => page(|at| coordinator.scan(at, filter), from).await?,
            None => (Vec::new(), Cursor::ZERO),
        };
        let keys = rows.iter().filter(|row| options.wants(row)).map(|row| Reply::Bulk(row.key.bytes()));
        Ok(Reply::Array(vec![Reply::bulk(next.0.to_string()), Reply::Array(keys.collect())]))
    }))
}

/// A page from `from` (which lies before all keys of its prefix), and where to go on. `fetch` reads a page of the
/// engine.
async fn page<Fetched>(
    fetch: impl Fn(ScanPosition) -> Fetched,
    from: ScanPosition,
) -> Result<(Vec<Row>, Cursor), OpError>
where
    Fetched: Future<Output = Result<ScanPage, OpError>>,
{
    let mut rows = Vec::new();
    let mut at = from;
    loop {
        let page = fetch(at).await?;
        rows.extend(page.rows);
        let Some(next) = page.next else { return Ok((rows, Cursor::ZERO)) };
        let resume = Cursor::before(next);
        if resume > Cursor::before(from) {
            // What shares its prefix with the next page's first key is left to that page.
            rows.retain(|row| Cursor::of(row) < resume);
            return Ok((rows, resume));
        }
        // The whole page lies inside one prefix.
        at = next;
    }
}

#[cfg(test)]
mod tests {
    use tercet_common::{Ballot, Content, Key, VectorClock};

    use super::*;
    use crate::resp::command::testing::{Gateway, words};

    fn words_of(reply: Reply) -> (String, Vec<Bytes>) {
        let Reply::Array(parts) = reply else { panic!("{reply:?}") };
        let [Reply::Bulk(cursor), Reply::Array(keys)] = &parts[..] else { panic!("{parts:?}") };
        let keys = keys.iter().map(|key| match key {
            Reply::Bulk(key) => key.clone(),
            other => panic!("{other:?}"),
        });
        (String::from_utf8(cursor.to_vec()).unwrap(), keys.collect())
    }

    fn scan_all(gateway: &Gateway, options: &str) -> Vec<Bytes> {
        let (mut cursor, mut seen) = ("0".to_owned(), Vec::new());
        for _ in 0..10_000 {
            let (next, keys) = words_of(gateway.run(&words(&format!("scan {cursor} {options}"))));
            seen.extend(keys);
            if next == "0" {
                return seen;
            }
            cursor = next;
        }
        panic!("the scan does not end");
    }

    #[test]
    fn a_scan_sees_each_key_once() {
        let gateway = Gateway::new();
        for i in 0..500 {
            gateway.run(&words(&format!("set key:{i} v")));
            // One partition, so that pages end inside it.
            gateway.run(&words(&format!("set {{tag}}:{i} v")));
        }
        for count in [1, 7, 10, 333, 10_000] {
            let mut seen = scan_all(&gateway, &format!("count {count}"));
            seen.sort();
            seen.dedup();
            assert_eq!(seen.len(), 1_000, "COUNT {count}");
        }
        assert_eq!(scan_all(&gateway, "match {tag}:*").len(), 500);
        assert_eq!(scan_all(&gateway, "count 100 match key:1?? type STRING").len(), 100);
        assert_eq!(scan_all(&gateway, "type hash"), [] as [Bytes; 0]);
    }

    #[test]
    fn options_and_refusals() {
        Gateway::check(
            r#"
            scan 0 => ["0", []]
            set k v => +OK
            scan 0 => ["0", ["k"]]
            scan 0 match K => ["0", []]
            scan 0 type nosuchtype => ["0", []]
            scan 9223372036854775807 => ["0", []]
            scan abc => -ERR invalid cursor
            scan -1 => -ERR invalid cursor
            scan 18446744073709551616 => -ERR invalid cursor
            scan 0 count => -ERR syntax error
            scan 0 count 0 => -ERR syntax error
            scan 0 count -5 => -ERR syntax error
            scan 0 count x => -ERR value is not an integer or out of range
            scan 0 nonsense 1 => -ERR syntax error
            scan 0 match => -ERR syntax error
            scan abc count x => -ERR invalid cursor
            "#,
        );
    }

    #[test]
    fn cursors_fit_a_double_and_lead_back() {
        let partition = PartitionId::new(PARTITIONS - 1).unwrap();
        let last = Cursor::before(ScanPosition { partition, hash: KeyHash([0xff; 16]) });
        assert!(last.0 < 1 << 53);
        let position = last.position().unwrap();
        assert_eq!((position.partition, Cursor::before(position)), (partition, last));
        assert_eq!(&position.hash.0[..6], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xc0]);
        assert_eq!(Cursor(last.0 + 1).position(), None);
    }

    #[tokio::test]
    async fn a_prefix_with_more_keys_than_a_page_still_makes_progress() {
        // Real keys with the same 42 bits are hard to find, so ten rows carry one key and lie at tails of its prefix.
        let key = Key::new("k").unwrap();
        let home = ScanPosition { partition: key.partition(), hash: key.hash() };
        let row = Row { key, ballot: Ballot::ZERO, clock: VectorClock::new(), content: Content::Tombstone };
        let prefix = u128::from_be_bytes(home.hash.0) >> TAIL_BITS << TAIL_BITS;
        let crowd: Vec<ScanPosition> = (0..10)
            .map(|tail| ScanPosition { hash: KeyHash((prefix | tail).to_be_bytes()), ..home })
            .collect();
        let fetch = async |from| {
            let rest: Vec<_> = crowd.iter().filter(|place| **place >= from).collect();
            let rows = rest.iter().take(3).map(|_| row.clone()).collect();
            Ok(ScanPage { rows, next: rest.get(3).map(|place| **place) })
        };

        // From the start the crowd is left to the next page, which takes all of it though a fetch gives 3.
        let start = ScanPosition::start_of(PartitionId::new(0).unwrap());
        let (rows, resume) = page(fetch, start).await.unwrap();
        assert_eq!((rows.len(), resume), (0, Cursor::before(home)));
        let (rows, end) = page(fetch, resume.position().unwrap()).await.unwrap();
        assert_eq!((rows.len(), end), (10, Cursor::ZERO));
    }
}
