//! Who a worker is in the eyes of others: what it says of itself, what it remembers of them, and how it becomes another one.

use futures_util::FutureExt;
use tercet_common::ring_proposer::Voter;
use tercet_common::ring_register::RegisterState;
use tercet_common::sync::{Memory, Witness};
use tercet_frontend::membership::beat::{Beat, Identity, Report};
use tercet_worker::store::memory::Snapshot;
use tercet_worker::store::{MemoryDisk, Store};

use super::{Worker, new_disk};
use crate::calls::Parcel;

impl Worker {
    /// An old backup takes the place of the disk of a worker that is down. `successor`: see [`Worker::set_back`].
    pub(crate) fn restore(&mut self, backup: &Snapshot, successor: usize, name: &str, partitions: usize) {
        let disk = new_disk(name, partitions);
        disk.restore(backup);
        self.set_back = Some((std::mem::replace(&mut self.disk, disk), successor));
    }

    /// The worker takes another identity, which is its new name among workers: who asked for it meant somebody who is gone now.
    pub(crate) fn renew(&mut self) -> Option<String> {
        self.process.as_ref()?.store.renew_identity().now_or_never()?.ok()
    }

    /// Takes over what belongs to the process and the disk of a worker that has become another one.
    pub(crate) fn succeed(&mut self, of: &mut Self, uuid: String) {
        of.kill();
        of.is_gone = true;
        std::mem::swap(&mut self.disk, &mut of.disk);
        std::mem::swap(&mut self.archive, &mut of.archive);
        // What the lost disk held was acknowledged all the same.
        if let Some((lost, _)) = of.set_back.take() {
            of.disk = lost;
        }
        self.voter = Voter { id: of.voter.id.clone(), uuid };
    }

    /// Its disk, and the one that was set back, which all acknowledgements were about.
    pub(crate) fn disks(&self) -> impl Iterator<Item = &MemoryDisk> {
        [&self.disk].into_iter().chain(self.set_back.as_ref().map(|(lost, _)| lost))
    }

    /// What it says of itself to each of so many frontends, while it may use its data.
    pub(crate) fn beat(&self, address: String, frontends: u32, virtual_nodes: u32) -> Option<Beat> {
        let Voter { id, uuid } = &self.voter;
        self.is_open().then(|| Beat {
            worker: id.clone(),
            identity: Identity { uuid: uuid.clone(), boot_generation: self.generation },
            address,
            journal_seq: self.disk.journal_seq(),
            opened_journal_seq: self.opened_seq,
            frontends,
            zone: String::new(),
            virtual_nodes,
            version: String::new(),
            report: Report { database_commits: true, ..Report::default() },
        })
    }

    /// Of its store when that was opened last.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Whose data it has, and which start over it this is.
    pub(crate) fn life_of_data(&self) -> (&str, u64) {
        (&self.voter.uuid, self.generation)
    }

    /// What is durable of the register, as far as the worker knows; `None` while it is down.
    pub(crate) fn register(&self) -> Option<&RegisterState> {
        self.process.as_ref().filter(|p| p.replica.is_open()).map(|p| p.acceptor.state())
    }

    pub(crate) fn decide(&mut self, parcel: Parcel) {
        if let Some(process) = &mut self.process {
            process.acceptor.submit(parcel);
        }
    }

    /// What it was told of the others, durably.
    pub(crate) fn recall(&self) -> Option<Vec<Witness>> {
        let memory = self.process.as_ref()?.store.recall().now_or_never()?.ok()?;
        Some(memory.witnesses)
    }

    pub(crate) fn remember(&self, witnesses: Vec<Witness>) -> Option<()> {
        let memory = Memory { witnesses, ..Memory::default() };
        self.process.as_ref()?.store.remember(memory).now_or_never()?.ok()
    }
}
