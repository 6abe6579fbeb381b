//! A whole connection: scanner, table, pipeline, session commands, encoder, over an engine in memory.
//!
//! It always ends, every byte it sends is part of a sound reply, and how commands are pipelined makes no
//! difference: where no command asks for the time, chance or the server's own state, the stream sent in one piece gets
//! the bytes that it gets when sent in small ones.
//!
//! Input: one byte of switches, then the stream.

#![no_main]

use std::cell::LazyCell;
use std::sync::Arc;

use bytes::BytesMut;
use libfuzzer_sys::{Corpus, fuzz_target};
use tercet_frontend::Config;
use tercet_frontend::config::Secret;
use tercet_frontend::resp::clients::Peer;
use tercet_frontend::resp::command::Handler;
use tercet_frontend::resp::command::table::TABLE;
use tercet_frontend::resp::connection::Connection;
use tercet_frontend::resp::gateway::Gateway;
use tercet_frontend::resp::scanner::{Limits, Scanner};
use tercet_fuzz::replies;
use tercet_fuzz::store::{Store, VALUE_BYTES_MAX};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

thread_local! {
    static STORE: LazyCell<Store> = LazyCell::new(Store::default);
}

fuzz_target!(|input: &[u8]| -> Corpus {
    let [switches, stream @ ..] = input else { return Corpus::Reject };
    STORE.with(|store| run(store, *switches, stream))
});

fn run(store: &Store, switches: u8, stream: &[u8]) -> Corpus {
    let seen = Seen::of(stream);
    if seen.waits {
        return Corpus::Reject;
    }
    let password = switches & 1 == 1;
    let answer = converse(store, stream, stream.len().max(1), password);
    assert!(replies::count(&answer).is_some(), "unsound replies: {}", answer.escape_ascii());
    if seen.repeatable {
        let piece = 1 + usize::from(switches >> 1);
        let pieces = converse(store, stream, piece, password);
        assert!(
            answer == pieces,
            "in one piece: {}\nin pieces of {piece}: {}",
            answer.escape_ascii(),
            pieces.escape_ascii()
        );
    }
    Corpus::Keep
}

/// What the commands of a stream are like.
struct Seen {
    /// Some wait for a real clock: CLIENT PAUSE, DEBUG SLEEP.
    waits: bool,
    /// The replies depend on the stream alone.
    repeatable: bool,
}

impl Seen {
    fn of(stream: &[u8]) -> Self {
        let limits = Limits {
            authenticated: true,
            bulk_bytes_max: VALUE_BYTES_MAX,
            command_bytes_max: 4 * VALUE_BYTES_MAX,
        };
        let (mut scanner, mut buf) = (Scanner::default(), BytesMut::from(stream));
        let mut seen = Self { waits: false, repeatable: true };
        while let Ok(Some(words)) = scanner.next(&mut buf, &limits) {
            // HTTP is hung up on at once, and what was under way may or may not be answered before.
            seen.repeatable &=
                !words[0].eq_ignore_ascii_case(b"post") && !words[0].eq_ignore_ascii_case(b"host:");
            let Ok(entry) = TABLE.resolve(&words) else { continue };
            seen.waits |= matches!(entry.name, "client|pause" | "debug|sleep");
            seen.repeatable &= matches!(entry.spec.run, Handler::Data(_)) && entry.name != "randomkey";
        }
        seen
    }
}

/// Everything that the server sends until it hangs up.
fn converse(store: &Store, stream: &[u8], piece: usize, password: bool) -> Vec<u8> {
    store.clear();
    let mut config = Config::new(Vec::new());
    config.value_bytes_max = VALUE_BYTES_MAX;
    config.password = password.then(|| Secret::new("secret"));
    let gateway = Arc::new(Gateway::new(Arc::new(config), store.coordinator.clone(), &TABLE, 6379));
    let (ours, theirs) = duplex(64 * 1024);
    let peer = Peer { remote: "127.0.0.1:5000".into(), local: "127.0.0.1:6379".into(), fd: 8 };
    let connection = Connection::new(theirs, gateway.clone(), gateway.clients.enter(peer));
    let (mut receiver, mut sender) = tokio::io::split(ours);
    store.runtime.block_on(async {
        let send = async {
            for piece in stream.chunks(piece) {
                // The server may hang up first.
                if sender.write_all(piece).await.is_err() {
                    return;
                }
                tokio::task::yield_now().await;
            }
            let _ = sender.shutdown().await;
        };
        let receive = async {
            let mut answer = Vec::new();
            receiver.read_to_end(&mut answer).await.expect("a pipe in memory can be read");
            answer
        };
        tokio::join!(connection.run(), send, receive).2
    })
}
