//! How a local cluster begins and ends, and what the program says to people and scripts.

use std::net::TcpListener;

use nix::sys::signal::Signal;
use redis::AsyncCommands;
use reqwest::Method;
use tercet_frontend::coordinator::status::ClusterStatus;

use crate::support::cluster::{directory, tercet};
use crate::support::http::{self, Rest};
use crate::support::resp::{Client, Reply};
use crate::support::{Cluster, processes, shared};

const THREE: &[&str] = &["--workers=3"];

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Whatever ends it, nothing of it is left, and the next start finds the data.
#[tokio::test(flavor = "multi_thread")]
async fn no_end_leaves_a_process_or_loses_data() {
    let dir = directory();
    for (round, signal) in [Signal::SIGINT, Signal::SIGKILL, Signal::SIGTERM].into_iter().enumerate() {
        let mut cluster = Cluster::start_in(dir.path(), if round == 0 { THREE } else { &[] }).await;
        let mut redis = cluster.redis().await;
        let before: Vec<i64> = redis.mget(&["round:0", "round:1"][..round]).await.unwrap_or_default();
        assert_eq!(before, (0..round).map(|n| i64::try_from(n).unwrap()).collect::<Vec<_>>(), "{signal}");
        let () = redis.set(format!("round:{round}"), round).await.unwrap();
        assert!(!processes::of_directory(dir.path()).is_empty(), "the look at processes sees them");
        let code = cluster.signal_and_wait(signal).await;
        assert_eq!(code, if signal == Signal::SIGKILL { None } else { Some(0) }, "{signal}");
        cluster.wait_until_gone().await;
    }
    // A directory keeps its number of workers.
    let args = ["up", "--workers=5", "--resp=127.0.0.1:0", "--rest=127.0.0.1:0", "--data-dir"];
    let refused = tercet(&[&args[..], &[dir.path().to_str().unwrap()]].concat()).await;
    assert_eq!(refused.status.code(), Some(1));
    let why = text(&refused.stderr);
    assert!(why.contains("3 workers, not 5") && why.contains("tercet node add"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_worker_s_data_may_be_missing_at_the_next_start() {
    let dir = directory();
    let data_dir = dir.path().to_str().unwrap();
    let cluster = Cluster::start_in(dir.path(), &[]).await;
    let mut redis = cluster.redis().await;
    let () = redis.set("kept", 1).await.unwrap();
    let drained = tercet(&["drain", "w3", "--data-dir", data_dir]).await;
    assert!(drained.status.success(), "{drained:?}");
    cluster.stop().await;
    std::fs::remove_dir_all(dir.path().join("databases/w3")).unwrap();

    let cluster = Cluster::start_in(dir.path(), &[]).await;
    let parts = cluster.parts().await;
    let workers: Vec<&str> = parts.iter().filter(|p| p.kind == "worker").map(|p| p.id.as_str()).collect();
    assert_eq!(workers, ["w1", "w2", "w4"]);
    let mut redis = cluster.redis().await;
    assert_eq!(redis.get::<_, i64>("kept").await.unwrap(), 1);
    cluster.stop().await;

    // That of any other must be there.
    std::fs::remove_dir_all(dir.path().join("databases/w2")).unwrap();
    let args = ["up", "--resp=127.0.0.1:0", "--rest=127.0.0.1:0", "--data-dir", data_dir];
    let why = text(&tercet(&args).await.stderr);
    assert!(why.contains("the database of w2 is not in"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ephemeral_cluster_removes_its_data() {
    let args = ["--ephemeral", "--workers=3", "--resp=127.0.0.1:0", "--rest=127.0.0.1:0"];
    let cluster = Cluster::try_start(&args, &[]).await.expect("it starts");
    let dir = cluster.data_dir().to_owned();
    assert!(dir.exists());
    cluster.stop().await;
    assert!(!dir.exists(), "{} is still there", dir.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_is_named() {
    let cluster = shared().await;
    let dir = cluster.data_dir().display().to_string();
    let second = tercet(&["up", "--data-dir", &dir, "--resp=127.0.0.1:0", "--rest=127.0.0.1:0"]).await;
    assert_eq!(second.status.code(), Some(1));
    let why = text(&second.stderr);
    assert!(why.contains("another `tercet up`") && why.contains(&cluster.pid().to_string()), "{why}");

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    for (flag, other) in [("--resp", "--rest"), ("--rest", "--resp")] {
        let refused = tercet(&["up", "--ephemeral", flag, &taken, other, "127.0.0.1:0"]).await;
        assert_eq!(refused.status.code(), Some(1));
        let why = text(&refused.stderr);
        assert!(why.contains(&taken) && why.contains(flag), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_node_speak_to_people_and_scripts() {
    let cluster = shared().await;
    let dir = cluster.data_dir().display().to_string();
    let json = tercet(&["status", "--json", "--data-dir", &dir]).await;
    assert_eq!(json.status.code(), Some(0));
    let status: ClusterStatus = serde_json::from_slice(&json.stdout).unwrap();
    assert!(status.ready && status.epoch > 0 && status.replicas == 3);
    assert_eq!((status.partitions.total, status.partitions.unavailable), (1024, 0));
    let roles: usize = status.workers.iter().map(|worker| worker.partitions).sum();
    assert_eq!(roles, 3 * 1024, "every partition has three replicas");

    let table = text(&tercet(&["status", "--data-dir", &dir]).await.stdout);
    assert!(["w1", "w2", "w3", "w4", "alive", "epoch"].iter().all(|word| table.contains(word)), "{table}");
    let address = cluster.rest_address().to_string();
    assert_eq!(tercet(&["status", "--rest", &address]).await.status.code(), Some(0));
    let health = format!("http://{address}/readyz");
    assert_eq!(tercet(&["healthcheck", &health]).await.status.code(), Some(0));

    let parts = cluster.parts().await;
    let mut ids: Vec<&str> = parts.iter().map(|part| part.id.as_str()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["frontend", "w1", "w1-db", "w2", "w2-db", "w3", "w3-db", "w4", "w4-db"]);
    for part in &parts {
        let kind = match part.id.as_str() {
            "frontend" => "frontend",
            id if id.ends_with("-db") => "database",
            _ => "worker",
        };
        assert_eq!((part.kind.as_str(), part.state.as_str()), (kind, "running"), "{part:?}");
        assert!(part.pid.is_some() && part.log.exists() && !part.address.is_empty(), "{part:?}");
    }
    let table = text(&tercet(&["node", "list", "--data-dir", &dir]).await.stdout);
    assert!(table.contains("w4-db") && table.contains("running"), "{table}");

    let unknown = tercet(&["node", "kill", "w9", "--data-dir", &dir]).await;
    assert_eq!(unknown.status.code(), Some(1));
    assert!(text(&unknown.stderr).contains("w9"), "{}", text(&unknown.stderr));
    let running = tercet(&["node", "start", "w1", "--data-dir", &dir]).await;
    assert!(text(&running.stderr).contains("runs already"), "{}", text(&running.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_runs_is_said() {
    let dir = directory();
    let dir = dir.path().to_str().unwrap();
    for args in [&["node", "list", "--data-dir", dir][..], &["status", "--data-dir", dir]] {
        let output = tercet(args).await;
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(text(&output.stderr).contains("no cluster runs"), "{}", text(&output.stderr));
    }
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let status = tercet(&["status", "--rest", &nobody.to_string()]).await;
    assert_eq!(status.status.code(), Some(2));
    assert_eq!(tercet(&["healthcheck", &format!("http://{nobody}/readyz")]).await.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_explains_itself() {
    for shell in ["bash", "zsh", "fish"] {
        let output = tercet(&["completions", shell]).await;
        assert!(output.status.success() && text(&output.stdout).contains("tercet"), "{shell}");
    }
    for (args, words) in [
        (&["--help"][..], &["node kill", "status"][..]),
        (&["up", "--help"], &["--ephemeral", "--data-dir"]),
        (&["frontend", "--help"], &["--request-timeout", "TERCET_"]),
        (&["worker", "--help"], &["--postgres", "TERCET_"]),
    ] {
        let help = text(&tercet(args).await.stdout);
        assert!(words.iter().all(|word| help.contains(word)), "{args:?}:\n{help}");
    }
    // All that is wrong is told at once.
    let wrong = tercet(&["frontend", "--workers=w1,w1", "--clients-max=none", "--hedge-after=9s"]).await;
    assert_eq!(wrong.status.code(), Some(2));
    let why = text(&wrong.stderr);
    assert!(["workers", "clients-max", "hedge-after"].iter().all(|name| why.contains(name)), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_asked_of_everyone() {
    let dir = directory();
    let dir = format!("--data-dir={}", dir.path().display());
    let args = ["--workers=3", "--resp=0.0.0.0:0", "--rest=0.0.0.0:0", &dir];
    let env = [("TERCET_PASSWORD", "open sesame")];
    let cluster = Cluster::try_start(&args, &env).await.expect("it starts");
    let resp = ([127, 0, 0, 1], cluster.resp().port()).into();

    let mut client = Client::connect(resp).await;
    for command in ["GET k", "SET k v", "INFO", "COMMAND", "CLIENT LIST"] {
        assert_eq!(
            client.command(command).await.expect_error(),
            "NOAUTH Authentication required.",
            "{command}"
        );
    }
    let wrong = "WRONGPASS invalid username-password pair or user is disabled.";
    assert_eq!(client.command("AUTH wrong").await.expect_error(), wrong);
    assert_eq!(client.call(&["AUTH", "nobody", "open sesame"]).await.expect_error(), wrong);
    assert_eq!(client.call(&["HELLO", "3", "AUTH", "default", "wrong"]).await.expect_error(), wrong);
    assert!(client.command("HELLO 3").await.expect_error().starts_with("NOAUTH "));
    assert_eq!(client.call(&["AUTH", "open sesame"]).await, Reply::ok());
    assert_eq!(client.command("SET k v").await, Reply::ok());
    assert_eq!(client.command("RESET").await.to_string(), "RESET");
    assert!(client.command("GET k").await.expect_error().starts_with("NOAUTH "), "RESET forgets who it was");
    assert!(matches!(client.call(&["HELLO", "3", "AUTH", "default", "open sesame"]).await, Reply::Map(_)));
    assert_eq!(client.command("GET k").await, Reply::bulk("v"));

    // Before AUTH, little is listened to.
    let mut stranger = Client::connect(resp).await;
    stranger.send(b"*11\r\n").await;
    assert_eq!(stranger.reply().await.expect_error(), "ERR Protocol error: unauthenticated multibulk length");
    stranger.expect_closed().await;
    let mut stranger = Client::connect(resp).await;
    stranger.send(b"*2\r\n$16385\r\n").await;
    assert_eq!(stranger.reply().await.expect_error(), "ERR Protocol error: unauthenticated bulk length");
    stranger.expect_closed().await;

    let rest = Rest::new(([127, 0, 0, 1], cluster.rest_address().port()).into());
    for path in ["/api/kv/k", "/metrics", "/admin/status", "/api/kv/workers"] {
        rest.get(path).await.assert_problem(401, "unauthorized");
        let wrong = rest.request(Method::GET, path).bearer_auth("wrong");
        http::send(wrong).await.unwrap().assert_problem(401, "unauthorized");
        let right = rest.request(Method::GET, path).bearer_auth("open sesame");
        assert_eq!(http::send(right).await.unwrap().status, 200, "{path}");
    }
    assert_eq!(rest.get("/healthz").await.status, 200);
    assert_eq!(rest.get("/readyz").await.status, 200);
    // On this machine `tercet status` finds the password where the cluster runs.
    let dir = cluster.data_dir().display().to_string();
    assert_eq!(tercet(&["status", "--data-dir", &dir]).await.status.code(), Some(0));
    let processes = processes::of_directory(cluster.data_dir()).join("\n");
    assert!(!processes.contains("open sesame"), "the password is in no process list");
}

/// A cluster that other machines could reach, and no password.
#[tokio::test(flavor = "multi_thread")]
async fn protected_mode_keeps_strangers_out() {
    let Some(own_address) = own_address() else {
        eprintln!("skipped: this machine has no address but loopback");
        return;
    };
    let dir = directory();
    let dir = format!("--data-dir={}", dir.path().display());
    let args = ["--workers=3", "--resp=0.0.0.0:0", "--rest=0.0.0.0:0", &dir];
    let cluster = Cluster::try_start(&args, &[]).await.expect("it starts");
    let mut stranger = Client::connect((own_address, cluster.resp().port()).into()).await;
    let refusal = stranger.reply().await;
    assert!(refusal.expect_error().starts_with("DENIED "), "{refusal}");
    assert!(refusal.expect_error().contains("protected mode"), "{refusal}");
    stranger.expect_closed().await;
    let rest = Rest::new((own_address, cluster.rest_address().port()).into());
    rest.get("/api/kv/k").await.assert_problem(403, "protected-mode");
    assert_eq!(rest.get("/readyz").await.status, 200);
    // The same machine is no stranger to Redis.
    let mut local = Client::connect(([127, 0, 0, 1], cluster.resp().port()).into()).await;
    assert_eq!(local.command("SET k v").await, Reply::ok());
}

/// An address of this machine that is not loopback. No packet is sent: connecting a UDP socket only looks up the route.
fn own_address() -> Option<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback() && !ip.is_unspecified()).then_some(ip)
}
