//! Bytes that no client would send, and clients that do not behave: a clear error, the connection's fate as in Redis,
//! nobody else disturbed, and no memory for what was merely announced.

use std::net::SocketAddr;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::resp::{Client, Reply, encode};
use crate::support::{Cluster, alone, eventually, in_time, processes, shared};

const MIB: u64 = 1024 * 1024;
/// What the frontend's memory may grow by under each of the loads here: a multiple of its bounds for one connection,
/// a fraction of what a frontend without bounds would take.
const GROWTH_MAX: u64 = 160 * MIB;

/// What is sent; the error that comes back before the connection is closed, or `None`: closed without a word.
async fn expect_fate(cluster: &Cluster, bytes: &[u8], error: Option<&str>) {
    let mut client = cluster.client().await;
    // The server may hang up before it has taken all.
    let _ = client.try_send(bytes).await;
    let shown = bytes[..bytes.len().min(40)].escape_ascii().to_string();
    if let Some(error) = error {
        let reply = client.next().await.unwrap_or_else(|| panic!("{shown}: closed without `{error}`"));
        assert_eq!(reply, Reply::Error(format!("ERR Protocol error: {error}")), "{shown}");
    }
    client.expect_closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_frames_get_redis_s_error_and_the_connection_ends() {
    let cluster = shared().await;
    let long = "1".repeat(70_000);
    let nested = "*1\r\n".repeat(100_000);
    for (bytes, error) in [
        ("*abc\r\n", "invalid multibulk length"),
        ("*1048577\r\n", "invalid multibulk length"),
        ("*99999999999999999999\r\n", "invalid multibulk length"),
        (&format!("*{long}"), "too big mbulk count string"),
        ("*1\r\n$-1\r\n", "invalid bulk length"),
        ("*1\r\n$abc\r\n", "invalid bulk length"),
        ("*1\r\n$99999999999999999999\r\n", "invalid bulk length"),
        // One byte more than 64 MiB, none of which follows.
        ("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$67108865\r\n", "invalid bulk length"),
        ("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$68157440\r\n", "invalid bulk length"),
        (&format!("*1\r\n${long}"), "too big bulk count string"),
        ("*2\r\n$3\r\nGET\r\n:1\r\n", "expected '$', got ':'"),
        (nested.as_str(), "expected '$', got '*'"),
        ("*1\r\n*-1\r\n", "expected '$', got '*'"),
        (&long, "too big inline request"),
        ("SET k \"open\r\n", "unbalanced quotes in request"),
        ("SET k 'open\r\n", "unbalanced quotes in request"),
        ("SET k \"a\"b\r\n", "unbalanced quotes in request"),
    ] {
        expect_fate(&cluster, bytes.as_bytes(), Some(error)).await;
    }
}

/// What came before the broken frame has been done and is answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_frame_spoils_nothing_before_it() {
    let cluster = shared().await;
    let mut client = cluster.client().await;
    client
        .send(
            &[encode(&["SET", "before", "kept"]), encode(&["INCR", "before:n"]), b"*x\r\n".to_vec()].concat(),
        )
        .await;
    assert_eq!(client.reply().await, Reply::ok());
    assert_eq!(client.reply().await, Reply::Integer(1));
    assert!(client.reply().await.expect_error().contains("invalid multibulk length"));
    client.expect_closed().await;
    assert_eq!(cluster.client().await.command("GET before").await, Reply::bulk("kept"));
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_frames_are_nothing() {
    let cluster = shared().await;
    let mut client = cluster.client().await;
    client.send(b"*0\r\n*-1\r\n\r\n\n*1\r\n$4\r\nPING\r\n").await;
    assert_eq!(client.reply().await.to_string(), "PONG");
}

/// A browser that was made to post to the Redis port (cross-protocol scripting) must not get a command through.
#[tokio::test(flavor = "multi_thread")]
async fn http_on_the_resp_port_is_cut_off() {
    let cluster = shared().await;
    let post = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 20\r\n\r\nSET crossed yes\r\n";
    expect_fate(&cluster, post, None).await;
    // GET is a command of Redis too; it is `Host:` that tells.
    expect_fate(&cluster, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nSET crossed yes\r\n", None).await;
    assert_eq!(cluster.client().await.command("EXISTS crossed").await, Reply::Integer(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn resp_and_garbage_on_the_rest_port_are_refused() {
    let cluster = shared().await;
    let address = cluster.rest_address();
    for bytes in [
        &b"*1\r\n$4\r\nPING\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /api/kv/k HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST /api/kv/k HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    ] {
        let answer = exchange(address, bytes).await;
        let status = answer.split(' ').nth(1).unwrap_or_default();
        assert!(answer.is_empty() || status.starts_with('4'), "{}: {answer}", bytes.escape_ascii());
    }
    // Too large is known from the announcement; a byte more than 64 MiB, none of which follows.
    let head = "POST /api/kv/k HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 67108865\r\n\r\n";
    let answer = exchange(address, head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("/problems/value-too-large"), "{answer}");
    let long = format!("GET /api/kv/{} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "k".repeat(70_000));
    let answer = exchange(address, long.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 414 ") || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    assert_eq!(cluster.rest().get("/readyz").await.status, 200);
}

/// Sends, ends the sending side, and reads to the end.
async fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("the port is open");
    // The server may hang up before it has taken all.
    let _ = in_time("sending", stream.write_all(bytes)).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = in_time("the end of the answer", stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_keys_and_values_leave_the_connection_alone() {
    let cluster = shared().await;
    let mut client = cluster.client().await;
    let longest = "k".repeat(64 * 1024);
    assert_eq!(client.call(&["SET", &longest, "v"]).await, Reply::ok());
    assert_eq!(client.call(&["GET", &longest]).await, Reply::bulk("v"));
    assert_eq!(client.call(&["DEL", &longest]).await, Reply::Integer(1));
    let too_long = "k".repeat(64 * 1024 + 1);
    for command in [
        &["SET", &too_long, "v"][..],
        &["GET", &too_long],
        &["DEL", &too_long],
        &["MSET", "a", "b", &too_long, "v"],
    ] {
        assert!(client.call(command).await.expect_error().starts_with("ERR "), "{}", command[0]);
    }
    // A value that a small command would make too large.
    client.command("SET grown v").await;
    for command in
        ["SETRANGE grown 67108864 x", "SETBIT grown 4294967295 1", "BITFIELD grown SET u8 4294967280 1"]
    {
        let refused = client.command(command).await;
        assert!(refused.expect_error().starts_with("ERR "), "{command}: {refused}");
    }
    assert_eq!(client.command("GET grown").await, Reply::bulk("v"));
    // Names that are no text.
    let unknown = client.call(&[&b"\xff\xfe\x00"[..], b"\xff"]).await;
    assert!(unknown.expect_error().starts_with("ERR unknown command"), "{unknown}");
    assert_eq!(client.command("PING").await.to_string(), "PONG");
}

/// Neither a pattern nor two texts may keep the frontend busy for long.
#[tokio::test(flavor = "multi_thread")]
async fn expensive_arguments_do_not_stop_the_others() {
    let cluster = shared().await;
    let mut client = cluster.client().await;
    let key = format!("glob:{}", "a".repeat(10_000));
    client.call(&["SET", &key, "v"]).await;
    let pattern = format!("glob:{}b", "*a".repeat(1_000));
    client.send(&encode(&["KEYS", &pattern])).await;
    assert_eq!(cluster.client().await.command("PING").await.to_string(), "PONG");
    assert_eq!(client.reply().await, Reply::Array(Vec::new()));
    let text = "ab".repeat(100_000);
    client.call(&["MSET", "{lcs}a", &text, "{lcs}b", &text]).await;
    client.send(&encode(&["LCS", "{lcs}a", "{lcs}b"])).await;
    assert_eq!(cluster.client().await.command("PING").await.to_string(), "PONG");
    assert!(client.reply().await.expect_error().starts_with("ERR Insufficient memory"));
    client.call(&["DEL", &key, "{lcs}a", "{lcs}b"]).await;
}

/// Bytes drawn at random, with enough structure to get past the first byte. The seed is fixed, so a failure repeats.
#[tokio::test(flavor = "multi_thread")]
async fn random_bytes_end_in_answers_or_a_closed_connection() {
    const PIECES: &[&[u8]] = &[
        b"*1\r\n",
        b"*3\r\n",
        b"$3\r\n",
        b"$0\r\n",
        b"GET",
        b"SET",
        b"k",
        b"\r\n",
        b"\n",
        b"\0",
        b"\xff",
        b" ",
        b"\"",
        b"'",
        b"*",
        b"$",
        b"-",
        b"9",
        b"HELLO 3\r\n",
        b"PING\r\n",
        b"*-1\r\n",
        b"$-1\r\n",
        b"+OK\r\n",
        b"%1\r\n",
        b"CLIENT REPLY SKIP\r\n",
    ];
    let cluster = shared().await;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = |below: usize| {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % u64::try_from(below).expect("small")).expect("small")
    };
    for _ in 0..300 {
        let bytes: Vec<u8> = (0..1 + draw(40)).flat_map(|_| PIECES[draw(PIECES.len())]).copied().collect();
        let mut client = cluster.client().await;
        let _ = client.try_send(&bytes).await;
        client.finish().await;
        // Every answer is RESP, and the connection ends.
        while client.next().await.is_some() {}
    }
    assert_eq!(cluster.client().await.command("PING").await.to_string(), "PONG");
}

/// The frontend's memory must not grow beyond the bound while `attack` holds.
async fn expect_bounded_memory<T>(cluster: &Cluster, what: &str, attack: impl Future<Output = T>) -> T {
    let pid = cluster.part_pid("frontend").await;
    let before = processes::resident_bytes(pid);
    let held = attack.await;
    // Others are served meanwhile.
    let mut client = cluster.client().await;
    assert_eq!(client.command("SET bystander served").await, Reply::ok());
    assert_eq!(client.command("GET bystander").await, Reply::bulk("served"));
    assert_eq!(cluster.part_pid("frontend").await, pid, "the frontend lives");
    let after = processes::resident_bytes(pid);
    assert!(
        after < before + GROWTH_MAX,
        "{what}: the frontend grew from {} to {} MiB",
        before / MIB,
        after / MIB
    );
    held
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_abandoned_connections_cost_little_and_are_forgotten() {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(4_096.min(hard)), hard).unwrap();
    let cluster = alone().await;
    let held = expect_bounded_memory(&cluster, "a thousand connections", async {
        let mut clients = Vec::new();
        for i in 0..1_000 {
            let mut client = cluster.client().await;
            // Half a command that announces a lot; some say nothing at all.
            if i % 4 != 0 {
                client.send(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$60000000\r\nabc").await;
            }
            clients.push(client);
        }
        // All of them have been taken.
        for client in clients.iter_mut().step_by(4) {
            assert_eq!(client.command("PING").await.to_string(), "PONG");
        }
        clients
    })
    .await;
    drop(held);
    let mut client = cluster.client().await;
    eventually("the connections are forgotten", async || {
        let info = client.command("INFO clients").await.expect_text();
        info.lines().any(|line| line == "connected_clients:1").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_reads_is_held_back() {
    let cluster = alone().await;
    let mut client = cluster.client().await;
    let value = vec![b'v'; usize::try_from(MIB).unwrap()];
    assert_eq!(client.call(&[&b"SET"[..], b"big", &value]).await, Reply::ok());
    let held = expect_bounded_memory(&cluster, "clients that never read", async {
        let mut readers = Vec::new();
        for _ in 0..4 {
            let mut reader = cluster.client().await;
            // A gigabyte of replies.
            reader.send(&encode(&["GET", "big"]).repeat(1_000)).await;
            readers.push(reader);
        }
        // They come as far as they can: the sockets between are full of replies.
        for reader in &mut readers {
            let reply = reader.reply().await;
            assert!(matches!(&reply, Reply::Bulk(read) if *read == value), "{:.200}", reply.to_string());
        }
        readers
    })
    .await;
    drop(held);
    client.command("DEL big").await;
}

/// Many large writes at once: some may be refused as too much, none may be half done.
#[tokio::test(flavor = "multi_thread")]
async fn large_writes_at_once_are_done_or_refused() {
    const LEN: usize = 4 * 1024 * 1024;
    let cluster = shared().await;
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..6_u8 {
        let address = cluster.resp();
        tasks.spawn(async move {
            let mut client = Client::connect(address).await;
            let key = format!("heavy:{i}");
            let value = vec![b'a' + i; LEN];
            let reply = client.call(&[b"SET", key.as_bytes(), &value]).await;
            let read = client.call(&["GET", &key]).await;
            match reply {
                Reply::Simple(_) => assert!(read == Reply::Bulk(value), "{key} came back different"),
                Reply::Error(error) => {
                    assert!(error.starts_with("BUSY ") || error.starts_with("UNCERTAIN "), "{error}");
                }
                other => panic!("{other}"),
            }
            client.call(&["DEL", &key]).await;
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
}
