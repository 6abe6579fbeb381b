//! Order, overlap, bounds.

use std::time::Duration;

use super::support::TestServer;

#[tokio::test]
async fn replies_keep_the_order_of_commands() {
    let server = TestServer::new();
    let mut client = server.connect();
    client.send("SET k 1\r\nGET k\r\nSET k 2\r\nPING\r\nGET k\r\nNOPE\r\nMGET k x\r\n").await;
    client.expect("+OK\r\n$1\r\n1\r\n+OK\r\n+PONG\r\n$1\r\n2\r\n").await;
    client.expect("-ERR unknown command 'NOPE', with args beginning with: \r\n").await;
    client.expect("*2\r\n$1\r\n2\r\n$-1\r\n").await;
}

#[tokio::test]
async fn single_key_commands_are_started_together() {
    let server = TestServer::new();
    let mut client = server.connect();
    server.engine.hold();
    client.send("SET a 1\r\nGET a\r\nSET b 2\r\nMGET c d\r\n").await;
    server.engine.until_submitted(5).await;
    server.engine.release_one();
    client.expect("+OK\r\n").await;
    server.engine.release();
    client.expect("$1\r\n1\r\n+OK\r\n*2\r\n$-1\r\n$-1\r\n").await;
}

#[tokio::test]
async fn commands_that_share_keys_or_run_alone_wait() {
    let server = TestServer::new();
    let mut client = server.connect();
    for (waiting, reply) in [("MGET x a", "*2\r\n$-1\r\n$1\r\n1\r\n"), ("PING", "+PONG\r\n")] {
        let before = server.engine.submitted();
        server.engine.hold();
        client.send(format!("SET a 1\r\n{waiting}\r\nGET z\r\n")).await;
        server.engine.until_submitted(before + 1).await;
        // Another connection's round trip: the first one has had its turn by then.
        server.connect().ask("PING", "+PONG\r\n").await;
        assert_eq!(server.engine.submitted(), before + 1, "{waiting} must wait");
        server.engine.release();
        client.expect(format!("+OK\r\n{reply}$-1\r\n")).await;
    }
}

#[tokio::test]
async fn the_number_in_flight_is_bounded() {
    let server = TestServer::with(|config| config.pipeline_max = 3);
    let mut client = server.connect();
    server.engine.hold();
    client.send("GET k\r\n".repeat(10)).await;
    server.engine.until_submitted(3).await;
    server.connect().ask("PING", "+PONG\r\n").await;
    assert_eq!(server.engine.submitted(), 3);
    server.engine.release_one();
    client.expect("$-1\r\n").await;
    server.engine.until_submitted(4).await;
    server.engine.release();
    client.expect("$-1\r\n".repeat(9)).await;
}

#[tokio::test]
async fn commands_before_the_end_of_input_are_answered() {
    let server = TestServer::new();
    let mut client = server.connect();
    server.engine.hold();
    client.send("GET a\r\nGET b\r\n*1\r\n$4\r\nPI").await;
    server.engine.until_submitted(2).await;
    let engine = server.engine.clone();
    let ((rest, _), ()) = tokio::join!(client.finish(), async move { engine.release() });
    assert_eq!(rest, "$-1\n$-1\n");
}

#[tokio::test]
async fn large_values_pass_whole() {
    let server = TestServer::new();
    let mut client = server.connect();
    let value = "v".repeat(3_000_000);
    let set = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\n{value}\r\n", value.len());
    client.send(set).await;
    client.expect("+OK\r\n").await;
    client.send("GET k\r\nGET k\r\n").await;
    let reply = format!("${}\r\n{value}\r\n", value.len());
    client.expect(&reply).await;
    client.expect(&reply).await;
}

/// Were all passed on at once, they would wait in the lines of workers until calls are given up.
#[tokio::test]
async fn large_values_wait_for_each_other_and_small_ones_pass_them() {
    let server = TestServer::new();
    let (mut first, mut second) = (server.connect(), server.connect());
    server.engine.hold();
    first.send(set("a") + &set("d")).await;
    server.engine.until_submitted(2).await;
    second.send(set("b")).await;
    second.send("PING\r\n").await;
    let mut third = server.connect();
    third.send("SET c 1\r\n").await;
    server.engine.until_submitted(3).await;
    server.connect().ask("PING", "+PONG\r\n").await;
    assert_eq!(server.engine.submitted(), 3, "there is no room for b");
    // Who does not read its replies keeps nobody waiting.
    server.engine.release_one();
    server.engine.until_submitted(4).await;
    server.engine.release();
    second.expect("+OK\r\n+PONG\r\n").await;
    first.expect("+OK\r\n+OK\r\n").await;
    third.expect("+OK\r\n").await;
}

#[tokio::test]
async fn a_large_value_that_has_waited_too_long_is_refused_in_its_place() {
    let server = TestServer::with(|config| config.request_timeout = Duration::from_millis(50));
    let (mut first, mut second) = (server.connect(), server.connect());
    server.engine.hold();
    first.send(set("a") + &set("d")).await;
    server.engine.until_submitted(2).await;
    second.send(set("b") + "PING\r\n").await;
    second.expect("-BUSY too many operations are in flight; nothing was done\r\n+PONG\r\n").await;
    assert_eq!(server.engine.submitted(), 2);
    server.engine.release();
    first.expect("+OK\r\n+OK\r\n").await;
    second.send(set("b")).await;
    second.expect("+OK\r\n").await;
}

/// Half of the room, of which a command never has more.
fn set(key: &str) -> String {
    let value = "v".repeat(20_000_000);
    format!("*3\r\n$3\r\nSET\r\n$1\r\n{key}\r\n${}\r\n{value}\r\n", value.len())
}
