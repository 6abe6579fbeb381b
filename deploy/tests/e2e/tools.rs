//! Redis's own tools, as people use them on the first day.
//!
//! They are no part of the build; where they are not installed these tests say so and do nothing (`.ci/run` installs
//! them).

use std::net::SocketAddr;
use std::process::{Output, Stdio};

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::support::resp::encode;
use crate::support::{alone, in_time, shared};

/// Runs a tool with this input; `None` if it is not installed.
async fn run(tool: &str, address: SocketAddr, args: &[&str], input: &[u8]) -> Option<Output> {
    let mut command = Command::new(tool);
    command.args(["-h", &address.ip().to_string(), "-p", &address.port().to_string()]).args(args);
    command.env_remove("REDISCLI_AUTH").kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("skipped: {tool} is not installed");
            return None;
        }
        Err(error) => panic!("{tool}: {error}"),
    };
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input).await.expect("the tool reads");
    drop(stdin);
    Some(in_time(tool, child.wait_with_output()).await.expect("it can be waited for"))
}

async fn redis_cli(address: SocketAddr, args: &[&str], input: &[u8]) -> Option<String> {
    let output = run("redis-cli", address, args, input).await?;
    assert!(output.status.success(), "redis-cli {args:?}: {output:?}");
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_cli_works() {
    let cluster = shared().await;
    let address = cluster.resp();
    let Some(first) = redis_cli(address, &["SET", "cli:greeting", "hello"], b"").await else { return };
    let say = async |args: &[&str]| redis_cli(address, args, b"").await.unwrap_or_default();
    assert_eq!(first, "OK\n");
    assert_eq!(say(&["GET", "cli:greeting"]).await, "hello\n");
    assert_eq!(say(&["-3", "GET", "cli:absent"]).await, "\n");
    assert_eq!(say(&["--no-raw", "INCR", "cli:n"]).await, "(integer) 1\n");
    assert_eq!(say(&["-r", "3", "PING"]).await, "PONG\nPONG\nPONG\n");
    assert!(say(&["FOO"]).await.starts_with("ERR unknown command 'FOO'"));
    assert!(say(&["INFO"]).await.contains("redis_version:"));
    assert!(say(&["--scan", "--pattern", "cli:*"]).await.lines().any(|line| line == "cli:greeting"));
    assert!(say(&["--bigkeys"]).await.contains("Biggest string"));
    assert!(say(&["--memkeys"]).await.contains("Biggest string"));

    // A session: redis-cli reads COMMAND DOCS at its start and is strict about its shape.
    let session =
        redis_cli(address, &["--no-raw"], b"SET cli:s \"a b\"\nGET cli:s\nCONFIG GET databases\n").await;
    let session = session.unwrap_or_default();
    assert_eq!(session, "OK\n\"a b\"\n1) \"databases\"\n2) \"1\"\n");
    assert!(say(&["--no-raw", "COMMAND", "DOCS", "GET"]).await.contains("summary"));

    let mass: Vec<u8> =
        (0..1_000).flat_map(|i| encode(&["SET", &format!("cli:mass:{}", i % 50), &i.to_string()])).collect();
    let report = redis_cli(address, &["--pipe"], &mass).await.unwrap_or_default();
    assert!(report.contains("errors: 0, replies: 1000"), "{report}");
    assert_eq!(say(&["GET", "cli:mass:7"]).await, "957\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_benchmark_works() {
    let cluster = alone().await;
    for args in [
        &["-t", "set,get,incr,mset", "-n", "2000", "-q"][..],
        &["-t", "set,get", "-n", "2000", "-P", "16", "-r", "500", "-q"],
    ] {
        let Some(output) = run("redis-benchmark", cluster.resp(), args, b"").await else { return };
        let (out, error) =
            (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{out}{error}");
        assert!(
            out.contains("SET: ") && out.contains("GET: ") && out.contains("requests per second"),
            "{out}"
        );
        assert!(!out.contains("Error") && !error.contains("rror"), "{out}{error}");
    }
}
