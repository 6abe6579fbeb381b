//! What frontends ask of workers as a whole, on its way.

use std::sync::Arc;

use tercet_frontend::membership::council::{Call, Errand};

use crate::network::Stream;

/// A call, with who made it.
#[derive(Clone, Debug)]
pub(crate) struct Parcel {
    pub stream: Stream,
    pub errand: Arc<Errand>,
}

impl Parcel {
    pub(crate) fn nr(&self) -> u64 {
        self.errand.nr
    }

    pub(crate) fn call(&self) -> &Call {
        &self.errand.call
    }

    /// Whose data, and which start over it, the caller takes it for.
    pub(crate) fn life(&self) -> (&str, u64) {
        (&self.errand.to.witness.uuid, self.errand.to.witness.boot_generation)
    }
}
