//! What a connection remembers between commands.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::clients::{Client, Labels};
use super::encode::Version;

/// CLIENT REPLY.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReplyMode {
    #[default]
    On,
    Off,
    /// The next command is not answered.
    SkipNext,
    /// This command is not answered.
    Skip,
}

impl ReplyMode {
    /// A command begins.
    pub fn next_command(&mut self) {
        *self = match *self {
            Self::SkipNext => Self::Skip,
            Self::Skip => Self::On,
            other => other,
        };
    }

    /// Whether the command that has just been started goes unanswered.
    pub fn mutes(self) -> bool {
        self != Self::On
    }
}

pub struct Session {
    pub client: Arc<Client>,
    pub authenticated: bool,
    pub reply_mode: ReplyMode,
    /// The connection ends once what has been answered is sent.
    pub close: bool,
    version: Version,
}

impl Session {
    pub fn new(client: Arc<Client>, authenticated: bool) -> Self {
        Self { client, authenticated, reply_mode: ReplyMode::On, close: false, version: Version::default() }
    }

    pub fn version(&self) -> Version {
        self.version
    }

    pub fn set_version(&mut self, version: Version) {
        self.version = version;
        self.client.resp.store(version.number(), Ordering::Relaxed);
    }

    /// RESET: as a new connection would be. Library name and version stay, as in Redis.
    pub fn reset(&mut self, authenticated: bool) {
        self.authenticated = authenticated;
        self.reply_mode = ReplyMode::On;
        self.set_version(Version::default());
        self.client.no_evict.store(false, Ordering::Relaxed);
        self.client.no_touch.store(false, Ordering::Relaxed);
        let mut labels = self.client.labels.lock();
        *labels = Labels { name: String::new(), ..std::mem::take(&mut labels) };
    }
}
