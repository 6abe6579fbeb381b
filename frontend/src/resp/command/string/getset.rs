//! `GETSET key value`, `GETDEL key`: the old value, and then another or none.

use tercet_common::Content;

use crate::coordinator::{Change, Coordinator};
use crate::resp::command::access::update;
use crate::resp::command::{Args, CommandError, Flag, Handler, Keys, Pending, Spec};
use crate::resp::reply::Reply;

pub(super) const GETSET: Spec = Spec {
    name: "getset",
    arity: 3,
    flags: &[Flag::Write, Flag::DenyOom, Flag::Fast],
    keys: Keys::FIRST,
    group: "string",
    summary: "Returns the previous string value of a key after setting it to a new value.",
    since: "1.0.0",
    complexity: "O(1)",
    notes: "",
    subcommands: &[],
    run: Handler::Data(getset),
};

pub(super) const GETDEL: Spec = Spec {
    name: "getdel",
    arity: 2,
    flags: &[Flag::Write, Flag::Fast],
    keys: Keys::FIRST,
    group: "string",
    summary: "Returns the string value of a key after deleting the key.",
    since: "6.2.0",
    complexity: "O(1)",
    notes: "",
    subcommands: &[],
    run: Handler::Data(getdel),
};

fn getset(coordinator: &Coordinator, mut args: Args) -> Result<Pending, CommandError> {
    let key = args.next_key()?;
    let value = args.next_bytes()?;
    args.finish()?;
    Ok(update(coordinator, key, move |old, _| {
        let change = Change::Write(Content::string(value.clone(), None));
        Ok((change, Reply::bulk_or_null(old.map(|stored| stored.data))))
    }))
}

fn getdel(coordinator: &Coordinator, mut args: Args) -> Result<Pending, CommandError> {
    let key = args.next_key()?;
    args.finish()?;
    Ok(update(coordinator, key, |old, _| {
        Ok(match old {
            None => (Change::Keep, Reply::Null),
            Some(stored) => (Change::Write(Content::Tombstone), Reply::Bulk(stored.data)),
        })
    }))
}

#[cfg(test)]
mod tests {
    use crate::resp::command::testing::Gateway;

    #[test]
    fn getset_answers_the_old_value_and_drops_the_expiry() {
        Gateway::check(
            r#"
            getset k a => nil
            pexpire k 1000 => :1
            getset k b => "a"
            pexpiretime k => :-1
            get k => "b"
            getset k => -ERR wrong number of arguments for 'getset' command
            "#,
        );
    }

    #[test]
    fn getdel_answers_once() {
        Gateway::check(
            r#"
            getdel k => nil
            set k "\x00" => +OK
            getdel k => "\x00"
            getdel k => nil
            exists k => :0
            "#,
        );
    }
}
