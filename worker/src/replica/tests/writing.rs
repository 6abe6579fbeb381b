use super::*;

#[test]
fn a_write_raises_the_promise_in_its_own_transaction() {
    let mut rig = Rig::new();
    rig.submit(put("a", 2, 1));
    assert_eq!(rig.ask(put("b", 1, 9)), refused(Refusal::Promise { promised: term(2) }));
    let first = rig.take();
    assert_eq!(first.1.promises, [(partition(), term(2))]);
    // The other connection must not make a row durable without the promise it was accepted under.
    rig.submit(put("b", 2, 2));
    let second = rig.take();
    assert_eq!(second.1.promises, [(partition(), term(2))]);
    rig.committed(second);
    rig.committed(first);
    rig.submit(put("a", 2, 3));
    assert_eq!(rig.take().1.promises, [], "durable by now");
}

#[test]
fn a_batch_holds_each_key_once_sorted_and_at_its_highest_ballot() {
    let mut rig = Rig::new();
    for (name, seq) in [("d", 1), ("b", 2), ("a", 5), ("c", 3), ("a", 4)] {
        rig.submit(put(name, 1, seq));
    }
    let (id, batch) = rig.take();
    let slots: Vec<_> = batch.rows.iter().map(|write| write.place).collect();
    assert!(slots.is_sorted() && slots.len() == 4);
    assert!(batch.rows.contains(&row_at("a", term(1).ballot(5)).into()));
    rig.committed((id, batch));
    assert_eq!(rig.answers(), (1..=5).map(|id| (id, ReplicaReply::Stored)).collect::<Vec<_>>());
}

#[test]
fn what_a_higher_term_replaced_in_the_queue_is_refused_only_after_commit() {
    let mut rig = Rig::new();
    rig.submit(put("a", 1, 9));
    rig.submit(put("a", 2, 1));
    assert_eq!(rig.answers(), []);
    rig.commit();
    let winner = term(2).ballot(1);
    assert_eq!(
        rig.answers(),
        [(1, refused(Refusal::Superseded { ballot: winner })), (2, ReplicaReply::Stored)]
    );
}

#[test]
fn a_row_that_was_there_at_a_higher_ballot_decides_the_answer() {
    let mut rig = Rig::new();
    rig.submit(put("a", 1, 1));
    rig.submit(put("b", 1, 2));
    rig.submit(put("c", 1, 3));
    let (id, batch) = rig.take();
    let outcomes = batch
        .rows
        .iter()
        .map(|write| match write.row.ballot.seq {
            1 => RowOutcome::Superseded { ballot: term(1).ballot(7) },
            2 => RowOutcome::Superseded { ballot: term(3).ballot(1) },
            _ => RowOutcome::KeyCollision,
        })
        .collect();
    rig.committed_as((id, batch), outcomes);
    assert_eq!(
        rig.answers(),
        [
            (1, ReplicaReply::Stored),
            (2, refused(Refusal::Superseded { ballot: term(3).ballot(1) })),
            (3, refused(Refusal::KeyCollision)),
        ]
    );
}

#[test]
fn a_key_in_flight_waits_for_the_next_batch() {
    let mut rig = Rig::new();
    rig.submit(put("a", 1, 1));
    let first = rig.take();
    rig.submit(put("a", 1, 2));
    assert_eq!(rig.replica.next_commit(), None);
    rig.submit(put("b", 1, 3));
    let second = rig.take();
    assert_eq!(second.1.rows, [row_at("b", term(1).ballot(3)).into()]);
    rig.committed(first);
    let third = rig.take();
    assert_eq!(third.1.rows, [Write { known: true, ..row_at("a", term(1).ballot(2)).into() }]);
    rig.committed(second);
    rig.committed(third);
    assert_eq!(rig.answers().len(), 3);
}

#[test]
fn batches_are_bounded_in_rows_and_bytes_and_one_large_row_goes_alone() {
    let mut rig = Rig::new();
    let large = |name: &str, seq| {
        let content = Content::string(vec![b'x'; LIMITS.batch_bytes_max * 2], None);
        ReplicaRequest::Put { row: Row { content, ..row_at(name, term(1).ballot(seq)) } }
    };
    (1..=60).for_each(|n| _ = rig.submit(put(&n.to_string(), 1, n)));
    rig.submit(large("large", 61));
    rig.submit(put("last", 1, 62));
    let mut sizes = Vec::new();
    while let Some((_, batch)) = rig.replica.next_commit() {
        sizes.push(batch.rows.len());
    }
    assert_eq!(sizes, [50, 10, 1, 1]);
}

#[test]
fn an_aborted_batch_is_refused_and_changes_nothing() {
    let mut rig = Rig::new();
    rig.submit(put("a", 1, 1));
    rig.commit();
    rig.submit(put("a", 1, 2));
    let (id, _) = rig.take();
    rig.replica.on_commit(id, aborted());
    assert_eq!(rig.answers(), [(1, ReplicaReply::Stored), (2, refused(Refusal::Unavailable))]);
    assert_eq!(rig.ask(get("a")), version(row_at("a", term(1).ballot(1))));
    rig.submit(put("a", 1, 3));
    rig.commit();
    assert_eq!(rig.answers(), [(4, ReplicaReply::Stored)]);
}

#[test]
pub(super) fn an_unknown_outcome_is_never_a_refusal() {
    let mut rig = Rig::new();
    rig.submit(put("a", 1, 1));
    rig.submit(put("a", 1, 2));
    rig.submit(flush(term(1).ballot(3)));
    let (id, _) = rig.take();
    rig.submit(put("b", 1, 4));
    let (other, other_batch) = {
        let batch = rig.take();
        rig.submit(put("a", 1, 5));
        batch
    };
    rig.replica.on_commit(id, lost());
    let unknown = ReplicaReply::Unknown;
    // The parked one was never sent, so it is refused; the other transaction says for itself how it ended.
    assert_eq!(
        rig.answers(),
        [(1, unknown.clone()), (2, unknown.clone()), (3, unknown), (5, refused(Refusal::Unavailable))]
    );
    rig.committed((other, other_batch));
    assert_eq!(rig.answers(), [(4, ReplicaReply::Stored)]);
}

#[test]
fn outcomes_that_do_not_match_the_rows_say_nothing() {
    let mut rig = Rig::new();
    rig.submit(put("a", 1, 1));
    let batch = rig.take();
    rig.committed_as(batch, vec![]);
    assert_eq!(rig.answers(), [(1, ReplicaReply::Unknown)]);
    assert!(!rig.replica.is_open());
}

#[test]
fn a_chosen_row_installs_below_the_promise_and_any_other_does_not() {
    let mut rig = Rig::new();
    rig.open(PartitionRecord { promise: term(5), ..Default::default() });
    let row = row_at("a", term(1).ballot(1));
    let replicate = |chosen, epoch| ReplicaRequest::Replicate { row: row.clone(), chosen, epoch };
    assert_eq!(rig.ask(replicate(false, Epoch(1))), refused(Refusal::Promise { promised: term(5) }));
    rig.submit(replicate(true, Epoch(1)));
    let (id, batch) = rig.take();
    assert_eq!((&batch.rows[..], &batch.promises[..]), (&[row.clone().into()][..], &[][..]));
    rig.committed((id, batch));
    assert_eq!(rig.answers(), [(2, ReplicaReply::Stored)]);
    // In a new epoch it brings the epoch along, and no term.
    rig.submit(replicate(true, Epoch(2)));
    assert_eq!(rig.take().1.promises, [(partition(), fence(Epoch(2)))]);
    assert_eq!(rig.ask(replicate(true, Epoch(1))), refused(Refusal::Epoch { current: Epoch(2) }));
    let later = row_at("a", Promise { epoch: Epoch(3), ..term(1) }.ballot(1));
    let from_the_past = ReplicaRequest::Replicate { row: later, chosen: true, epoch: Epoch(2) };
    assert_eq!(rig.ask(from_the_past), refused(Refusal::Invalid));
}

#[test]
fn a_chosen_flush_installs_below_the_promise_and_leaves_it() {
    let mut rig = Rig::new();
    rig.open(PartitionRecord { promise: term(5), ..Default::default() });
    let ballot = term(1).ballot(7);
    let repair = |chosen| {
        let ReplicaRequest::Flush { partition, ballot, clock, .. } = flush(ballot) else { unreachable!() };
        ReplicaRequest::Flush { partition, ballot, clock, chosen }
    };
    assert_eq!(rig.ask(repair(None)), refused(Refusal::Promise { promised: term(5) }));
    rig.submit(repair(Some(Epoch(1))));
    let (id, batch) = rig.take();
    assert_eq!((batch.flushes.len(), &batch.promises[..]), (1, &[][..]));
    rig.committed((id, batch));
    assert_eq!(rig.answers(), [(2, ReplicaReply::Stored)]);
}

fn rig_with_floor() -> Rig {
    let mut rig = Rig::new();
    let floor = term(1).ballot(10);
    rig.open(PartitionRecord { promise: term(1), floor, ..Default::default() });
    rig
}

#[test]
pub(super) fn at_or_below_the_floor_only_a_row_that_exists_is_written() {
    let below_floor = refused(Refusal::Floor { floor: term(1).ballot(10) });
    let mut rig = rig_with_floor();
    for request in [
        put("a", 1, 10),
        ReplicaRequest::Replicate { row: row_at("b", term(1).ballot(9)), chosen: true, epoch: Epoch(1) },
    ] {
        let id = rig.submit(request);
        assert_eq!(rig.replica.next_commit(), None, "whether the row exists is not known");
        rig.read(None);
        assert_eq!(rig.answers(), [(id, below_floor.clone())]);
    }
    assert_eq!(rig.ask(put("a", 1, 9)), below_floor, "known absent by now");
    rig.submit(put("c", 1, 8));
    rig.read(Some(row_at("c", term(1).ballot(1))));
    rig.commit();
    assert_eq!(rig.answers(), [(4, ReplicaReply::Stored)]);
    rig.submit(put("c", 1, 9));
    rig.submit(put("d", 1, 11));
    rig.commit();
    assert_eq!(rig.answers().len(), 2, "known present, and above the floor");
}

#[test]
fn a_prepare_waits_for_a_write_whose_floor_is_being_checked() {
    let mut rig = rig_with_floor();
    rig.submit(put("a", 1, 10));
    rig.submit(prepare(term(1)));
    assert_eq!(rig.answers(), []);
    rig.read(None);
    assert_eq!(rig.answers().len(), 2);
}

#[test]
fn a_flush_is_a_put_of_the_partition() {
    let mut rig = Rig::new();
    rig.submit(flush(term(2).ballot(5)));
    assert_eq!(rig.ask(flush(term(1).ballot(9))), refused(Refusal::Promise { promised: term(2) }));
    rig.submit(flush(term(2).ballot(4)));
    let (id, batch) = rig.take();
    assert_eq!(batch.promises, [(partition(), term(2))]);
    assert_eq!(batch.flushes.len(), 1);
    assert_eq!(batch.flushes[0].1, term(2).ballot(5));
    assert_eq!(rig.answers(), []);
    rig.committed((id, batch));
    assert_eq!(rig.answers(), [(1, ReplicaReply::Stored), (3, ReplicaReply::Stored)]);
    // Re-sent.
    assert_eq!(rig.ask(flush(term(2).ballot(5))), ReplicaReply::Stored);
    assert!(matches!(rig.ask(prepare(term(2))), ReplicaReply::Prepared { highest, .. } if highest.seq == 5));
}

#[test]
fn flushes_that_end_out_of_order_leave_the_higher_one() {
    let mut rig = Rig::new();
    rig.submit(flush(term(1).ballot(4)));
    let lower = rig.take();
    rig.submit(flush(term(1).ballot(5)));
    rig.commit();
    rig.committed(lower);
    assert_eq!(rig.answers(), [(1, ReplicaReply::Stored), (2, ReplicaReply::Stored)]);
    rig.submit(get("a"));
    rig.read(None);
    let flushed = ReplicaReply::Version(Held { ballot: term(1).ballot(5), row: None, floor: Ballot::ZERO });
    assert_eq!(rig.answers(), [(3, flushed)]);
}

#[test]
fn a_put_below_the_flush_is_superseded_by_it() {
    let mut rig = Rig::new();
    rig.open(PartitionRecord { promise: term(2), flush: term(2).ballot(5), ..Default::default() });
    assert_eq!(rig.ask(put("a", 2, 4)), ReplicaReply::Stored);
    let chosen =
        ReplicaRequest::Replicate { row: row_at("a", term(1).ballot(9)), chosen: true, epoch: Epoch(1) };
    assert_eq!(rig.ask(chosen), refused(Refusal::Superseded { ballot: term(2).ballot(5) }));
    assert_eq!(rig.replica.next_commit(), None);
}

#[test]
fn a_full_queue_is_busy_and_a_busy_write_leaves_no_trace() {
    let mut rig = Rig::with_limits(Limits { queue_len_max: 2, ..LIMITS });
    rig.submit(put("a", 1, 1));
    rig.submit(put("a", 1, 2));
    assert_eq!(rig.ask(put("b", 9, 3)), refused(Refusal::Busy));
    let (id, batch) = rig.take();
    assert_eq!(batch.promises, [(partition(), term(1))], "the busy one promised nothing");
    assert_eq!(rig.ask(put("b", 1, 3)), refused(Refusal::Busy), "in flight counts");
    rig.committed((id, batch));
    rig.answers();
    rig.submit(put("b", 1, 3));
    assert_eq!(rig.answers(), []);

    let mut rig = Rig::with_limits(Limits { queue_bytes_max: 300, ..LIMITS });
    let content = Content::string(vec![0; 10_000], None);
    rig.submit(ReplicaRequest::Put { row: Row { content, ..row_at("a", term(1).ballot(1)) } });
    assert_eq!(rig.answers(), [], "one alone may be larger than the queue");
    assert_eq!(rig.ask(put("b", 1, 2)), refused(Refusal::Busy));
}

#[test]
fn values_above_the_limit_and_ballots_of_nobody_are_invalid() {
    let mut rig = Rig::new();
    let content = Content::string(Bytes::from(vec![0; LIMITS.value_bytes_max + 1]), None);
    let large = ReplicaRequest::Put { row: Row { content, ..row_at("a", term(1).ballot(1)) } };
    assert_eq!(rig.ask(large), refused(Refusal::Invalid));
    let mut rig = Rig::with_limits(LIMITS);
    assert_eq!(rig.ask(put_at("a", Ballot::ZERO)), refused(Refusal::Invalid));
}

#[test]
fn a_full_disk_refuses_writes_until_a_probe_commits_and_goes_on_reading() {
    let mut rig = Rig::new();
    rig.submit(put("a", 1, 1));
    rig.commit();
    rig.submit(put("a", 1, 2));
    let (id, _) = rig.take();
    rig.submit(put("b", 1, 3));
    rig.answers();
    rig.replica.on_commit(id, CommitOutcome::Aborted(StoreError::DiskFull("no space left on device".into())));
    let unavailable = refused(Refusal::Unavailable);
    assert_eq!(rig.answers(), [(2, unavailable.clone()), (3, unavailable.clone())]);
    assert_eq!(rig.ask(put("c", 1, 4)), unavailable);
    assert_eq!(rig.ask(flush(term(1).ballot(5))), unavailable);
    assert_eq!(rig.ask(get("a")), version(row_at("a", term(1).ballot(1))));
    assert!(rig.replica.stats().read_only && rig.replica.is_open());
    rig.replica.on_probe(false);
    assert_eq!(rig.ask(put("c", 1, 4)), unavailable);
    rig.replica.on_probe(true);
    rig.submit(put("c", 1, 4));
    rig.commit();
    assert_eq!(rig.answers().len(), 1);
}

#[test]
fn two_keys_of_one_hash_are_not_merged() {
    let mut rig = Rig::new();
    let (first, second) = (row_at("a", term(1).ballot(1)), row_at("b", term(1).ballot(2)));
    // No such keys are known; the queue is told that these are.
    let slot = Slot::of(&first.key);
    for row in [first, second] {
        rig.last += 1;
        let ticket = Ticket { caller: 7, id: rig.last, op: Op::Put, arrived_us: 0 };
        rig.replica.put(ticket, slot, row).unwrap();
    }
    assert_eq!(rig.answers(), [(2, refused(Refusal::KeyCollision))]);
    assert_eq!(rig.take().1.rows.len(), 1);
}
