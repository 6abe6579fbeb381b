//! The collection of tombstones.

use super::*;

fn collect(n: u64, floor: Ballot, tombstones: &[(&str, Ballot)]) -> ReplicaRequest {
    let tombstones = tombstones.iter().map(|(name, ballot)| (key(name).hash(), *ballot)).collect();
    sync(SyncRequest::Collect { partition: partition(), promise: term(n), floor, tombstones })
}

fn tombstone(name: &str, ballot: Ballot) -> Row {
    Row { content: Content::Tombstone, ..row_at(name, ballot) }
}

#[test]
fn a_collection_evicts_exact_ballots_and_raises_the_floor() {
    let mut rig = Rig::new();
    let (floor, dead) = (term(1).ballot(10), term(1).ballot(9));
    let id = rig.submit(collect(1, floor, &[("a", dead)]));
    let change = rig.change();
    assert_eq!((&change.1.evict[..], change.1.floor), (&[(key("a").hash(), dead)][..], floor));
    assert!(change.1.rows.is_empty() && change.1.flush.is_none());
    assert_eq!(rig.answers(), []);
    rig.changed(change);
    assert_eq!(rig.answers(), [(id, done())]);
    let id = rig.submit(put("a", 1, 10));
    rig.read(None);
    assert_eq!(rig.answers(), [(id, refused(Refusal::Floor { floor }))]);
}

#[test]
fn a_collection_obeys_the_promise_on_arrival_and_when_its_turn_comes() {
    let mut rig = Rig::new();
    rig.submit(prepare(term(3)));
    rig.keep_promises();
    rig.answers();
    let floor = term(1).ballot(1);
    assert_eq!(rig.ask(collect(2, floor, &[])), refused(Refusal::Promise { promised: term(3) }));

    // Deposed while it waits for a put; and the one that deposed it waits for it in turn.
    let a = rig.submit(put("a", 3, 1));
    let batch = rig.take();
    let collects = rig.submit(collect(3, floor, &[]));
    let prepares = rig.submit(prepare(term(4)));
    rig.keep_promises();
    assert_eq!(rig.answers(), []);
    rig.committed(batch);
    let answers = rig.answers();
    assert_eq!(answers[0], (a, ReplicaReply::Stored));
    assert_eq!(answers[1], (collects, refused(Refusal::Promise { promised: term(4) })));
    assert!(matches!(answers[2], (id, ReplicaReply::Prepared { .. }) if id == prepares));

    // Deposed while it waits for the collection before it.
    rig.submit(collect(4, floor, &[]));
    let waits = rig.submit(collect(4, floor, &[]));
    let first = rig.change();
    rig.submit(prepare(term(5)));
    rig.changed(first);
    rig.keep_promises();
    assert_eq!(rig.replica.next_change(), None);
    assert!(rig.answers().contains(&(waits, refused(Refusal::Promise { promised: term(5) }))));
}

#[test]
fn a_prepare_waits_for_a_collection() {
    let mut rig = Rig::new();
    rig.submit(collect(1, term(1).ballot(1), &[]));
    let change = rig.change();
    let id = rig.submit(prepare(term(2)));
    rig.keep_promises();
    assert_eq!(rig.answers(), []);
    rig.changed(change);
    assert!(matches!(rig.answers()[1], (answered, ReplicaReply::Prepared { .. }) if answered == id));
}

#[test]
fn what_would_let_an_older_put_in_is_invalid() {
    let mut rig = Rig::new();
    let above = [("a", term(1).ballot(11))];
    assert_eq!(rig.ask(collect(1, term(1).ballot(10), &above)), refused(Refusal::Invalid));
    assert_eq!(rig.ask(collect(1, term(2).ballot(10), &[])), refused(Refusal::Invalid));
    let twice = [("a", term(1).ballot(1)), ("a", term(1).ballot(2))];
    assert_eq!(rig.ask(collect(1, term(1).ballot(10), &twice)), refused(Refusal::Invalid));
    assert_eq!(rig.replica.next_change(), None);
}

#[test]
fn nothing_is_collected_in_a_joint_epoch() {
    for says in [Says::Stays, Says::Newcomer] {
        let mut rig = Rig::new();
        rig.hold(1, &says);
        assert_eq!(rig.ask(collect(1, term(1).ballot(1), &[])), refused(Refusal::Invalid));
    }
}

/// The delayed put is older than the tombstone, which alone stands in its way. It may come at any point.
#[test]
fn a_delayed_older_put_never_comes_back_whenever_it_arrives() {
    let (old, dead, floor) = (term(1).ballot(3), term(1).ballot(5), term(1).ballot(7));
    let below_floor = refused(Refusal::Floor { floor });
    for arrives in 0..6 {
        for cached in [true, false] {
            // The database: the one row of the key.
            let mut stored = Some(tombstone("a", dead));
            let mut rig = Rig::new();
            if cached {
                rig.submit(get("a"));
                rig.read(stored.clone());
            }
            rig.answers();
            let mut delayed = None;
            let mut checking = None;
            let mut step = |rig: &mut Rig, now: usize| {
                if arrives == now {
                    delayed = Some(rig.submit(put_at("a", old)));
                    checking = rig.replica.next_read();
                }
            };
            // Before all: a commit under way, which the collection waits for.
            step(&mut rig, 0);
            let commit = rig.replica.next_commit();
            let collects = rig.submit(collect(1, floor, &[("a", dead)]));
            step(&mut rig, 1);
            if let Some((id, _)) = commit {
                assert_eq!(rig.replica.next_change(), None, "an older write is under way");
                rig.replica.on_commit(
                    id,
                    CommitOutcome::Committed {
                        journal_seq: 1,
                        rows: vec![RowOutcome::Superseded { ballot: dead }],
                    },
                );
            }
            let change = rig.change();
            step(&mut rig, 2);
            // The transaction deletes the tombstone; its outcome is still on the way.
            let seen_by_a_check = if arrives <= 2 { stored.clone() } else { None };
            stored = None;
            step(&mut rig, 3);
            rig.changed(change);
            step(&mut rig, 4);
            if let Some((read, _)) = checking.take() {
                rig.replica.on_read(read, Ok(vec![seen_by_a_check]));
            }
            if arrives == 5 {
                delayed = Some(rig.submit(put_at("a", old)));
                if let Some((read, _)) = rig.replica.next_read() {
                    rig.replica.on_read(read, Ok(vec![stored]));
                }
            }
            assert_eq!(rig.replica.next_commit(), None, "arrival {arrives}: the old value would come back");
            let answers = rig.answers();
            assert!(answers.contains(&(collects, done())));
            let (_, reply) = answers.iter().find(|a| Some(a.0) == delayed).unwrap();
            assert!(*reply == ReplicaReply::Stored || *reply == below_floor, "{arrives}: {reply:?}");
        }
    }
}

#[test]
fn a_put_that_is_there_already_is_settled_below_the_floor_without_the_queue() {
    let mut rig = Rig::new();
    rig.open(PartitionRecord { promise: term(2), floor: term(2).ballot(9), ..Default::default() });
    let stored = row_at("a", term(2).ballot(5));
    for cached in [false, true] {
        let settle = |rig: &mut Rig, ballot| {
            let row = row_at("a", ballot);
            let id = rig.submit(ReplicaRequest::Replicate { row, chosen: true, epoch: Epoch(1) });
            if !cached && let Some((read, _)) = rig.replica.next_read() {
                rig.replica.on_read(read, Ok(vec![Some(stored.clone())]));
                rig.replica.cache.clear();
            }
            let answers = rig.answers();
            assert_eq!((answers.len(), answers[0].0), (1, id));
            answers[0].1.clone()
        };
        if cached {
            rig.submit(get("a"));
            rig.read(Some(stored.clone()));
            rig.answers();
        }
        assert_eq!(settle(&mut rig, term(2).ballot(5)), ReplicaReply::Stored);
        assert_eq!(settle(&mut rig, term(2).ballot(4)), ReplicaReply::Stored);
        let superseded = refused(Refusal::Superseded { ballot: stored.ballot });
        assert_eq!(settle(&mut rig, term(1).ballot(8)), superseded);
        assert_eq!(rig.replica.next_commit(), None);
    }
    assert_eq!(rig.replica.stats().waiting_writes, 0);
}

/// Both concern one key, so the barrier must know the install as well as a put.
#[test]
pub(super) fn a_collection_waits_for_an_install_of_the_epoch_before() {
    let mut rig = Rig::with_limits(LIMITS);
    rig.hold(2, &Says::Newcomer);
    rig.open(PartitionRecord { promise: fence(Epoch(2)), ..Default::default() });
    let epoch = Epoch(2);
    rig.submit(sync(SyncRequest::Begin {
        copy: 1,
        partition: partition(),
        epoch,
        flush: Ballot::ZERO,
        flush_clock: VectorClock::new(),
    }));
    rig.make_change();
    let rows = vec![row_at("a", term(1).ballot(3))];
    let installs = rig.submit(sync(SyncRequest::Install {
        copy: 1,
        partition: partition(),
        epoch,
        rows,
        evict: vec![],
        copied_to: None,
    }));
    let install = rig.change();
    rig.hold(3, &Says::Replica);
    let promise = promise_in(3, 1);
    let tombstones = vec![(key("a").hash(), term(1).ballot(5))];
    let floor = term(1).ballot(7);
    rig.submit(sync(SyncRequest::Collect { partition: partition(), promise, floor, tombstones }));
    rig.keep_promises();
    rig.answers();
    assert_eq!(rig.replica.next_change(), None);
    rig.changed(install);
    assert_eq!(rig.answers(), [(installs, done())]);
    assert!(rig.replica.next_change().is_some());
}

/// The store does not look at what a known write is written over, and a change may be about to put something else there.
#[test]
pub(super) fn a_write_beside_a_change_is_not_said_to_be_known() {
    let mut rig = Rig::new();
    rig.submit(put("a", 1, 1));
    rig.commit();
    rig.submit(put("a", 1, 2));
    let (id, batch) = rig.take();
    assert!(batch.rows[0].known, "the cache has what stands there");
    rig.committed((id, batch));
    rig.submit(collect(1, term(1).ballot(1), &[]));
    rig.submit(put("a", 1, 3));
    let (id, batch) = rig.take();
    assert!(!batch.rows[0].known, "the collection is accepted, and may begin");
    let change = rig.change();
    rig.committed((id, batch));
    rig.changed(change);
    rig.submit(put("a", 1, 4));
    assert!(rig.take().1.rows[0].known, "it has ended");
}
