//! Tercet's RESP gateway over an engine in memory, in this process.

use std::net::SocketAddr;
use std::sync::Arc;

use tercet_frontend::coordinator::Coordinator;
use tercet_frontend::coordinator::memory::MemoryEngine;
use tercet_frontend::{Config, resp};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_util::sync::{CancellationToken, DropGuard};

pub struct Tercet {
    pub address: SocketAddr,
    _shutdown: DropGuard,
    _runtime: Runtime,
}

impl Tercet {
    pub fn start(value_bytes_max: usize) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0)))?;
        let address = listener.local_addr()?;
        let mut config = Config::new(Vec::new());
        config.value_bytes_max = value_bytes_max;
        let coordinator = Coordinator::new(MemoryEngine::with_value_bytes_max(value_bytes_max));
        let shutdown = CancellationToken::new();
        runtime.spawn(resp::serve(listener, Arc::new(config), coordinator, shutdown.clone()));
        Ok(Self { address, _shutdown: shutdown.drop_guard(), _runtime: runtime })
    }
}
