//! How `tercet node` talks to the running `tercet up`: one line of JSON each way over a unix socket that only the
//! cluster's owner may open.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::part::{Action, Handle, PartStatus};

const REQUEST_BYTES_MAX: u64 = 4 * 1024;
const ANSWER_BYTES_MAX: u64 = 1024 * 1024;
const CONNECTIONS_MAX: usize = 16;
/// A caller says what it wants at once.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);
/// The slowest action is a database's start after a crash (five minutes), then its end.
const ANSWER_DEADLINE: Duration = Duration::from_secs(400);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(crate) enum Request {
    List,
    Act {
        action: Action,
        id: String,
    },
    /// One more worker with a database.
    Add,
    /// To look at the ring at once: a worker has been drained, or is to stay.
    Look,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub(crate) enum Answer {
    Parts { parts: Vec<PartStatus> },
    Done { message: String },
    Failed { error: String },
}

pub(super) type LocalBoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// What the socket's callers may ask for. Outcomes are sentences either way.
pub(super) trait Supervised: 'static {
    fn parts(&self) -> Vec<Handle>;
    fn add_worker(&self) -> LocalBoxFuture<'_, Result<String, String>>;
    fn look(&self) -> LocalBoxFuture<'_, ()>;
    /// Tells the supervisor's own terminal what was done.
    fn said(&self, text: &str);
}

/// Opens the socket at `path`, for its owner only.
pub(super) fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing {}", path.display()));
        }
        _ => {}
    }
    // Not chmod afterwards: between the two others could connect. Nothing else runs that creates files.
    let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    nix::sys::stat::umask(before);
    listener.with_context(|| format!("listening on {}", path.display()))
}

/// Answers callers until it is dropped.
pub(super) async fn serve(listener: UnixListener, cluster: Rc<impl Supervised>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, most likely: nothing gets better by trying again at once.
                tracing::warn!(%error, "accepting on the control socket failed");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let cluster = Rc::clone(&cluster);
        tokio::task::spawn_local(async move {
            let _permit = permit;
            if let Err(error) = converse(stream, &*cluster).await {
                tracing::debug!(error = format!("{error:#}"), "a control connection failed");
            }
        });
    }
}

async fn converse(mut stream: UnixStream, cluster: &impl Supervised) -> anyhow::Result<()> {
    let (read, mut write) = stream.split();
    let mut line = String::new();
    let mut reader = tokio::io::BufReader::new(read.take(REQUEST_BYTES_MAX));
    tokio::time::timeout(REQUEST_DEADLINE, reader.read_line(&mut line)).await??;
    if line.is_empty() {
        // Only looked whether somebody is here.
        return Ok(());
    }
    let answer = match serde_json::from_str(&line) {
        Ok(request) => respond(request, cluster).await,
        Err(error) => Answer::Failed { error: format!("not a request: {error}") },
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    tokio::time::timeout(REQUEST_DEADLINE, write.write_all(&text)).await??;
    Ok(())
}

async fn respond(request: Request, cluster: &impl Supervised) -> Answer {
    let parts = cluster.parts();
    let done = |outcome: Result<String, String>| match outcome {
        Ok(message) => {
            cluster.said(&message);
            Answer::Done { message }
        }
        Err(error) => Answer::Failed { error },
    };
    match request {
        Request::List => Answer::Parts { parts: parts.iter().map(Handle::status).collect() },
        Request::Add => done(cluster.add_worker().await),
        Request::Look => {
            cluster.look().await;
            Answer::Done { message: "looked at the ring".to_owned() }
        }
        Request::Act { action, id } => match parts.iter().find(|part| part.id() == id) {
            None => {
                let ids: Vec<&str> = parts.iter().map(Handle::id).collect();
                let shown: String = id.chars().take(80).collect();
                Answer::Failed { error: format!("there is no part {shown:?}; there are {}", ids.join(", ")) }
            }
            Some(part) => done(part.act(action).await),
        },
    }
}

/// Asks the supervisor behind `socket`.
pub(crate) fn ask(socket: &Path, request: &Request) -> anyhow::Result<Answer> {
    let mut stream = std::os::unix::net::UnixStream::connect(socket)
        .with_context(|| format!("`tercet up` does not answer on {}", socket.display()))?;
    stream.set_read_timeout(Some(ANSWER_DEADLINE))?;
    stream.set_write_timeout(Some(REQUEST_DEADLINE))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line).context("asking `tercet up`")?;
    let mut answer = String::new();
    BufReader::new(stream.take(ANSWER_BYTES_MAX))
        .read_line(&mut answer)
        .context("waiting for `tercet up`")?;
    if answer.is_empty() {
        bail!("`tercet up` ended before it answered");
    }
    serde_json::from_str(&answer).context("reading the answer of `tercet up`")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    struct Nothing;

    impl Supervised for Nothing {
        fn parts(&self) -> Vec<Handle> {
            Vec::new()
        }

        fn add_worker(&self) -> LocalBoxFuture<'_, Result<String, String>> {
            Box::pin(async { Err("no room".to_owned()) })
        }

        fn look(&self) -> LocalBoxFuture<'_, ()> {
            Box::pin(async {})
        }

        fn said(&self, _: &str) {}
    }

    #[tokio::test]
    async fn answers_lists_and_nonsense_and_lets_only_the_owner_in() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let listener = listen(&path).unwrap();
                assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
                tokio::task::spawn_local(serve(listener, Rc::new(Nothing)));
                let call = |request: Request| {
                    let path = path.clone();
                    tokio::task::spawn_blocking(move || ask(&path, &request).unwrap())
                };
                assert!(
                    matches!(call(Request::List).await.unwrap(), Answer::Parts { parts } if parts.is_empty())
                );
                let kill = Request::Act { action: Action::Kill, id: "w9".to_owned() };
                assert!(
                    matches!(call(kill).await.unwrap(), Answer::Failed { error } if error.contains("w9"))
                );

                assert!(
                    matches!(call(Request::Add).await.unwrap(), Answer::Failed { error } if error == "no room")
                );

                let mut stream = UnixStream::connect(&path).await.unwrap();
                stream.write_all(&[b'['; 8192]).await.unwrap();
                let mut answer = String::new();
                // The server has read no more than its bound, so the rest may reset the connection.
                let _ = stream.read_to_string(&mut answer).await;
                assert!(answer.is_empty() || answer.contains("not a request"), "{answer}");
                assert!(matches!(call(Request::List).await.unwrap(), Answer::Parts { .. }), "still alive");
            })
            .await;
    }
}
