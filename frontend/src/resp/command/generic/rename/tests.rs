use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use super::*;
use crate::coordinator::memory::MemoryEngine;
use crate::coordinator::status::ClusterStatus;
use crate::coordinator::{
    DrainError, Engine, KeyCount, Op, ScanFilter, ScanPage, ScanPosition, WorkerReadError,
};
use crate::resp::command::testing::{Gateway, show};

#[test]
fn rename_moves_value_and_expiry() {
    Gateway::check(
        r#"
        rename a b => -ERR no such key
        rename a a => -ERR no such key
        set a v pxat 4000000000000 => +OK
        set b old => +OK
        rename a b => +OK
        exists a => :0
        get b => "v"
        pexpiretime b => :4000000000000
        rename b b => +OK
        get b => "v"
        rename b => -ERR wrong number of arguments for 'rename' command
        "#,
    );
}

#[test]
fn renamenx_spares_the_destination() {
    Gateway::check(
        r#"
        renamenx a b => -ERR no such key
        mset a 1 b 2 => +OK
        renamenx a b => :0
        mget a b => ["1", "2"]
        renamenx a a => :0
        del b => :1
        renamenx a b => :1
        mget a b => [nil, "1"]
        "#,
    );
}

#[test]
fn copy_keeps_the_source() {
    Gateway::check(
        r#"
        copy a b => :0
        set a v pxat 4000000000000 => +OK
        copy a b => :1
        mget a b => ["v", "v"]
        pexpiretime b => :4000000000000
        set a w => +OK
        copy a b => :0
        get b => "v"
        copy a b replace => :1
        get b => "w"
        pexpiretime b => :-1
        copy a c DB 0 REPLACE => :1
        copy a a => -ERR source and destination objects are the same
        copy a b db => -ERR syntax error
        copy a b db x => -ERR value is not an integer or out of range
        copy a b db 99 => -ERR DB index is out of range
        copy a b nonsense => -ERR syntax error
        "#,
    );
}

/// Told the number of an operation that has just reached the engine.
type Interference = Box<dyn Fn(usize, &Coordinator, &MemoryEngine) + Send + Sync>;

/// Lets something happen after each operation.
struct Interfering {
    inner: Arc<MemoryEngine>,
    submitted: Mutex<usize>,
    interfere: Interference,
}

impl Engine for Interfering {
    fn submit(&self, op: Op) {
        self.inner.submit(op);
        let n = {
            let mut submitted = self.submitted.lock();
            *submitted += 1;
            *submitted
        };
        (self.interfere)(n, &Coordinator::new(self.inner.clone()), &self.inner);
    }
    fn flush(&self) -> BoxFuture<'static, Result<(), OpError>> {
        self.inner.flush()
    }
    fn scan(&self, from: ScanPosition, filter: ScanFilter) -> BoxFuture<'static, Result<ScanPage, OpError>> {
        self.inner.scan(from, filter)
    }
    fn count(&self) -> BoxFuture<'static, Result<KeyCount, OpError>> {
        self.inner.count()
    }
    fn worker_page(
        &self,
        worker: &str,
        from: ScanPosition,
        limit: usize,
    ) -> BoxFuture<'static, Result<ScanPage, WorkerReadError>> {
        self.inner.worker_page(worker, from, limit)
    }
    fn drain(&self, worker: &str, leaving: bool) -> BoxFuture<'static, Result<(), DrainError>> {
        self.inner.drain(worker, leaving)
    }
    fn status(&self) -> ClusterStatus {
        self.inner.status()
    }
    fn value_bytes_max(&self) -> usize {
        self.inner.value_bytes_max()
    }
}

fn key(name: &'static str) -> Key {
    Key::new(name).unwrap()
}

fn put_now(coordinator: &Coordinator, name: &'static str, value: impl Into<Bytes>) {
    // The memory engine applies at submission; the answer is not needed.
    drop(coordinator.set(key(name), Content::string(value, None)));
}

/// The reply to `command a b` and what `a` and `b` hold afterwards. Step 1 is the read, 2 the write of `b`, 3 the
/// removal of `a`; then 4 reads again, and so on.
fn renamed(
    spec: &Spec,
    interfere: impl Fn(usize, &Coordinator, &MemoryEngine) + Send + Sync + 'static,
) -> [String; 3] {
    let inner = MemoryEngine::new();
    let plain = Coordinator::new(inner.clone());
    put_now(&plain, "a", "v1");
    let engine =
        Interfering { inner: inner.clone(), submitted: Mutex::new(0), interfere: Box::new(interfere) };
    let coordinator = Coordinator::new(Arc::new(engine));
    let Handler::Data(run) = spec.run else { panic!("a data command") };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let args = Args::new("rename", vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")]);
        let outcome = match run(&coordinator, args) {
            Ok(Pending::Later(future)) => future.await,
            Ok(Pending::Ready(reply)) => Ok(reply),
            Err(error) => Err(error),
        };
        inner.fail_with(None);
        let held = async |name| {
            let row = plain.get(key(name)).await.unwrap();
            row.map_or("nothing".to_owned(), |row| {
                String::from_utf8(crate::coordinator::api::data_of(&row).to_vec()).unwrap()
            })
        };
        let reply = outcome.map_or_else(|error| error.line().into_owned(), |reply| show(&reply));
        [reply, held("a").await, held("b").await]
    })
}

#[test]
fn a_value_written_during_a_rename_is_carried_over() {
    let late_writer = |n, other: &Coordinator, _: &MemoryEngine| {
        if n == 2 {
            put_now(other, "a", "v2");
        }
    };
    assert_eq!(renamed(&RENAME, late_writer), ["+OK", "nothing", "v2"]);
    assert_eq!(renamed(&RENAMENX, late_writer), [":1", "nothing", "v2"]);
}

#[test]
fn a_source_that_keeps_changing_keeps_its_newest_value() {
    let writer = |n: usize, other: &Coordinator, _: &MemoryEngine| {
        if n % 3 == 2 {
            put_now(other, "a", format!("v{}", n / 3 + 2));
        }
    };
    let [reply, a, b] = renamed(&RENAME, writer);
    assert!(reply.starts_with("UNCERTAIN the old key kept changing"), "{reply}");
    assert_eq!([a, b], ["v9", "v8"]);
}

#[test]
fn a_source_that_others_delete_counts_as_renamed() {
    let deleter = |n, other: &Coordinator, _: &MemoryEngine| {
        if n == 2 {
            drop(other.set(key("a"), Content::Tombstone));
        }
    };
    assert_eq!(renamed(&RENAME, deleter), ["+OK", "nothing", "v1"]);
}

#[test]
fn a_destination_that_others_write_is_not_overwritten_in_a_later_round() {
    let both = |n, other: &Coordinator, _: &MemoryEngine| {
        if n == 2 {
            put_now(other, "a", "v2");
            put_now(other, "b", "theirs");
        }
    };
    let [reply, a, b] = renamed(&RENAMENX, both);
    assert!(reply.starts_with("UNCERTAIN the old key changed during the rename"), "{reply}");
    assert_eq!([a, b], ["v2", "theirs"]);
}

#[test]
fn no_step_that_fails_loses_the_value() {
    for (step, failure, a, b) in [
        (1, OpError::Busy, "v1", "nothing"),
        (1, OpError::Uncertain, "v1", "nothing"),
        (2, OpError::Busy, "v1", "v1"),
        (2, OpError::Uncertain, "v1", "v1"),
    ] {
        for spec in [&RENAME, &RENAMENX] {
            let failure = failure.clone();
            let fail = move |n, _: &Coordinator, engine: &MemoryEngine| {
                if n == step {
                    engine.fail_with(Some(failure.clone()));
                }
            };
            let [reply, held_a, held_b] = renamed(spec, fail);
            // After the copy it is no longer true that nothing was done.
            let expected = if step == 1 && reply.starts_with("BUSY") { "BUSY " } else { "UNCERTAIN " };
            assert!(reply.starts_with(expected), "{step}: {reply}");
            assert_eq!([&*held_a, &*held_b], [a, b], "{step}: {reply}");
        }
    }
}
