//! Who the workers are, as they say themselves: addresses, identities, health. A plain struct: beats and `now` go in,
//! views come out.
//!
//! A worker registers by its first beat on a stream, which gives it a *session*; beats of an older session of the same
//! worker are refused, so that a half-dead connection cannot overwrite what a newer one said.
//!
//! Being registered and being allowed to vote are two things, see [`Standing`]. A worker votes only **over the data
//! that the configuration names**, once it is known to have lost nothing of it, and knows the configuration itself: a
//! replica that forgot its promises breaks the register protocol.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tercet_common::detector::{Detector, DetectorConfig, Transition, Verdict};
use tercet_common::ring_proposer::Voter;
use tercet_common::sync::Witness;
use tercet_common::{Epoch, RingConfig, UnixMillis, WorkerId};

use super::beat::{Beat, Identity, Report};
use super::witnesses::{Claim, Soundness};
use crate::coordinator::status::Health;

/// The most workers that a frontend keeps track of: the members of the largest ring and as many spares again, thrice.
pub const WORKERS_MAX: usize = 1_024;

/// What a worker is to the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// Not in the configuration: alive, and waiting for a ring change to use it.
    Spare,
    /// In the configuration; not known to be sound yet, or does not know the configuration yet.
    Joining,
    /// In the configuration, sound, and knows it durably: the only standing in which it counts as a replica.
    Member,
    /// The configuration names its id over other data. It must not vote; a ring change may take it in.
    Replaced,
    /// Its data is older than what it once said. It must not vote, and is told to take another identity.
    Lost,
}

/// All workers at one moment, sorted by id: the members of the configuration, seen or not, and the spares.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct MembersView {
    pub workers: Vec<WorkerView>,
}

impl MembersView {
    pub fn get(&self, id: &WorkerId) -> Option<&WorkerView> {
        self.workers.binary_search_by(|w| w.id.cmp(id)).ok().map(|i| &self.workers[i])
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerView {
    pub id: WorkerId,
    pub standing: Standing,
    pub health: Health,
    /// The number of the newest configuration that it is known to hold, 0 if it holds none; `None` before it said so.
    pub holds: Option<Epoch>,
    /// How often it came back from the dead.
    pub returns: u32,
    /// What it said last; `None` before it registered.
    pub seen: Option<Seen>,
}

impl WorkerView {
    /// Where to dial it, once it has registered.
    pub fn address(&self) -> Option<&str> {
        self.seen.as_ref().map(|seen| seen.address.as_str())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub address: String,
    pub identity: Identity,
    pub journal_seq: u64,
    pub zone: String,
    pub virtual_nodes: u32,
    pub version: String,
    pub report: Report,
    /// Time since the last beat when the view was taken, and the beat's wall-clock time.
    pub age: Duration,
    pub last_beat: UnixMillis,
}

/// The right to beat for a worker; the newest one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session(u64);

/// Why a worker may not register or go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    #[error(
        "worker id {id} is in use by another worker (uuid {holder}), which is alive; give this one (uuid {claimant}) \
         an id of its own, or stop the other"
    )]
    IdInUse { id: WorkerId, holder: String, claimant: String },
    #[error(
        "a later start of worker {id} is known (boot generation {known}, this is {claimed}): this process, or the \
         database that it was restored from, is out of date"
    )]
    OutOfDate { id: WorkerId, known: u64, claimed: u64 },
    #[error("this frontend knows {WORKERS_MAX} workers already")]
    TooMany,
    #[error("worker {0} has registered on another stream")]
    Superseded(WorkerId),
    #[error("a heartbeat stream speaks for one worker and one start of it")]
    OtherWorker,
}

/// What was found out about a worker in this start of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Findings {
    pub soundness: Soundness,
    /// The number of the newest configuration that it knows to be decided, 0 if it knows none; `None` before it said so.
    pub holds: Option<Epoch>,
}

#[derive(Clone, Debug)]
struct Entry {
    beat: Beat,
    session: Session,
    last_beat: UnixMillis,
    findings: Findings,
    /// Sound, and has known a configuration while that was the newest: a member, as long as it is in the configuration.
    admitted: bool,
    /// It was told to take another identity, and did: whoever comes under its id now may.
    renewed: bool,
    /// How many beats of this start of it came before the last one.
    beats: u64,
}

impl Entry {
    fn voter(&self) -> Voter {
        Voter { id: self.beat.worker.clone(), uuid: self.beat.identity.uuid.clone() }
    }

    /// Of the worker that said this.
    fn is_start(&self, witness: &Witness) -> bool {
        let Identity { uuid, boot_generation } = &self.beat.identity;
        *uuid == witness.uuid && *boot_generation == witness.boot_generation
    }

    fn witness(&self) -> Witness {
        let Voter { id: worker, uuid } = self.voter();
        let (boot_generation, journal_seq) = (self.beat.identity.boot_generation, self.beat.journal_seq);
        Witness { worker, uuid, boot_generation, journal_seq }
    }
}

/// A registered worker, for those who call it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    pub witness: Witness,
    /// The journal seq that it started with.
    pub opened_journal_seq: u64,
    /// How many beats of this start of it came before the last one.
    pub beats: u64,
    /// It beats to this frontend and to no other.
    pub is_ours_alone: bool,
    pub address: String,
    pub standing: Standing,
    /// What was found out about it so far.
    pub findings: Findings,
}

impl Registered {
    pub fn id(&self) -> &WorkerId {
        &self.witness.worker
    }

    pub fn voter(&self) -> Voter {
        Voter { id: self.witness.worker.clone(), uuid: self.witness.uuid.clone() }
    }

    pub fn claim(&self) -> Claim<'_> {
        let Self { witness: now, opened_journal_seq, beats, is_ours_alone, .. } = self;
        Claim { now, opened_journal_seq: *opened_journal_seq, beats: *beats, is_ours_alone: *is_ours_alone }
    }
}

/// The registry.
#[derive(Debug)]
pub struct Members {
    detector: Detector,
    /// Whose members are expected.
    ring: Arc<RingConfig>,
    /// It is in force; else it is what the settings say.
    in_force: bool,
    workers: BTreeMap<WorkerId, Entry>,
    sessions: u64,
}

impl Members {
    /// `ring` is the configuration whose members are expected until one is in force.
    pub fn new(detector: DetectorConfig, ring: Arc<RingConfig>) -> Self {
        Self {
            detector: Detector::new(detector),
            ring,
            in_force: false,
            workers: BTreeMap::new(),
            sessions: 0,
        }
    }

    /// The first beat of a stream.
    pub fn register(
        &mut self,
        beat: Beat,
        now: Duration,
        wall: UnixMillis,
    ) -> Result<Session, RegisterError> {
        let id = &beat.worker;
        if let Some(known) = self.workers.get(id) {
            let (holder, claimant) = (&known.beat.identity, &beat.identity);
            let alive = self.detector.verdict(id, now) != Verdict::Dead && !known.renewed;
            if holder.uuid != claimant.uuid && alive {
                let (holder, claimant) = (holder.uuid.clone(), claimant.uuid.clone());
                return Err(RegisterError::IdInUse { id: id.clone(), holder, claimant });
            }
            if holder.uuid == claimant.uuid && holder.boot_generation > claimant.boot_generation && alive {
                let (known, claimed) = (holder.boot_generation, claimant.boot_generation);
                return Err(RegisterError::OutOfDate { id: id.clone(), known, claimed });
            }
        } else {
            self.make_room(id, now)?;
        }
        self.sessions += 1;
        let session = Session(self.sessions);
        // The same start of the same worker over a new connection: what is known of it stays known.
        let known = self.workers.get(id).filter(|known| known.beat.identity == beat.identity);
        let known = known.map(|known| (known.findings, known.admitted, known.beats + 1));
        let (findings, admitted, beats) = known.unwrap_or_default();
        self.detector.heartbeat(id, now, beat.report.database_commits);
        let entry = Entry { session, last_beat: wall, findings, admitted, renewed: false, beats, beat };
        self.workers.insert(entry.beat.worker.clone(), entry);
        Ok(session)
    }

    /// A further beat of a stream.
    pub fn beat(
        &mut self,
        session: Session,
        beat: Beat,
        now: Duration,
        wall: UnixMillis,
    ) -> Result<(), RegisterError> {
        let entry = match self.workers.get_mut(&beat.worker) {
            Some(entry) if entry.session == session => entry,
            Some(entry) if entry.session.0 > session.0 => return Err(RegisterError::Superseded(beat.worker)),
            // Another id than the stream's, or a spare that had to make room.
            _ => return Err(RegisterError::OtherWorker),
        };
        if entry.beat.identity != beat.identity {
            return Err(RegisterError::OtherWorker);
        }
        self.detector.heartbeat(&beat.worker, now, beat.report.database_commits);
        entry.beat = beat;
        entry.beats += 1;
        entry.last_beat = wall;
        Ok(())
    }

    /// Members of the ring always have room; of the spares the one that is silent the longest makes it.
    fn make_room(&mut self, newcomer: &WorkerId, now: Duration) -> Result<(), RegisterError> {
        let spares = |id: &&WorkerId| self.ring.index_of(id).is_none();
        let room = WORKERS_MAX - self.ring.members.len();
        if self.ring.index_of(newcomer).is_some() || self.workers.keys().filter(spares).count() < room {
            return Ok(());
        }
        let dead = |id: &&WorkerId| self.detector.verdict(id, now) == Verdict::Dead;
        let silent =
            self.workers.keys().filter(spares).filter(dead).max_by_key(|id| self.detector.age(id, now));
        let silent = silent.cloned().ok_or(RegisterError::TooMany)?;
        self.workers.remove(&silent);
        self.detector.forget(&silent);
        Ok(())
    }

    fn standing(&self, entry: &Entry) -> Standing {
        let Identity { uuid, .. } = &entry.beat.identity;
        match (entry.findings.soundness, self.ring.index_of_identity(&entry.beat.worker, uuid)) {
            (Soundness::Lost, _) => Standing::Lost,
            (Soundness::Other, _) => Standing::Replaced,
            (_, Some(_)) if entry.admitted => Standing::Member,
            (_, Some(_)) => Standing::Joining,
            (_, None) if self.ring.index_of(&entry.beat.worker).is_some() => Standing::Replaced,
            (_, None) => Standing::Spare,
        }
    }

    /// Another configuration is in force.
    pub fn set_ring(&mut self, ring: Arc<RingConfig>) {
        self.ring = ring;
        self.in_force = true;
        self.workers.values_mut().for_each(|entry| Self::admit(&self.ring, entry));
    }

    /// Something was found out about this start of a worker. `false`: nothing that was not known; or another start has
    /// registered meanwhile, and the finding is void.
    pub fn found(&mut self, of: &Witness, findings: Findings) -> bool {
        let Some(entry) = self.workers.get_mut(&of.worker).filter(|entry| entry.is_start(of)) else {
            return false;
        };
        if entry.findings == findings {
            return false;
        }
        entry.findings = findings;
        if findings.soundness != Soundness::Sound {
            entry.admitted = false;
        } else if self.in_force {
            Self::admit(&self.ring, entry);
        }
        true
    }

    fn admit(ring: &RingConfig, entry: &mut Entry) {
        let Findings { soundness, holds } = entry.findings;
        let knows = soundness == Soundness::Sound && holds.is_some_and(|holds| holds >= ring.epoch);
        entry.admitted |= knows && entry.voter().is_member(ring);
    }

    /// The worker has taken another identity than this, and will register under it.
    pub fn renewed(&mut self, was: &Witness) {
        if let Some(entry) = self.workers.get_mut(&was.worker).filter(|entry| entry.is_start(was)) {
            entry.renewed = true;
        }
    }

    /// Everyone who can be called.
    pub fn registered(&self) -> Vec<Registered> {
        let registered = |entry: &Entry| Registered {
            opened_journal_seq: entry.beat.opened_journal_seq,
            beats: entry.beats,
            is_ours_alone: entry.beat.frontends == 1,
            witness: entry.witness(),
            address: entry.beat.address.clone(),
            standing: self.standing(entry),
            findings: entry.findings,
        };
        self.workers.values().filter(|entry| !entry.renewed).map(registered).collect()
    }

    /// Verdicts that changed since the last call.
    pub fn changes(&mut self, now: Duration) -> Vec<Transition> {
        self.detector.changes(now)
    }

    pub fn view(&self, now: Duration) -> MembersView {
        let unseen = self.ring.members.iter().map(|m| &m.id).filter(|id| !self.workers.contains_key(*id));
        let mut workers: Vec<_> = self.workers.keys().chain(unseen).map(|id| self.worker(id, now)).collect();
        workers.sort_by(|a, b| a.id.cmp(&b.id));
        workers.dedup_by(|a, b| a.id == b.id);
        MembersView { workers }
    }

    fn worker(&self, id: &WorkerId, now: Duration) -> WorkerView {
        let entry = self.workers.get(id);
        WorkerView {
            id: id.clone(),
            standing: entry.map_or(Standing::Joining, |e| self.standing(e)),
            holds: entry.and_then(|e| e.findings.holds),
            health: self.detector.verdict(id, now).into(),
            returns: self.detector.returns(id),
            seen: entry.map(|e| Seen {
                address: e.beat.address.clone(),
                identity: e.beat.identity.clone(),
                journal_seq: e.beat.journal_seq,
                zone: e.beat.zone.clone(),
                virtual_nodes: e.beat.virtual_nodes,
                version: e.beat.version.clone(),
                report: e.beat.report,
                age: self.detector.age(id, now).unwrap_or_default(),
                last_beat: e.last_beat,
            }),
        }
    }
}

impl From<Verdict> for Health {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Unknown => Self::Unknown,
            Verdict::Alive => Self::Alive,
            Verdict::Suspect => Self::Suspect,
            Verdict::Dead => Self::Dead,
        }
    }
}

#[cfg(test)]
mod tests {
    use tercet_common::{Member, REPLICAS};

    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn id(id: &str) -> WorkerId {
        WorkerId::new(id).unwrap()
    }

    fn members() -> Members {
        let ring = ["w1", "w2", "w3"].map(|w| Member::named(id(w), 128, ""));
        let config = RingConfig::new("c", Epoch(1), REPLICAS, ring.to_vec()).unwrap();
        Members::new(DetectorConfig::default(), Arc::new(config))
    }

    fn start(worker: &str, uuid: &str, boot_generation: u64) -> Witness {
        Witness { worker: id(worker), uuid: uuid.to_owned(), boot_generation, journal_seq: 0 }
    }

    impl Members {
        fn registers(
            &mut self,
            worker: &str,
            uuid: &str,
            generation: u64,
            at: u64,
        ) -> Result<Session, RegisterError> {
            self.register(Beat::plain(worker, uuid, generation), s(at), UnixMillis(at as i64 * 1_000))
        }

        fn finds(&mut self, worker: &str, uuid: &str, boot_generation: u64, soundness: Soundness) -> bool {
            let holds = Some(self.ring.epoch);
            self.found(&start(worker, uuid, boot_generation), Findings { soundness, holds })
        }

        /// Number `epoch` is in force, of these workers with these data.
        fn forms(&mut self, epoch: u64, members: &[(&str, &str)]) {
            let member = |(w, uuid): &(&str, &str)| Member {
                uuid: (*uuid).to_owned(),
                ..Member::named(id(w), 128, "")
            };
            let workers = vec![Member::named(id("w1"), 128, ""), Member::named(id("w2"), 128, "")];
            let mut config = RingConfig::new("c", Epoch(epoch), 2, workers).unwrap();
            config.members = members.iter().map(member).collect();
            self.set_ring(Arc::new(config));
        }

        fn sees(&self, worker: &str, at: u64) -> (Standing, Health) {
            let view = self.view(s(at));
            let worker = view.get(&id(worker)).unwrap();
            (worker.standing, worker.health)
        }
    }

    #[test]
    fn members_of_the_ring_are_in_view_before_they_register() {
        let view = members().view(s(0));
        assert_eq!(view.workers.len(), 3);
        assert!(view.workers.iter().all(|w| w.health == Health::Unknown && w.seen.is_none()));
    }

    #[test]
    fn a_worker_outside_the_configuration_is_a_spare() {
        let mut members = members();
        members.registers("w9", "u9", 1, 0).unwrap();
        assert_eq!(members.sees("w9", 0), (Standing::Spare, Health::Alive));
    }

    #[test]
    fn silence_kills_and_a_beat_revives() {
        let mut members = members();
        let session = members.registers("w1", "u1", 1, 0).unwrap();
        assert_eq!(members.sees("w1", 5).1, Health::Suspect);
        assert_eq!(members.sees("w1", 6).1, Health::Dead);
        members.beat(session, Beat::plain("w1", "u1", 1), s(7), UnixMillis(7_000)).unwrap();
        assert_eq!(members.sees("w1", 7).1, Health::Alive);
        assert_eq!(members.view(s(7)).get(&id("w1")).unwrap().returns, 1);
    }

    #[test]
    fn two_workers_cannot_share_an_id_while_the_first_is_alive() {
        let mut members = members();
        members.registers("w1", "u1", 1, 0).unwrap();
        assert!(
            matches!(members.registers("w1", "u2", 1, 5), Err(RegisterError::IdInUse { .. })),
            "suspect lives"
        );
        assert!(members.registers("w1", "u2", 1, 6).is_ok(), "dead makes room");
    }

    const THREE: [(&str, &str); 3] = [("w1", "u1"), ("w2", "u2"), ("w3", "u3")];

    #[test]
    fn a_member_is_sound_and_knows_the_configuration() {
        let mut members = members();
        members.registers("w1", "u1", 1, 0).unwrap();
        assert!(members.finds("w1", "u1", 1, Soundness::Sound));
        assert_eq!(members.sees("w1", 0).0, Standing::Joining, "nothing is in force");
        members.forms(1, &THREE);
        assert_eq!(members.sees("w1", 0).0, Standing::Member);
        members.registers("w2", "u2", 1, 0).unwrap();
        assert!(members.finds("w2", "u2", 1, Soundness::Open));
        assert_eq!(members.sees("w2", 0).0, Standing::Joining);
        members.forms(2, &THREE);
        assert_eq!(members.sees("w1", 0).0, Standing::Member, "a change of the ring does not interrupt it");
        assert_eq!(members.view(s(0)).get(&id("w1")).unwrap().holds, Some(Epoch(1)));
    }

    #[test]
    fn a_member_over_other_data_must_not_vote() {
        let mut members = members();
        members.forms(1, &THREE);
        members.registers("w1", "u2", 1, 9).unwrap();
        members.finds("w1", "u2", 1, Soundness::Sound);
        assert_eq!(members.sees("w1", 9).0, Standing::Replaced);
        members.registers("w1", "u1", 2, 30).unwrap();
        assert_eq!(members.sees("w1", 30).0, Standing::Joining, "its own data is welcome again");
    }

    #[test]
    fn a_worker_may_be_a_member_beside_the_data_that_it_had() {
        let mut members = members();
        members.registers("w1", "new", 1, 0).unwrap();
        members.finds("w1", "new", 1, Soundness::Sound);
        members.forms(1, &[("w1", "new"), ("w1", "old"), ("w2", "u2")]);
        assert_eq!(members.sees("w1", 0).0, Standing::Member);
        assert_eq!(members.view(s(0)).workers.len(), 2);
    }

    #[test]
    fn a_worker_that_lost_something_comes_back_as_another() {
        let mut members = members();
        members.forms(1, &THREE);
        members.registers("w1", "u1", 5, 0).unwrap();
        members.finds("w1", "u1", 5, Soundness::Sound);
        assert_eq!(members.sees("w1", 0).0, Standing::Member);
        members.finds("w1", "u1", 5, Soundness::Lost);
        assert_eq!(members.sees("w1", 0).0, Standing::Lost);
        members.renewed(&start("w1", "u1", 5));
        assert!(members.registered().is_empty());
        members.registers("w1", "u9", 5, 1).unwrap();
        assert_eq!(members.sees("w1", 1).0, Standing::Replaced);
    }

    #[test]
    fn an_older_start_of_a_worker_that_lives_is_out_of_date() {
        let mut members = members();
        members.registers("w1", "u1", 5, 0).unwrap();
        let error = members.registers("w1", "u1", 4, 5).unwrap_err();
        assert_eq!(error, RegisterError::OutOfDate { id: id("w1"), known: 5, claimed: 4 });
        assert!(members.registers("w1", "u1", 4, 6).is_ok(), "dead, and perhaps restored: others will tell");
    }

    #[test]
    fn a_reconnect_stays_a_member_and_a_restart_is_looked_at_again() {
        let mut members = members();
        members.forms(1, &THREE);
        members.registers("w1", "u1", 1, 0).unwrap();
        assert!(members.finds("w1", "u1", 1, Soundness::Sound));
        members.registers("w1", "u1", 1, 1).unwrap();
        assert_eq!(members.sees("w1", 1).0, Standing::Member);
        members.registers("w1", "u1", 2, 2).unwrap();
        assert_eq!(members.sees("w1", 2).0, Standing::Joining);
        assert!(!members.finds("w1", "u1", 1, Soundness::Sound), "what the life before was is void");
        assert!(members.finds("w1", "u1", 2, Soundness::Sound));
    }

    #[test]
    fn the_newest_stream_of_a_worker_counts() {
        let mut members = members();
        let old = members.registers("w1", "u1", 1, 0).unwrap();
        let mut moved = Beat::plain("w1", "u1", 1);
        moved.address = "elsewhere:1".to_owned();
        members.register(moved, s(1), UnixMillis(1_000)).unwrap();
        let error = members.beat(old, Beat::plain("w1", "u1", 1), s(2), UnixMillis(2_000)).unwrap_err();
        assert_eq!(error, RegisterError::Superseded(id("w1")));
        assert_eq!(members.view(s(2)).get(&id("w1")).unwrap().address(), Some("elsewhere:1"));
    }

    #[test]
    fn a_stream_cannot_change_its_worker() {
        let mut members = members();
        let session = members.registers("w1", "u1", 1, 0).unwrap();
        for other in [Beat::plain("w2", "u1", 1), Beat::plain("w1", "u2", 1), Beat::plain("w1", "u1", 2)] {
            let error = members.beat(session, other, s(1), UnixMillis(0)).unwrap_err();
            assert_eq!(error, RegisterError::OtherWorker);
        }
    }

    #[test]
    fn spares_are_bounded_and_never_displace_members() {
        let mut members = members();
        let spares = WORKERS_MAX - 3;
        for n in 0..spares {
            members.registers(&format!("s{n}"), "u", 1, u64::from(n > 0) * 10).unwrap();
        }
        assert!(members.registers("one-more", "u", 1, 10).is_ok(), "s0 is dead and makes room");
        assert!(members.view(s(10)).get(&id("s0")).is_none());
        assert_eq!(members.registers("and-another", "u", 1, 10), Err(RegisterError::TooMany));
        for member in ["w1", "w2", "w3"] {
            members.registers(member, "u", 1, 10).unwrap();
        }
        assert_eq!(members.view(s(10)).workers.len(), WORKERS_MAX);
    }
}
