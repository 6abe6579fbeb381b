//! The register of ring configurations and the worker's identity, over gRPC.

use tercet_common::ring_register::{Ask, RegisterState};
use tercet_common::{Member, RingConfig};
use tercet_proto::convert::ask_to_wire;
use tokio::sync::oneshot;
use tonic::{Code, Status};

use super::*;
use crate::store::MemoryDisk;

/// Of `members`, each as id and uuid, one replica per partition, all of them since the first number.
fn config(number: u64, members: &[(&str, &str)]) -> Arc<RingConfig> {
    let member = |(id, uuid): &(&str, &str)| Member {
        uuid: (*uuid).to_owned(),
        ..Member::named(WorkerId::new(id).unwrap(), 16, "")
    };
    let members = members.iter().map(member).collect();
    let first = RingConfig::new("tercet", Epoch(1), 1, members).unwrap();
    Arc::new(RingConfig { epoch: Epoch(number), ..first })
}

fn term(n: u64) -> Term {
    Term { n, incarnation: Incarnation(1) }
}

fn known(config: &Arc<RingConfig>) -> Ask {
    Ask { known: Some(config.clone()), ..Ask::default() }
}

async fn decide(worker: &Worker, uuid: &str, ask: &Ask) -> Result<RegisterState, Status> {
    let reply = client(worker).await.decide(to_life(worker, ask_to_wire("tercet", uuid, ask))).await?;
    Ok(reply.into_inner().try_into().unwrap())
}

/// Of a hundred puts, how many the worker refuses as it is no replica.
async fn not_member(worker: &Worker) -> usize {
    let mut stream = Exchange::open(worker).await;
    stream.send((1..=100).map(|n| put(&n.to_string(), n))).await;
    let replies = stream.receive(100).await;
    replies.iter().filter(|reply| **reply == refused(Refusal::NotMember)).count()
}

#[tokio::test]
async fn promises_votes_and_decisions_are_kept_over_a_restart() {
    let (store, _) = ScriptedStore::new();
    let worker = start(&store).await;
    let ours = config(1, &[("w1", "one"), ("w2", "two")]);
    let vote = Ask { term: term(3), accept: Some(ours.clone()), known: None };
    let state = decide(&worker, "one", &vote).await.unwrap();
    assert_eq!((state.promised, state.decided.clone()), (term(3), None));
    assert_eq!(state.vote_for(Epoch(1)).unwrap().config, ours);
    worker.stop().await.unwrap();

    let worker = start(&store).await;
    assert_eq!(decide(&worker, "one", &Ask::default()).await.unwrap(), state);
    let lower = Ask { term: term(2), ..vote };
    assert_eq!(decide(&worker, "one", &lower).await.unwrap(), state);
    let state = decide(&worker, "one", &known(&ours)).await.unwrap();
    assert_eq!((state.decided.as_ref(), &state.vote), (Some(&ours), &None));
    worker.stop().await.unwrap();

    let worker = start(&store).await;
    assert_eq!(decide(&worker, "one", &Ask::default()).await.unwrap(), state);
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn a_step_that_has_begun_is_taken_although_the_caller_hangs_up() {
    let (store, mut begins) = ScriptedStore::new();
    let worker = start(&store).await;
    let (go, hold) = oneshot::channel();
    store.state.lock().register_hold = Some(hold);
    let engine = worker.engine().clone();
    let promise = Ask { term: term(3), ..Ask::default() };
    tokio::select! {
        answer = engine.decide("one", &promise) => panic!("{answer:?}"),
        _ = begins.recv() => {}
    }
    go.send(()).expect("the call to the store goes on");
    assert_eq!(decide(&worker, "one", &Ask::default()).await.unwrap().promised, term(3));
    assert_eq!(store.state.lock().register.promised, term(3));
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn only_what_was_decided_says_what_it_is_a_replica_of() {
    let (store, _) = ScriptedStore::new();
    let worker = start(&store).await;
    let ours = config(1, &[("w1", "one"), ("w2", "two")]);
    let vote = Ask { term: term(1), accept: Some(ours.clone()), known: None };
    decide(&worker, "one", &vote).await.unwrap();
    assert_eq!(not_member(&worker).await, 0);
    decide(&worker, "one", &known(&ours)).await.unwrap();
    let before = not_member(&worker).await;
    assert!((1..100).contains(&before), "one replica each: some partitions are the other worker's");
    worker.stop().await.unwrap();
    let worker = start(&store).await;
    assert_eq!(not_member(&worker).await, before, "after a restart, too");
    decide(&worker, "one", &known(&config(2, &[("w1", "other data"), ("w2", "two")]))).await.unwrap();
    assert_eq!(not_member(&worker).await, 100);
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn other_clusters_other_data_and_broken_configurations_are_refused() {
    let (store, _) = ScriptedStore::new();
    let worker = start(&store).await;
    let error = decide(&worker, "two", &Ask::default()).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert_eq!(error.message(), "this worker's data is `one`, not `two`");
    let theirs = RingConfig { cluster_id: "other".into(), ..(*config(1, &[("w1", "one")])).clone() };
    let error = decide(&worker, "one", &known(&Arc::new(theirs))).await.unwrap_err();
    assert_eq!(error.message(), "this worker belongs to cluster `tercet`, not to `other`");
    let mut client = client(&worker).await;
    let error =
        client.decide(to_life(&worker, ask_to_wire("other", "one", &Ask::default()))).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    let broken = v1::RingConfiguration { cluster_id: "tercet".into(), ..Default::default() };
    let request = v1::DecideRequest { known: Some(broken), ..ask_to_wire("tercet", "one", &Ask::default()) };
    assert_eq!(client.decide(to_life(&worker, request)).await.unwrap_err().code(), Code::InvalidArgument);
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn a_register_from_before_configurations_could_change_is_the_first_one() {
    let (store, _) = ScriptedStore::new();
    let member = v1::RingMember { id: "w1".into(), virtual_nodes: 16, ..Default::default() };
    let kept = v1::RingConfiguration {
        cluster_id: "tercet".into(),
        epoch: 1,
        replicas: 1,
        members: vec![member],
        ..Default::default()
    };
    let ring = Some((Epoch(1), prost::Message::encode_to_vec(&kept)));
    store.state.lock().register = crate::store::RingRegister { ring, ..Default::default() };
    let worker = start(&store).await;
    let state = decide(&worker, "one", &Ask::default()).await.unwrap();
    assert_eq!(state.decided, Some(config(1, &[("w1", "")])));
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn a_renewed_worker_is_another_member_and_says_so_in_its_beats() {
    let (address, mut beats, ..) = heartbeats::frontend("127.0.0.1:0").await;
    let disk = MemoryDisk::new("disk");
    let beating = Config { frontends: vec![address], ..super::config() };
    let worker = Worker::start(beating, Arc::new(disk.store()), None).await.unwrap();
    let old = worker.engine().identity().unwrap().worker_uuid;
    decide(&worker, &old, &known(&config(1, &[("w1", &old)]))).await.unwrap();
    assert_eq!(not_member(&worker).await, 0);
    let renew =
        || to_life(&worker, v1::RenewRequest { cluster_id: "tercet".into(), worker_uuid: old.clone() });
    let mut client = client(&worker).await;
    let new = client.renew(renew()).await.unwrap().into_inner().worker_uuid;
    assert_ne!(new, old);
    assert_eq!(client.renew(renew()).await.unwrap_err().code(), Code::FailedPrecondition, "not twice");
    assert_eq!(not_member(&worker).await, 100);
    while beats.recv().await.unwrap().1.worker_uuid != new {}
    worker.stop().await.unwrap();
    let worker = Worker::start(super::config(), Arc::new(disk.store()), None).await.unwrap();
    assert_eq!((worker.engine().identity().unwrap().worker_uuid, not_member(&worker).await), (new, 100));
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn whose_data_it_is_after_a_renewal_of_unknown_outcome_shows_when_the_store_opens_again() {
    for takes_place in [false, true] {
        let (store, _) = ScriptedStore::new();
        let worker = start(&store).await;
        decide(&worker, "one", &known(&config(1, &[("w1", "one")]))).await.unwrap();
        store.state.lock().lost_renewal = Some(takes_place);
        let renew =
            || to_life(&worker, v1::RenewRequest { cluster_id: "tercet".into(), worker_uuid: "one".into() });
        let mut client = client(&worker).await;
        assert_eq!(client.renew(renew()).await.unwrap_err().code(), Code::Unavailable);
        lifecycle::reopened(&worker, &store).await;
        if takes_place {
            assert_eq!(not_member(&worker).await, 100);
            assert_eq!(
                client.renew(renew()).await.unwrap_err().code(),
                Code::FailedPrecondition,
                "not twice"
            );
        } else {
            assert_eq!(not_member(&worker).await, 0);
            client.renew(renew()).await.unwrap();
        }
        assert_eq!(worker.engine().identity().unwrap().worker_uuid, "one renewed");
        // That excuses no other database.
        store.state.lock().uuid = "two".into();
        let error = worker.engine().open().await.unwrap_err();
        assert!(matches!(&error, StoreError::Refused(_)), "{error}");
        store.state.lock().uuid = "one renewed".into();
        worker.stop().await.unwrap();
    }
}

#[tokio::test]
async fn what_it_is_told_of_others_is_recalled() {
    let worker = Worker::start(super::config(), Arc::new(MemoryDisk::new("disk").store()), None);
    let worker = worker.await.unwrap();
    let mut client = client(&worker).await;
    let witness =
        v1::SyncWitness { worker: "w2".into(), uuid: "two".into(), boot_generation: 4, journal_seq: 9 };
    let memory = v1::SyncMemory { witnesses: vec![witness], ..Default::default() };
    let request = v1::RememberRequest { cluster_id: "tercet".into(), memory: Some(memory.clone()) };
    client.remember(to_life(&worker, request)).await.unwrap();
    let recall = v1::RecallRequest { cluster_id: "tercet".into() };
    assert_eq!(client.recall(to_life(&worker, recall)).await.unwrap().into_inner(), memory);
    worker.stop().await.unwrap();
}

/// It may have been set back since whom they mean, and would answer for that one.
#[tokio::test]
async fn calls_for_another_life_of_the_worker_are_refused() {
    let worker = Worker::start(super::config(), Arc::new(MemoryDisk::new("disk").store()), None);
    let worker = worker.await.unwrap();
    let me = worker.engine().identity().unwrap();
    let ours = config(1, &[("w1", &me.worker_uuid)]);
    let lives = [(me.worker_uuid.as_str(), me.boot_generation + 1), ("another", me.boot_generation)];
    for (uuid, generation) in lives {
        let mut client = client(&worker).await;
        let cluster_id = || "tercet".to_owned();
        fn to<T>(message: T, uuid: &str, generation: u64) -> tonic::Request<T> {
            let mut request = tonic::Request::new(message);
            life::name_life(request.metadata_mut(), uuid, generation);
            request
        }
        let decide = ask_to_wire("tercet", &me.worker_uuid, &known(&ours));
        let renew = v1::RenewRequest { cluster_id: cluster_id(), worker_uuid: me.worker_uuid.clone() };
        let remember = v1::RememberRequest { cluster_id: cluster_id(), memory: None };
        let recall = v1::RecallRequest { cluster_id: cluster_id() };
        let refusals = [
            client.decide(to(decide, uuid, generation)).await.map(drop),
            client.renew(to(renew, uuid, generation)).await.map(drop),
            client.remember(to(remember, uuid, generation)).await.map(drop),
            client.recall(to(recall, uuid, generation)).await.map(drop),
        ];
        for refusal in refusals {
            assert_eq!(refusal.unwrap_err().code(), Code::Aborted);
        }
    }
    assert_eq!(decide(&worker, &me.worker_uuid, &Ask::default()).await.unwrap(), RegisterState::default());
    assert_eq!(worker.engine().identity().unwrap().worker_uuid, me.worker_uuid);
    worker.stop().await.unwrap();
}
