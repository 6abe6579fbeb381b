//! The way to the workers: one [`link::Link`] each.

pub mod link;
