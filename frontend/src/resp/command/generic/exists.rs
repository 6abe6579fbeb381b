//! `EXISTS key [key …]`, `TOUCH key [key …]`

use crate::coordinator::Coordinator;
use crate::resp::command::access::{all_reads, keys};
use crate::resp::command::{Args, CommandError, Flag, Handler, Keys, Pending, Spec};
use crate::resp::reply::Reply;

pub(super) const EXISTS: Spec = Spec {
    name: "exists",
    arity: -2,
    flags: &[Flag::ReadOnly, Flag::Fast],
    keys: Keys::ALL,
    group: "generic",
    summary: "Determines whether one or more keys exist.",
    since: "1.0.0",
    complexity: "O(N) where N is the number of keys to check.",
    notes: "Each key is looked at on its own, not all as of one moment.",
    subcommands: &[],
    run: Handler::Data(run),
};

pub(super) const TOUCH: Spec = Spec {
    name: "touch",
    summary: "Returns the number of existing keys out of those specified after updating the time they were last \
              accessed.",
    since: "3.2.1",
    notes: "Counts only: access times are not kept.",
    ..EXISTS
};

fn run(coordinator: &Coordinator, mut args: Args) -> Result<Pending, CommandError> {
    let reads: Vec<_> = keys(&mut args)?.into_iter().map(|key| coordinator.get(key)).collect();
    Ok(Pending::later(async move {
        let present = all_reads(reads).await?.iter().map(|row| i64::from(row.is_some())).sum();
        Ok(Reply::Integer(present))
    }))
}

#[cfg(test)]
mod tests {
    use crate::resp::command::testing::Gateway;

    #[test]
    fn a_repeated_key_counts_each_time() {
        Gateway::check(
            r#"
            mset a 1 b "" => +OK
            exists a => :1
            exists a missing b a => :3
            touch a a missing => :2
            exists missing => :0
            exists => -ERR wrong number of arguments for 'exists' command
            "#,
        );
    }
}
