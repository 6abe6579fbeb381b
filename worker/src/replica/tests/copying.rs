//! What a newcomer shows while it copies.

use super::*;

/// The joint epoch of the tests.
const JOINT: u64 = 5;

fn get_joint(name: &str) -> ReplicaRequest {
    ReplicaRequest::Get { epoch: Epoch(JOINT), key: key(name), digest: false }
}

fn begin(flush: Ballot) -> ReplicaRequest {
    let flush_clock = VectorClock::new().with_dot(flush.term.incarnation, flush.seq);
    sync(SyncRequest::Begin { partition: partition(), epoch: Epoch(JOINT), copy: 1, flush, flush_clock })
}

fn install(rows: &[Row], evict: &[&Row], copied_to: Option<KeyHash>) -> ReplicaRequest {
    let evict = evict.iter().map(|row| (row.key.hash(), row.ballot)).collect();
    let (partition, epoch) = (partition(), Epoch(JOINT));
    sync(SyncRequest::Install { partition, epoch, copy: 1, rows: rows.to_vec(), evict, copied_to })
}

fn finish(floor: Ballot) -> ReplicaRequest {
    let (partition, epoch) = (partition(), Epoch(JOINT));
    sync(SyncRequest::Finish { partition, epoch, copy: 1, floor, vector: VectorClock::new(), highest: floor })
}

fn flushed(ballot: Ballot) -> ReplicaReply {
    ReplicaReply::Version(Held { ballot, row: None, floor: Ballot::ZERO })
}

/// A newcomer that was a replica in epoch 1, with the epoch durable already.
fn newcomer(record: PartitionRecord) -> Rig {
    let mut rig = Rig::with_limits(LIMITS);
    rig.hold(JOINT, &Says::Newcomer);
    rig.open(PartitionRecord { promise: fence(Epoch(JOINT)), ..record });
    rig
}

/// The same, its copy begun with nothing flushed.
fn begun() -> Rig {
    let mut rig = newcomer(PartitionRecord::default());
    let id = rig.submit(begin(Ballot::ZERO));
    rig.make_change();
    assert_eq!(rig.answers(), [(id, done())]);
    rig
}

/// The first hash behind a key's.
fn behind(name: &str) -> Option<KeyHash> {
    Some(KeyHash((u128::from_be_bytes(key(name).hash().0) + 1).to_be_bytes()))
}

#[test]
pub(super) fn a_stale_row_is_never_shown_from_the_database_or_the_cache() {
    let mut rig = begun();
    let stale = row_at("a", term(1).ballot(7));
    let id = rig.submit(get_joint("a"));
    rig.read(Some(stale));
    assert_eq!(rig.answers(), [(id, ABSENT)]);
    assert_eq!(rig.ask(get_joint("a")), ABSENT);
    assert_eq!(rig.replica.stats().cache_hits, 1);
}

#[test]
fn a_stale_row_of_another_key_with_the_same_hash_is_hidden_too() {
    let mut rig = begun();
    let id = rig.submit(get_joint("a"));
    rig.read(Some(row_at("b", term(1).ballot(7))));
    assert_eq!(rig.answers(), [(id, ABSENT)]);
}

#[test]
fn what_is_accepted_in_the_joint_epoch_shows_at_once() {
    let mut rig = newcomer(PartitionRecord::default());
    let row = row_at("a", promise_in(JOINT, 1).ballot(1));
    rig.submit(put_at("a", row.ballot));
    rig.commit();
    rig.answers();
    assert_eq!(rig.ask(get_joint("a")), version(row.clone()));
    rig.replica.cache.clear();
    let id = rig.submit(get_joint("a"));
    rig.read(Some(row.clone()));
    assert_eq!(rig.answers(), [(id, version(row))]);
}

#[test]
fn rows_show_once_the_copy_has_passed_them() {
    let mut rig = begun();
    let (a, b) = (row_at("a", term(1).ballot(7)), row_at("b", term(1).ballot(8)));
    let (low, high) = if a.key.hash() < b.key.hash() { (a, b) } else { (b, a) };
    let id = rig.submit(install(&[low.clone(), high.clone()], &[], Some(high.key.hash())));
    let change = rig.change();
    assert_eq!(change.1.rows, [low.clone(), high.clone()]);
    let get = |row: &Row| ReplicaRequest::Get { epoch: Epoch(JOINT), key: row.key.clone(), digest: false };
    let early = rig.submit(get(&low));
    rig.read(Some(low.clone()));
    assert_eq!(rig.answers(), [(early, ABSENT)], "not before the install is durable");
    rig.changed(change);
    assert_eq!(rig.answers(), [(id, done())]);
    for (row, reply) in [(&low, version(low.clone())), (&high, ABSENT)] {
        let id = rig.submit(get(row));
        rig.read(Some(row.clone()));
        assert_eq!(rig.answers(), [(id, reply)]);
    }
    rig.submit(finish(Ballot::ZERO));
    rig.make_change();
    rig.answers();
    assert_eq!(rig.ask(get(&high)), version(high));
}

#[test]
fn an_install_without_a_place_moves_nothing_and_an_earlier_place_does_not_go_back() {
    let mut rig = begun();
    let row = row_at("a", term(1).ballot(7));
    rig.submit(install(std::slice::from_ref(&row), &[], None));
    rig.make_change();
    rig.answers();
    rig.submit(get_joint("a"));
    rig.read(Some(row.clone()));
    assert_eq!(rig.answers()[0].1, ABSENT);
    for copied_to in [behind("a"), Some(KeyHash([0; 16])), None] {
        rig.submit(install(&[], &[], copied_to));
        rig.make_change();
        rig.answers();
        assert_eq!(rig.ask(get_joint("a")), version(row.clone()));
    }
}

/// The read saw the stale row before the install deleted it; then the copy passed its hash.
#[test]
fn a_read_from_before_the_copy_passed_does_not_show_the_stale_row_behind_it() {
    let mut rig = begun();
    let stale = row_at("a", term(1).ballot(7));
    let get = rig.submit(get_joint("a"));
    let (read, _) = rig.replica.next_read().unwrap();
    let copied = rig.submit(install(&[], &[&stale], behind("a")));
    rig.make_change();
    rig.replica.on_read(read, Ok(vec![Some(stale)]));
    assert_eq!(rig.answers(), [(get, ABSENT), (copied, done())]);
    assert_eq!(rig.replica.stats().cache_rows, 0);
}

/// The same with an end of the copy by the next configuration.
#[test]
fn a_read_from_before_the_end_of_the_copy_does_not_show_the_stale_row() {
    let mut rig = begun();
    let get = rig.submit(get_joint("a"));
    let (read, _) = rig.replica.next_read().unwrap();
    rig.submit(finish(Ballot::ZERO));
    rig.make_change();
    rig.hold(JOINT + 1, &Says::Replica);
    rig.replica.on_read(read, Ok(vec![Some(row_at("a", term(1).ballot(7)))]));
    assert_eq!(rig.answers()[0], (get, ABSENT));
}

/// A worker may miss configurations, and learn at once that it was out and comes in again.
#[test]
fn a_read_of_a_former_membership_is_not_answered_as_a_newcomer() {
    let mut rig = Rig::new();
    rig.hold(1, &Says::Replica);
    let queued = rig.submit(get("a"));
    rig.hold(JOINT, &Says::Newcomer);
    rig.read(Some(row_at("a", term(1).ballot(7))));
    assert_eq!(rig.answers(), [(queued, refused(Refusal::Epoch { current: Epoch(JOINT) }))]);
}

#[test]
fn a_stale_flush_is_hidden_and_begin_lowers_it() {
    let stale = term(1).ballot(9);
    let mut rig = newcomer(PartitionRecord { flush: stale, highest: stale, ..Default::default() });
    let id = rig.submit(get_joint("a"));
    rig.read(None);
    assert_eq!(rig.answers(), [(id, ABSENT)]);

    let real = term(1).ballot(4);
    let id = rig.submit(begin(real));
    let change = rig.change();
    assert_eq!(change.1.flush.as_ref().map(|flush| flush.0), Some(real));
    rig.changed(change);
    assert_eq!(rig.answers(), [(id, done())]);
    // What the former flush covered was known as absent, and may be there.
    let row = row_at("a", term(1).ballot(5));
    let id = rig.submit(get_joint("a"));
    rig.read(Some(row.clone()));
    assert_eq!(rig.answers(), [(id, flushed(real))]);
    rig.submit(finish(Ballot::ZERO));
    rig.make_change();
    rig.answers();
    assert_eq!(rig.ask(get_joint("a")), version(row));
}

#[test]
fn begin_keeps_a_flush_of_the_joint_epoch() {
    let mut rig = newcomer(PartitionRecord::default());
    let later = promise_in(JOINT, 1).ballot(3);
    rig.submit(flush(later));
    rig.commit();
    rig.answers();
    let id = rig.submit(begin(term(1).ballot(4)));
    assert_eq!(rig.replica.next_change(), None);
    assert_eq!(rig.answers(), [(id, done())]);
    let id = rig.submit(get_joint("a"));
    rig.read(None);
    assert_eq!(rig.answers(), [(id, flushed(later))]);
}

#[test]
fn begin_waits_for_a_flush_under_way_and_lets_none_in_until_it_has_ended() {
    let mut rig = newcomer(PartitionRecord::default());
    let at = |seq| promise_in(JOINT, 1).ballot(seq);
    let (first, second) = (at(3), at(5));
    rig.submit(flush(first));
    rig.submit(begin(at(4)));
    assert_eq!(rig.replica.next_change(), None);
    assert_eq!(rig.ask(flush(second)), refused(Refusal::Busy));
    rig.commit();
    let change = rig.change();
    rig.answers();
    assert_eq!(rig.ask(flush(second)), refused(Refusal::Busy));
    rig.changed(change);
    rig.answers();
    let id = rig.submit(flush(second));
    rig.commit();
    assert_eq!(rig.answers(), [(id, ReplicaReply::Stored)]);
}

#[test]
fn an_older_row_or_flush_is_not_taken_where_it_would_be_hidden() {
    let mut rig = newcomer(PartitionRecord::default());
    let row = row_at("a", term(1).ballot(7));
    let replicate = || ReplicaRequest::Replicate { row: row.clone(), chosen: true, epoch: Epoch(JOINT) };
    assert_eq!(rig.ask(replicate()), refused(Refusal::Unavailable));
    assert!(rig.replica.next_commit().is_none());
    rig.submit(begin(Ballot::ZERO));
    rig.make_change();
    rig.submit(install(&[], &[], behind("a")));
    rig.make_change();
    rig.answers();
    let id = rig.submit(replicate());
    rig.commit();
    assert_eq!(rig.answers(), [(id, ReplicaReply::Stored)]);
    assert_eq!(rig.ask(get_joint("a")), version(row));
}

#[test]
fn the_steps_of_a_copy_run_one_after_the_other() {
    let mut rig = newcomer(PartitionRecord::default());
    rig.submit(begin(term(1).ballot(1)));
    rig.submit(install(&[row_at("a", term(1).ballot(7))], &[], behind("a")));
    rig.submit(finish(term(1).ballot(2)));
    let mut seen = Vec::new();
    while let Some(change) = rig.replica.next_change() {
        assert_eq!(rig.replica.next_change(), None);
        seen.push((change.1.flush.is_some(), change.1.rows.len(), change.1.floor.seq));
        rig.changed(change);
    }
    assert_eq!(seen, [(true, 0, 0), (false, 1, 0), (false, 0, 2)]);
    assert_eq!(rig.answers(), (1..=3).map(|id| (id, done())).collect::<Vec<_>>());
}

#[test]
fn a_copy_that_has_not_begun_is_not_continued() {
    let mut rig = newcomer(PartitionRecord::default());
    let [installs, finishes] = [rig.submit(install(&[], &[], None)), rig.submit(finish(Ballot::ZERO))];
    assert_eq!(rig.replica.next_change(), None);
    let invalid = refused(Refusal::Invalid);
    assert_eq!(rig.answers(), [(installs, invalid.clone()), (finishes, invalid.clone())]);
    // Nor when its begin failed.
    let begins = rig.submit(begin(term(1).ballot(1)));
    let finishes = rig.submit(finish(Ballot::ZERO));
    let (id, _) = rig.change();
    rig.replica.on_change(id, aborted());
    assert_eq!(rig.replica.next_change(), None);
    assert_eq!(rig.answers(), [(begins, refused(Refusal::Unavailable)), (finishes, invalid)]);
}

#[test]
fn only_a_newcomer_copies() {
    let mut rig = Rig::new();
    rig.hold(JOINT, &Says::Stays);
    for request in [begin(Ballot::ZERO), install(&[], &[], None), finish(Ballot::ZERO)] {
        assert_eq!(rig.ask(request), refused(Refusal::Invalid));
    }
}

#[test]
fn what_does_not_belong_into_an_install_is_invalid() {
    let mut rig = begun();
    let row = row_at("a", term(1).ballot(7));
    let elsewhere = Row { key: Key::new("elsewhere").unwrap(), ..row.clone() };
    let later = row_at("b", promise_in(JOINT + 1, 1).ballot(1));
    let nobody = row_at("b", Ballot::ZERO);
    let content = Content::string(vec![0; LIMITS.value_bytes_max + 1], None);
    let large = Row { content, ..row.clone() };
    for rows in [vec![elsewhere], vec![later], vec![nobody], vec![large], vec![row.clone(), row.clone()]] {
        assert_eq!(rig.ask(install(&rows, &[], None)), refused(Refusal::Invalid));
    }
    assert_eq!(rig.ask(install(&[], &[&row, &row], None)), refused(Refusal::Invalid));
    assert_eq!(rig.ask(begin(promise_in(JOINT + 1, 1).ballot(1))), refused(Refusal::Invalid));
    assert_eq!(rig.ask(finish(promise_in(JOINT + 1, 1).ballot(1))), refused(Refusal::Invalid));
    assert_eq!(rig.replica.stats().errands, 0);
}

#[test]
fn an_installed_row_needs_no_promise_and_brings_its_clock() {
    let mut rig = begun();
    rig.submit(prepare(promise_in(JOINT, 9)));
    rig.keep_promises();
    let row = row_at("a", term(1).ballot(7));
    rig.submit(install(std::slice::from_ref(&row), &[], None));
    let change = rig.change();
    assert_eq!(change.1.promise, promise_in(JOINT, 9));
    rig.changed(change);
    rig.answers();
    let reply = rig.ask(prepare(promise_in(JOINT, 9)));
    assert_eq!(reply, ReplicaReply::Prepared { vector: row.clock, highest: row.ballot });
}

#[test]
fn finish_raises_the_floor() {
    let mut rig = begun();
    rig.submit(finish(term(1).ballot(9)));
    rig.make_change();
    rig.answers();
    let row = row_at("a", term(1).ballot(9));
    let id = rig.submit(ReplicaRequest::Replicate { row, chosen: true, epoch: Epoch(JOINT) });
    rig.read(None);
    assert_eq!(rig.answers(), [(id, refused(Refusal::Floor { floor: term(1).ballot(9) }))]);
}

#[test]
fn the_end_of_the_change_decides_whether_the_copy_counts() {
    let row = row_at("a", term(1).ballot(7));
    let mut rig = begun();
    rig.hold(JOINT + 1, &Says::Replica);
    let get = ReplicaRequest::Get { epoch: Epoch(JOINT + 1), key: key("a"), digest: false };
    rig.submit(get.clone());
    rig.keep_promises();
    rig.read(Some(row.clone()));
    assert_eq!(rig.answers()[0].1, version(row));
    assert_eq!(rig.ask(finish(Ballot::ZERO)), refused(Refusal::Epoch { current: Epoch(JOINT + 1) }));

    let mut rig = begun();
    rig.hold(JOINT + 1, &Says::Others);
    assert_eq!(rig.ask(get), refused(Refusal::NotMember));
}

#[test]
fn a_second_change_hides_what_the_first_copied() {
    let mut rig = begun();
    rig.submit(finish(Ballot::ZERO));
    rig.make_change();
    rig.hold(JOINT + 2, &Says::Newcomer);
    rig.answers();
    rig.submit(ReplicaRequest::Get { epoch: Epoch(JOINT + 2), key: key("a"), digest: false });
    rig.keep_promises();
    rig.read(Some(row_at("a", promise_in(JOINT, 1).ballot(7))));
    assert_eq!(rig.answers()[0].1, ABSENT);
}

#[test]
fn other_partitions_of_later_configurations_do_not_disturb_a_copy() {
    let mut rig = begun();
    let row = row_at("a", term(1).ballot(7));
    rig.submit(install(std::slice::from_ref(&row), &[], behind("a")));
    rig.make_change();
    rig.answers();
    // The same row of the table in a later configuration.
    let held = membership(JOINT, &Says::Newcomer);
    rig.replica.set_membership(held);
    let id = rig.submit(get_joint("a"));
    rig.read(Some(row.clone()));
    assert_eq!(rig.answers(), [(id, version(row))]);
}

#[test]
fn a_change_under_way_when_its_epoch_ends_moves_no_later_copy() {
    let mut rig = begun();
    let id = rig.submit(finish(Ballot::ZERO));
    let change = rig.change();
    rig.hold(JOINT + 2, &Says::Newcomer);
    rig.changed(change);
    assert_eq!(rig.answers(), [(id, done())]);
    rig.submit(ReplicaRequest::Get { epoch: Epoch(JOINT + 2), key: key("a"), digest: false });
    rig.keep_promises();
    rig.read(Some(row_at("a", term(1).ballot(7))));
    assert_eq!(rig.answers()[0].1, ABSENT);
}

#[test]
fn after_a_restart_all_is_hidden_until_the_copy_comes_again() {
    let mut rig = begun();
    let row = row_at("a", term(1).ballot(7));
    rig.submit(install(std::slice::from_ref(&row), &[], behind("a")));
    rig.make_change();
    rig.replica.lose();
    rig.answers();
    rig.open(PartitionRecord { promise: fence(Epoch(JOINT)), ..Default::default() });
    rig.submit(get_joint("a"));
    rig.read(Some(row.clone()));
    assert_eq!(rig.answers()[0].1, ABSENT);
    rig.submit(begin(Ballot::ZERO));
    rig.make_change();
    rig.submit(install(&[], &[], behind("a")));
    rig.make_change();
    rig.answers();
    assert_eq!(rig.ask(get_joint("a")), version(row));
}

#[test]
fn a_change_drops_what_it_touches_from_the_cache() {
    let mut rig = begun();
    let (old, new) = (row_at("a", term(1).ballot(7)), row_at("a", term(1).ballot(8)));
    let evicted = row_at("b", term(1).ballot(3));
    for row in [&old, &evicted] {
        rig.submit(ReplicaRequest::Get { epoch: Epoch(JOINT), key: row.key.clone(), digest: false });
        rig.read(Some(row.clone()));
    }
    rig.submit(install(std::slice::from_ref(&new), &[&evicted], None));
    rig.make_change();
    rig.submit(finish(Ballot::ZERO));
    rig.make_change();
    rig.answers();
    for (name, stored, reply) in [("a", Some(new.clone()), version(new)), ("b", None, ABSENT)] {
        let id = rig.submit(get_joint(name));
        rig.read(stored);
        assert_eq!(rig.answers(), [(id, reply)]);
    }
}

/// The commit came first in the database, and its outcome last to the replica.
#[test]
fn a_commit_that_raced_a_change_does_not_fill_the_cache() {
    let mut rig = begun();
    let first = row_at("a", promise_in(JOINT, 1).ballot(1));
    let second = row_at("a", promise_in(JOINT, 1).ballot(2));
    // The barrier keeps an install behind a put, so the put must come later.
    rig.submit(install(std::slice::from_ref(&second), &[], None));
    let change = rig.change();
    rig.submit(put_at("a", first.ballot));
    let commit = rig.take();
    rig.changed(change);
    rig.committed(commit);
    rig.answers();
    let id = rig.submit(get_joint("a"));
    rig.read(Some(second.clone()));
    assert_eq!(rig.answers(), [(id, version(second))]);
}

#[test]
fn a_change_of_unknown_outcome_loses_the_store_and_an_aborted_one_does_not() {
    let mut rig = begun();
    let rows = [row_at("a", term(1).ballot(7))];
    let id = rig.submit(install(&rows, &[], None));
    let (change, _) = rig.change();
    rig.replica.on_change(change, aborted());
    assert_eq!(rig.answers(), [(id, refused(Refusal::Unavailable))]);
    assert!(rig.replica.is_open());

    let id = rig.submit(install(&rows, &[], None));
    let queued = rig.submit(finish(Ballot::ZERO));
    let (change, _) = rig.change();
    rig.replica.on_change(change, lost());
    assert_eq!(rig.answers(), [(id, ReplicaReply::Unknown), (queued, refused(Refusal::Unavailable))]);
    assert_eq!(rig.replica.work(), Work { reopen: true, ..Work::default() });
    assert_eq!(rig.replica.stats().errands, 0);
}

#[test]
fn a_full_disk_refuses_changes() {
    let mut rig = begun();
    let rows = [row_at("a", term(1).ballot(7))];
    rig.submit(install(&rows, &[], None));
    let queued = rig.submit(install(&rows, &[], None));
    let (change, _) = rig.change();
    rig.replica.on_change(change, CommitOutcome::Aborted(StoreError::DiskFull("full".into())));
    let unavailable = refused(Refusal::Unavailable);
    assert_eq!(rig.replica.next_change(), None);
    assert_eq!(rig.answers(), [(queued - 1, unavailable.clone()), (queued, unavailable.clone())]);
    assert_eq!(rig.ask(finish(Ballot::ZERO)), unavailable);
    assert!(rig.replica.stats().read_only && rig.replica.is_open());
}

/// What a copy of an empty partition costs: one transaction for its end.
#[test]
fn a_change_that_changes_nothing_durable_is_answered_without_the_store() {
    let mut rig = newcomer(PartitionRecord::default());
    let steps = [begin(Ballot::ZERO), install(&[], &[], behind("a")), finish(Ballot::ZERO)];
    let ids = steps.map(|step| rig.submit(step));
    let end = rig.change();
    let none = PartitionChange::none(partition());
    assert_eq!(end.1, PartitionChange { copied: Epoch(JOINT), promise: fence(Epoch(JOINT)), ..none });
    assert_eq!(
        rig.answers(),
        [(ids[0], done()), (ids[1], done())],
        "the end is final only once it is durable"
    );
    rig.changed(end);
    assert_eq!(rig.answers(), [(ids[2], done())]);
}

#[test]
fn each_part_of_a_change_is_sent_unless_it_is_durable() {
    let (flush, clock) = (term(1).ballot(3), VectorClock::new().with_dot(term(1).term.incarnation, 3));
    let record = PartitionRecord {
        floor: term(1).ballot(5),
        flush,
        flush_clock: clock.clone(),
        vector: clock.clone(),
        highest: term(1).ballot(8),
        copied: Epoch(JOINT),
        ..PartitionRecord::default()
    };
    let rig = newcomer(record);
    let knows = |change: &PartitionChange| rig.replica.partitions[partition().index()].knows(change);
    let known = PartitionChange {
        flush: Some((flush, clock.clone())),
        floor: term(1).ballot(5),
        vector: clock.clone(),
        highest: term(1).ballot(8),
        promise: fence(Epoch(JOINT)),
        copied: Epoch(JOINT),
        ..PartitionChange::none(partition())
    };
    assert!(knows(&known) && knows(&PartitionChange::none(partition())));
    let row = row_at("a", term(1).ballot(2));
    let later = clock.clone().with_dot(term(1).term.incarnation, 4);
    for unknown in [
        PartitionChange { evict: vec![(row.key.hash(), row.ballot)], ..known.clone() },
        PartitionChange { rows: vec![row], ..known.clone() },
        PartitionChange { flush: Some((term(1).ballot(2), clock)), ..known.clone() },
        PartitionChange { flush: Some((flush, later.clone())), ..known.clone() },
        PartitionChange { floor: term(1).ballot(6), ..known.clone() },
        PartitionChange { vector: later, ..known.clone() },
        PartitionChange { highest: term(1).ballot(9), ..known.clone() },
        PartitionChange { promise: promise_in(JOINT, 1), ..known.clone() },
        PartitionChange { copied: Epoch(JOINT + 1), ..known.clone() },
    ] {
        assert!(!knows(&unknown), "{unknown:?}");
    }
}

/// A second copy would evict what only its own end explains, while the next configuration may be decided on the strength
/// of the first one: an acknowledged write was lost.
#[test]
pub(super) fn a_copy_that_has_finished_is_final_in_its_epoch() {
    let whole = || ReplicaReply::Synced(Box::new(SyncReply::Whole));
    let ask = |rig: &mut Rig, request| {
        rig.submit(request);
        assert_eq!(rig.replica.next_change(), None);
        rig.answers().remove(0).1
    };
    let flush = term(1).ballot(3);
    let mut rig = newcomer(PartitionRecord::default());
    for request in [begin(flush), install(&[row_at("a", term(1).ballot(7))], &[], None), finish(flush)] {
        rig.submit(request);
        rig.make_change();
    }
    rig.answers();
    let stale = row_at("a", term(1).ballot(7));
    let invalid = refused(Refusal::Invalid);
    let late = [install(&[], &[&stale], None), finish(flush)];
    assert_eq!(ask(&mut rig, begin(Ballot::ZERO)), whole());
    for request in late.clone() {
        assert_eq!(ask(&mut rig, request), invalid, "of a copy that has ended");
    }

    // After a restart too.
    let mut rig = newcomer(PartitionRecord { flush, copied: Epoch(JOINT), ..PartitionRecord::default() });
    assert_eq!(ask(&mut rig, begin(Ballot::ZERO)), whole());
    for request in late {
        assert_eq!(ask(&mut rig, request), invalid);
    }
    let id = rig.submit(get_joint("a"));
    rig.read(Some(stale.clone()));
    assert_eq!(rig.answers(), [(id, version(stale))]);
    let id = rig.submit(get_joint("b"));
    rig.read(None);
    assert_eq!(rig.answers(), [(id, flushed(flush))]);

    // A copy of an earlier epoch says nothing of this one.
    let mut rig = newcomer(PartitionRecord { copied: Epoch(JOINT - 1), ..PartitionRecord::default() });
    let id = rig.submit(begin(Ballot::ZERO));
    rig.make_change();
    assert_eq!(rig.answers(), [(id, done())]);
}
