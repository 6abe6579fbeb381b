//! `RENAME key newkey`, `RENAMENX key newkey`, `COPY source destination [DB 0] [REPLACE]`
//!
//! Two keys live on different replicas, so a rename is two writes. Their order keeps the value safe whatever dies in
//! between:
//!
//! 1. read the source, with its ballot;
//! 2. write the destination, and wait until that is durable;
//! 3. delete the source, but only while its ballot is the one that was read.
//!
//! If the source changed meanwhile, step 3 deletes nothing and the newer value is carried over in another round. So at
//! every moment at least one of the two keys holds the value; for a while both do.

use tercet_common::{Ballot, Content, Key, Row};

use crate::coordinator::{Change, Coordinator, OpError, WriteLevel};
use crate::resp::command::{Args, CommandError, Flag, Handler, Keys, Pending, Spec};
use crate::resp::reply::Reply;

const TWO_KEYS: Keys = Keys { first: 1, last: 2, step: 1 };

pub(super) const RENAME: Spec = Spec {
    name: "rename",
    arity: 3,
    flags: &[Flag::Write],
    keys: TWO_KEYS,
    group: "generic",
    summary: "Renames a key and overwrites the destination.",
    since: "1.0.0",
    complexity: "O(1)",
    notes: "Not atomic: the new key is written first and the old one deleted once that is durable, so for a while, and \
            for good if something dies in between, both hold the value. A value is never lost.",
    subcommands: &[],
    run: Handler::Data(|coordinator, args| rename(coordinator, args, Overwrite::Always)),
};

pub(super) const RENAMENX: Spec = Spec {
    name: "renamenx",
    flags: &[Flag::Write, Flag::Fast],
    summary: "Renames a key only when the target key name doesn't exist.",
    run: Handler::Data(|coordinator, args| rename(coordinator, args, Overwrite::Never)),
    ..RENAME
};

pub(super) const COPY: Spec = Spec {
    name: "copy",
    arity: -3,
    flags: &[Flag::Write, Flag::DenyOom],
    keys: TWO_KEYS,
    group: "generic",
    summary: "Copies the value of a key to a new key.",
    since: "6.2.0",
    complexity: "O(1)",
    notes: "Not atomic: the source is read, and then the destination written. DB takes 0 only.",
    subcommands: &[],
    run: Handler::Data(copy),
};

/// How often a rename follows a source that keeps changing.
const ROUNDS_MAX: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Overwrite {
    Always,
    Never,
    /// Only the version that this very command wrote in an earlier round.
    Own(Ballot),
}

/// How the deletion of the source went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Removal {
    Deleted,
    /// Somebody else deleted it.
    Gone,
    Changed,
}

fn rename(coordinator: &Coordinator, mut args: Args, overwrite: Overwrite) -> Result<Pending, CommandError> {
    let source = args.next_key()?;
    let destination = args.next_key()?;
    args.finish()?;
    let reply = move |renamed| match overwrite {
        Overwrite::Always => Reply::OK,
        _ => Reply::boolean_integer(renamed),
    };
    if source == destination {
        return Ok(same_key(coordinator, source, reply(false)));
    }
    let first_read = coordinator.get(source.clone());
    let coordinator = coordinator.clone();
    Ok(Pending::later(async move {
        let mut row = first_read.await?.ok_or_else(no_such_key)?;
        let mut overwrite = overwrite;
        for _ in 0..ROUNDS_MAX {
            let Some(written) = put(&coordinator, &destination, row.content.clone(), overwrite).await? else {
                return match overwrite {
                    Overwrite::Own(_) => Err(destination_changed()),
                    _ => Ok(reply(false)),
                };
            };
            match remove(&coordinator, &source, row.ballot).await.map_err(not_removed)? {
                Removal::Deleted | Removal::Gone => return Ok(reply(true)),
                Removal::Changed => {}
            }
            // Not ours to overwrite any more if another client has written it since.
            overwrite = Overwrite::Own(written);
            row = match coordinator.get(source.clone()).await.map_err(not_removed)? {
                Some(row) => row,
                // Changed and then deleted by others: as if they had come after the rename.
                None => return Ok(reply(true)),
            };
        }
        Err(CommandError::text(
            "UNCERTAIN the old key kept changing; the new key holds an earlier value of it, and the old key still exists",
        ))
    }))
}

fn same_key(coordinator: &Coordinator, key: Key, present: Reply) -> Pending {
    let found = coordinator.get(key);
    Pending::later(async move { found.await?.map(|_| present).ok_or_else(no_such_key) })
}

fn no_such_key() -> CommandError {
    CommandError::text("ERR no such key")
}

fn not_removed(error: OpError) -> CommandError {
    CommandError::text(format!(
        "UNCERTAIN the new key was written, but whether the old one is deleted is unknown: {error}"
    ))
}

fn destination_changed() -> CommandError {
    CommandError::text(
        "UNCERTAIN the old key changed during the rename, and so did the new one; the old key still exists",
    )
}

/// Writes the destination. `None` if what is there may not be overwritten.
async fn put(
    coordinator: &Coordinator,
    key: &Key,
    content: Content,
    overwrite: Overwrite,
) -> Result<Option<Ballot>, OpError> {
    let blind = overwrite == Overwrite::Always;
    let write = move |current: Option<&Row>, _| {
        let allowed = match overwrite {
            Overwrite::Always => true,
            Overwrite::Never => current.is_none(),
            Overwrite::Own(ballot) => current.is_none_or(|row| row.ballot == ballot),
        };
        (if allowed { Change::Write(content.clone()) } else { Change::Keep }, allowed)
    };
    let (written, allowed) = coordinator.write(key.clone(), WriteLevel::Quorum, blind, write).await?;
    Ok(allowed.then_some(written.ballot))
}

/// Deletes the source if it is still the version at `ballot`.
async fn remove(coordinator: &Coordinator, key: &Key, ballot: Ballot) -> Result<Removal, OpError> {
    let removal = coordinator.update(key.clone(), move |current, _| match current {
        None => (Change::Keep, Removal::Gone),
        Some(row) if row.ballot == ballot => (Change::Write(Content::Tombstone), Removal::Deleted),
        Some(_) => (Change::Keep, Removal::Changed),
    });
    removal.await
}

fn copy(coordinator: &Coordinator, mut args: Args) -> Result<Pending, CommandError> {
    let source = args.next_key()?;
    let destination = args.next_key()?;
    let mut overwrite = Overwrite::Never;
    while !args.is_empty() {
        if args.take_keyword("REPLACE") {
            overwrite = Overwrite::Always;
        } else if args.len() >= 2 && args.take_keyword("DB") {
            if args.next_i64()? != 0 {
                return Err(CommandError::text("ERR DB index is out of range"));
            }
        } else {
            return Err(CommandError::SYNTAX);
        }
    }
    if source == destination {
        return Err(CommandError::text("ERR source and destination objects are the same"));
    }
    let read = coordinator.get(source);
    let coordinator = coordinator.clone();
    Ok(Pending::later(async move {
        let Some(row) = read.await? else { return Ok(Reply::Integer(0)) };
        let written = put(&coordinator, &destination, row.content.clone(), overwrite).await?;
        Ok(Reply::boolean_integer(written.is_some()))
    }))
}

#[cfg(test)]
mod tests;
