//! `FLUSHALL [ASYNC | SYNC]`, `FLUSHDB [ASYNC | SYNC]`

use crate::coordinator::Coordinator;
use crate::resp::command::{Args, CommandError, Flag, Handler, Keys, Pending, Spec};
use crate::resp::reply::Reply;

pub(super) const FLUSHALL: Spec = Spec {
    name: "flushall",
    arity: -1,
    flags: &[Flag::Write],
    keys: Keys::NONE,
    group: "server",
    summary: "Removes all keys from all databases.",
    since: "1.0.0",
    complexity: "O(1) for every partition.",
    notes: "Not atomic across partitions: meanwhile others may see some keys gone and others not yet. ASYNC and SYNC \
            are the same.",
    subcommands: &[],
    run: Handler::Data(run),
};

pub(super) const FLUSHDB: Spec =
    Spec { name: "flushdb", summary: "Remove all keys from the current database.", ..FLUSHALL };

fn run(coordinator: &Coordinator, mut args: Args) -> Result<Pending, CommandError> {
    if !args.take_keyword("ASYNC") {
        args.take_keyword("SYNC");
    }
    args.finish()?;
    let coordinator = coordinator.clone();
    Ok(Pending::later(async move {
        coordinator.flush().await?;
        Ok(Reply::OK)
    }))
}

#[cfg(test)]
mod tests {
    use crate::resp::command::testing::Gateway;

    #[test]
    fn everything_goes() {
        Gateway::check(
            r#"
            mset a 1 b 2 => +OK
            flushall nonsense => -ERR syntax error
            flushall async sync => -ERR syntax error
            exists a b => :2
            flushall => +OK
            exists a b => :0
            set a 1 => +OK
            flushdb async => +OK
            dbsize => :0
            flushdb => +OK
            flushall SYNC => +OK
            "#,
        );
    }
}
