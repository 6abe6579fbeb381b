//! Commands as Redis clients send them, and what their answers mean.

use redis::{RedisError, Value};
use tercet_check::{Answer, Command};

/// Times are in microseconds.
const MILLISECOND: u64 = 1_000;
const SECOND: u64 = 1_000_000;

/// How a command ended, as its client saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Answered(Answer),
    /// Refused before it had any effect, with these words.
    Refused(String),
    Uncertain,
    /// As uncertain, and the connection is of no more use.
    Lost,
    /// An answer that this command never gives. What it did is unknown.
    Absurd(String),
}

pub(crate) fn encode(command: &Command, key: &str) -> redis::Cmd {
    let mut cmd = match command {
        Command::Get => redis::cmd("GET"),
        Command::Set { .. } => redis::cmd("SET"),
        Command::SetNx { .. } => redis::cmd("SETNX"),
        Command::Append { .. } => redis::cmd("APPEND"),
        Command::Incr => redis::cmd("INCR"),
        Command::Del => redis::cmd("DEL"),
        Command::Expire { ttl } if ttl % SECOND == 0 => redis::cmd("EXPIRE"),
        Command::Expire { .. } => redis::cmd("PEXPIRE"),
    };
    cmd.arg(key);
    match command {
        Command::Get | Command::Incr | Command::Del => {}
        Command::Set { value, ttl: None } | Command::SetNx { value } | Command::Append { tail: value } => {
            cmd.arg(value);
        }
        Command::Set { value, ttl: Some(ttl) } => {
            cmd.arg(value).arg("PX").arg(ttl / MILLISECOND);
        }
        Command::Expire { ttl } if ttl % SECOND == 0 => {
            cmd.arg(ttl / SECOND);
        }
        Command::Expire { ttl } => {
            cmd.arg(ttl / MILLISECOND);
        }
    }
    cmd
}

pub(crate) fn decode(command: &Command, result: Result<Value, RedisError>) -> Ended {
    let answer = match (command, result) {
        (_, Err(error)) => return judge(command, &error),
        (Command::Get, Ok(Value::Nil)) => Answer::Value(None),
        (Command::Get, Ok(Value::BulkString(bytes))) => Answer::Value(Some(bytes)),
        (Command::Set { .. }, Ok(Value::Okay)) => Answer::Done,
        (
            Command::SetNx { .. }
            | Command::Append { .. }
            | Command::Incr
            | Command::Del
            | Command::Expire { .. },
            Ok(Value::Int(number)),
        ) => Answer::Number(number),
        (_, Ok(other)) => return Ended::Absurd(format!("{other:?}")),
    };
    Ended::Answered(answer)
}

fn judge(command: &Command, error: &RedisError) -> Ended {
    match error.code() {
        Some("NOREPLICAS" | "BUSY" | "LOADING") => Ended::Refused(error.to_string()),
        Some("CLUSTERDOWN") if *command == Command::Get => Ended::Refused(error.to_string()),
        Some("UNCERTAIN") => Ended::Uncertain,
        _ if error.is_io_error() || error.is_connection_dropped() || error.is_timeout() => Ended::Lost,
        _ if *command == Command::Incr && error.to_string().contains("value is not an integer") => {
            Ended::Answered(Answer::NotAnInteger)
        }
        _ => Ended::Absurd(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(command: Command) -> String {
        let bytes = encode(&command, "k").get_packed_command();
        let text = String::from_utf8(bytes).unwrap();
        text.split("\r\n").filter(|part| !part.starts_with(['*', '$'])).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn commands_are_sent_as_redis_knows_them() {
        assert_eq!(packed(Command::Get), "GET k ");
        assert_eq!(packed(Command::Set { value: "v".into(), ttl: None }), "SET k v ");
        assert_eq!(packed(Command::Set { value: "v".into(), ttl: Some(70_000) }), "SET k v PX 70 ");
        assert_eq!(packed(Command::Expire { ttl: 70_000 }), "PEXPIRE k 70 ");
        assert_eq!(packed(Command::Expire { ttl: 2_000_000 }), "EXPIRE k 2 ");
        assert_eq!(packed(Command::SetNx { value: "v".into() }), "SETNX k v ");
    }

    #[test]
    fn answers_mean_what_the_documentation_says() {
        let error = |code: &'static str, text: &str| {
            let parsed = redis::parse_redis_value(format!("-{code} {text}\r\n").as_bytes()).unwrap();
            parsed.extract_error().map(|_| Value::Nil)
        };
        assert!(matches!(decode(&Command::Incr, error("NOREPLICAS", "x")), Ended::Refused(_)));
        assert!(matches!(decode(&Command::Get, error("CLUSTERDOWN", "x")), Ended::Refused(_)));
        assert!(matches!(decode(&Command::Incr, error("CLUSTERDOWN", "x")), Ended::Absurd(_)));
        assert_eq!(decode(&Command::Incr, error("UNCERTAIN", "x")), Ended::Uncertain);
        let text = error("ERR", "value is not an integer or out of range");
        assert_eq!(decode(&Command::Incr, text), Ended::Answered(Answer::NotAnInteger));
        assert_eq!(decode(&Command::Get, Ok(Value::Nil)), Ended::Answered(Answer::Value(None)));
        assert!(matches!(decode(&Command::Get, Ok(Value::Okay)), Ended::Absurd(_)));
    }
}
