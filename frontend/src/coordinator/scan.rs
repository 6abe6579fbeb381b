//! Listing keys: every worker that can be reached gives its page of the same range, and the pages are merged.
//!
//! A key that a quorum acknowledged is on two of its three replicas; as long as at most one replica of each partition is
//! out of reach, at least one page has it. For each key the highest ballot wins, tombstones included, so a stale copy does
//! not show a deleted key. Weak all the same: pages are read one after the other, and while clients write.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tercet_common::quorum::majority;
use tercet_common::{Content, KeyHash, PARTITIONS, PartitionId, Row, UnixMillis};
use tercet_proto::v1;

use super::api::{KeyCount, OpError, ScanFilter, ScanPage, ScanPosition, WorkerReadError};
use super::cluster::{Cluster, Formed};
use super::core::WorkerIx;
use super::roster::RingState;
use crate::replica::link::Link;

/// A page of a worker takes no longer.
const PAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// The most rows asked of a worker at once.
const PAGE_ROWS_MAX: usize = 10_000;

const LAST: u32 = PARTITIONS as u32 - 1;

pub(super) async fn scan(
    cluster: &Cluster,
    from: ScanPosition,
    filter: ScanFilter,
) -> Result<ScanPage, OpError> {
    let view = View::of(cluster.formed().ok_or(OpError::Loading)?);
    let available = available(&view)?;
    let request = v1::ScanRequest {
        first_partition: from.partition.get().into(),
        last_partition: LAST,
        from_hash: from.hash.0.to_vec().into(),
        limit: filter.limit.clamp(1, PAGE_ROWS_MAX) as u32,
        with_data: filter.with_data,
        expired_by_ms: filter.expired_by.map(|at| at.0),
        // A tombstone must be seen to outvote a stale value. Expired rows are judged by a read of each.
        with_tombstones: filter.expired_by.is_none(),
    };
    let pages = gather(&view, &available, &request, cluster.config.replica_timeout).await?;
    Ok(merge(pages, filter, UnixMillis::now()))
}

/// The members of the ring with their links, at one moment.
struct View {
    ring: Arc<RingState>,
    links: Vec<Arc<Link>>,
}

impl View {
    fn of(formed: &Formed) -> Self {
        let ring = formed.ring();
        let links = (0..ring.workers.len()).filter_map(|member| formed.link(&ring, member)).collect();
        Self { ring, links }
    }

    fn up(&self) -> Vec<bool> {
        self.links.iter().map(|link| link.is_available()).collect()
    }
}

/// The workers to scan; an error when some partition has too few of them.
fn available(view: &View) -> Result<Vec<usize>, OpError> {
    let up = view.up();
    if !covers(view, &up) {
        return Err(OpError::ReadUnavailable);
    }
    Ok((0..up.len()).filter(|ix| up[*ix]).collect())
}

/// Whether these workers have a quorum of every partition's replicas among them.
fn covers(view: &View, workers: &[bool]) -> bool {
    PartitionId::all().all(|id| {
        let row = view.ring.config.assignment(id);
        std::iter::once(&row.replicas)
            .chain(&row.next)
            .all(|set| set.iter().filter(|ix| workers[usize::from(**ix)]).count() >= majority(set.len()))
    })
}

/// The pages of those who answer. Once they cover every partition the others get `grace`, so that a hung worker costs a
/// listing no error, and no more than that.
async fn gather(
    view: &View,
    workers: &[usize],
    request: &v1::ScanRequest,
    grace: Duration,
) -> Result<Vec<ScanPage>, OpError> {
    let mut calls: FuturesUnordered<_> =
        workers.iter().map(async |ix| (*ix, page(&view.links[*ix], request.clone()).await)).collect();
    let mut answered = vec![false; view.links.len()];
    let mut pages = Vec::new();
    loop {
        let covered = covers(view, &answered);
        let patience = if covered { grace } else { PAGE_TIMEOUT };
        match tokio::time::timeout(patience, calls.next()).await {
            Ok(Some((ix, Ok(page)))) => {
                answered[ix] = true;
                pages.push(page);
            }
            Ok(Some((ix, Err(error)))) => {
                tracing::debug!(worker = %view.links[ix].id(), %error, "a worker did not answer a scan");
            }
            Ok(None) | Err(_) if covered => return Ok(pages),
            Ok(None) | Err(_) => {
                tracing::warn!("too few workers answered a scan");
                return Err(OpError::ReadUnavailable);
            }
        }
    }
}

/// Merges pages of the same range. What lies past the end of the shortest unfinished page is not known yet, so the
/// merged page ends there.
fn merge(pages: Vec<ScanPage>, filter: ScanFilter, now: UnixMillis) -> ScanPage {
    let next = pages.iter().filter_map(|page| page.next).min();
    let mut newest: BTreeMap<ScanPosition, Row> = BTreeMap::new();
    for row in pages.into_iter().flat_map(|page| page.rows) {
        let place = ScanPosition { partition: row.key.partition(), hash: row.key.hash() };
        if next.is_some_and(|next| place >= next) {
            continue;
        }
        match newest.get(&place) {
            Some(other) if other.ballot >= row.ballot => {}
            _ => drop(newest.insert(place, row)),
        }
    }
    let wanted = |row: &Row| match filter.expired_by {
        None => row.content.is_live(now),
        Some(by) => row.content.expires_at().is_some_and(|at| at <= by),
    };
    ScanPage { rows: newest.into_values().filter(wanted).collect(), next }
}

async fn page(link: &Link, request: v1::ScanRequest) -> Result<ScanPage, String> {
    let mut client = link.client().ok_or_else(|| "the worker is not connected".to_owned())?;
    let call = client.scan(link.authorize(request));
    let reply = tokio::time::timeout(PAGE_TIMEOUT, call).await.map_err(|_| "no answer in time".to_owned())?;
    let reply = reply.map_err(|status| status.message().to_owned())?.into_inner();
    let rows =
        reply.rows.into_iter().map(Row::try_from).collect::<Result<_, _>>().map_err(|e| e.to_string())?;
    let next = reply.next.map(position).transpose()?;
    Ok(ScanPage { rows, next })
}

fn position(wire: v1::ScanPosition) -> Result<ScanPosition, String> {
    let partition = tercet_proto::convert::partition_from_wire(wire.partition).map_err(|e| e.to_string())?;
    let hash = KeyHash(wire.hash.as_ref().try_into().map_err(|_| "a key hash has 16 bytes".to_owned())?);
    Ok(ScanPosition { partition, hash })
}

/// Each partition is counted by its first replica in reach that answers, one that has all writes if there is: what
/// a client wrote before is counted, as long as nobody fails or writes meanwhile. A worker that hangs is first given up soon, for
/// the next replica; only when a partition has no other left is everybody given the time that a large table may need.
pub(super) async fn count(cluster: &Cluster) -> Result<KeyCount, OpError> {
    let formed = cluster.formed().ok_or(OpError::Loading)?;
    let view = View::of(formed);
    let behind = formed.behind();
    let now_ms = UnixMillis::now().0;
    let mut total = KeyCount::default();
    let mut left: Vec<PartitionId> = PartitionId::all().collect();
    for patience in [cluster.config.replica_timeout * 2, PAGE_TIMEOUT] {
        let mut up = view.up();
        while let Some(shares) = share_out(&view.ring, &left, &up, &behind) {
            let counts = shares.into_iter().map(async |(ix, share)| {
                (ix, count_at(&view.links[ix], &share, now_ms, patience).await, share)
            });
            left.clear();
            for (ix, count, share) in join_all(counts).await {
                if let Some(count) = count {
                    total.live += count.live;
                    total.expiring += count.expiring;
                } else {
                    up[ix] = false;
                    left.extend(share);
                }
            }
            if left.is_empty() {
                return Ok(total);
            }
        }
    }
    Err(OpError::ReadUnavailable)
}

/// Who counts which partitions; `None` when one of them has no replica that is up. `behind`: who has not answered all
/// writes, or missed some.
fn share_out(
    ring: &RingState,
    partitions: &[PartitionId],
    up: &[bool],
    behind: &HashSet<(PartitionId, WorkerIx)>,
) -> Option<BTreeMap<usize, Vec<PartitionId>>> {
    let mut shares: BTreeMap<usize, Vec<PartitionId>> = BTreeMap::new();
    for id in partitions {
        let replicas = ring.config.assignment(*id).replicas.iter().map(|ix| usize::from(*ix));
        let mut counters = replicas.filter(|ix| up[*ix]);
        let current = counters.clone().find(|ix| !behind.contains(&(*id, ring.workers[*ix])));
        shares.entry(current.or_else(|| counters.next())?).or_default().push(*id);
    }
    Some(shares)
}

async fn count_at(link: &Link, share: &[PartitionId], now_ms: i64, patience: Duration) -> Option<KeyCount> {
    let mut client = link.client()?;
    let partitions = share.iter().map(|id| id.get().into()).collect();
    let call = client.count(link.authorize(v1::CountRequest { partitions, now_ms }));
    let reply = tokio::time::timeout(patience, call).await.ok()?.ok()?.into_inner();
    Some(KeyCount { live: reply.live, expiring: reply.expiring })
}

pub(super) async fn worker_page(
    cluster: &Cluster,
    worker: String,
    from: ScanPosition,
    limit: usize,
) -> Result<ScanPage, WorkerReadError> {
    let peers = cluster.formed().map(|formed| formed.roster.all()).unwrap_or_default();
    // The newest under this name that is connected.
    let link = peers.into_iter().rev().map(|peer| peer.link);
    let Some(link) = link.filter(|link| link.id().as_str() == worker).find(|link| link.client().is_some())
    else {
        return Err(WorkerReadError::Unknown(worker));
    };
    let request = v1::ScanRequest {
        first_partition: from.partition.get().into(),
        last_partition: LAST,
        from_hash: from.hash.0.to_vec().into(),
        limit: limit.clamp(1, PAGE_ROWS_MAX) as u32,
        with_data: true,
        expired_by_ms: None,
        with_tombstones: false,
    };
    let mut page = page(&link, request).await.map_err(|error| WorkerReadError::Failed(worker, error))?;
    let now = UnixMillis::now();
    page.rows.retain(|row| row.content.is_live(now) && !matches!(row.content, Content::Tombstone));
    Ok(page)
}

#[cfg(test)]
mod tests {
    use tercet_common::{Ballot, Epoch, Key, Member, REPLICAS, RingConfig, VectorClock, WorkerId};

    use super::*;

    #[test]
    fn who_has_answered_all_writes_counts() {
        let member = |n| Member::named(WorkerId::new(&format!("w{n}")).unwrap(), 1, "");
        let config = RingConfig::new("c", Epoch(1), REPLICAS, (0..4).map(member).collect()).unwrap();
        let ring = RingState { config: Arc::new(config), workers: vec![10, 11, 12, 13] };
        let id = PartitionId::all().next().unwrap();
        let replicas = ring.config.assignment(id).replicas.clone();
        let counter = |up: [bool; 4], behind: &[usize]| {
            let behind = behind.iter().map(|nth| (id, ring.workers[usize::from(replicas[*nth])])).collect();
            share_out(&ring, &[id], &up, &behind).map(|shares| *shares.first_key_value().unwrap().0)
        };
        let nth = |n: usize| Some(usize::from(replicas[n]));
        assert_eq!(counter([true; 4], &[]), nth(0));
        assert_eq!(counter([true; 4], &[0]), nth(1));
        assert_eq!(counter([true; 4], &[0, 1, 2]), nth(0), "weak, but counted");
        let mut up = [true; 4];
        up[usize::from(replicas[1])] = false;
        assert_eq!(counter(up, &[0]), nth(2));
        assert_eq!(counter([false; 4], &[]), None);
    }

    const KEYS: ScanFilter = ScanFilter { limit: 10, with_data: true, expired_by: None };

    fn row(key: &str, seq: u64, content: Content) -> Row {
        let key = Key::new(key.to_owned()).unwrap();
        Row { key, ballot: Ballot { seq, ..Ballot::ZERO }, clock: VectorClock::new(), content }
    }

    fn value(text: &'static str) -> Content {
        Content::string(text, None)
    }

    #[test]
    fn the_highest_ballot_wins_also_as_a_tombstone() {
        let stale = ScanPage { rows: vec![row("a", 1, value("old")), row("b", 1, value("b"))], next: None };
        let fresh = ScanPage { rows: vec![row("a", 2, Content::Tombstone)], next: None };
        let page = merge(vec![stale, fresh], KEYS, UnixMillis(0));
        assert_eq!(page.rows, [row("b", 1, value("b"))]);
    }

    #[test]
    fn a_page_ends_where_the_shortest_unfinished_one_does() {
        let mut rows: Vec<Row> = (0..20).map(|n| row(&format!("k{n}"), 1, value("v"))).collect();
        rows.sort_by_key(|row| (row.key.partition(), row.key.hash()));
        let place = |row: &Row| ScanPosition { partition: row.key.partition(), hash: row.key.hash() };
        let short = ScanPage { rows: rows[..5].to_vec(), next: Some(place(&rows[5])) };
        let long = ScanPage { rows: rows[..12].to_vec(), next: Some(place(&rows[12])) };
        let page = merge(vec![long, short], KEYS, UnixMillis(0));
        assert_eq!((page.rows.as_slice(), page.next), (&rows[..5], Some(place(&rows[5]))));
    }
}
