//! `BITPOS key bit [start [end [BYTE | BIT]]]`

use super::BITS_PER_BYTE;
use super::range::{BitRange, Unit};
use crate::coordinator::Coordinator;
use crate::resp::command::access::read;
use crate::resp::command::{Args, CommandError, Flag, Handler, Keys, Pending, Spec, parse_i64};
use crate::resp::reply::Reply;

pub(super) const BITPOS: Spec = Spec {
    name: "bitpos",
    arity: -3,
    flags: &[Flag::ReadOnly],
    keys: Keys::FIRST,
    group: "bitmap",
    summary: "Finds the first set (1) or clear (0) bit in a string.",
    since: "2.8.7",
    complexity: "O(N)",
    notes: "",
    subcommands: &[],
    run: Handler::Data(run),
};

#[derive(Debug, Clone, Copy)]
struct Query {
    bit: bool,
    start: i64,
    /// Absent: to the end, and a 0 is also found behind it.
    end: Option<i64>,
    unit: Unit,
}

fn run(coordinator: &Coordinator, mut args: Args) -> Result<Pending, CommandError> {
    let key = args.next_key()?;
    let bit = match args.next_i64()? {
        0 => false,
        1 => true,
        _ => return Err(CommandError::text("ERR The bit argument must be 1 or 0.")),
    };
    if args.len() > 3 {
        return Err(CommandError::SYNTAX);
    }
    let start = if args.is_empty() { 0 } else { args.next_i64()? };
    // As in Redis, a wrong unit is reported before a wrong end.
    let end = if args.is_empty() { None } else { Some(args.next_bytes()?) };
    let unit = Unit::parse(&mut args)?;
    let end = end.map(|text| parse_i64(&text).ok_or(CommandError::NOT_AN_INTEGER)).transpose()?;
    let query = Query { bit, start, end, unit };
    Ok(read(coordinator, key, move |stored| {
        let position = match &stored {
            // An endless row of zeros.
            None => (!bit).then_some(0),
            Some(stored) => query.find(&stored.data),
        };
        Ok(Reply::Integer(position.and_then(|at| i64::try_from(at).ok()).unwrap_or(-1)))
    }))
}

impl Query {
    fn find(self, data: &[u8]) -> Option<usize> {
        let range = BitRange::clamp(self.start, self.end.unwrap_or(-1), self.unit, data.len());
        if range.is_empty() {
            return None;
        }
        let hit = range.bytes(data).find_map(|(at, byte, mask)| {
            let wanted = if self.bit { byte } else { !byte } & mask;
            (wanted != 0).then(|| at * BITS_PER_BYTE + wanted.leading_zeros() as usize)
        });
        let behind = (!self.bit && self.end.is_none()).then_some(data.len() * BITS_PER_BYTE);
        hit.or(behind)
    }
}

#[cfg(test)]
mod tests {
    use crate::resp::command::testing::Gateway;

    #[test]
    fn finding_bits() {
        Gateway::check(
            r#"
            bitpos missing 0 => :0
            bitpos missing 1 => :-1
            bitpos missing 0 5 => :0
            set k "\xff\xf0\x00" => +OK
            bitpos k 0 => :12
            bitpos k 1 => :0
            bitpos k 1 1 => :8
            bitpos k 1 2 => :-1
            bitpos k 0 1 1 => :12
            bitpos k 0 0 0 => :-1
            bitpos k 0 3 => :-1
            bitpos k 0 2 1 => :-1
            set k "\x00\xff\xf0" => +OK
            bitpos k 1 2 -1 byte => :16
            bitpos k 1 7 15 bit => :8
            bitpos k 0 8 19 BIT => :-1
            bitpos k 0 8 20 bit => :20
            bitpos k 1 0 7 bit => :-1
            bitpos k 1 -4 -1 bit => :-1
            bitpos k 1 -5 -1 bit => :19
            bitpos k 0 -100 -1 => :0
            bitpos k 0 -4 -4 => :0
            "#,
        );
    }

    #[test]
    fn a_zero_is_found_behind_the_end_unless_an_end_is_given() {
        Gateway::check(
            r#"
            set k "\xff\xff\xff" => +OK
            bitpos k 0 => :24
            bitpos k 0 1 => :24
            bitpos k 0 0 -1 => :-1
            bitpos k 0 0 -1 bit => :-1
            set k "" => +OK
            bitpos k 0 => :-1
            bitpos k 1 => :-1
            "#,
        );
    }

    #[test]
    fn what_redis_refuses() {
        Gateway::check(
            r#"
            set k v => +OK
            bitpos k 2 => -ERR The bit argument must be 1 or 0.
            bitpos k -1 => -ERR The bit argument must be 1 or 0.
            bitpos k x => -ERR value is not an integer or out of range
            bitpos k 1 x => -ERR value is not an integer or out of range
            bitpos k 1 0 x => -ERR value is not an integer or out of range
            bitpos k 1 0 1 hello => -ERR syntax error
            bitpos k 1 0 1 bit more => -ERR syntax error
            bitpos k 1 x 1 bit more => -ERR syntax error
            bitpos k 1 0 x hello => -ERR syntax error
            bitpos k 1 x 1 hello => -ERR value is not an integer or out of range
            bitpos k => -ERR wrong number of arguments for 'bitpos' command
            "#,
        );
    }
}
