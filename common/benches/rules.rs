//! What the rules cost that every command goes through: where a key lives, whether its quorum is there, what its clock
//! becomes.

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use tercet_common::{
    Epoch, Incarnation, Key, Member, PartitionId, QuorumTracker, REPLICAS, Ring, RingConfig, VectorClock,
    WorkerId,
};

/// More than one, so that a look-up does not find everything where the last one left it.
const KEYS: usize = 1024;
const VIRTUAL_NODES: u32 = 128;

fn main() {
    divan::main();
}

fn members(workers: usize) -> Vec<Member> {
    let id = |n| WorkerId::new(&format!("w{n}")).expect("a plain name");
    (1..=workers).map(|n| Member::named(id(n), VIRTUAL_NODES, "")).collect()
}

fn keys() -> Vec<Key> {
    (0..KEYS).map(|n| Key::new(format!("user:{n}:session")).expect("a short key")).collect()
}

/// From a key to the numbers of its replicas.
#[divan::bench(args = [3, 8, 64])]
fn ring_lookup(bencher: Bencher<'_, '_>, workers: usize) {
    let ring = RingConfig::new("bench", Epoch(1), REPLICAS, members(workers)).expect("a sound ring");
    let keys = keys();
    bencher.counter(ItemsCount::new(KEYS)).bench_local(|| {
        for key in &keys {
            black_box(&ring.assignment(black_box(key).partition()).replicas);
        }
    });
}

/// A table of all partitions, as a ring change makes it.
#[divan::bench(args = [3, 8, 64])]
fn ring_build(bencher: Bencher<'_, '_>, workers: usize) {
    let members = members(workers);
    bencher
        .counter(ItemsCount::new(PartitionId::all().count()))
        .bench_local(|| Ring::build(&members, REPLICAS));
}

#[divan::bench]
fn key_hash(bencher: Bencher<'_, '_>) {
    let keys = keys();
    bencher.counter(ItemsCount::new(KEYS)).bench_local(|| {
        for key in &keys {
            black_box(black_box(key).hash());
        }
    });
}

/// One put: three replicas, of which two are waited for and the third comes late.
#[divan::bench]
fn quorum_of_three(bencher: Bencher<'_, '_>) {
    bencher.bench_local(|| put_to(QuorumTracker::new(black_box(&[0, 1, 3]))));
}

/// The same while one of the replicas is replaced.
#[divan::bench]
fn quorum_in_a_joint_epoch(bencher: Bencher<'_, '_>) {
    bencher.bench_local(|| put_to(QuorumTracker::joint(black_box(&[0, 1, 3]), black_box(&[0, 1, 2]))));
}

fn put_to(mut tracker: QuorumTracker) -> bool {
    let mut reached = false;
    for member in [0, 3, 1, 2] {
        tracker.ack(black_box(member));
        reached |= tracker.reached() && !tracker.unreachable();
    }
    reached && tracker.all_answered()
}

fn clock(entries: u64, first: u64) -> VectorClock {
    let entries: Vec<_> = (0..entries).map(|n| (Incarnation(first + 2 * n), n + 1)).collect();
    VectorClock::from_entries(entries.into_iter()).expect("sorted, each once")
}

/// What an owner does for every put: its context, joined with the put's own dot.
#[divan::bench(args = [1, 2, 16])]
fn clock_with_dot(bencher: Bencher<'_, '_>, entries: u64) {
    let context = clock(entries, 1);
    bencher.bench_local(|| black_box(&context).with_dot(Incarnation(1), 1_000));
}

/// Half of the other clock's entries are new to the one.
#[divan::bench(args = [1, 2, 16])]
fn clock_join(bencher: Bencher<'_, '_>, entries: u64) {
    let other = clock(entries, 1 + entries / 2 * 2);
    bencher.with_inputs(|| clock(entries, 1)).bench_local_values(|mut clock| {
        clock.join(black_box(&other));
        clock
    });
}
