//! `DEL key [key …]`, `UNLINK key [key …]`

use tercet_common::Content;

use crate::coordinator::{Change, Coordinator};
use crate::resp::command::access::{all_writes, keys};
use crate::resp::command::{Args, CommandError, Flag, Handler, Keys, Pending, Spec};
use crate::resp::reply::Reply;

pub(super) const DEL: Spec = Spec {
    name: "del",
    arity: -2,
    flags: &[Flag::Write],
    keys: Keys::ALL,
    group: "generic",
    summary: "Deletes one or more keys.",
    since: "1.0.0",
    complexity: "O(N) where N is the number of keys that will be removed.",
    notes: "Over several keys not atomic: each is deleted on its own. If only some could be deleted the answer is an \
            UNCERTAIN error that says how many.",
    subcommands: &[],
    run: Handler::Data(run),
};

pub(super) const UNLINK: Spec = Spec {
    name: "unlink",
    flags: &[Flag::Write, Flag::Fast],
    summary: "Asynchronously deletes one or more keys.",
    since: "4.0.0",
    notes: "The same as DEL here.",
    ..DEL
};

fn run(coordinator: &Coordinator, mut args: Args) -> Result<Pending, CommandError> {
    let delete = |key| {
        coordinator.update(key, |current, _| match current {
            Some(_) => (Change::Write(Content::Tombstone), 1),
            None => (Change::Keep, 0),
        })
    };
    let deletions: Vec<_> = keys(&mut args)?.into_iter().map(delete).collect();
    Ok(Pending::later(async move {
        let deleted: Vec<i64> = all_writes(deletions).await?;
        Ok(Reply::Integer(deleted.into_iter().sum()))
    }))
}

#[cfg(test)]
mod tests {
    use crate::resp::command::testing::Gateway;

    #[test]
    fn deletions_are_counted() {
        Gateway::check(
            r#"
            mset a 1 b 2 c 3 => +OK
            del a => :1
            del a => :0
            unlink b c c missing => :2
            exists a b c => :0
            del => -ERR wrong number of arguments for 'del' command
            unlink => -ERR wrong number of arguments for 'unlink' command
            set k v px 10 => +OK
            @advance 10
            del k => :0
            "#,
        );
    }
}
