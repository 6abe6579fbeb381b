//! The core against modelled replicas: directed cases, and random schedules whose histories are checked.

mod contended;
mod directed;
mod linearizable;
mod lives;
mod mutants;
mod overtaken;
mod random;
mod recalled;
mod reconfigured;
mod replica;
mod ring;
mod world;
