//! `MGET key [key …]`

use crate::coordinator::Coordinator;
use crate::resp::command::access::{Stored, all_reads, keys};
use crate::resp::command::{Args, CommandError, Flag, Handler, Keys, Pending, Spec};
use crate::resp::reply::Reply;

pub(super) const MGET: Spec = Spec {
    name: "mget",
    arity: -2,
    flags: &[Flag::ReadOnly, Flag::Fast],
    keys: Keys::ALL,
    group: "string",
    summary: "Returns the string values of one or more keys.",
    since: "1.0.0",
    complexity: "O(N) where N is the number of keys to retrieve.",
    notes: "Each key is read on its own: linearizable per key, but no snapshot of all of them. If one key cannot be \
            read, the whole command answers that error.",
    subcommands: &[],
    run: Handler::Data(run),
};

fn run(coordinator: &Coordinator, mut args: Args) -> Result<Pending, CommandError> {
    let reads: Vec<_> = keys(&mut args)?.into_iter().map(|key| coordinator.get(key)).collect();
    Ok(Pending::later(async move {
        let rows = all_reads(reads).await?;
        // A key of another type is null here, not an error.
        let values = rows.iter().map(|row| Stored::of(row.as_deref()).ok().flatten());
        Ok(Reply::Array(values.map(|stored| Reply::bulk_or_null(stored.map(|s| s.data))).collect()))
    }))
}

#[cfg(test)]
mod tests {
    use crate::resp::command::testing::Gateway;

    #[test]
    fn mget_answers_in_order() {
        Gateway::check(
            r#"
            mset a 1 b "" => +OK
            mget a missing b a => ["1", nil, "", "1"]
            mget => -ERR wrong number of arguments for 'mget' command
            @fail busy
            mget a b => -BUSY too many operations are in flight; nothing was done
            "#,
        );
    }
}
