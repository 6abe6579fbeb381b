//! Input that no honest client sends.

use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::support::TestServer;
use crate::resp::connection::{Connection, End, PARTIAL_BYTES_FREE, PARTIAL_BYTES_MAX};

#[tokio::test]
async fn protocol_errors_are_answered_and_end_the_connection() {
    for (input, error) in [
        ("*x\r\n", "invalid multibulk length"),
        ("*1048577\r\n", "invalid multibulk length"),
        ("*1\r\n*1\r\n*1\r\n", "expected '$', got '*'"),
        ("*2\r\n$3\r\nGET\r\n$-5\r\n", "invalid bulk length"),
        ("*2\r\n$3\r\nGET\r\n$99999999999\r\n", "invalid bulk length"),
        ("GET \"k\r\n", "unbalanced quotes in request"),
    ] {
        let server = TestServer::new();
        let mut client = server.connect();
        client.send(format!("PING\r\n{input}PING\r\n")).await;
        let (rest, end) = client.finish().await;
        assert_eq!(rest, format!("+PONG\n-ERR Protocol error: {error}\n"));
        assert!(matches!(end, End::Protocol));
    }
}

#[tokio::test]
async fn limits_are_tight_before_authentication() {
    for (input, error) in [
        ("*11\r\n", "unauthenticated multibulk length"),
        ("*2\r\n$4\r\nAUTH\r\n$16385\r\n", "unauthenticated bulk length"),
    ] {
        let server = TestServer::with_password("secret");
        let mut client = server.connect();
        client.send(input).await;
        let (rest, _) = client.finish().await;
        assert_eq!(rest, format!("-ERR Protocol error: {error}\n"));
    }
    // Afterwards they are not.
    let server = TestServer::with_password("secret");
    let mut client = server.connect();
    client.send(format!("AUTH secret\r\n*2\r\n$4\r\nECHO\r\n$20000\r\n{}\r\n", "x".repeat(20_000))).await;
    client.expect(format!("+OK\r\n$20000\r\n{}\r\n", "x".repeat(20_000))).await;
}

#[tokio::test]
async fn http_is_not_answered() {
    for input in
        ["POST / HTTP/1.1\r\nHost: x\r\n\r\nSET k v\r\n", "GET / HTTP/1.1\r\nHost: localhost\r\nSET k v\r\n"]
    {
        let server = TestServer::new();
        let mut client = server.connect();
        client.send(input).await;
        let (rest, end) = client.closed().await;
        // `GET /` has too many arguments; nothing after it runs.
        assert!(rest.is_empty() || rest.starts_with("-ERR wrong number"), "{rest}");
        assert!(matches!(end, End::CrossProtocol));
        assert_eq!(server.engine.submitted(), 0);
    }
}

#[tokio::test]
async fn where_the_network_cuts_makes_no_difference() {
    let input = "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4\r\na\r\nb\r\nGET k\r\n*2\r\n$4\r\nECHO\r\n$0\r\n\r\n*1\r\n+PING\r\n";
    let output = "+OK\n$4\na\nb\n$0\n\n-ERR Protocol error: expected '$', got '+'\n";
    for cut in 1..input.len() {
        let server = TestServer::new();
        let mut client = server.connect();
        client.send(&input[..cut]).await;
        client.stream.flush().await.unwrap();
        tokio::task::yield_now().await;
        client.send(&input[cut..]).await;
        assert_eq!(client.finish().await.0, output, "cut at {cut}");
    }
}

#[tokio::test]
async fn a_truncated_command_has_no_effect() {
    let server = TestServer::new();
    let mut client = server.connect();
    client.send("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nval").await;
    let (rest, end) = client.finish().await;
    assert!(rest.is_empty() && matches!(end, End::Closed));
    assert_eq!(server.engine.submitted(), 0);
}

#[tokio::test]
async fn a_huge_command_is_cut_off_at_its_bound() {
    let server = TestServer::with(|config| config.value_bytes_max = 1_000);
    let mut client = server.connect();
    client.send(format!("*1000\r\n{}", "$4\r\nMGET\r\n".repeat(1_000))).await;
    let (rest, _) = client.finish().await;
    assert_eq!(rest, "-ERR Protocol error: command of more than 4000 bytes\n");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() {
    let server = TestServer::new();
    let (connection, mut stream) = server.connection();
    let connection = connection.with_slow_reader_deadline(Duration::from_millis(50));
    let task = tokio::spawn(connection.run());
    // Far more than the pipe holds; the writer stops when the connection no longer reads.
    let flood = format!("ECHO {}\r\n", "x".repeat(10_000)).repeat(1_000);
    let writer = tokio::spawn(async move {
        // The connection ends below, and the rest cannot be written.
        let _ = stream.write_all(flood.as_bytes()).await;
        stream
    });
    assert!(matches!(task.await.unwrap(), End::SlowReader));
    writer.await.unwrap();
}

#[tokio::test]
async fn incomplete_commands_of_all_clients_have_a_bound() {
    let server = TestServer::new();
    let others = PARTIAL_BYTES_MAX;
    server.gateway.change_partial_bytes(0, others);
    let mut modest = server.connect();
    modest.ask(&format!("ECHO {}", "x".repeat(1_000)), &format!("$1000\r\n{}\r\n", "x".repeat(1_000))).await;
    let mut greedy = server.connect();
    greedy.send(format!("*2\r\n$4\r\nECHO\r\n$9000000\r\n{}", "x".repeat(PARTIAL_BYTES_FREE + 1))).await;
    let (rest, end) = greedy.finish().await;
    assert_eq!(rest, "-BUSY too many bytes of incomplete commands are held; nothing was done\n");
    assert!(matches!(end, End::Protocol));
    drop(modest.finish().await);
    assert_eq!(server.gateway.partial_bytes(), others);
}

#[tokio::test]
async fn errors_never_break_lines() {
    let server = TestServer::new();
    let mut client = server.connect();
    client.send("*2\r\n$6\r\nNO\r\nPE\r\n$2\r\n\r\n\r\n").await;
    client.expect("-ERR unknown command 'NO  PE', with args beginning with: '  ' \r\n").await;
    client.ask("PING", "+PONG\r\n").await;
}

#[test]
fn an_idle_connection_is_small() {
    // Ten thousand of them must fit in 200 MiB with their buffers, of which an idle one has none.
    assert!(std::mem::size_of::<Connection<tokio::net::TcpStream>>() < 2_048);
}
