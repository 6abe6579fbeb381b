mod collect;
mod compare;
mod copy;
mod delta;
mod mutants;
mod world;
