//! One connection of the closed loop.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::wire::{Reply, Scan, scan};
use super::{OVER, Sections, Shared};

pub(super) const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
pub(super) const READ_BYTES: usize = 16 << 10;

/// Until there is nothing more to send and every answer has come.
pub(super) async fn run(shared: Arc<Shared>) -> anyhow::Result<Sections> {
    let connecting = tokio::time::timeout(CONNECT_DEADLINE, TcpStream::connect(shared.at)).await;
    let mut stream = connecting.context("connecting took too long")?.context("connecting")?;
    stream.set_nodelay(true)?;
    let mut rng = rand::make_rng();
    let (mut out, mut key) = (Vec::new(), Vec::new());
    let mut input = BytesMut::with_capacity(READ_BYTES);
    let mut sent = VecDeque::with_capacity(shared.pipeline);
    let mut sections = Sections::default();
    let (mut more, mut lacks) = (true, 0);
    loop {
        let now = Instant::now();
        more = more && shared.section.load(Ordering::Relaxed) != OVER;
        while more && sent.len() < shared.pipeline {
            more = shared.source.next(&mut out, &mut key, &mut rng);
            if more {
                sent.push_back(now);
            }
        }
        if sent.is_empty() {
            return Ok(sections);
        }
        if !out.is_empty() {
            stream.write_all(&out).await.context("sending")?;
            out.clear();
        }
        input.reserve(lacks.max(READ_BYTES));
        if stream.read_buf(&mut input).await.context("receiving")? == 0 {
            bail!("the server closed the connection");
        }
        lacks = answers(&shared, &mut input, &mut sent, &mut sections)?;
    }
}

/// Takes the whole answers out of `input`; how many bytes the next one still lacks, at least.
fn answers(
    shared: &Shared,
    input: &mut BytesMut,
    sent: &mut VecDeque<Instant>,
    sections: &mut Sections,
) -> anyhow::Result<usize> {
    let now = Instant::now();
    let section = shared.section.load(Ordering::Relaxed);
    let mut done = 0;
    let mut lacks = 0;
    while !input.is_empty() {
        let (reply, length) = match scan(input)? {
            Scan::Whole(reply, length) => (reply, length),
            Scan::Incomplete(length) => {
                lacks = length - input.len();
                break;
            }
        };
        let Some(at) = sent.pop_front() else { bail!("an answer to nothing") };
        match reply {
            Reply::Done | Reply::Value(_) => {
                done += 1;
                if section != OVER {
                    sections.of(section).took(now - at);
                }
            }
            // What was still under way at the end is not part of it, but a failure is a failure.
            Reply::Absent => sections.last(section).failed(|| "a key was absent".to_owned()),
            Reply::Error(text) => {
                sections.last(section).failed(|| String::from_utf8_lossy(text).into_owned());
            }
        }
        input.advance(length);
    }
    if done > 0 {
        shared.done.fetch_add(done, Ordering::Relaxed);
    }
    Ok(lacks)
}
