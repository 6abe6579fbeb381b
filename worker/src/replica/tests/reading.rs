use super::*;

#[test]
fn the_first_read_asks_the_database_and_the_second_the_cache() {
    let mut rig = Rig::new();
    let row = row_at("a", term(1).ballot(1));
    rig.submit(get("a"));
    rig.read(Some(row.clone()));
    assert_eq!(rig.answers(), [(1, version(row.clone()))]);
    assert_eq!(rig.ask(get("a")), version(row.clone()));
    let digest = ReplicaRequest::Get { epoch: Epoch(1), key: key("a"), digest: true };
    assert_eq!(
        rig.ask(digest),
        ReplicaReply::Version(Held { ballot: row.ballot, row: None, floor: Ballot::ZERO })
    );
    rig.submit(get("nothing"));
    rig.read(None);
    assert_eq!(rig.answers(), [(4, ABSENT)]);
    assert_eq!(rig.ask(get("nothing")), ABSENT, "absence is remembered too");
    let stats = rig.replica.stats();
    assert_eq!((stats.cache_hits, stats.cache_misses, stats.cache_rows), (3, 2, 2));
}

#[test]
pub(super) fn a_write_is_seen_only_after_its_commit() {
    let mut rig = Rig::new();
    rig.submit(put("a", 1, 1));
    rig.commit();
    rig.answers();
    rig.submit(put("a", 1, 2));
    let batch = rig.take();
    assert_eq!(rig.answers(), []);
    assert_eq!(rig.ask(get("a")), version(row_at("a", term(1).ballot(1))));
    rig.committed(batch);
    rig.answers();
    assert_eq!(rig.ask(get("a")), version(row_at("a", term(1).ballot(2))));
}

#[test]
pub(super) fn a_read_that_raced_a_commit_does_not_fill_the_cache() {
    let mut rig = Rig::new();
    let (old, new) = (row_at("a", term(1).ballot(1)), row_at("a", term(1).ballot(2)));
    rig.submit(get("a"));
    let (read, _) = rig.replica.next_read().unwrap();
    rig.submit(put_at("a", new.ballot));
    rig.commit();
    // The cache loses the new row again, so that only the rule protects it from the old one.
    rig.replica.cache.clear();
    rig.replica.on_read(read, Ok(vec![Some(old.clone())]));
    assert_eq!(rig.answers(), [(1, version(old)), (2, ReplicaReply::Stored)], "both were under way at once");
    rig.submit(get("a"));
    rig.read(Some(new.clone()));
    assert_eq!(rig.answers(), [(3, version(new))]);
}

#[test]
fn what_a_read_left_out_is_read_again_first() {
    let mut rig = Rig::new();
    let rows = ["a", "b", "c"].map(|name| row_at(name, term(1).ballot(1)));
    for name in ["a", "b", "c"] {
        rig.submit(get(name));
    }
    let (read, keys) = rig.replica.next_read().unwrap();
    assert_eq!(keys.len(), 3);
    // One more for a key that is put back, and one for another.
    for name in ["d", "b"] {
        rig.submit(get(name));
    }
    rig.replica.on_read(read, Ok(vec![Some(rows[0].clone())]));
    assert_eq!(rig.answers(), [(1, version(rows[0].clone()))]);
    assert_eq!(rig.replica.stats().waiting_reads, 4);
    let (read, keys) = rig.replica.next_read().unwrap();
    let slots = ["c", "d", "b"].map(|name| (partition(), key(name).hash()));
    assert_eq!(keys, slots);
    rig.replica.on_read(read, Ok(vec![Some(rows[2].clone()), None, Some(rows[1].clone())]));
    let (b, c) = (version(rows[1].clone()), version(rows[2].clone()));
    assert_eq!(rig.answers(), [(2, b.clone()), (3, c), (4, ABSENT), (5, b)]);
    assert_eq!(rig.replica.stats().waiting_reads, 0);
}

#[test]
fn a_read_that_brings_nothing_is_refused() {
    let mut rig = Rig::new();
    rig.submit(get("a"));
    let (read, _) = rig.replica.next_read().unwrap();
    rig.replica.on_read(read, Ok(vec![]));
    assert_eq!(rig.answers(), [(1, refused(Refusal::Unavailable))]);
}

#[test]
fn readers_share_a_look_up_only_before_it_starts() {
    let mut rig = Rig::new();
    rig.submit(get("a"));
    rig.submit(get("a"));
    let (first, keys) = rig.replica.next_read().unwrap();
    assert_eq!(keys.len(), 1);
    rig.submit(get("a"));
    let (second, _) = rig.replica.next_read().expect("a look-up of its own");
    rig.replica.on_read(first, Ok(vec![None]));
    assert_eq!(rig.answers(), [(1, ABSENT), (2, ABSENT)]);
    rig.replica.on_read(second, Ok(vec![None]));
    assert_eq!(rig.answers(), [(3, ABSENT)]);
}

#[test]
fn a_failed_read_is_refused_and_never_called_absent() {
    let mut rig = Rig::new();
    rig.submit(get("a"));
    let (id, _) = rig.replica.next_read().unwrap();
    rig.replica.on_read(id, Err(StoreError::Timeout("statement timeout".into())));
    assert_eq!(rig.answers(), [(1, refused(Refusal::Unavailable))]);
    assert!(rig.replica.is_open());

    rig.submit(get("a"));
    let (id, _) = rig.replica.next_read().unwrap();
    rig.replica.on_read(id, Ok(vec![]));
    assert_eq!(rig.answers(), [(2, refused(Refusal::Unavailable))]);

    rig.submit(get("a"));
    let (id, _) = rig.replica.next_read().unwrap();
    rig.replica.on_read(id, Err(StoreError::Unreachable("connection refused".into())));
    assert_eq!(rig.answers(), [(3, refused(Refusal::Unavailable))]);
    assert!(rig.replica.work().reopen);
}

#[test]
fn a_read_that_outlived_the_store_is_not_answered() {
    let mut rig = Rig::new();
    rig.submit(get("a"));
    let (id, _) = rig.replica.next_read().unwrap();
    rig.replica.lose();
    rig.replica.on_read(id, Ok(vec![None]));
    assert_eq!(rig.answers(), [(1, refused(Refusal::Unavailable))]);
}

#[test]
fn the_cache_does_not_survive_the_store() {
    let mut rig = Rig::new();
    rig.submit(put("a", 1, 1));
    rig.commit();
    rig.replica.lose();
    rig.answers();
    rig.open(PartitionRecord { promise: term(1), ..Default::default() });
    rig.submit(get("a"));
    assert_eq!(rig.answers(), []);
    let newer = row_at("a", term(1).ballot(2));
    rig.read(Some(newer.clone()));
    assert_eq!(rig.answers(), [(2, version(newer))]);
}

#[test]
fn a_row_below_the_flush_is_a_tombstone_at_the_flush() {
    let mut rig = Rig::new();
    rig.submit(put("cached", 1, 1));
    rig.commit();
    rig.submit(flush(term(1).ballot(5)));
    rig.answers();
    assert_eq!(rig.ask(get("cached")), version(row_at("cached", term(1).ballot(1))), "not committed yet");
    rig.commit();
    rig.answers();
    let flushed = ReplicaReply::Version(Held { ballot: term(1).ballot(5), row: None, floor: Ballot::ZERO });
    assert_eq!(rig.ask(get("cached")), flushed);
    for stored in [None, Some(row_at("stored", term(1).ballot(2)))] {
        rig.replica.cache.clear();
        let id = rig.submit(get("stored"));
        rig.read(stored);
        assert_eq!(rig.answers(), [(id, flushed.clone())]);
    }
    rig.submit(put("cached", 1, 6));
    rig.commit();
    rig.answers();
    assert_eq!(rig.ask(get("cached")), version(row_at("cached", term(1).ballot(6))));
}

#[test]
fn another_key_of_the_same_hash_is_no_answer() {
    let mut rig = Rig::new();
    rig.submit(get("a"));
    rig.read(Some(row_at("b", term(1).ballot(1))));
    assert_eq!(rig.answers(), [(1, refused(Refusal::KeyCollision))]);
}

#[test]
fn too_many_readers_are_busy() {
    let mut rig = Rig::with_limits(Limits { queue_len_max: 2, ..LIMITS });
    rig.open(PartitionRecord { promise: term(1), ..Default::default() });
    rig.submit(get("a"));
    rig.submit(get("b"));
    assert_eq!(rig.ask(get("c")), refused(Refusal::Busy));
}
