//! `LCS key1 key2 [LEN] [IDX] [MINMATCHLEN length] [WITHMATCHLEN]`: the longest common subsequence of two strings.
//!
//! The textbook table (Cormen et al., "Introduction to Algorithms", section on longest common subsequences) of
//! `(len1 + 1) × (len2 + 1)` numbers, walked back from its end. Its size is bounded before it is allocated; a large
//! one is filled on a thread of its own, and only a few of those at once.

use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::coordinator::Coordinator;
use crate::resp::command::access::{Stored, all_reads};
use crate::resp::command::{Args, CommandError, Flag, Handler, Keys, Pending, Spec};
use crate::resp::reply::Reply;

/// Tables up to this many cells are filled where the command runs; that takes well below a millisecond.
const INLINE_CELLS_MAX: usize = 64 * 1024;
/// Large tables that exist at the same time.
const LARGE_TABLES_MAX: usize = 2;

static LARGE_TABLES: Semaphore = Semaphore::const_new(LARGE_TABLES_MAX);

pub(super) const LCS: Spec = Spec {
    name: "lcs",
    arity: -3,
    flags: &[Flag::ReadOnly],
    keys: Keys { first: 1, last: 2, step: 1 },
    group: "string",
    summary: "Finds the longest common substring.",
    since: "7.0.0",
    complexity: "O(N*M) where N and M are the lengths of s1 and s2, respectively",
    notes: "The two keys are read one by one, not as of one moment. The table of 4-byte cells may be as large as the \
            largest value.",
    subcommands: &[],
    run: Handler::Data(run),
};

#[derive(Debug, Clone, Copy, Default)]
struct Options {
    len: bool,
    idx: bool,
    with_match_len: bool,
    match_len_min: usize,
}

impl Options {
    fn parse(args: &mut Args) -> Result<Self, CommandError> {
        let mut options = Self::default();
        while !args.is_empty() {
            if args.take_keyword("IDX") {
                options.idx = true;
            } else if args.take_keyword("LEN") {
                options.len = true;
            } else if args.take_keyword("WITHMATCHLEN") {
                options.with_match_len = true;
            } else if args.len() > 1 && args.take_keyword("MINMATCHLEN") {
                options.match_len_min = usize::try_from(args.next_i64()?).unwrap_or(0);
            } else {
                return Err(CommandError::SYNTAX);
            }
        }
        if options.len && options.idx {
            return Err(CommandError::text(
                "ERR If you want both the length and indexes, please just use IDX.",
            ));
        }
        Ok(options)
    }

    fn reply(self, a: &[u8], b: &[u8]) -> Reply {
        let runs = common_runs(a, b);
        let total: usize = runs.iter().map(|run| run.len).sum();
        if self.len {
            return integer(total);
        }
        if !self.idx {
            let common: Vec<u8> =
                runs.iter().rev().flat_map(|run| &a[run.a..run.a + run.len]).copied().collect();
            return Reply::bulk(common);
        }
        let shown = runs.iter().filter(|run| run.len >= self.match_len_min);
        let matches = shown.map(|run| run.reply(self.with_match_len)).collect();
        Reply::Map(vec![
            (Reply::bulk("matches"), Reply::Array(matches)),
            (Reply::bulk("len"), integer(total)),
        ])
    }
}

fn run(coordinator: &Coordinator, mut args: Args) -> Result<Pending, CommandError> {
    let keys = [args.next_key()?, args.next_key()?];
    let options = Options::parse(&mut args)?;
    let table_bytes_max = coordinator.value_bytes_max();
    let reads: Vec<_> = keys.into_iter().map(|key| coordinator.get(key)).collect();
    Ok(Pending::later(async move {
        let mut strings = all_reads(reads).await?.into_iter().map(|row| match Stored::of(row.as_deref()) {
            Ok(stored) => Ok(stored.map_or(Bytes::new(), |s| s.data)),
            Err(_) => Err(CommandError::text("ERR The specified keys must contain string values")),
        });
        let (a, b) = match (strings.next(), strings.next()) {
            (Some(a), Some(b)) => (a?, b?),
            _ => return Err(CommandError::SYNTAX),
        };
        let cells = cells(a.len(), b.len(), table_bytes_max)?;
        if cells <= INLINE_CELLS_MAX {
            return Ok(options.reply(&a, &b));
        }
        let unfinished = |_| CommandError::text("ERR LCS was given up");
        let permit = LARGE_TABLES.acquire().await.map_err(unfinished)?;
        let filled = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            options.reply(&a, &b)
        });
        filled.await.map_err(|_| CommandError::text("ERR LCS was given up"))
    }))
}

/// The size of the table, if it is allowed.
fn cells(a: usize, b: usize, table_bytes_max: usize) -> Result<usize, CommandError> {
    let cells = (a + 1).checked_mul(b + 1).filter(|cells| *cells <= table_bytes_max / size_of::<u32>());
    cells.ok_or(CommandError::text(
        "ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len",
    ))
}

/// `a[run.a..][..run.len]` equals `b[run.b..][..run.len]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    a: usize,
    b: usize,
    len: usize,
}

impl Run {
    fn reply(self, with_len: bool) -> Reply {
        let range = |start: usize| Reply::Array(vec![integer(start), integer(start + self.len - 1)]);
        let mut reply = vec![range(self.a), range(self.b)];
        if with_len {
            reply.push(integer(self.len));
        }
        Reply::Array(reply)
    }
}

fn integer(number: usize) -> Reply {
    Reply::Integer(i64::try_from(number).unwrap_or(i64::MAX))
}

/// The common subsequence as runs of neighbours, the last one first. Where two are equally long, Redis's choice.
fn common_runs(a: &[u8], b: &[u8]) -> Vec<Run> {
    let width = b.len() + 1;
    let mut table = vec![0_u32; (a.len() + 1) * width];
    for i in 1..=a.len() {
        let (above, row) = table[(i - 1) * width..(i + 1) * width].split_at_mut(width);
        for j in 1..=b.len() {
            row[j] = if a[i - 1] == b[j - 1] { above[j - 1] + 1 } else { above[j].max(row[j - 1]) };
        }
    }
    let mut runs: Vec<Run> = Vec::new();
    let (mut i, mut j) = (a.len(), b.len());
    let mut in_run = false;
    while i > 0 && j > 0 {
        if a[i - 1] == b[j - 1] {
            (i, j) = (i - 1, j - 1);
            match runs.last_mut() {
                Some(run) if in_run => *run = Run { a: i, b: j, len: run.len + 1 },
                _ => runs.push(Run { a: i, b: j, len: 1 }),
            }
            in_run = true;
        } else {
            if table[(i - 1) * width + j] > table[i * width + j - 1] {
                i -= 1;
            } else {
                j -= 1;
            }
            in_run = false;
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::command::testing::Gateway;

    #[test]
    fn forms_of_the_answer() {
        Gateway::check(
            r#"
            mset a ohmytext b mynewtext => +OK
            lcs a b => "mytext"
            lcs a b len => :6
            lcs a b idx => {"matches": [[[:4, :7], [:5, :8]], [[:2, :3], [:0, :1]]], "len": :6}
            lcs a b idx minmatchlen 4 => {"matches": [[[:4, :7], [:5, :8]]], "len": :6}
            lcs a b idx minmatchlen -1 withmatchlen => {"matches": [[[:4, :7], [:5, :8], :4], [[:2, :3], [:0, :1], :2]], "len": :6}
            lcs a b idx minmatchlen 100 => {"matches": [], "len": :6}
            lcs a missing => ""
            lcs a missing len => :0
            lcs missing other idx => {"matches": [], "len": :0}
            mset x "\x00\x01\x02" y "\x00\x02" => +OK
            lcs x y => "\x00\x02"
            "#,
        );
    }

    #[test]
    fn what_redis_refuses() {
        Gateway::check(
            r#"
            lcs a => -ERR wrong number of arguments for 'lcs' command
            lcs a b nonsense => -ERR syntax error
            lcs a b minmatchlen => -ERR syntax error
            lcs a b minmatchlen x => -ERR value is not an integer or out of range
            lcs a b len idx => -ERR If you want both the length and indexes, please just use IDX.
            "#,
        );
    }

    #[test]
    fn a_table_over_the_limit_is_refused_before_it_is_allocated() {
        assert_eq!(cells(3, 4, 80), Ok(20));
        let text = "ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len";
        assert_eq!(cells(3, 4, 79).unwrap_err().line(), text);
        assert!(cells(usize::MAX - 1, usize::MAX - 1, usize::MAX).is_err());
    }

    #[test]
    fn a_large_table_is_filled_elsewhere() {
        let gateway = Gateway::new();
        let long = "ab".repeat(300);
        let words =
            |words: &[&str]| words.iter().map(|w| Bytes::copy_from_slice(w.as_bytes())).collect::<Vec<_>>();
        gateway.run(&words(&["mset", "a", &long, "b", &long[1..]]));
        assert_eq!(gateway.run(&words(&["lcs", "a", "b"])), Reply::bulk(long[1..].to_owned()));
    }
}
