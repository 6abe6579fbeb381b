//! The ways in which data commands reach the coordinator: read one key, decide a change of one key, or do either for
//! many keys at once.

use std::fmt::Write as _;

use bytes::Bytes;
use futures_util::future::{join_all, try_join_all};
use tercet_common::{Content, DataType, Key, Row, UnixMillis};

use super::{Args, CommandError, Pending, Reply};
use crate::coordinator::{Change, Coordinator, OpError};

/// Keys that one command may name. All its operations are submitted together, so this is also what one command can
/// put into the coordinator's queues; the coordinator's own limit lies above it.
const KEYS_PER_COMMAND_MAX: usize = 65_536;

/// A live string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) data: Bytes,
    pub(super) expires_at: Option<UnixMillis>,
}

impl Stored {
    /// The string in a row; `WRONGTYPE` where the row holds something else.
    pub(super) fn of(row: Option<&Row>) -> Result<Option<Self>, CommandError> {
        match row.map(|row| &row.content) {
            None | Some(Content::Tombstone) => Ok(None),
            Some(Content::Value { data_type, .. }) if *data_type != DataType::String => {
                Err(CommandError::WRONG_TYPE)
            }
            Some(Content::Value { data, expires_at, .. }) => {
                Ok(Some(Self { data: data.clone(), expires_at: *expires_at }))
            }
        }
    }

    /// The change that replaces the bytes and leaves the expiry alone.
    pub(super) fn rewrite(this: Option<&Self>, data: impl Into<Bytes>) -> Change {
        Change::Write(Content::string(data, this.and_then(|stored| stored.expires_at)))
    }
}

/// Reads a string and answers from it.
pub(super) fn read(
    coordinator: &Coordinator,
    key: Key,
    answer: impl FnOnce(Option<Stored>) -> Result<Reply, CommandError> + Send + 'static,
) -> Pending {
    let found = coordinator.get(key);
    Pending::later(async move { answer(Stored::of(found.await?.as_deref())?) })
}

/// As [`read`], for values of any type.
pub(super) fn read_row(
    coordinator: &Coordinator,
    key: Key,
    answer: impl FnOnce(Option<&Row>) -> Reply + Send + 'static,
) -> Pending {
    let found = coordinator.get(key);
    Pending::later(async move { Ok(answer(found.await?.as_deref())) })
}

/// Decides the change of a string. An error of the rule changes nothing.
pub(super) fn update(
    coordinator: &Coordinator,
    key: Key,
    mut rule: impl FnMut(Option<Stored>, UnixMillis) -> Result<(Change, Reply), CommandError> + Send + 'static,
) -> Pending {
    update_row(coordinator, key, move |row, now| rule(Stored::of(row)?, now))
}

/// As [`update`], for values of any type.
pub(super) fn update_row(
    coordinator: &Coordinator,
    key: Key,
    mut rule: impl FnMut(Option<&Row>, UnixMillis) -> Result<(Change, Reply), CommandError> + Send + 'static,
) -> Pending {
    let outcome = coordinator.update(key, move |row, now| match rule(row, now) {
        Ok((change, reply)) => (change, Ok(reply)),
        Err(error) => (Change::Keep, Err(error)),
    });
    Pending::later(async move { outcome.await? })
}

/// The remaining arguments as keys.
pub(super) fn keys(args: &mut Args) -> Result<Vec<Key>, CommandError> {
    check_key_count(args.len())?;
    args.rest().into_iter().map(super::key).collect()
}

pub(super) fn check_key_count(count: usize) -> Result<(), CommandError> {
    if count <= KEYS_PER_COMMAND_MAX {
        return Ok(());
    }
    Err(CommandError::text(format!("ERR a command may name at most {KEYS_PER_COMMAND_MAX} keys")))
}

/// Waits for reads that were submitted together; the first error is the command's.
pub(super) async fn all_reads<T>(
    reads: Vec<impl Future<Output = Result<T, OpError>>>,
) -> Result<Vec<T>, CommandError> {
    Ok(try_join_all(reads).await?)
}

/// Waits for writes of different keys that were submitted together.
///
/// If only some succeed, the command as a whole was neither applied nor not applied, which is what UNCERTAIN says.
pub(super) async fn all_writes<T>(
    writes: Vec<impl Future<Output = Result<T, OpError>>>,
) -> Result<Vec<T>, CommandError> {
    let total = writes.len();
    let mut done = Vec::with_capacity(total);
    let mut failure: Option<OpError> = None;
    for outcome in join_all(writes).await {
        match outcome {
            Ok(out) => done.push(out),
            // Of several failures the one that promises least.
            Err(OpError::Uncertain) => failure = Some(OpError::Uncertain),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    match failure {
        None => Ok(done),
        Some(error) if done.is_empty() => Err(error.into()),
        Some(error) => {
            let mut text = format!("UNCERTAIN {} of {total} keys were written; of another: ", done.len());
            // Writing to a string cannot fail.
            let _ = write!(text, "{error}");
            Err(CommandError::text(text))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Ready, ready};

    use super::*;

    async fn outcome(writes: Vec<Ready<Result<u8, OpError>>>) -> Result<Vec<u8>, String> {
        all_writes(writes).await.map_err(|e| e.line().into_owned())
    }

    #[tokio::test]
    async fn a_partly_applied_command_never_claims_to_be_unapplied() {
        let refused = || ready(Err(OpError::Busy));
        assert_eq!(outcome(vec![ready(Ok(1)), ready(Ok(2))]).await, Ok(vec![1, 2]));
        let none = outcome(vec![refused(), refused()]).await.unwrap_err();
        assert!(none.starts_with("BUSY "), "{none}");
        let some = outcome(vec![ready(Ok(1)), refused()]).await.unwrap_err();
        assert!(some.starts_with("UNCERTAIN 1 of 2 keys were written"), "{some}");
        let worst = outcome(vec![refused(), ready(Err(OpError::Uncertain)), refused()]).await.unwrap_err();
        assert!(worst.starts_with("UNCERTAIN "), "{worst}");
    }

    #[test]
    fn the_number_of_keys_is_bounded() {
        assert!(check_key_count(KEYS_PER_COMMAND_MAX).is_ok());
        assert!(check_key_count(KEYS_PER_COMMAND_MAX + 1).is_err());
    }
}
