//! Wall-clock time as data. Used for expiry only: never to order versions.

/// Milliseconds since the Unix epoch. Always fits a PostgreSQL `bigint`.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, serde::Serialize, serde::Deserialize,
)]
pub struct UnixMillis(pub i64);

impl UnixMillis {
    /// The machine's clock. Shells call this; rules take the result as an argument.
    pub fn now() -> Self {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self(since.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX)))
    }
}
