//! COMMAND, CONFIG, INFO, SLOWLOG, LATENCY and the small ones.

use redis_protocol::resp2::decode::decode;
use redis_protocol::resp2::types::OwnedFrame;
use tokio::io::AsyncReadExt;

use super::support::{TABLE, TestClient, TestServer};

async fn ask_frame(client: &mut TestClient, line: &str) -> OwnedFrame {
    client.send(format!("{line}\r\n")).await;
    let mut bytes = Vec::new();
    loop {
        client.stream.read_buf(&mut bytes).await.unwrap();
        if let Some((frame, used)) = decode(&bytes).unwrap() {
            assert_eq!(used, bytes.len());
            return frame;
        }
    }
}

fn array(frame: OwnedFrame) -> Vec<OwnedFrame> {
    match frame {
        OwnedFrame::Array(items) => items,
        other => panic!("no array: {other:?}"),
    }
}

fn bulk(text: &str) -> OwnedFrame {
    OwnedFrame::BulkString(text.into())
}

#[tokio::test]
async fn command_docs_have_the_shape_that_redis_cli_asserts() {
    let server = TestServer::new();
    let mut client = server.connect();
    let docs = array(ask_frame(&mut client, "COMMAND DOCS").await);
    assert_eq!(docs.len(), 2 * TABLE.commands().count());
    for pair in docs.chunks(2) {
        assert!(matches!(&pair[0], OwnedFrame::BulkString(_)));
        let fields = array(pair[1].clone());
        for field in fields.chunks(2) {
            let subcommands = field[0] == bulk("subcommands");
            assert!(matches!(&field[0], OwnedFrame::BulkString(_)));
            assert_eq!(subcommands, matches!(&field[1], OwnedFrame::Array(_)), "{field:?}");
        }
    }
    assert_eq!(array(ask_frame(&mut client, "COMMAND DOCS ping nope").await)[0], bulk("ping"));
    client.send("HELLO 3\r\nCOMMAND DOCS get\r\n").await;
    let mut seen = Vec::new();
    while !seen.ends_with(b"$10\r\ncomplexity\r\n$0\r\n\r\n") {
        client.stream.read_buf(&mut seen).await.unwrap();
    }
    assert!(seen.escape_ascii().to_string().contains("%1\\r\\n$3\\r\\nget\\r\\n%4\\r\\n$7\\r\\nsummary"));
}

#[tokio::test]
async fn command_info_has_ten_fields() {
    let server = TestServer::new();
    let mut client = server.connect();
    let all = array(ask_frame(&mut client, "COMMAND").await);
    assert!(all.into_iter().all(|entry| array(entry).len() == 10));
    client
        .ask(
            "COMMAND INFO get nope",
            "*2\r\n*10\r\n$3\r\nget\r\n:2\r\n*1\r\n+readonly\r\n:1\r\n:1\r\n:1\r\n\
             *3\r\n+@read\r\n+@string\r\n+@slow\r\n*0\r\n\
             *1\r\n*6\r\n$5\r\nflags\r\n*2\r\n+RO\r\n+access\r\n\
             $12\r\nbegin_search\r\n*4\r\n$4\r\ntype\r\n$5\r\nindex\r\n$4\r\nspec\r\n*2\r\n$5\r\nindex\r\n:1\r\n\
             $9\r\nfind_keys\r\n*4\r\n$4\r\ntype\r\n$5\r\nrange\r\n$4\r\nspec\r\n\
             *6\r\n$7\r\nlastkey\r\n:0\r\n$7\r\nkeystep\r\n:1\r\n$5\r\nlimit\r\n:0\r\n*0\r\n$-1\r\n",
        )
        .await;
    let count = format!(":{}\r\n", TABLE.commands().count());
    client.ask("COMMAND COUNT", &count).await;
    client.ask("COMMAND LIST FILTERBY PATTERN *get", "*4\r\n").await;
}

#[tokio::test]
async fn keys_are_found_in_commands() {
    let server = TestServer::new();
    let mut client = server.connect();
    client.ask("COMMAND GETKEYS MGET a b", "*2\r\n$1\r\na\r\n$1\r\nb\r\n").await;
    client.ask("COMMAND GETKEYSANDFLAGS GET a", "*1\r\n*2\r\n$1\r\na\r\n*2\r\n+RO\r\n+access\r\n").await;
    let flagged = |key: &str, flags: &str| {
        let flags: Vec<_> = flags.split(' ').map(|flag| format!("+{flag}\r\n")).collect();
        format!("*2\r\n$1\r\n{key}\r\n*{}\r\n{}", flags.len(), flags.concat())
    };
    client.ask("COMMAND GETKEYSANDFLAGS SET a 1", &format!("*1\r\n{}", flagged("a", "OW update"))).await;
    client.ask("COMMAND GETKEYS NOPE a", "-ERR Invalid command specified\r\n").await;
    client.ask("COMMAND GETKEYS PING", "-ERR The command has no key arguments\r\n").await;
    client.ask("COMMAND GETKEYS GET a b", "-ERR Invalid number of arguments specified for command\r\n").await;
    client.ask("COMMAND LIST FILTERBY MODULE x", "*0\r\n").await;
    client.ask("COMMAND LIST FILTERBY x y", "-ERR syntax error\r\n").await;
    client.ask("COMMAND LIST FILTERBY ACLCAT nonsense", "*0\r\n").await;
}

#[tokio::test]
async fn config_shows_and_changes_what_is_real() {
    let server = TestServer::new();
    let mut client = server.connect();
    client.ask("CONFIG GET databases", "*2\r\n$9\r\ndatabases\r\n$1\r\n1\r\n").await;
    client
        .ask(
            "CONFIG GET SAVE appendonl? save",
            "*4\r\n$10\r\nappendonly\r\n$3\r\nyes\r\n$4\r\nSAVE\r\n$0\r\n\r\n",
        )
        .await;
    client.ask("CONFIG GET nope", "*0\r\n").await;
    client.ask("CONFIG SET slowlog-max-len 5 slowlog-log-slower-than 0", "+OK\r\n").await;
    client.ask("CONFIG GET slowlog-m*", "*2\r\n$15\r\nslowlog-max-len\r\n$1\r\n5\r\n").await;
    let failed =
        |name, why| format!("-ERR CONFIG SET failed (possibly related to argument '{name}') - {why}\r\n");
    client.ask("CONFIG SET requirepass x", &failed("requirepass", "can't set immutable config")).await;
    client.ask("CONFIG SET save 60", &failed("save", "can't set immutable config")).await;
    let integer = "argument couldn't be parsed into an integer";
    client.ask("CONFIG SET slowlog-max-len x", &failed("slowlog-max-len", integer)).await;
    let range = "argument must be between 0 and 1000000 inclusive";
    client.ask("CONFIG SET slowlog-max-len -1", &failed("slowlog-max-len", range)).await;
    let twice = "CONFIG SET slowlog-max-len 1 slowlog-max-len 2";
    client.ask(twice, &failed("slowlog-max-len", "duplicate parameter")).await;
    let unknown = "-ERR Unknown option or number of arguments for CONFIG SET - 'nope'\r\n";
    client.ask("CONFIG SET slowlog-max-len 9 nope 1", unknown).await;
    client.ask("CONFIG GET slowlog-max-len", "*2\r\n$15\r\nslowlog-max-len\r\n$1\r\n5\r\n").await;
    client.ask("CONFIG SET a b c", "-ERR syntax error\r\n").await;
    client.ask("CONFIG REWRITE", "-ERR The server is running without a config file\r\n").await;
    client.ask("CONFIG RESETSTAT", "+OK\r\n").await;
}

#[tokio::test]
async fn a_password_is_never_shown() {
    let server = TestServer::with_password("s3cret");
    let mut client = server.connect();
    client.ask("AUTH s3cret", "+OK\r\n").await;
    client.ask("CONFIG SET slowlog-log-slower-than 0", "+OK\r\n").await;
    client.ask("AUTH s3cret", "+OK\r\n").await;
    for command in ["CONFIG GET *", "SLOWLOG GET -1", "CLIENT LIST"] {
        let shown = format!("{:?}", ask_frame(&mut client, command).await);
        assert!(
            !shown.contains(&format!("{:?}", b"s3cret").trim_matches(['[', ']']).to_owned()),
            "{command}"
        );
    }
}

#[tokio::test]
async fn slow_commands_are_logged() {
    let server = TestServer::new();
    let mut client = server.connect();
    client.ask("CLIENT SETNAME me", "+OK\r\n").await;
    client.ask("CONFIG SET slowlog-log-slower-than 0", "+OK\r\n").await;
    client.ask("SLOWLOG RESET", "+OK\r\n").await;
    client.ask("SET k v", "+OK\r\n").await;
    client.ask("SLOWLOG LEN", ":2\r\n").await;
    let entries = array(ask_frame(&mut client, "SLOWLOG GET 2").await);
    let entry = array(entries[1].clone());
    assert_eq!(entry.len(), 6);
    assert_eq!(entry[3], OwnedFrame::Array(vec![bulk("SET"), bulk("k"), bulk("v")]));
    assert_eq!(entry[4..], [bulk("127.0.0.1:5000"), bulk("me")]);
    let surplus = "-ERR unknown subcommand or wrong number of arguments for 'GET'. Try SLOWLOG HELP.\r\n";
    client.ask("SLOWLOG GET 1 2", surplus).await;
    client.ask("SLOWLOG GET -2", "-ERR count should be greater than or equal to -1\r\n").await;
}

#[tokio::test]
async fn latency_is_watched_on_request() {
    let server = TestServer::new();
    let mut client = server.connect();
    client.ask("LATENCY LATEST", "*0\r\n").await;
    assert!(client.ask_text("LATENCY DOCTOR").await.contains("disabled"));
    client.ask("LATENCY GRAPH command", "-ERR No samples available for event 'command'\r\n").await;
    client.ask("CONFIG SET latency-monitor-threshold 1", "+OK\r\n").await;
    client.ask("DEBUG SLEEP 0.002", "+OK\r\n").await;
    let latest = array(array(ask_frame(&mut client, "LATENCY LATEST").await).remove(0));
    assert_eq!((latest.len(), &latest[0]), (4, &bulk("command")));
    assert_eq!(array(ask_frame(&mut client, "LATENCY HISTORY command").await).len(), 1);
    assert!(client.ask_text("LATENCY GRAPH command").await.starts_with("command - high "));
    client.ask("LATENCY RESET", ":1\r\n").await;
    let histogram = array(ask_frame(&mut client, "LATENCY HISTOGRAM debug nope").await);
    assert_eq!(histogram[0], bulk("debug|sleep"));
    assert_eq!(array(histogram[1].clone())[..2], [bulk("calls"), OwnedFrame::Integer(1)]);
}

#[tokio::test]
async fn info_tells_what_clients_look_for() {
    let server = TestServer::new();
    let mut client = server.connect();
    client.send("SET k v\r\nGET k\r\nGET x\r\nNOPE\r\n").await;
    client
        .expect("+OK\r\n$1\r\nv\r\n$-1\r\n-ERR unknown command 'NOPE', with args beginning with: \r\n")
        .await;
    let info = client.ask_text("INFO").await;
    for line in [
        "# Server",
        "redis_version:7.2.4",
        "redis_mode:standalone",
        "tcp_port:6379",
        "connected_clients:1",
        "maxmemory_policy:noeviction",
        "loading:0",
        "total_commands_processed:3",
        "expired_keys:0",
        "keyspace_hits:1",
        "keyspace_misses:1",
        "role:master",
        "errorstat_ERR:count=1",
        "cluster_enabled:0",
        "# Keyspace",
        "db0:keys=1,expires=0,avg_ttl=0",
    ] {
        assert!(info.contains(&format!("{line}\r\n")) || info.ends_with(line), "{line} in {info}");
    }
    assert!(!info.contains("cmdstat_"));
    let all = client.ask_text("INFO all").await;
    assert!(all.contains("cmdstat_get:calls=2,usec=") && all.contains("latency_percentiles_usec_get:p50="));
    let one = client.ask_text("INFO replication").await;
    assert!(one.starts_with("# Replication\r\nrole:master\r\n") && one.matches('#').count() == 1);
    assert_eq!(client.ask_text("INFO nonsense").await, "");
}

#[tokio::test]
async fn what_is_not_there_is_refused_clearly() {
    let server = TestServer::new();
    let mut client = server.connect();
    client.ask("CLUSTER INFO", "-ERR This instance has cluster support disabled\r\n").await;
    client
        .ask("SHUTDOWN NOSAVE", "-ERR SHUTDOWN is disabled: stop the frontend's process with SIGTERM\r\n")
        .await;
    client.ask("MODULE LIST", "*0\r\n").await;
    client.ask("ACL WHOAMI", "$7\r\ndefault\r\n").await;
    client.ask("ROLE", "*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n").await;
    client.ask("WAIT 5 0", ":1\r\n").await;
    client.ask("WAIT 5 -1", "-ERR timeout is negative\r\n").await;
    client.ask("DEBUG SEGFAULT", "-ERR unknown subcommand 'SEGFAULT'. Try DEBUG HELP.\r\n").await;
    client.ask("DEBUG SLEEP 1e9", "-ERR DEBUG SLEEP is limited to 60 seconds\r\n").await;
    for command in ["MULTI", "EVAL", "SUBSCRIBE", "MONITOR"] {
        client
            .ask(
                &format!("{command} a"),
                &format!("-ERR unknown command '{command}', with args beginning with: 'a' \r\n"),
            )
            .await;
    }
    assert!(client.ask_text("LOLWUT VERSION 6").await.contains("Tercet ver. "));
    let time = array(ask_frame(&mut client, "TIME").await);
    assert_eq!(time.len(), 2);
}

#[tokio::test]
async fn every_container_has_help() {
    let server = TestServer::new();
    let mut client = server.connect();
    for entry in TABLE.commands().filter(|entry| !entry.spec.subcommands.is_empty()) {
        let lines = array(ask_frame(&mut client, &format!("{} HELP", entry.name)).await);
        assert_eq!(lines.len(), 1 + 2 * entry.spec.subcommands.len(), "{}", entry.name);
    }
}
