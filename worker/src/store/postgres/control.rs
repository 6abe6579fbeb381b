//! What runs on the control connection: proofs of life, promises, the register, the identity. One statement each.

use tercet_common::{PartitionId, Promise, Term};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement};

use super::super::{RingRegister, StoreError};
use super::Session;
use super::columns::{PartitionColumns, signed};
use super::commit::{Part, together};
use super::connect::within;
use super::error::{is_clean_abort, statement_error};
use super::flight::InFlight;

/// Prepared once, so that a prepare of the protocol costs one round trip.
pub(super) struct ControlStatements {
    prove: Statement,
    raise: Statement,
    keep_register: Statement,
    renew: Statement,
}

/// With a journal row, so that the seq tells of this change too.
fn with_journal_row(part: Part) -> String {
    together(&[Part::journal(), part])
}

impl ControlStatements {
    pub(super) async fn prepare(client: &Client) -> Result<Self, tokio_postgres::Error> {
        const PROVE: &str = "UPDATE tercet.proof SET commits = commits + 1, proved_at = now()";
        const KEEP_REGISTER: &str = "UPDATE tercet.identity SET \
             register_promised = ROW($1::bigint, $2::bigint)::tercet.term, \
             register_accepted = ROW($3::bigint, $4::bigint)::tercet.term, ring_epoch = $5::bigint, ring = $6::bytea";
        const RENEW: &str =
            "UPDATE tercet.identity SET worker_uuid = gen_random_uuid() RETURNING worker_uuid::text";
        let register = Part { name: "register", sql: KEEP_REGISTER.to_owned(), params: 6 };
        Ok(Self {
            prove: client.prepare(PROVE).await?,
            raise: client.prepare(&with_journal_row(Part::raised())).await?,
            keep_register: client.prepare(&with_journal_row(register)).await?,
            renew: client.prepare(RENEW).await?,
        })
    }
}

pub(super) async fn prove_commit(session: &Session) -> Result<(), StoreError> {
    on_control(session, session.control.execute(&session.statements.prove, &[])).await.map(drop)
}

pub(super) async fn keep_promises(
    session: &Session,
    promises: &[(PartitionId, Promise)],
) -> Result<(), StoreError> {
    let raised = PartitionColumns::new(promises, &[])?;
    journaled(session, &session.statements.raise, raised.params()).await
}

pub(super) async fn keep_register(session: &Session, register: &RingRegister) -> Result<(), StoreError> {
    let numbers = |term: Term| Ok::<_, StoreError>([signed(term.n)?, signed(term.incarnation.0)?]);
    let ([promised_n, promised_by], [accepted_n, accepted_by]) =
        (numbers(register.promised)?, numbers(register.accepted)?);
    let epoch = register.ring.as_ref().map(|ring| signed(ring.0.0)).transpose()?;
    let ring = register.ring.as_ref().map(|ring| ring.1.as_slice());
    let params: Vec<&(dyn ToSql + Sync)> =
        vec![&promised_n, &promised_by, &accepted_n, &accepted_by, &epoch, &ring];
    journaled(session, &session.statements.keep_register, params).await
}

/// Unless the server itself says that nothing has happened, only the next opening knows whose data it is.
pub(super) async fn renew_identity(session: &Session) -> Result<String, StoreError> {
    session.lost.check()?;
    let renewed = session.control.query_one(&session.statements.renew, &[]);
    let error = match tokio::time::timeout(session.patience, renewed).await {
        Ok(Ok(row)) => return Ok(row.get(0)),
        Ok(Err(error)) if is_clean_abort(&error) => return Err(statement_error(&error)),
        Ok(Err(error)) => statement_error(&error),
        Err(_) => StoreError::Timeout(format!("no answer within {:?}", session.patience)),
    };
    session.lost.lose(&error.to_string());
    Err(error)
}

/// A statement of [`with_journal_row`]; its row names no keys.
async fn journaled(
    session: &Session,
    statement: &Statement,
    rest: Vec<&(dyn ToSql + Sync)>,
) -> Result<(), StoreError> {
    session.lost.check()?;
    let flight = InFlight::begin(session, Default::default())?;
    let seq = flight.seq();
    let (none, nothing): (&[u8], &[i16]) = (&[], &[]);
    let mut params: Vec<&(dyn ToSql + Sync)> = vec![&seq, &none, &nothing, &none];
    params.extend(rest);
    match tokio::time::timeout(session.patience, session.control.execute(statement, &params)).await {
        Ok(Ok(_)) => {
            flight.committed();
            Ok(())
        }
        Ok(Err(error)) if is_clean_abort(&error) => {
            flight.aborted();
            Err(statement_error(&error))
        }
        Ok(Err(error)) => Err(flight.unknown(statement_error(&error))),
        Err(_) => {
            Err(flight.unknown(StoreError::Timeout(format!("no answer within {:?}", session.patience))))
        }
    }
}

/// One statement on the control connection. No answer in time means that the connection cannot be relied on.
async fn on_control<T>(
    session: &Session,
    statement: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, StoreError> {
    let result = within(session.patience, statement).await;
    if let Err(error @ (StoreError::Timeout(_) | StoreError::Unreachable(_))) = &result {
        session.lost.lose(&error.to_string());
    }
    result
}
