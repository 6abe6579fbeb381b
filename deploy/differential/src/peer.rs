//! A client that speaks RESP2, one command at a time.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A reply that takes longer means that the peer hangs.
const PATIENCE: Duration = Duration::from_secs(30);
/// No reply to a data command nests deeper.
const DEPTH_MAX: usize = 8;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reply {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    Null,
    NullArray,
    Array(Vec<Reply>),
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Simple(text) => f.write_str(text),
            Self::Error(text) => write!(f, "({text})"),
            Self::Integer(number) => write!(f, "{number}"),
            Self::Bulk(bytes) => f.write_str(&shown(bytes)),
            Self::Null => f.write_str("nil"),
            Self::NullArray => f.write_str("nil-array"),
            Self::Array(items) => {
                let items: Vec<String> = items.iter().map(Self::to_string).collect();
                write!(f, "[{}]", items.join(", "))
            }
        }
    }
}

/// In quotes; the middle of what is long is left out.
pub fn shown(bytes: &[u8]) -> String {
    const SHOWN_MAX: usize = 200;
    match bytes.len() {
        0..=SHOWN_MAX => format!("\"{}\"", bytes.escape_ascii()),
        len => {
            let (head, tail) = (&bytes[..SHOWN_MAX / 2], &bytes[len - SHOWN_MAX / 2..]);
            format!("\"{}\"…\"{}\" ({len} bytes)", head.escape_ascii(), tail.escape_ascii())
        }
    }
}

trait Stream: Read + Write + Send {}

impl Stream for TcpStream {}
impl Stream for UnixStream {}

/// One connection.
pub struct Peer {
    stream: BufReader<Box<dyn Stream>>,
}

impl Peer {
    pub fn tcp(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream: BufReader::new(Box::new(stream)) })
    }

    pub fn unix(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream: BufReader::new(Box::new(stream)) })
    }

    pub fn call<A: AsRef<[u8]>>(&mut self, args: &[A]) -> io::Result<Reply> {
        self.send(args)?;
        self.reply()
    }

    pub fn send<A: AsRef<[u8]>>(&mut self, args: &[A]) -> io::Result<()> {
        let mut out = format!("*{}\r\n", args.len()).into_bytes();
        for arg in args.iter().map(AsRef::as_ref) {
            write!(out, "${}\r\n", arg.len())?;
            out.extend_from_slice(arg);
            out.extend_from_slice(b"\r\n");
        }
        self.stream.get_mut().write_all(&out)
    }

    pub fn reply(&mut self) -> io::Result<Reply> {
        self.read(DEPTH_MAX)
    }

    fn read(&mut self, depth: usize) -> io::Result<Reply> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line)?;
        let text = line.strip_suffix(b"\r\n").ok_or_else(|| wrong(&line))?;
        let (kind, rest) = text.split_first().ok_or_else(|| wrong(&line))?;
        let text = || String::from_utf8_lossy(rest).into_owned();
        let number = || text().parse::<i64>().map_err(|_| wrong(&line));
        Ok(match kind {
            b'+' => Reply::Simple(text()),
            b'-' => Reply::Error(text()),
            b':' => Reply::Integer(number()?),
            b'$' => match usize::try_from(number()?) {
                Err(_) => Reply::Null,
                Ok(len) => {
                    let mut bytes = vec![0; len + 2];
                    self.stream.read_exact(&mut bytes)?;
                    bytes.truncate(len);
                    Reply::Bulk(bytes)
                }
            },
            b'*' if depth > 0 => match number()? {
                ..0 => Reply::NullArray,
                count => Reply::Array((0..count).map(|_| self.read(depth - 1)).collect::<io::Result<_>>()?),
            },
            _ => return Err(wrong(&line)),
        })
    }
}

fn wrong(line: &[u8]) -> io::Error {
    let text = match line {
        [] => "the connection ended".to_owned(),
        line => format!("no RESP2: {}", line.escape_ascii()),
    };
    io::Error::new(io::ErrorKind::InvalidData, text)
}
