mod collect;
mod compare;
mod copy;
mod world;
