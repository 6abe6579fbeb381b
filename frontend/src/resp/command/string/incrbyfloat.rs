//! `INCRBYFLOAT key increment`

use bytes::Bytes;

use crate::coordinator::Coordinator;
use crate::resp::command::access::{Stored, update};
use crate::resp::command::decimal::{Decimal, Parsed};
use crate::resp::command::{Args, CommandError, Flag, Handler, Keys, Pending, Spec};
use crate::resp::reply::Reply;

pub(super) const INCRBYFLOAT: Spec = Spec {
    name: "incrbyfloat",
    arity: 3,
    flags: &[Flag::Write, Flag::DenyOom, Flag::Fast],
    keys: Keys::FIRST,
    group: "string",
    summary: "Increment the floating point value of a key by a number. Uses 0 as initial value if the key doesn't exist.",
    since: "2.6.0",
    complexity: "O(1)",
    notes: "Adds in decimal, exactly, to 17 digits behind the point. Redis adds in binary floating point, whose \
            rounding shows in large numbers. Hexadecimal numbers are not read.",
    subcommands: &[],
    run: Handler::Data(run),
};

fn run(coordinator: &Coordinator, mut args: Args) -> Result<Pending, CommandError> {
    let key = args.next_key()?;
    let increment = Parsed::parse(&args.next_bytes()?).ok_or(CommandError::NOT_A_FLOAT)?;
    args.finish()?;
    Ok(update(coordinator, key, move |stored, _| {
        let old = match &stored {
            None => Parsed::Finite(Decimal::default()),
            Some(stored) => Parsed::parse(&stored.data).ok_or(CommandError::NOT_A_FLOAT)?,
        };
        let sum = match (&old, &increment) {
            (Parsed::Finite(old), Parsed::Finite(increment)) => old.checked_add(increment),
            _ => None,
        };
        let sum = sum.ok_or(CommandError::text("ERR increment would produce NaN or Infinity"))?;
        let text = Bytes::from(sum.to_string());
        Ok((Stored::rewrite(stored.as_ref(), text.clone()), Reply::Bulk(text)))
    }))
}

#[cfg(test)]
mod tests {
    use crate::resp::command::testing::Gateway;

    #[test]
    fn adding() {
        Gateway::check(
            r#"
            incrbyfloat k 1.5 => "1.5"
            set k 10.50 => +OK
            incrbyfloat k 0.1 => "10.6"
            incrbyfloat k -5 => "5.6"
            set k 5.0e3 => +OK
            incrbyfloat k 2.0e2 => "5200"
            set k 3.0e3 => +OK
            incrbyfloat k 200 => "3200"
            get k => "3200"
            incrbyfloat k -3200 => "0"
            pexpire k 100 => :1
            incrbyfloat k .25 => "0.25"
            pexpiretime k => :1700000000100
            set k 1 => +OK
            incrbyfloat k -1.1 => "-0.1"
            set k 17179869184 => +OK
            incrbyfloat k 1.5 => "17179869185.5"
            "#,
        );
    }

    #[test]
    fn what_redis_refuses() {
        Gateway::check(
            r#"
            incrbyfloat k abc => -ERR value is not a valid float
            incrbyfloat k "" => -ERR value is not a valid float
            incrbyfloat k " 1" => -ERR value is not a valid float
            incrbyfloat k nan => -ERR value is not a valid float
            incrbyfloat k +inf => -ERR increment would produce NaN or Infinity
            exists k => :0
            set k " 11" => +OK
            incrbyfloat k 1 => -ERR value is not a valid float
            set k inf => +OK
            incrbyfloat k 1 => -ERR increment would produce NaN or Infinity
            get k => "inf"
            "#,
        );
    }
}
