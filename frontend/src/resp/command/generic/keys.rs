//! `KEYS pattern`, `RANDOMKEY`, `DBSIZE`: what is in the whole store.

use tercet_common::{KeyHash, PARTITIONS, PartitionId};

use crate::coordinator::{Coordinator, OpError, ScanFilter, ScanPosition};
use crate::resp::command::{Args, CommandError, Flag, Handler, Keys, Pending, Spec};
use crate::resp::glob::glob_match;
use crate::resp::reply::Reply;

pub(super) const KEYS: Spec = Spec {
    name: "keys",
    arity: 2,
    flags: &[Flag::ReadOnly],
    keys: Keys::NONE,
    group: "generic",
    summary: "Returns all key names that match a pattern.",
    since: "1.0.0",
    complexity: "O(N) with N being the number of keys in the database.",
    notes: "No snapshot: it reads page by page. More than a million matching keys, or more than 64 MiB of them, are \
            an error; use SCAN.",
    subcommands: &[],
    run: Handler::Data(keys),
};

pub(super) const RANDOMKEY: Spec = Spec {
    name: "randomkey",
    arity: 1,
    summary: "Returns a random key name from the database.",
    complexity: "O(1)",
    notes: "The first key behind a random place, so not every key is equally likely.",
    run: Handler::Data(randomkey),
    ..KEYS
};

pub(super) const DBSIZE: Spec = Spec {
    name: "dbsize",
    arity: 1,
    flags: &[Flag::ReadOnly, Flag::Fast],
    group: "server",
    summary: "Returns the number of keys in the database.",
    complexity: "O(N) with N being the number of keys in the database.",
    notes: "Counted partition by partition, not as of one moment.",
    run: Handler::Data(dbsize),
    ..KEYS
};

const KEYS_MAX: usize = 1_000_000;
const KEYS_BYTES_MAX: usize = 64 * 1024 * 1024;
const PAGE_KEYS: usize = 10_000;

fn page_of(limit: usize) -> ScanFilter {
    ScanFilter { limit, with_data: false, expired_by: None }
}

fn start() -> Option<ScanPosition> {
    PartitionId::new(0).map(ScanPosition::start_of)
}

fn keys(coordinator: &Coordinator, mut args: Args) -> Result<Pending, CommandError> {
    let pattern = args.next_bytes()?;
    args.finish()?;
    let coordinator = coordinator.clone();
    Ok(Pending::later(async move {
        let mut found = Found::default();
        let mut from = start();
        while let Some(at) = from {
            let page = coordinator.scan(at, page_of(PAGE_KEYS)).await?;
            for row in page.rows {
                if glob_match(&pattern, row.key.as_bytes(), false) {
                    found.push(row.key.bytes(), KEYS_MAX, KEYS_BYTES_MAX)?;
                }
            }
            from = page.next;
        }
        Ok(Reply::Array(found.keys))
    }))
}

#[derive(Debug, Default)]
struct Found {
    keys: Vec<Reply>,
    bytes: usize,
}

impl Found {
    fn push(&mut self, key: bytes::Bytes, keys_max: usize, bytes_max: usize) -> Result<(), CommandError> {
        self.bytes += key.len();
        if self.keys.len() >= keys_max || self.bytes > bytes_max {
            return Err(CommandError::text(format!(
                "ERR more than {keys_max} keys or {bytes_max} bytes of keys match; use SCAN"
            )));
        }
        self.keys.push(Reply::Bulk(key));
        Ok(())
    }
}

fn randomkey(coordinator: &Coordinator, args: Args) -> Result<Pending, CommandError> {
    args.finish()?;
    let coordinator = coordinator.clone();
    Ok(Pending::later(async move {
        let partition = PartitionId::new(rand::random_range(0..PARTITIONS));
        let hash = KeyHash(rand::random());
        let from = partition.map(|partition| ScanPosition { partition, hash });
        Ok(first_key(&coordinator, from).await?.map_or(Reply::Null, Reply::Bulk))
    }))
}

/// The first key at or behind `from`, or else the first of all.
async fn first_key(
    coordinator: &Coordinator,
    from: Option<ScanPosition>,
) -> Result<Option<bytes::Bytes>, OpError> {
    for mut from in [from, start()] {
        while let Some(at) = from {
            let page = coordinator.scan(at, page_of(1)).await?;
            if let Some(row) = page.rows.first() {
                return Ok(Some(row.key.bytes()));
            }
            from = page.next;
        }
    }
    Ok(None)
}

fn dbsize(coordinator: &Coordinator, args: Args) -> Result<Pending, CommandError> {
    args.finish()?;
    let coordinator = coordinator.clone();
    Ok(Pending::later(async move {
        let count = coordinator.count().await?;
        Ok(Reply::Integer(i64::try_from(count.live).unwrap_or(i64::MAX)))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::command::testing::Gateway;

    #[test]
    fn what_is_there() {
        Gateway::check(
            r#"
            randomkey => nil
            dbsize => :0
            keys * => []
            mset firstname Jack lastname Stuntman age 35 => +OK
            keys a?? => ["age"]
            keys nothing* => []
            keys *[!-~]ge => ["age"]
            dbsize => :3
            del firstname lastname => :2
            keys * => ["age"]
            randomkey => "age"
            pexpire age 100 => :1
            @advance 100
            dbsize => :0
            keys * => []
            randomkey => nil
            keys => -ERR wrong number of arguments for 'keys' command
            dbsize x => -ERR wrong number of arguments for 'dbsize' command
            "#,
        );
    }

    #[test]
    fn a_random_place_behind_all_keys_wraps_round() {
        let mut gateway = Gateway::new();
        gateway.script("set k v => +OK");
        let last = PartitionId::new(PARTITIONS - 1)
            .map(|partition| ScanPosition { partition, hash: KeyHash([0xff; 16]) });
        let found = futures_util::FutureExt::now_or_never(first_key(&gateway.coordinator, last));
        assert_eq!(found.unwrap().unwrap(), Some(bytes::Bytes::from_static(b"k")));
    }

    #[test]
    fn keys_is_bounded() {
        let mut found = Found::default();
        let key = bytes::Bytes::from_static(b"abc");
        assert!(found.push(key.clone(), 2, 100).is_ok());
        assert!(found.push(key.clone(), 2, 100).is_ok());
        assert!(found.push(key.clone(), 2, 100).is_err());
        assert!(Found::default().push(key, 2, 2).is_err());
    }
}
