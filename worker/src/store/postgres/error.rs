//! What an error of the driver means for a worker.

use std::io;

use tokio_postgres::Error;
use tokio_postgres::error::{DbError, Severity, SqlState};

use super::super::StoreError;

/// Raised by [`super::connect`] on a connection that was made under an older boot generation.
pub(super) const TAKEN_OVER: &str = "TC001";

/// Why a connection could not be made. What the driver finds wrong without the network is a wrong setting.
pub(super) fn connect_error(error: &Error) -> StoreError {
    match error.as_db_error() {
        Some(db) => from_db(db),
        None if lost_connection(error) => StoreError::Unreachable(describe(error)),
        None => StoreError::Refused(format!("cannot connect to the database: {}", describe(error))),
    }
}

pub(super) fn statement_error(error: &Error) -> StoreError {
    match error.as_db_error() {
        Some(db) => from_db(db),
        None if lost_connection(error) => StoreError::Unreachable(describe(error)),
        None => StoreError::Failed(describe(error)),
    }
}

/// Whether the server itself said that the statement has failed and lives on to say more. Everything else (FATAL,
/// PANIC, a connection that is gone) leaves open whether the statement's transaction has committed.
pub(super) fn is_clean_abort(error: &Error) -> bool {
    error.as_db_error().is_some_and(|db| db.parsed_severity() == Some(Severity::Error))
}

fn from_db(db: &DbError) -> StoreError {
    // Never the detail: it may quote keys and values.
    let text = format!("{} (SQLSTATE {})", db.message(), db.code().code());
    let code = db.code();
    if *code == SqlState::DISK_FULL {
        StoreError::DiskFull(text)
    } else if [SqlState::QUERY_CANCELED, SqlState::LOCK_NOT_AVAILABLE].contains(code) {
        StoreError::Timeout(text)
    } else if *code == SqlState::TOO_MANY_CONNECTIONS || matches!(&code.code()[..2], "08" | "57") {
        // Class 57 is an operator's doing: shutting down, starting up, this connection was ended.
        StoreError::Unreachable(text)
    } else if *code == SqlState::INVALID_CATALOG_NAME
        || *code == SqlState::INSUFFICIENT_PRIVILEGE
        || *code == SqlState::READ_ONLY_SQL_TRANSACTION
        || code.code() == TAKEN_OVER
        || code.code().starts_with("28")
    {
        StoreError::Refused(format!("the database refuses this worker: {text}"))
    } else {
        StoreError::Failed(text)
    }
}

fn lost_connection(error: &Error) -> bool {
    // The driver's own connect time-out has neither a source nor a public kind.
    let timeout = error.to_string() == "timeout waiting for server";
    let source = std::error::Error::source(error);
    error.is_closed() || timeout || source.is_some_and(|source| source.is::<io::Error>())
}

fn describe(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
