//! Every data command: parsed and run on an engine in memory.
//!
//! No panic, a sound reply, no value over the limit, an error changes nothing, and a read-only command neither.
//!
//! Input: lines in the syntax of inline commands. A first word that names no data command picks one by its bytes, so
//! that little of the input is wasted on unknown names.

#![no_main]

use std::cell::LazyCell;
use std::sync::LazyLock;

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::{Corpus, fuzz_target};
use tercet_common::PartitionId;
use tercet_frontend::coordinator::{ScanFilter, ScanPage, ScanPosition};
use tercet_frontend::resp::command::table::{Entry, TABLE};
use tercet_frontend::resp::command::{Flag, Handler};
use tercet_frontend::resp::reply::Reply;
use tercet_frontend::resp::scanner::{Limits, Scanner};
use tercet_fuzz::store::{Store, VALUE_BYTES_MAX};

const COMMANDS_MAX: usize = 64;
const LIMITS: Limits =
    Limits { authenticated: true, bulk_bytes_max: VALUE_BYTES_MAX, command_bytes_max: 4 * VALUE_BYTES_MAX };

static DATA: LazyLock<Vec<&'static Entry>> = LazyLock::new(|| {
    let table = &*TABLE;
    table.entries().iter().filter(|entry| matches!(entry.spec.run, Handler::Data(_))).collect()
});

thread_local! {
    static STORE: LazyCell<Store> = LazyCell::new(Store::default);
}

fuzz_target!(|input: &[u8]| -> Corpus { STORE.with(|store| run(store, input)) });

fn run(store: &Store, input: &[u8]) -> Corpus {
    store.clear();
    let (mut scanner, mut buf) = (Scanner::default(), BytesMut::from(input));
    for _ in 0..COMMANDS_MAX {
        let Ok(Some(mut words)) = scanner.next(&mut buf, &LIMITS) else { break };
        let Some(entry) = choose(&mut words) else { continue };
        if words.len() < usize::from(entry.spec.arity.unsigned_abs())
            || entry.spec.arity > 0 && words.len() > usize::from(entry.spec.arity.unsigned_abs())
        {
            continue;
        }
        let before = contents(store);
        let reply = store.run(entry, &words);
        let after = contents(store);
        let unchanged = before.rows == after.rows;
        assert!(
            unchanged || !matches!(reply, Reply::Error(_)) && !entry.has(Flag::ReadOnly),
            "{} {words:?} answered {reply:?} and changed the store",
            entry.name
        );
        for row in &after.rows {
            assert!(row.content.data_len() <= VALUE_BYTES_MAX, "{} made a value too large", entry.name);
        }
    }
    Corpus::Keep
}

/// The command's row; its words are put in front where the input had none of a data command.
fn choose(words: &mut Vec<Bytes>) -> Option<&'static Entry> {
    let named = TABLE.resolve(words).ok().filter(|entry| matches!(entry.spec.run, Handler::Data(_)));
    if named.is_some() {
        return named;
    }
    let sum = words
        .first()?
        .iter()
        .fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)));
    let entry = DATA[sum % DATA.len()];
    words.splice(..1, entry.name.split('|').map(|word| Bytes::from_static(word.as_bytes())));
    Some(entry)
}

fn contents(store: &Store) -> ScanPage {
    let from = ScanPosition::start_of(PartitionId::new(0).expect("there are partitions"));
    let filter = ScanFilter { limit: usize::MAX, with_data: true, expired_by: None };
    store.runtime.block_on(store.coordinator.scan(from, filter)).expect("memory does not fail")
}
