//! The worker in one process: real gRPC on free ports, over a store that does what the test tells it.

mod exchange;
mod heartbeats;
mod lifecycle;
mod quiet;
mod register;
mod scripted;
mod syncing;

use std::sync::Arc;

use futures_util::StreamExt;
use tercet_common::{
    Ballot, Content, Epoch, Incarnation, Key, Promise, Refusal, ReplicaReply, ReplicaRequest, Row, Term,
    VectorClock, WorkerId,
};
use tercet_proto::convert::{reply_from_wire, request_to_wire};
use tercet_proto::v1::replica_client::ReplicaClient;
use tercet_proto::{life, v1};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use self::scripted::{Fate, ScriptedStore};
use crate::store::StoreError;
use crate::{Config, RunError, Worker};

fn config() -> Config {
    Config {
        grpc_listen: ([127, 0, 0, 1], 0).into(),
        metrics_listen: None,
        frontends: vec![],
        heartbeat_interval: std::time::Duration::from_millis(20),
        ..Config::new(WorkerId::new("w1").unwrap(), "")
    }
}

async fn start(store: &Arc<ScriptedStore>) -> Worker {
    Worker::start(config(), store.clone(), None).await.unwrap()
}

async fn client(worker: &Worker) -> ReplicaClient<Channel> {
    ReplicaClient::connect(format!("http://{}", worker.local_addr())).await.unwrap()
}

/// A call to this very life of the worker.
fn to_life<T>(worker: &Worker, message: T) -> tonic::Request<T> {
    let me = worker.engine().identity().unwrap();
    let mut request = tonic::Request::new(message);
    life::name_life(request.metadata_mut(), &me.worker_uuid, me.boot_generation);
    request
}

fn promise(n: u64) -> Promise {
    Promise { epoch: Epoch(1), term: Term { n, incarnation: Incarnation(n) } }
}

fn key(name: &str) -> Key {
    Key::new(name.to_owned()).unwrap()
}

fn row(name: &str, ballot: Ballot) -> Row {
    let clock = VectorClock::new().with_dot(ballot.term.incarnation, ballot.seq);
    Row { key: key(name), ballot, clock, content: Content::string("value", None) }
}

fn put(name: &str, seq: u64) -> ReplicaRequest {
    ReplicaRequest::Put { row: row(name, promise(1).ballot(seq)) }
}

fn get(name: &str) -> ReplicaRequest {
    ReplicaRequest::Get { epoch: Epoch(1), key: key(name), digest: false }
}

fn refused(refusal: Refusal) -> ReplicaReply {
    ReplicaReply::Refused(refusal)
}

/// One stream to a worker.
struct Exchange {
    requests: mpsc::Sender<v1::RequestBatch>,
    replies: Streaming<v1::ReplyBatch>,
}

impl Exchange {
    async fn open(worker: &Worker) -> Self {
        let (requests, receiver) = mpsc::channel(16);
        let request = to_life(worker, ReceiverStream::new(receiver));
        let stream = client(worker).await.exchange(request).await.unwrap();
        Self { requests, replies: stream.into_inner() }
    }

    /// Sends one batch, with ids from 0.
    async fn send(&self, requests: impl IntoIterator<Item = ReplicaRequest>) {
        let requests = requests.into_iter().zip(0..).map(|(r, id)| request_to_wire(id, r)).collect();
        self.requests.send(v1::RequestBatch { requests }).await.unwrap();
    }

    /// The next `n` answers, sorted by id.
    async fn receive(&mut self, n: usize) -> Vec<ReplicaReply> {
        let mut replies = Vec::new();
        while replies.len() < n {
            let batch = self.replies.next().await.expect("the stream goes on").unwrap();
            replies.extend(batch.replies.into_iter().map(reply_from_wire));
        }
        replies.sort_by_key(|(id, _)| *id);
        replies.into_iter().map(|(_, reply)| reply.unwrap()).collect()
    }

    async fn ask(&mut self, request: ReplicaRequest) -> ReplicaReply {
        self.send([request]).await;
        self.receive(1).await.remove(0)
    }
}
