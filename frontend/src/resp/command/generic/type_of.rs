//! `TYPE key`

use tercet_common::{Content, DataType, Row};

use crate::coordinator::Coordinator;
use crate::resp::command::access::read_row;
use crate::resp::command::{Args, CommandError, Flag, Handler, Keys, Pending, Spec};
use crate::resp::reply::Reply;

pub(super) const TYPE: Spec = Spec {
    name: "type",
    arity: 2,
    flags: &[Flag::ReadOnly, Flag::Fast],
    keys: Keys::FIRST,
    group: "generic",
    summary: "Determines the type of value stored at a key.",
    since: "1.0.0",
    complexity: "O(1)",
    notes: "",
    subcommands: &[],
    run: Handler::Data(run),
};

fn run(coordinator: &Coordinator, mut args: Args) -> Result<Pending, CommandError> {
    let key = args.next_key()?;
    args.finish()?;
    Ok(read_row(coordinator, key, |row| Reply::Simple(row.map_or("none", name).into())))
}

/// Redis's name for the type of a live row.
pub(super) fn name(row: &Row) -> &'static str {
    match row.content {
        Content::Tombstone => "none",
        Content::Value { data_type: DataType::String, .. } => "string",
    }
}

#[cfg(test)]
mod tests {
    use crate::resp::command::testing::Gateway;

    #[test]
    fn type_of_a_key() {
        Gateway::check(
            r#"
            type k => +none
            set k 1 => +OK
            type k => +string
            type => -ERR wrong number of arguments for 'type' command
            "#,
        );
    }
}
