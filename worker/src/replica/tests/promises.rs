use super::*;

fn prepared(highest: Ballot) -> ReplicaReply {
    let mut vector = VectorClock::new();
    vector.observe(highest.term.incarnation, highest.seq);
    ReplicaReply::Prepared { vector, highest }
}

fn unreachable() -> StoreError {
    StoreError::Timeout("statement timeout".into())
}

#[test]
fn a_prepare_is_answered_once_its_promise_is_durable() {
    let mut rig = Rig::new();
    rig.submit(prepare(term(2)));
    assert_eq!(rig.answers(), []);
    assert_eq!(rig.keep_promises(), [(partition(), term(2))]);
    assert_eq!(rig.answers(), [(1, prepared(Ballot::ZERO))]);
    // Again: durable already, so it costs nothing.
    assert_eq!(rig.ask(prepare(term(2))), prepared(Ballot::ZERO));
    assert_eq!(rig.replica.next_promises(), None);
}

#[test]
fn a_promise_binds_on_arrival() {
    let mut rig = Rig::new();
    rig.submit(prepare(term(2)));
    assert_eq!(rig.ask(put("a", 1, 1)), refused(Refusal::Promise { promised: term(2) }));
    assert_eq!(rig.ask(prepare(term(1))), refused(Refusal::Promise { promised: term(2) }));
    assert_eq!(rig.ask(get_for_write("a", term(1))), refused(Refusal::Promise { promised: term(2) }));
    assert_eq!(rig.ask(flush(term(1).ballot(1))), refused(Refusal::Promise { promised: term(2) }));
}

/// A put that comes in under it may be read from the database before its commit is known here. Who asks for the proof that
/// nobody has deposed them must not get it from then on.
#[test]
fn a_promise_is_told_from_its_arrival() {
    let mut rig = Rig::new();
    let asked = |rig: &mut Rig, since| match rig.ask(ReplicaRequest::Promises { since }) {
        ReplicaReply::Promises(told) => (told.since, told.upto, told.raised),
        other => panic!("{other:?}"),
    };
    rig.submit(put("a", 1, 1));
    let first = asked(&mut rig, 0);
    assert_eq!(first.2, [(partition(), term(1))], "nothing is durable yet");
    assert_eq!(asked(&mut rig, first.1), (first.1, first.1, vec![]));
    rig.submit(prepare(term(2)));
    let second = asked(&mut rig, first.1);
    assert_eq!(second, (first.1, first.1 + 1, vec![(partition(), term(2))]));
    // The same term again raises nothing.
    rig.submit(put("a", 2, 1));
    assert_eq!(asked(&mut rig, second.1).1, second.1);
    assert_eq!(asked(&mut rig, 0).2, [(partition(), term(2))]);
    rig.replica.lose();
    rig.answers();
    assert_eq!(rig.ask(ReplicaRequest::Promises { since: 0 }), refused(Refusal::Unavailable));
}

#[test]
pub(super) fn a_prepare_waits_for_writes_accepted_earlier_and_for_no_later_ones() {
    let mut rig = Rig::new();
    rig.submit(put("a", 1, 1));
    let first = rig.take();
    rig.submit(put("b", 1, 2));
    rig.submit(prepare(term(2)));
    rig.keep_promises();
    rig.submit(put("c", 2, 1));
    assert_eq!(rig.answers(), [], "two earlier writes are under way");

    rig.committed(first);
    assert_eq!(rig.answers(), [(1, ReplicaReply::Stored)], "one is still queued");

    let (id, batch) = rig.take();
    assert_eq!(batch.rows.len(), 2, "the later write came along");
    rig.committed((id, batch));
    let answers = rig.answers();
    assert_eq!(
        answers[1],
        (
            3,
            ReplicaReply::Prepared {
                vector: VectorClock::new().with_dot(Incarnation(2), 1),
                highest: term(2).ballot(1),
            }
        )
    );
}

#[test]
fn a_later_write_that_never_ends_does_not_hold_up_a_prepare() {
    let mut rig = Rig::new();
    rig.submit(put("a", 1, 1));
    let first = rig.take();
    rig.submit(prepare(term(2)));
    rig.submit(put("b", 2, 1));
    let _later = rig.take();
    rig.keep_promises();
    rig.committed(first);
    assert_eq!(rig.answers(), [(1, ReplicaReply::Stored), (2, prepared(term(1).ballot(1)))]);
}

#[test]
fn an_equal_promise_waits_too() {
    let mut rig = Rig::new();
    rig.submit(put("a", 1, 1));
    let batch = rig.take();
    rig.submit(prepare(term(1)));
    assert_eq!(rig.answers(), []);
    assert_eq!(rig.replica.next_promises(), None, "durable already");
    rig.committed(batch);
    assert_eq!(rig.answers(), [(1, ReplicaReply::Stored), (2, prepared(term(1).ballot(1)))]);
}

#[test]
fn a_refused_write_lets_the_prepare_behind_it_pass() {
    let mut rig = Rig::new();
    rig.submit(put("a", 1, 1));
    let (id, _) = rig.take();
    rig.submit(prepare(term(1)));
    rig.replica.on_commit(id, aborted());
    assert_eq!(rig.answers(), [(1, refused(Refusal::Unavailable)), (2, prepared(Ballot::ZERO))]);
}

#[test]
fn a_write_of_unknown_outcome_never_lets_a_prepare_pass() {
    let mut rig = Rig::new();
    rig.submit(put("a", 1, 1));
    let (id, _) = rig.take();
    rig.submit(prepare(term(1)));
    rig.replica.on_commit(id, lost());
    assert_eq!(rig.answers(), [(1, ReplicaReply::Unknown), (2, refused(Refusal::Unavailable))]);
}

#[test]
fn a_promise_that_could_not_be_kept_is_refused_and_still_binds() {
    let mut rig = Rig::new();
    rig.submit(prepare(term(2)));
    rig.replica.next_promises().unwrap();
    rig.submit(prepare(term(3)));
    rig.replica.on_promises(Err(unreachable()));
    assert_eq!(rig.answers(), [(1, refused(Refusal::Unavailable))], "the other's turn is still to come");
    assert_eq!(rig.ask(put("a", 1, 1)), refused(Refusal::Promise { promised: term(3) }));
    assert_eq!(rig.keep_promises(), [(partition(), term(3))]);
    assert_eq!(rig.answers(), [(2, prepared(Ballot::ZERO))]);
}

#[test]
fn one_call_keeps_all_promises_that_wait() {
    let mut rig = Rig::new();
    for partition in PartitionId::all() {
        rig.submit(ReplicaRequest::Prepare { partition, promise: term(2) });
    }
    // The first hundred: the bound on who may wait.
    assert_eq!(rig.answers().len(), usize::from(tercet_common::PARTITIONS) - LIMITS.queue_len_max);
    assert_eq!(rig.keep_promises().len(), LIMITS.queue_len_max);
    assert_eq!(rig.answers().len(), LIMITS.queue_len_max);
}

#[test]
fn a_deposed_claim_is_refused_when_its_turn_comes() {
    let mut rig = Rig::new();
    rig.submit(prepare(term(2)));
    rig.submit(get_for_write("a", term(2)));
    rig.submit(prepare(term(3)));
    rig.keep_promises();
    let deposed = refused(Refusal::Promise { promised: term(3) });
    assert_eq!(rig.answers(), [(1, deposed.clone()), (2, deposed), (3, prepared(Ballot::ZERO))]);
}

#[test]
pub(super) fn get_for_write_promises_waits_and_then_reads() {
    let mut rig = Rig::new();
    rig.submit(get("a"));
    rig.read(None);
    assert_eq!(rig.answers(), [(1, ABSENT)]);

    rig.submit(put("a", 1, 1));
    let batch = rig.take();
    rig.submit(get_for_write("a", term(2)));
    assert_eq!(rig.ask(put("a", 1, 2)), refused(Refusal::Promise { promised: term(2) }));
    assert_eq!(rig.keep_promises(), [(partition(), term(2))]);
    assert_eq!(rig.answers(), [], "the cache says absent, but a write is under way");
    rig.committed(batch);
    assert_eq!(rig.answers(), [(2, ReplicaReply::Stored), (3, version(row_at("a", term(1).ballot(1))))]);
}

#[test]
pub(super) fn a_get_of_a_new_epoch_fences_the_older_one_durably() {
    let mut rig = Rig::new();
    rig.submit(put("a", 1, 1));
    let batch = rig.take();
    rig.submit(ReplicaRequest::Get { epoch: Epoch(2), key: key("a"), digest: false });
    assert_eq!(rig.ask(put("a", 1, 2)), refused(Refusal::Epoch { current: Epoch(2) }));
    assert_eq!(rig.keep_promises(), [(partition(), fence(Epoch(2)))]);
    assert_eq!(rig.answers(), []);
    rig.committed(batch);
    assert_eq!(rig.answers(), [(1, ReplicaReply::Stored), (2, version(row_at("a", term(1).ballot(1))))]);
    // A term of the new epoch does not depose a mere reader.
    rig.submit(ReplicaRequest::Get { epoch: Epoch(3), key: key("a"), digest: false });
    rig.submit(prepare(Promise { epoch: Epoch(3), ..term(1) }));
    rig.keep_promises();
    assert_eq!(rig.answers()[0], (4, version(row_at("a", term(1).ballot(1)))));
}

#[test]
fn a_get_waits_for_an_epoch_that_is_only_in_memory() {
    let mut rig = Rig::new();
    rig.submit(prepare(Promise { epoch: Epoch(2), ..term(1) }));
    rig.submit(ReplicaRequest::Get { epoch: Epoch(2), key: key("a"), digest: false });
    assert_eq!((rig.answers(), rig.replica.work().read), (vec![], false));
    rig.keep_promises();
    rig.read(None);
    assert_eq!(rig.answers(), [(1, prepared(Ballot::ZERO)), (2, ABSENT)]);
}

#[test]
fn what_is_loaded_never_lowers_a_promise() {
    let mut rig = Rig::new();
    rig.submit(prepare(term(5)));
    rig.replica.lose();
    rig.answers();
    rig.open(PartitionRecord { promise: term(3), ..Default::default() });
    assert_eq!(rig.ask(prepare(term(4))), refused(Refusal::Promise { promised: term(5) }));
    // What is only in memory must become durable before it is answered.
    rig.submit(prepare(term(5)));
    assert_eq!(rig.answers(), []);
    assert_eq!(rig.keep_promises(), [(partition(), term(5))]);
}

#[test]
pub(super) fn a_promise_that_was_kept_binds_after_a_restart() {
    let mut rig = Rig::new();
    rig.replica.lose();
    rig.open(PartitionRecord { promise: term(3), ..Default::default() });
    assert_eq!(rig.ask(put("a", 2, 1)), refused(Refusal::Promise { promised: term(3) }));
}
