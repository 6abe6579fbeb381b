//! A client that speaks raw RESP2 and RESP3, so that tests see what is on the wire and can send what no library would.

use std::fmt;
use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::in_time;

/// A reply as it came. `Display` is the notation of the scripts, see [`crate::commands`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reply {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    /// RESP2's null bulk string or RESP3's null.
    Null,
    /// RESP2's null array.
    NullArray,
    Array(Vec<Reply>),
    // RESP3 only.
    Map(Vec<(Reply, Reply)>),
    Set(Vec<Reply>),
    Push(Vec<Reply>),
    Double(String),
    Boolean(bool),
    Verbatim(Vec<u8>),
    BigNumber(String),
}

impl Reply {
    pub(crate) fn bulk(text: impl AsRef<[u8]>) -> Self {
        Self::Bulk(text.as_ref().to_vec())
    }

    pub(crate) fn ok() -> Self {
        Self::Simple("OK".to_owned())
    }

    /// The text of an error, or a failure of the test.
    pub(crate) fn expect_error(&self) -> &str {
        match self {
            Self::Error(text) => text,
            other => panic!("not an error: {other}"),
        }
    }

    pub(crate) fn expect_text(&self) -> String {
        match self {
            Self::Simple(text) => text.clone(),
            Self::Bulk(bytes) | Self::Verbatim(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            other => panic!("not a text: {other}"),
        }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, open, items: &[Self], close| {
            f.write_str(open)?;
            for (i, item) in items.iter().enumerate() {
                write!(f, "{}{item}", if i == 0 { "" } else { ", " })?;
            }
            f.write_str(close)
        };
        match self {
            Self::Simple(text) => write!(f, "{text}"),
            Self::Error(text) => write!(f, "({text})"),
            Self::Integer(n) => write!(f, "{n}"),
            Self::Bulk(bytes) => write!(f, "\"{}\"", bytes.escape_ascii()),
            Self::Null => f.write_str("nil"),
            Self::NullArray => f.write_str("nil-array"),
            Self::Array(items) => list(f, "[", items, "]"),
            Self::Set(items) => list(f, "set[", items, "]"),
            Self::Push(items) => list(f, "push[", items, "]"),
            Self::Map(fields) => {
                f.write_str("{")?;
                for (i, (name, value)) in fields.iter().enumerate() {
                    write!(f, "{}{name}: {value}", if i == 0 { "" } else { ", " })?;
                }
                f.write_str("}")
            }
            Self::Double(text) => write!(f, "double {text}"),
            Self::Boolean(value) => write!(f, "{value}"),
            Self::Verbatim(bytes) => write!(f, "text \"{}\"", bytes.escape_ascii()),
            Self::BigNumber(text) => write!(f, "big {text}"),
        }
    }
}

/// A command as clients send it.
pub(crate) fn encode<A: AsRef<[u8]>>(args: &[A]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        let arg = arg.as_ref();
        out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = in_time("connecting", TcpStream::connect(address)).await.expect("the port is open");
        stream.set_nodelay(true).expect("a socket");
        Self { stream: BufReader::new(stream) }
    }

    /// Words without spaces in them, separated by spaces.
    pub(crate) async fn command(&mut self, line: &str) -> Reply {
        self.call(&line.split(' ').collect::<Vec<_>>()).await
    }

    pub(crate) async fn call<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Reply {
        self.send(&encode(args)).await;
        self.reply().await
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        in_time("sending", self.stream.write_all(bytes)).await.expect("the connection is open");
    }

    /// As [`Self::send`] to a peer that may hang up meanwhile.
    pub(crate) async fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        in_time("sending", self.stream.write_all(bytes)).await
    }

    /// No more will be sent.
    pub(crate) async fn finish(&mut self) {
        self.stream.shutdown().await.expect("the connection is open");
    }

    pub(crate) async fn reply(&mut self) -> Reply {
        self.next().await.expect("the connection stays open")
    }

    /// The next reply; `None` if the connection ended instead.
    pub(crate) async fn next(&mut self) -> Option<Reply> {
        in_time("a reply", Box::pin(read(&mut self.stream))).await
    }

    /// The server has closed the connection, without a word more.
    pub(crate) async fn expect_closed(&mut self) {
        if let Some(reply) = self.next().await {
            panic!("the connection should have been closed, but: {reply}");
        }
    }
}

/// `None` at the end of the connection. A reply that is no RESP is a failure of the test.
async fn read(stream: &mut BufReader<TcpStream>) -> Option<Reply> {
    let mut line = Vec::new();
    // A reset is an end too.
    stream.read_until(b'\n', &mut line).await.ok().filter(|n| *n > 0)?;
    let text = line.strip_suffix(b"\r\n").unwrap_or_else(|| panic!("no CRLF: {}", line.escape_ascii()));
    let text = String::from_utf8_lossy(text).into_owned();
    let (kind, rest) = text.split_at(1);
    let length = || rest.parse::<i64>().unwrap_or_else(|_| panic!("no length: {text}"));
    Some(match kind {
        "+" => Reply::Simple(rest.to_owned()),
        "-" => Reply::Error(rest.to_owned()),
        ":" => Reply::Integer(length()),
        "," => Reply::Double(rest.to_owned()),
        "#" => Reply::Boolean(rest == "t"),
        "(" => Reply::BigNumber(rest.to_owned()),
        "_" => Reply::Null,
        "$" | "=" => {
            let Ok(length) = usize::try_from(length()) else { return Some(Reply::Null) };
            let mut bytes = vec![0; length + 2];
            stream.read_exact(&mut bytes).await.ok()?;
            assert!(bytes.ends_with(b"\r\n"), "a bulk string ends in CRLF");
            bytes.truncate(length);
            if kind == "$" { Reply::Bulk(bytes) } else { Reply::Verbatim(bytes.split_off(4)) }
        }
        "*" | "~" | ">" | "%" => {
            let Ok(length) = usize::try_from(length()) else { return Some(Reply::NullArray) };
            let mut items = Vec::new();
            for _ in 0..if kind == "%" { 2 * length } else { length } {
                items.push(Box::pin(read(stream)).await?);
            }
            match kind {
                "*" => Reply::Array(items),
                "~" => Reply::Set(items),
                ">" => Reply::Push(items),
                _ => {
                    Reply::Map(items.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect())
                }
            }
        }
        _ => panic!("not RESP: {text}"),
    })
}
