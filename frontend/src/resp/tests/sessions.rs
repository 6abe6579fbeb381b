//! AUTH, HELLO, SELECT, QUIT, RESET, CLIENT.

use super::support::TestServer;
use crate::resp::connection::End;

#[tokio::test]
async fn greetings_in_both_versions() {
    let server = TestServer::new();
    let mut client = server.connect();
    client.ask("PING", "+PONG\r\n").await;
    client.ask("ping \"a b\"", "$3\r\na b\r\n").await;
    client.ask("PING a b", "-ERR wrong number of arguments for 'ping' command\r\n").await;
    client.ask("ECHO x", "$1\r\nx\r\n").await;
    let two = "$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n7.2.4\r\n$5\r\nproto\r\n:2\r\n$2\r\nid\r\n:1\r\n\
               $4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n";
    client.ask("HELLO", &format!("*14\r\n{two}")).await;
    client.ask("HELLO 3", &format!("%7\r\n{}", two.replace(":2\r\n", ":3\r\n"))).await;
    client.ask("CLIENT GETNAME", "_\r\n").await;
    client.ask("HELLO 2 SETNAME me", &format!("*14\r\n{two}")).await;
    client.ask("CLIENT GETNAME", "$2\r\nme\r\n").await;
}

#[tokio::test]
async fn hello_refuses_what_it_does_not_know() {
    let server = TestServer::new();
    let mut client = server.connect();
    client.ask("HELLO 4", "-NOPROTO unsupported protocol version\r\n").await;
    client.ask("HELLO x", "-ERR Protocol version is not an integer or out of range\r\n").await;
    client.ask("HELLO 3 NOPE", "-ERR Syntax error in HELLO option 'NOPE'\r\n").await;
    client.ask("HELLO 3 AUTH a", "-ERR Syntax error in HELLO option 'AUTH'\r\n").await;
    client
        .ask(
            "HELLO 3 SETNAME \"a b\"",
            "-ERR Client names cannot contain spaces, newlines or special characters.\r\n",
        )
        .await;
    client.ask("CLIENT GETNAME", "$-1\r\n").await;
}

#[tokio::test]
async fn nothing_is_done_before_authentication() {
    let server = TestServer::with_password("secret");
    let mut client = server.connect();
    client.ask("GET k", "-NOAUTH Authentication required.\r\n").await;
    client.ask("PING", "-NOAUTH Authentication required.\r\n").await;
    client.ask("NOPE", "-ERR unknown command 'NOPE', with args beginning with: \r\n").await;
    client.send("HELLO 3\r\n").await;
    client.expect("-NOAUTH HELLO must be called with the client already authenticated, otherwise the ").await;
    client
        .expect(
            "HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP \
             protocol version at the same time\r\n",
        )
        .await;
    let wrong = "-WRONGPASS invalid username-password pair or user is disabled.\r\n";
    client.ask("AUTH wrong", wrong).await;
    client.ask("AUTH nobody secret", wrong).await;
    client.ask("HELLO 3 AUTH default wrong", wrong).await;
    client.ask("AUTH a b c", "-ERR syntax error\r\n").await;
    client.ask("AUTH secret", "+OK\r\n").await;
    client.ask("GET k", "$-1\r\n").await;
    client.ask("RESET", "+RESET\r\n").await;
    client.ask("GET k", "-NOAUTH Authentication required.\r\n").await;
    client.ask("AUTH default secret", "+OK\r\n").await;
    client.ask("GET k", "$-1\r\n").await;
    assert_eq!(server.engine.submitted(), 2);
}

#[tokio::test]
async fn auth_without_a_password_setting() {
    let server = TestServer::new();
    let mut client = server.connect();
    client
        .ask(
            "AUTH x",
            "-ERR AUTH <password> called without any password configured for the default user. Are you sure your \
             configuration is correct?\r\n",
        )
        .await;
    client.ask("AUTH default anything", "+OK\r\n").await;
}

#[tokio::test]
async fn there_is_one_database() {
    let server = TestServer::new();
    let mut client = server.connect();
    client.ask("SELECT 0", "+OK\r\n").await;
    client.ask("SELECT 1", "-ERR DB index is out of range\r\n").await;
    client
        .ask(
            "SELECT 2147483648",
            "-ERR value is out of range, value must between -2147483648 and 2147483647\r\n",
        )
        .await;
    client.ask("SELECT x", "-ERR value is not an integer or out of range\r\n").await;
}

#[tokio::test]
async fn quit_answers_what_came_before_and_nothing_after() {
    let server = TestServer::new();
    let mut client = server.connect();
    client.send("PING\r\nQUIT\r\nPING\r\n").await;
    let (rest, end) = client.closed().await;
    assert_eq!(rest, "+PONG\n+OK\n");
    assert!(matches!(end, End::Closed));
    assert!(server.gateway.clients.is_empty());
}

#[tokio::test]
async fn replies_can_be_switched_off() {
    let server = TestServer::new();
    let mut client = server.connect();
    client.send("CLIENT REPLY SKIP\r\nPING skipped\r\nPING 1\r\n").await;
    client.expect("$1\r\n1\r\n").await;
    client.send("CLIENT REPLY OFF\r\nPING off\r\nNOPE\r\nGET k\r\nCLIENT REPLY ON\r\nPING 2\r\n").await;
    client.expect("+OK\r\n$1\r\n2\r\n").await;
    client.ask("CLIENT REPLY maybe", "-ERR syntax error\r\n").await;
}

#[tokio::test]
async fn clients_describe_themselves() {
    let server = TestServer::new();
    let mut client = server.connect();
    client.ask("CLIENT ID", ":1\r\n").await;
    client.ask("CLIENT SETINFO LIB-NAME lib", "+OK\r\n").await;
    client.ask("CLIENT SETINFO lib-ver 1.2", "+OK\r\n").await;
    client.ask("CLIENT SETINFO x y", "-ERR Unrecognized option 'x'\r\n").await;
    client
        .ask(
            "CLIENT SETINFO lib-ver \"a b\"",
            "-ERR lib-ver cannot contain spaces, newlines or special characters.\r\n",
        )
        .await;
    client.ask("CLIENT NO-EVICT on", "+OK\r\n").await;
    client.ask("CLIENT NO-TOUCH on", "+OK\r\n").await;
    client.ask("CLIENT SETNAME me", "+OK\r\n").await;
    let info = client.ask_text("CLIENT INFO").await;
    assert!(
        info.starts_with(
            "id=1 addr=127.0.0.1:5000 laddr=127.0.0.1:6379 fd=8 name=me age=0 idle=0 flags=eT db=0 "
        ),
        "{info}"
    );
    assert!(
        info.ends_with("events=r cmd=client|info user=default redir=-1 resp=2 lib-name=lib lib-ver=1.2\n"),
        "{info}"
    );
    client.ask("CLIENT TRACKING ON", "-ERR unknown subcommand 'TRACKING'. Try CLIENT HELP.\r\n").await;
}

#[tokio::test]
async fn clients_are_listed_and_killed() {
    let server = TestServer::new();
    let mut first = server.connect();
    let mut second = server.connect();
    let third = server.connect();
    second.ask("PING", "+PONG\r\n").await;
    assert_eq!(first.ask_text("CLIENT LIST").await.lines().count(), 3);
    assert_eq!(first.ask_text("CLIENT LIST ID 2 3 99").await.lines().count(), 2);
    assert_eq!(first.ask_text("CLIENT LIST TYPE pubsub").await, "");
    first.ask("CLIENT LIST ID x", "-ERR Invalid client ID\r\n").await;
    first.ask("CLIENT LIST TYPE x", "-ERR Unknown client type 'x'\r\n").await;
    first.ask("CLIENT KILL 1.2.3.4:5", "-ERR No such client\r\n").await;
    first.ask("CLIENT KILL ID 0", "-ERR client-id should be greater than 0\r\n").await;
    first.ask("CLIENT KILL USER x", "-ERR No such user 'x'\r\n").await;
    first.ask("CLIENT KILL ID 99", ":0\r\n").await;
    first.ask("CLIENT KILL ID", "-ERR No such client\r\n").await;
    first.ask("CLIENT KILL ID 2 SKIPME", "-ERR syntax error\r\n").await;
    first.ask("CLIENT KILL ID 2", ":1\r\n").await;
    assert!(matches!(second.closed().await, (rest, End::Killed) if rest.is_empty()));
    first.ask("CLIENT KILL TYPE normal", ":1\r\n").await;
    assert!(matches!(third.closed().await.1, End::Killed));
    first.ask("CLIENT KILL ADDR 127.0.0.1:5000 SKIPME no", ":1\r\n").await;
    assert!(matches!(first.closed().await.1, End::Closed));
}

#[tokio::test]
async fn a_pause_holds_up_and_ends() {
    let server = TestServer::new();
    let mut operator = server.connect();
    let mut client = server.connect();
    operator.ask("CLIENT PAUSE x", "-ERR timeout is not an integer or out of range\r\n").await;
    operator.ask("CLIENT PAUSE -1", "-ERR timeout is negative\r\n").await;
    let surplus = "-ERR unknown subcommand or wrong number of arguments for 'PAUSE'. Try CLIENT HELP.\r\n";
    operator.ask("CLIENT PAUSE 1 ALL x", surplus).await;
    operator.ask("CLIENT PAUSE 1 NO", "-ERR CLIENT PAUSE mode must be WRITE or ALL\r\n").await;
    operator.ask("CLIENT PAUSE 86400000 WRITE", "+OK\r\n").await;
    client.ask("GET k", "$-1\r\n").await;
    client.send("SET k v\r\nGET k\r\n").await;
    operator.ask("GET k", "$-1\r\n").await;
    operator.ask("CLIENT UNPAUSE", "+OK\r\n").await;
    client.expect("+OK\r\n$1\r\nv\r\n").await;
    operator.ask("CLIENT PAUSE 86400000", "+OK\r\n").await;
    client.send("PING\r\n").await;
    operator.ask("CLIENT UNPAUSE", "+OK\r\n").await;
    client.expect("+PONG\r\n").await;
    // This one ends by itself.
    operator.ask("CLIENT PAUSE 20", "+OK\r\n").await;
    client.ask("PING", "+PONG\r\n").await;
}
