//! Over TCP, with a client library and with raw sockets.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::support::{GatedEngine, TABLE, engine};
use crate::Config;
use crate::config::Secret;
use crate::resp::server::serve_table;

struct Running {
    address: String,
    engine: Arc<GatedEngine>,
    shutdown: CancellationToken,
    task: JoinHandle<std::io::Result<()>>,
}

async fn start(change: impl FnOnce(&mut Config)) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (engine, coordinator) = engine();
    let mut config = Config::new(Vec::new());
    change(&mut config);
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(serve_table(listener, Arc::new(config), coordinator, shutdown.clone(), &TABLE));
    Running { address, engine, shutdown, task }
}

impl Running {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(&self.address).await.unwrap()
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }
}

async fn rest(mut stream: TcpStream) -> String {
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    rest
}

#[tokio::test]
async fn a_client_library_speaks_both_versions() {
    let server = start(|config| config.password = Some(Secret::new("secret"))).await;
    for protocol in ["resp2", "resp3"] {
        let url = format!("redis://:secret@{}/0?protocol={protocol}", server.address);
        let client = redis::Client::open(url).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let values: (String, Option<String>, String) = redis::pipe()
            .cmd("SET")
            .arg("k")
            .arg("v\r\n")
            .cmd("GET")
            .arg("nothing")
            .cmd("GET")
            .arg("k")
            .query_async(&mut connection)
            .await
            .unwrap();
        assert_eq!(values, ("OK".into(), None, "v\r\n".into()));
        let info: String = redis::cmd("INFO").arg("server").query_async(&mut connection).await.unwrap();
        assert!(info.contains("redis_version:7.2.4"));
    }
    server.stop().await;
}

#[tokio::test]
async fn one_client_too_many_is_told_so() {
    let server = start(|config| config.clients_max = 1).await;
    let mut first = server.connect().await;
    first.write_all(b"PING\r\n").await.unwrap();
    let mut pong = [0; 7];
    first.read_exact(&mut pong).await.unwrap();
    assert_eq!(rest(server.connect().await).await, "-ERR max number of clients reached\r\n");
    server.stop().await;
    assert_eq!(rest(first).await, "");
}

#[tokio::test]
async fn shutdown_lets_commands_in_flight_finish() {
    let server = start(|_| {}).await;
    let mut client = server.connect().await;
    server.engine.hold();
    client.write_all(b"SET k v\r\nGET k\r\n").await.unwrap();
    server.engine.until_submitted(2).await;
    server.shutdown.cancel();
    server.engine.release();
    assert_eq!(rest(client).await, "+OK\r\n$1\r\nv\r\n");
    server.stop().await;
}
