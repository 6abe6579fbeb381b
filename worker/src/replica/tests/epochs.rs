//! What the held configuration allows.

use super::*;

fn digest_in(epoch: u64) -> ReplicaRequest {
    let from = KeyHash([0; 16]);
    sync(SyncRequest::Digest { partition: partition(), epoch: Epoch(epoch), from, limit: 10 })
}

fn get_in(epoch: u64) -> ReplicaRequest {
    ReplicaRequest::Get { epoch: Epoch(epoch), key: key("a"), digest: false }
}

#[test]
fn a_partition_of_others_is_refused() {
    let mut rig = Rig::new();
    rig.hold(1, &Says::Others);
    assert_eq!(rig.ask(put("a", 1, 1)), refused(Refusal::NotMember));
    assert_eq!(rig.ask(digest_in(1)), refused(Refusal::NotMember));
    rig.hold(2, &Says::Replica);
    rig.submit(put_at("a", promise_in(2, 1).ballot(1)));
    assert_eq!(rig.answers(), []);
}

#[test]
fn a_configuration_ends_older_epochs_at_once() {
    let mut rig = Rig::new();
    rig.hold(3, &Says::Stays);
    let old = refused(Refusal::Epoch { current: Epoch(3) });
    for request in [put("a", 9, 1), get("a"), prepare(term(9)), digest_in(1), digest_in(2)] {
        assert_eq!(rig.ask(request), old);
    }
    // Nothing is durable yet, so the first to ask in the epoch waits for that.
    rig.submit(get_in(3));
    assert_eq!(rig.answers(), []);
    assert_eq!(rig.keep_promises(), [(partition(), fence(Epoch(3)))]);
    rig.read(None);
    assert_eq!(rig.answers().len(), 1);
}

#[test]
fn an_epoch_that_the_configuration_does_not_know_has_to_wait_for_it() {
    let mut rig = Rig::new();
    rig.hold(2, &Says::Replica);
    for request in [get_in(3), prepare(promise_in(3, 1)), digest_in(3)] {
        assert_eq!(rig.ask(request), refused(Refusal::Unavailable));
    }
    rig.submit(get_in(2));
    assert_eq!(rig.keep_promises(), [(partition(), fence(Epoch(2)))], "the later epoch left no trace");
}

#[test]
fn an_outdated_configuration_changes_nothing() {
    let mut rig = Rig::new();
    rig.hold(3, &Says::Replica);
    rig.hold(2, &Says::Others);
    assert_eq!(rig.ask(get_in(2)), refused(Refusal::Epoch { current: Epoch(3) }));
    rig.submit(get_in(3));
    assert_eq!(rig.answers(), []);
}

#[test]
fn who_waits_for_an_epoch_that_ends_is_told_so() {
    let mut rig = Rig::new();
    rig.hold(2, &Says::Stays);
    rig.submit(prepare(promise_in(2, 1)));
    rig.submit(get_in(2));
    rig.submit(digest_in(2));
    rig.hold(3, &Says::Replica);
    let ended = refused(Refusal::Epoch { current: Epoch(3) });
    assert_eq!(rig.answers(), [(1, ended.clone()), (2, ended.clone()), (3, ended)]);
    assert_eq!(rig.replica.stats().errands, 0);
}

#[test]
fn a_write_of_the_epoch_before_ends_as_usual_and_is_waited_for() {
    let mut rig = Rig::new();
    rig.submit(put("a", 1, 1));
    let batch = rig.take();
    rig.submit(put("b", 1, 2));
    rig.hold(2, &Says::Stays);
    rig.submit(digest_in(2));
    rig.submit(prepare(promise_in(2, 1)));
    rig.keep_promises();
    assert_eq!((rig.answers(), rig.replica.next_scan()), (vec![], None));
    rig.committed(batch);
    assert_eq!((rig.answers(), rig.replica.next_scan()), (vec![(1, ReplicaReply::Stored)], None));
    rig.commit();
    let answers = rig.answers();
    assert_eq!(answers[0], (2, ReplicaReply::Stored));
    assert!(
        matches!(answers[1], (4, ReplicaReply::Prepared { highest, .. }) if highest == term(1).ballot(2))
    );
    assert!(rig.replica.next_scan().is_some());
}

/// A put of the new epoch makes it durable, but that says nothing of older puts: a digest taken now would miss what
/// the older epoch still acknowledges.
#[test]
fn a_digest_waits_for_an_older_put_even_where_its_epoch_is_durable_already() {
    let mut rig = Rig::new();
    rig.submit(put("a", 1, 1));
    let older = rig.take();
    rig.hold(2, &Says::Stays);
    rig.submit(put_at("b", promise_in(2, 1).ballot(1)));
    rig.commit();
    assert_eq!(rig.answers(), [(2, ReplicaReply::Stored)]);
    rig.submit(digest_in(2));
    assert_eq!((rig.replica.next_promises(), rig.replica.next_scan()), (None, None));
    rig.committed(older);
    assert!(rig.replica.next_scan().is_some());
}

#[test]
fn a_replica_that_stays_through_a_change_keeps_and_shows_everything() {
    let mut rig = Rig::new();
    rig.submit(put("a", 1, 1));
    rig.commit();
    rig.answers();
    for (number, says) in [(2, Says::Stays), (3, Says::Replica)] {
        rig.hold(number, &says);
        let id = rig.submit(get_in(number));
        rig.keep_promises();
        assert_eq!(rig.answers(), [(id, version(row_at("a", term(1).ballot(1))))]);
    }
}

#[test]
fn a_replicated_row_of_a_later_epoch_is_invalid_chosen_or_not() {
    let mut rig = Rig::new();
    rig.hold(2, &Says::Replica);
    for chosen in [true, false] {
        let row = row_at("a", promise_in(3, 1).ballot(1));
        let request = ReplicaRequest::Replicate { row, chosen, epoch: Epoch(2) };
        assert_eq!(rig.ask(request), refused(Refusal::Invalid));
    }
}

#[test]
fn another_worker_over_other_data_is_no_member() {
    let id = WorkerId::new("w1").unwrap();
    let member = Member { uuid: "one".into(), ..Member::named(id.clone(), 16, "") };
    let config = RingConfig::new("c", Epoch(1), 1, vec![member]).unwrap();
    assert!(Membership::from_config(&config, &id, "one").contains(partition()));
    assert!(!Membership::from_config(&config, &id, "two").contains(partition()));
}
