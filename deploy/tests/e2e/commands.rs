//! Every command, as scripts of commands and replies under `commands/`.
//!
//! # Notation
//!
//! ```text
//! == SET with conditions           a section; it starts on an empty store and a connection of its own
//! SET k v NX => OK                 a command, and its reply
//! SET "a\x00b" v => OK             quotes as redis-cli has them
//! eventually GET k => nil          asked until it is so
//! ```
//!
//! Replies: `OK` a simple string, `(ERR …)` an error, `1` an integer, `"…"` a bulk string, `nil`, `nil-array`, `[…]`,
//! and in RESP3 `{…: …}`, `set[…]`, `double …`, `true`. In them `<any>` stands for anything, `<1..9>` for a number in
//! that range. A section's title may end in `(RESP3)`; `(not Redis)` marks where Tercet differs from Redis on purpose.
//!
//! Every section is run twice: command by command, and sent in one piece, which must give the same replies in the same
//! order. The replies are those of a Redis 7. `TERCET_TEST_REDIS=IP:PORT` runs the scripts, all but what is marked,
//! against the Redis there instead, so that they can be held against the real thing.

use std::fmt::Write as _;
use std::net::SocketAddr;

use redis::AsyncCommands;

use crate::support::resp::{Client, Reply, encode};
use crate::support::{alone, eventually, shared};

const SCRIPTS: &[(&str, &str)] = &[
    ("strings", include_str!("commands/strings.txt")),
    ("bits", include_str!("commands/bits.txt")),
    ("keys", include_str!("commands/keys.txt")),
    ("connection", include_str!("commands/connection.txt")),
    ("server", include_str!("commands/server.txt")),
];

struct Section<'a> {
    title: &'a str,
    steps: Vec<Step<'a>>,
}

struct Step<'a> {
    line: &'a str,
    args: Vec<Vec<u8>>,
    expected: &'a str,
    /// Asked until it is so.
    eventually: bool,
}

fn parse(script: &str) -> Vec<Section<'_>> {
    let mut sections: Vec<Section<'_>> = Vec::new();
    for line in script.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(title) = line.strip_prefix("== ") {
            sections.push(Section { title, steps: Vec::new() });
            continue;
        }
        let (command, expected) = line.split_once(" => ").unwrap_or_else(|| panic!("no reply: {line}"));
        let (eventually, command) = match command.strip_prefix("eventually ") {
            Some(command) => (true, command),
            None => (false, command),
        };
        let step = Step { line, args: words(command), expected, eventually };
        sections.last_mut().expect("a script begins with a section").steps.push(step);
    }
    sections
}

/// Words as redis-cli takes them.
fn words(line: &str) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut rest = line.as_bytes();
    loop {
        rest = rest.trim_ascii_start();
        let mut word = Vec::new();
        match rest {
            [] => return words,
            [b'"', quoted @ ..] => rest = unquote(quoted, &mut word),
            _ => {
                let end = rest.iter().position(|b| *b == b' ').unwrap_or(rest.len());
                word.extend_from_slice(&rest[..end]);
                rest = &rest[end..];
            }
        }
        words.push(word);
    }
}

/// Up to the closing quote; what comes behind it is returned.
fn unquote<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> &'a [u8] {
    loop {
        rest = match rest {
            [b'"', rest @ ..] => return rest,
            [b'\\', b'x', a, b, rest @ ..] => {
                let digits = [*a, *b];
                let digits = std::str::from_utf8(&digits).expect("two hexadecimal digits");
                word.push(u8::from_str_radix(digits, 16).expect("two hexadecimal digits"));
                rest
            }
            [b'\\', escaped, rest @ ..] => {
                word.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'a' => 7,
                    other => *other,
                });
                rest
            }
            [plain, rest @ ..] => {
                word.push(*plain);
                rest
            }
            [] => panic!("an open quote"),
        };
    }
}

/// Whether a reply is the expected one, with its `<any>` and `<a..b>`.
fn matches(expected: &str, actual: &str) -> bool {
    let Some((plain, hole, rest)) = first_hole(expected) else { return expected == actual };
    let Some(actual) = actual.strip_prefix(plain) else { return false };
    match hole {
        Hole::Any => (0..=actual.len())
            .filter(|at| actual.is_char_boundary(*at))
            .any(|at| matches(rest, &actual[at..])),
        Hole::Number(low, high) => {
            let digits = actual.len() - actual.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let within = |n: u64| (low..=high).contains(&n);
            actual[..digits].parse().is_ok_and(within) && matches(rest, &actual[digits..])
        }
    }
}

enum Hole {
    Any,
    Number(u64, u64),
}

/// What is before it, the hole, and what is behind it.
fn first_hole(expected: &str) -> Option<(&str, Hole, &str)> {
    expected.match_indices('<').find_map(|(at, _)| {
        let (name, rest) = expected[at + 1..].split_once('>')?;
        let hole = match name.split_once("..") {
            None if name == "any" => Hole::Any,
            Some((low, high)) => Hole::Number(low.parse().ok()?, high.parse().ok()?),
            None => return None,
        };
        Some((&expected[..at], hole, rest))
    })
}

/// Connects as the section wants it, on an empty store.
async fn begin(address: SocketAddr, section: &Section<'_>) -> Client {
    let mut client = Client::connect(address).await;
    empty(&mut client).await;
    if section.title.ends_with("(RESP3)") {
        client.command("HELLO 3").await;
    }
    client
}

/// Deletes key by key, which takes a fraction of the time of FLUSHALL; that has scripts of its own.
async fn empty(client: &mut Client) {
    let Reply::Array(keys) = client.command("KEYS *").await else { panic!("KEYS lists") };
    let keys = keys.into_iter().map(|key| match key {
        Reply::Bulk(key) => key,
        other => panic!("not a key: {other}"),
    });
    let del: Vec<Vec<u8>> = std::iter::once(b"DEL".to_vec()).chain(keys).collect();
    if del.len() > 1 {
        client.call(&del).await;
    }
}

/// Command by command.
async fn run_by_steps(address: SocketAddr, section: &Section<'_>, wrong: &mut String) {
    let mut client = begin(address, section).await;
    for step in &section.steps {
        if step.eventually {
            eventually(step.line, async || {
                let reply = client.call(&step.args).await.to_string();
                matches(step.expected, &reply).then_some(())
            })
            .await;
        } else {
            let reply = client.call(&step.args).await;
            check(step, &reply, wrong);
        }
    }
}

/// All commands in one piece.
async fn run_in_one_piece(address: SocketAddr, section: &Section<'_>, wrong: &mut String) {
    let mut client = begin(address, section).await;
    let bytes: Vec<u8> = section.steps.iter().flat_map(|step| encode(&step.args)).collect();
    client.send(&bytes).await;
    for step in &section.steps {
        check(step, &client.reply().await, wrong);
    }
}

fn check(step: &Step<'_>, reply: &Reply, wrong: &mut String) {
    let reply = reply.to_string();
    if !matches(step.expected, &reply) {
        let _ = writeln!(wrong, "    {}\n        came: {reply}", step.line);
    }
}

async fn run_script(name: &str) {
    let script = SCRIPTS.iter().find(|(known, _)| *known == name).expect("the script exists").1;
    let redis: Option<SocketAddr> =
        std::env::var("TERCET_TEST_REDIS").ok().and_then(|text| text.parse().ok());
    let cluster = if redis.is_some() { None } else { Some(alone().await) };
    let address = redis.or(cluster.as_ref().map(|cluster| cluster.resp())).expect("one of them");
    let mut report = String::new();
    for section in parse(script) {
        if redis.is_some() && section.title.contains("not Redis") {
            continue;
        }
        let mut wrong = String::new();
        run_by_steps(address, &section, &mut wrong).await;
        if !section.steps.iter().any(|step| step.eventually) {
            let mut pipelined = String::new();
            run_in_one_piece(address, &section, &mut pipelined).await;
            if wrong.is_empty() && !pipelined.is_empty() {
                let _ = write!(wrong, "  sent in one piece:\n{pipelined}");
            }
        }
        if !wrong.is_empty() {
            let _ = write!(report, "{name}, {}:\n{wrong}", section.title);
        }
    }
    assert!(report.is_empty(), "replies differ from the scripts:\n{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn string_commands_answer_as_redis_does() {
    run_script("strings").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bit_commands_answer_as_redis_does() {
    run_script("bits").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn key_commands_answer_as_redis_does() {
    run_script("keys").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_commands_answer_as_redis_does() {
    run_script("connection").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn server_commands_answer_as_redis_does() {
    run_script("server").await;
}

/// The list of the first release; a command that is missing here or there is a mistake.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_table_is_the_promised_one() {
    const PROMISED: &str = "\
        append bitcount bitfield bitfield_ro bitop bitpos copy dbsize decr decrby del dump exists expire expireat \
        expiretime flushall flushdb get getbit getdel getex getrange getset incr incrby incrbyfloat keys lcs mget mset \
        msetnx object persist pexpire pexpireat pexpiretime psetex pttl randomkey rename renamenx restore scan set \
        setbit setex setnx setrange strlen substr touch ttl type unlink \
        auth client cluster command config debug echo hello info latency lolwut memory ping quit reset role select \
        shutdown slowlog time wait";
    const LATER: &[&str] =
        &["multi", "exec", "eval", "evalsha", "subscribe", "publish", "hset", "lpush", "zadd"];
    let cluster = shared().await;
    let Reply::Array(listed) = cluster.client().await.command("COMMAND LIST").await else { panic!("a list") };
    let listed: Vec<String> = listed.iter().map(Reply::expect_text).collect();
    let missing: Vec<&str> =
        PROMISED.split(' ').filter(|name| !listed.iter().any(|known| known == name)).collect();
    assert!(missing.is_empty(), "not listed by COMMAND: {missing:?}");
    let untrue: Vec<&&str> = LATER.iter().filter(|name| listed.iter().any(|known| known == **name)).collect();
    assert!(untrue.is_empty(), "listed by COMMAND, though not there: {untrue:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn inline_commands_are_words_or_quoted() {
    let cluster = shared().await;
    let mut client = cluster.client().await;
    client.send(b"SET inline:a \"two words\\x00\"\r\n").await;
    assert_eq!(client.reply().await, Reply::ok());
    client.send(b"  get   inline:a  \n\r\n\nPING\r\n").await;
    assert_eq!(client.reply().await, Reply::bulk("two words\0"));
    assert_eq!(client.reply().await.to_string(), "PONG");
    client.send(b"SET inline:b 'single \\' quote'\r\nGET inline:b\r\n").await;
    assert_eq!(client.reply().await, Reply::ok());
    assert_eq!(client.reply().await, Reply::bulk("single ' quote"));
}

/// A frame may arrive in any pieces.
#[tokio::test(flavor = "multi_thread")]
async fn commands_may_arrive_byte_by_byte() {
    let cluster = shared().await;
    let mut client = cluster.client().await;
    for byte in [encode(&["SET", "pieces", "v\r\nw"]), encode(&["GET", "pieces"])].concat() {
        client.send(&[byte]).await;
    }
    assert_eq!(client.reply().await, Reply::ok());
    assert_eq!(client.reply().await, Reply::bulk("v\r\nw"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_pipeline_keeps_its_order() {
    const COMMANDS: usize = 5_000;
    let cluster = shared().await;
    let mut client = cluster.client().await;
    let bytes: Vec<u8> = (0..COMMANDS)
        .flat_map(|i| match i % 4 {
            0 => encode(&["SET", "pipe:a", &i.to_string()]),
            1 => encode(&["GET", "pipe:a"]),
            2 => encode(&["INCR", "pipe:n"]),
            _ => encode(&["MGET", "pipe:a", "pipe:n"]),
        })
        .collect();
    client.send(&bytes).await;
    for i in 0..COMMANDS {
        let expected = match i % 4 {
            0 => "OK".to_owned(),
            1 => format!("\"{}\"", i - 1),
            2 => (i / 4 + 1).to_string(),
            _ => format!("[\"{}\", \"{}\"]", i - 3, i / 4 + 1),
        };
        assert_eq!(client.reply().await.to_string(), expected, "reply {i}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reset_and_hello_change_the_protocol_of_one_connection() {
    let cluster = shared().await;
    let (mut three, mut two) = (cluster.client().await, cluster.client().await);
    assert!(matches!(three.command("HELLO 3").await, Reply::Map(_)));
    assert_eq!(three.command("GET versions:absent").await, Reply::Null);
    assert!(matches!(two.command("CONFIG GET databases").await, Reply::Array(_)));
    assert!(matches!(three.command("CONFIG GET databases").await, Reply::Map(_)));
    assert!(matches!(three.command("HELLO 2").await, Reply::Array(_)));
    assert!(matches!(three.command("CONFIG GET databases").await, Reply::Array(_)));
    three.command("HELLO 3").await;
    assert_eq!(three.command("RESET").await.to_string(), "RESET");
    assert!(matches!(three.command("CONFIG GET databases").await, Reply::Array(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn quit_answers_and_closes() {
    let cluster = shared().await;
    let mut client = cluster.client().await;
    client
        .send(&[encode(&["SET", "quit:k", "v"]), encode(&["QUIT"]), encode(&["SET", "quit:k", "w"])].concat())
        .await;
    assert_eq!(client.reply().await, Reply::ok());
    assert_eq!(client.reply().await, Reply::ok());
    client.expect_closed().await;
    assert_eq!(cluster.client().await.command("GET quit:k").await, Reply::bulk("v"));
}

#[tokio::test(flavor = "multi_thread")]
async fn client_reply_and_kill() {
    let cluster = shared().await;
    let mut client = cluster.client().await;
    client.send(&[encode(&["CLIENT", "REPLY", "OFF"]), encode(&["PING"])].concat()).await;
    client.send(&encode(&["CLIENT", "REPLY", "ON"])).await;
    assert_eq!(client.reply().await, Reply::ok());
    client
        .send(&[encode(&["CLIENT", "REPLY", "SKIP"]), encode(&["PING"]), encode(&["ECHO", "seen"])].concat())
        .await;
    assert_eq!(client.reply().await, Reply::bulk("seen"));

    let mut victim = cluster.client().await;
    let Reply::Integer(id) = victim.command("CLIENT ID").await else { panic!("an id") };
    assert_eq!(client.command(&format!("CLIENT KILL ID {id}")).await, Reply::Integer(1));
    victim.expect_closed().await;
}

/// Alone, because a pause holds back everybody.
#[tokio::test(flavor = "multi_thread")]
async fn client_pause_holds_writes_back_until_unpause() {
    let cluster = alone().await;
    let (mut master, mut writer) = (cluster.client().await, cluster.client().await);
    assert_eq!(master.command("CLIENT PAUSE 60000 WRITE").await, Reply::ok());
    writer.send(&encode(&["SET", "pause:k", "v"])).await;
    // Reads pass.
    let mut reader = cluster.client().await;
    assert_eq!(reader.command("GET pause:k").await, Reply::Null);
    assert_eq!(master.command("CLIENT UNPAUSE").await, Reply::ok());
    assert_eq!(writer.reply().await, Reply::ok());
    assert_eq!(reader.command("GET pause:k").await, Reply::bulk("v"));
}

#[tokio::test(flavor = "multi_thread")]
async fn scan_sees_every_key_once_it_stays() {
    const KEYS: usize = 500;
    let cluster = alone().await;
    let mut client = cluster.client().await;
    empty(&mut client).await;
    let mset: Vec<String> = std::iter::once("MSET".to_owned())
        .chain((0..KEYS).flat_map(|i| [format!("scan:{i}"), i.to_string()]))
        .collect();
    assert_eq!(client.call(&mset).await, Reply::ok());
    assert_eq!(client.command("DBSIZE").await.to_string(), KEYS.to_string());
    for options in ["", " COUNT 7", " MATCH scan:*", " TYPE string"] {
        let (mut cursor, mut seen) = ("0".to_owned(), Vec::new());
        loop {
            let Reply::Array(page) = client.command(&format!("SCAN {cursor}{options}")).await else {
                panic!("a page")
            };
            let [next, Reply::Array(keys)] = page.as_slice() else { panic!("a cursor and keys") };
            seen.extend(keys.iter().map(Reply::expect_text));
            cursor = next.expect_text();
            if cursor == "0" {
                break;
            }
        }
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), KEYS, "SCAN{options}");
    }
    let Reply::Array(keys) = client.command("KEYS scan:1?").await else { panic!("keys") };
    assert_eq!(keys.len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn dump_of_any_bytes_can_be_restored() {
    let cluster = shared().await;
    let mut client = cluster.client().await;
    let compressible = vec![b'x'; 100_000];
    let bytes: Vec<u8> = (0..=255).cycle().take(3_000).collect();
    for value in [b"".to_vec(), b"12345".to_vec(), b"-1".to_vec(), compressible, bytes] {
        assert_eq!(client.call(&[b"SET", &b"dump:a"[..], &value]).await, Reply::ok());
        let Reply::Bulk(payload) = client.command("DUMP dump:a").await else { panic!("a payload") };
        let restored = client.call(&[b"RESTORE", &b"dump:b"[..], b"0", &payload, b"REPLACE"]).await;
        assert_eq!(restored, Reply::ok());
        assert_eq!(client.command("GET dump:b").await, Reply::Bulk(value));
    }
}

/// Values at the limit go through, whole.
#[tokio::test(flavor = "multi_thread")]
async fn large_values_come_back_whole() {
    let cluster = shared().await;
    let mut redis = cluster.redis().await;
    for len in [64 * 1024 + 1, 5 * 1024 * 1024] {
        let value: Vec<u8> = (0..len).map(|i| u8::try_from(i * 7 % 251).expect("below 256")).collect();
        let () = redis.set("large", &value).await.unwrap();
        let back: Vec<u8> = redis.get("large").await.unwrap();
        assert!(back == value, "{len} bytes came back as {}", back.len());
        let range: Vec<u8> = redis.getrange("large", 1_000, 1_009).await.unwrap();
        assert_eq!(range, value[1_000..1_010]);
    }
    let () = redis.del("large").await.unwrap();
}

/// The redis crate as programs use it: typed commands, a pipeline, options.
#[tokio::test(flavor = "multi_thread")]
async fn the_redis_crate_finds_what_it_expects() {
    let cluster = shared().await;
    for protocol in ["", "?protocol=resp3"] {
        let client = redis::Client::open(format!("redis://{}/{protocol}", cluster.resp())).unwrap();
        let mut redis = client.get_multiplexed_async_connection().await.unwrap();
        let () = redis.del(&["crate:a", "crate:n", "crate:x"]).await.unwrap();
        let () = redis.set("crate:a", "hello").await.unwrap();
        assert_eq!(redis.get::<_, String>("crate:a").await.unwrap(), "hello");
        assert_eq!(redis.get::<_, Option<String>>("crate:absent").await.unwrap(), None);
        assert_eq!(redis.incr::<_, _, i64>("crate:n", 5).await.unwrap(), 5);
        let () = redis.set_ex("crate:x", 1, 100).await.unwrap();
        assert!((1..=100).contains(&redis.ttl::<_, i64>("crate:x").await.unwrap()));
        let options = redis::SetOptions::default()
            .conditional_set(redis::ExistenceCheck::NX)
            .with_expiration(redis::SetExpiry::PX(100_000));
        let refused: Option<String> = redis.set_options("crate:a", "world", options).await.unwrap();
        assert_eq!(refused, None);
        let (a, n, missing): (String, i64, Option<String>) = redis::pipe()
            .get("crate:a")
            .incr("crate:n", 1)
            .get("crate:absent")
            .query_async(&mut redis)
            .await
            .unwrap();
        assert_eq!((a.as_str(), n, missing), ("hello", 6, None));
        let error = redis.incr::<_, _, i64>("crate:a", 1).await.unwrap_err();
        assert_eq!(error.detail(), Some("value is not an integer or out of range"), "{error}");
    }
}

#[test]
fn the_notation_is_read_as_written() {
    assert_eq!(words(r#"SET "a\x00 \"b" v"#), [b"SET".to_vec(), b"a\0 \"b".to_vec(), b"v".to_vec()]);
    assert_eq!(words(r#"GET """#), [b"GET".to_vec(), Vec::new()]);
    assert!(matches("a<any>c<1..9>", "abbbc7"));
    assert!(matches("<password> <any>", "<password> x"));
    assert!(!matches("a<1..9>", "a10") && !matches("a<any>c", "ab") && !matches("ab", "abc"));
    for (_, script) in SCRIPTS {
        assert!(parse(script).iter().all(|section| !section.steps.is_empty()));
    }
}
