//! The data commands over an engine in memory, as they run in a frontend.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tercet_common::UnixMillis;
use tercet_frontend::coordinator::Coordinator;
use tercet_frontend::coordinator::memory::MemoryEngine;
use tercet_frontend::resp::command::table::{Entry, TABLE};
use tercet_frontend::resp::command::{Args, Handler, Pending};
use tercet_frontend::resp::encode::{Version, encode};
use tercet_frontend::resp::reply::Reply;
use tokio::runtime::Runtime;

use crate::replies;

/// Small, so that a run spends its time on the commands and not on zeroing megabytes.
pub const VALUE_BYTES_MAX: usize = 64 * 1024;
/// Time stands still here, for answers that can be repeated: 2023-11-14T22:13:20Z.
pub const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

/// A store that runs data commands. Keep it between inputs and [`Store::clear`] it: a runtime is dear.
pub struct Store {
    pub engine: Arc<MemoryEngine>,
    pub coordinator: Coordinator,
    pub runtime: Runtime,
}

impl Default for Store {
    fn default() -> Self {
        let engine = MemoryEngine::with_value_bytes_max(VALUE_BYTES_MAX);
        engine.set_now(NOW);
        let coordinator = Coordinator::new(engine.clone());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime without sockets can be built");
        Self { engine, coordinator, runtime }
    }
}

impl Store {
    pub fn clear(&self) {
        self.runtime.block_on(self.coordinator.flush()).expect("memory does not fail");
    }

    /// Runs a data command that fits its row; the reply is sound in both versions of the protocol.
    pub fn run(&self, entry: &Entry, words: &[Bytes]) -> Reply {
        let Handler::Data(handler) = entry.spec.run else { panic!("{} is no data command", entry.name) };
        // LCS starts a thread of the runtime.
        let _entered = self.runtime.enter();
        let args = Args::new(entry.spec.name, words[entry.words..].to_vec());
        let outcome = match handler(&self.coordinator, args) {
            Ok(Pending::Ready(reply)) => Ok(reply),
            Ok(Pending::Later(future)) => self.runtime.block_on(future),
            Err(error) => Err(error),
        };
        let reply = outcome.unwrap_or_else(|error| Reply::Error(error.line().into_owned().into()));
        for version in [Version::Resp2, Version::Resp3] {
            let mut out = BytesMut::new();
            encode(&reply, version, &mut out);
            assert_eq!(replies::count(&out), Some(1), "{}: {}", entry.name, out.escape_ascii());
        }
        reply
    }

    /// Runs a command by name. It must exist and fit its row.
    pub fn call(&self, words: &[&[u8]]) -> Reply {
        let words: Vec<Bytes> = words.iter().map(|word| Bytes::copy_from_slice(word)).collect();
        self.run(TABLE.resolve(&words).expect("a command of the table"), &words)
    }
}
