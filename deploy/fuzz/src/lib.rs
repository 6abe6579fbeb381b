//! What the targets share: a store without a cluster, and a reader of replies.

pub mod replies;
pub mod store;
