use super::*;

/// A version of `a` in term `n` whose owner has seen the dot (`term`, `seq`).
fn seen(n: u64, seq: u64, (incarnation, counter): (u64, u64)) -> Row {
    let row = row_at("a", term(n).ballot(seq));
    Row { clock: row.clock.with_dot(Incarnation(incarnation), counter), ..row }
}

/// A replica in which this row is stored, and known.
fn holding(row: Row) -> Rig {
    let mut rig = Rig::new();
    rig.submit(ReplicaRequest::Put { row });
    rig.commit();
    rig.answers();
    rig
}

fn replicate(row: Row) -> ReplicaRequest {
    ReplicaRequest::Replicate { row, chosen: true, epoch: Epoch(1) }
}

#[test]
fn both_versions_of_a_conflict_are_kept() {
    let (lower, higher) = (seen(1, 1, (2, 5)), row_at("a", term(2).ballot(5)));
    let conflict = Conflict { higher: higher.clone(), lower: lower.clone() };
    for (stored, arrives) in [(&lower, &higher), (&higher, &lower)] {
        for request in [ReplicaRequest::Put { row: arrives.clone() }, replicate(arrives.clone())] {
            let mut rig = holding(stored.clone());
            rig.submit(request);
            assert!(rig.replica.work().conflict);
            assert_eq!(rig.replica.next_conflict(), Some(conflict.clone()));
            assert_eq!((rig.replica.next_conflict(), rig.replica.stats().conflicts), (None, 1));
        }
    }
}

/// What is stored follows the ballots all the same.
#[test]
fn a_conflict_changes_no_answer() {
    let mut rig = holding(seen(1, 1, (2, 5)));
    rig.submit(put("a", 2, 5));
    rig.commit();
    assert_eq!(rig.answers().len(), 1);
    assert_eq!(rig.ask(get("a")), version(row_at("a", term(2).ballot(5))));
    let late = ReplicaRequest::Put { row: seen(1, 1, (2, 5)) };
    assert_eq!(rig.ask(late), refused(Refusal::Promise { promised: term(2) }));
}

#[test]
fn left_overs_and_pruned_clocks_are_no_conflict() {
    for (stored, arrives) in [
        // Concurrent.
        (row_at("a", term(1).ballot(1)), row_at("a", term(2).ballot(5))),
        // The lower one knows of another put of the same owner, an earlier one.
        (seen(1, 1, (2, 4)), row_at("a", term(2).ballot(5))),
        // The higher one has forgotten whom the lower one knew.
        (seen(1, 1, (9, 9)), row_at("a", term(2).ballot(5))),
        // As it should be.
        (row_at("a", term(1).ballot(1)), seen(2, 5, (1, 1))),
        // The same once more.
        (seen(1, 1, (2, 5)), seen(1, 1, (2, 5))),
    ] {
        let mut rig = holding(stored);
        rig.submit(replicate(arrives));
        assert_eq!((rig.replica.next_conflict(), rig.replica.stats().conflicts), (None, 0));
    }
}

#[test]
fn a_flood_of_conflicts_is_counted_and_not_kept() {
    let mut rig = holding(seen(1, 1, (2, 500)));
    for seq in 1..=100 {
        rig.submit(put("a", 2, seq));
    }
    assert_eq!(rig.replica.stats().conflicts, 100);
    let kept = std::iter::from_fn(|| rig.replica.next_conflict()).count();
    assert!((1..=10).contains(&kept), "{kept}");
}
