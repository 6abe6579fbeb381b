//! `GET key`

use crate::coordinator::Coordinator;
use crate::resp::command::access::read;
use crate::resp::command::{Args, CommandError, Flag, Handler, Keys, Pending, Spec};
use crate::resp::reply::Reply;

pub(super) const GET: Spec = Spec {
    name: "get",
    arity: 2,
    flags: &[Flag::ReadOnly, Flag::Fast],
    keys: Keys::FIRST,
    group: "string",
    summary: "Returns the string value of a key.",
    since: "1.0.0",
    complexity: "O(1)",
    notes: "",
    subcommands: &[],
    run: Handler::Data(run),
};

fn run(coordinator: &Coordinator, mut args: Args) -> Result<Pending, CommandError> {
    let key = args.next_key()?;
    args.finish()?;
    Ok(read(coordinator, key, |stored| Ok(Reply::bulk_or_null(stored.map(|s| s.data)))))
}

#[cfg(test)]
mod tests {
    use crate::resp::command::testing::Gateway;

    #[test]
    fn get_answers_the_bytes_or_null() {
        Gateway::check(
            r#"
            get k => nil
            set k "\x00\xff\r\n" => +OK
            get k => "\x00\xff\r\n"
            set k "" => +OK
            get k => ""
            set "" v => +OK
            get "" => "v"
            get => -ERR wrong number of arguments for 'get' command
            get a b => -ERR wrong number of arguments for 'get' command
            "#,
        );
    }

    #[test]
    fn a_failed_read_is_no_missing_key() {
        Gateway::check(
            r#"
            @fail busy
            get k => -BUSY too many operations are in flight; nothing was done
            "#,
        );
    }
}
