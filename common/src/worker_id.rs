//! Names of workers.

use std::fmt;
use std::sync::Arc;

/// The name of a worker: 1 to 64 of `a-z A-Z 0-9 . _ -`, starting with a letter or digit. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorkerId(Arc<str>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no worker id: 1 to 64 of a-z, A-Z, 0-9, `.`, `_`, `-`, starting with a letter or digit")]
pub struct InvalidWorkerId(String);

impl WorkerId {
    pub const LEN_MAX: usize = 64;

    pub fn new(id: &str) -> Result<Self, InvalidWorkerId> {
        let ok = !id.is_empty()
            && id.len() <= Self::LEN_MAX
            && id.as_bytes()[0].is_ascii_alphanumeric()
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if ok { Ok(Self(id.into())) } else { Err(InvalidWorkerId(id.chars().take(80).collect())) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for WorkerId {
    type Error = InvalidWorkerId;
    fn try_from(id: String) -> Result<Self, InvalidWorkerId> {
        Self::new(&id)
    }
}

impl From<WorkerId> for String {
    fn from(id: WorkerId) -> Self {
        id.0.as_ref().to_owned()
    }
}

impl std::str::FromStr for WorkerId {
    type Err = InvalidWorkerId;
    fn from_str(id: &str) -> Result<Self, InvalidWorkerId> {
        Self::new(id)
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
