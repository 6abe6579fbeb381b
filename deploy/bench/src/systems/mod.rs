//! What is measured: Tercet, and what people would use instead. Each system is started here, in a directory of its own,
//! and ends with its handle.
//!
//! Every system must be durable: what it acknowledges is on the disk, of as many machines as it was told. That is asked
//! of the running servers before and after each measurement ([`System::check_durable`]); a system that has been
//! configured to be faster than that is not measured.

mod account;
pub(crate) mod bare;
mod command;
mod durable;
mod etcd;
mod pgbench;
mod postgres;
mod redis;
pub(crate) mod status;
pub(crate) mod tercet;
pub(crate) mod usage;

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Serialize;
use tercet_harness::binary::Binary;

use self::etcd::Etcd;
use self::postgres::Postgres;
use self::redis::Redis;
use self::tercet::Tercet;
use crate::load;
use crate::load::work::Work;
use crate::sample::{Sample, Span};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// Four workers, three copies.
    Tercet4,
    /// Three workers, three copies.
    Tercet3,
    /// A primary and two standbys, one of which must have the commit on its disk before it is acknowledged.
    Trio,
    /// One PostgreSQL.
    Postgres,
    /// One redis-server that syncs before it answers.
    Redis,
    /// Three members.
    Etcd,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tercet4 => "Tercet, 4 workers",
            Self::Tercet3 => "Tercet, 3 workers",
            Self::Trio => "synchronous PostgreSQL trio",
            Self::Postgres => "one PostgreSQL",
            Self::Redis => "one Redis, appendfsync always",
            Self::Etcd => "etcd, 3 members",
        }
    }
}

/// Where systems are started, and with which programs.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Their data go into directories of their own in here.
    pub(crate) dir: PathBuf,
    pub(crate) tercet: Binary,
    /// PostgreSQL's programs.
    pub(crate) postgres: PathBuf,
}

#[derive(Debug)]
pub(crate) enum System {
    Tercet(Tercet),
    Postgres(Postgres),
    Redis(Redis),
    Etcd(Etcd),
}

impl System {
    /// `None`: it is not installed.
    pub(crate) async fn start(kind: Kind, place: &Place) -> anyhow::Result<Option<Self>> {
        Ok(match kind {
            Kind::Tercet4 => Some(Self::Tercet(Tercet::start(place, 4).await?)),
            Kind::Tercet3 => Some(Self::Tercet(Tercet::start(place, 3).await?)),
            Kind::Trio => Some(Self::Postgres(Postgres::start(place, 2).await?)),
            Kind::Postgres => Some(Self::Postgres(Postgres::start(place, 0).await?)),
            Kind::Redis => Redis::start(place).await?.map(Self::Redis),
            Kind::Etcd => Etcd::start(place).await?.map(Self::Etcd),
        })
    }

    /// Stores all keys of the work, once per size of values.
    pub(crate) async fn fill(&mut self, work: Work) -> anyhow::Result<()> {
        match self {
            Self::Tercet(tercet) => fill(tercet.resp(), &mut tercet.filled, work).await,
            Self::Redis(redis) => fill(redis.resp(), &mut redis.filled, work).await,
            Self::Postgres(postgres) => postgres.fill(work).await,
            Self::Etcd(etcd) => etcd.fill(work).await,
        }
    }

    pub(crate) async fn measure(&self, work: Work, span: Span) -> anyhow::Result<Sample> {
        match self {
            Self::Tercet(tercet) => load::measure(tercet.resp(), work, span).await,
            Self::Redis(redis) => load::measure(redis.resp(), work, span).await,
            Self::Postgres(postgres) => postgres.measure(work, span).await,
            Self::Etcd(etcd) => etcd.measure(work, span).await,
        }
    }

    /// An error unless every server of it promises what it is measured for.
    pub(crate) async fn check_durable(&self) -> anyhow::Result<()> {
        match self {
            Self::Tercet(tercet) => tercet.check_durable().await,
            Self::Redis(redis) => redis.check_durable().await,
            Self::Postgres(postgres) => postgres.check_durable().await,
            Self::Etcd(etcd) => etcd.check_durable().await,
        }
    }

    /// In order. Dropped, it ends at once.
    pub(crate) async fn end(self) -> anyhow::Result<()> {
        match self {
            Self::Tercet(mut tercet) => tercet.end().await,
            Self::Redis(_) | Self::Postgres(_) | Self::Etcd(_) => Ok(()),
        }
    }
}

async fn fill(at: SocketAddr, filled: &mut Vec<usize>, work: Work) -> anyhow::Result<()> {
    if !filled.contains(&work.value_bytes) {
        load::fill(at, work).await?;
        filled.push(work.value_bytes);
    }
    Ok(())
}
