//! A warning means that someone should look. Nobody should have to at a start and a stop in order.

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use super::*;
use crate::store::PostgresStore;
use crate::testing::TestPostgres;

/// Keeps what is logged at WARN and ERROR.
#[derive(Clone, Default)]
struct Alarms(Arc<Mutex<Vec<String>>>);

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.push_str(&format!(" {field}={value:?}"));
    }
}

impl Subscriber for Alarms {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= Level::WARN
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(event.metadata().target().to_owned());
        event.record(&mut text);
        self.0.lock().push(text.0);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[tokio::test]
async fn a_start_and_a_stop_in_order_alarm_nobody() {
    let database = tokio::task::spawn_blocking(|| TestPostgres::shared().create_database()).await.unwrap();
    let alarms = Alarms::default();
    // This thread's only; all tasks of the test run on it.
    let _guard = tracing::subscriber::set_default(alarms.clone());
    let (address, mut beats, ..) = heartbeats::frontend("127.0.0.1:0").await;
    // One beat per life, with as much time for its commit as a busy machine may need.
    let heartbeat_interval = std::time::Duration::from_secs(60);
    let config = Config { frontends: vec![address], postgres: database, heartbeat_interval, ..config() };
    for seq in 1..=2 {
        let store = Arc::new(PostgresStore::new(&config).unwrap());
        let worker = Worker::start(config.clone(), store, None).await.unwrap();
        assert!(beats.recv().await.unwrap().1.health.unwrap().database_commits);
        let mut stream = Exchange::open(&worker).await;
        assert_eq!(stream.ask(put("a", seq)).await, ReplicaReply::Stored);
        worker.stop().await.unwrap();
    }
    assert_eq!(*alarms.0.lock(), [""; 0]);
    tracing::warn!("heard");
    assert_eq!(alarms.0.lock().len(), 1);
}
