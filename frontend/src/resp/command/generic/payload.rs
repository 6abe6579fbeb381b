//! What DUMP answers and RESTORE takes: one value as it stands in an RDB file.
//!
//! ```text
//! ┌──────┬────────────────┬───────────────┬────────────────┐
//! │ type │ value          │ RDB version   │ CRC-64 of all  │
//! │ u8   │ …              │ u16, little   │ before, little │
//! └──────┴────────────────┴───────────────┴────────────────┘
//! ```
//!
//! A string is a length and its bytes; or a small integer; or a block compressed with LZF. The format is described in
//! "RDB file format" (rdb.fnordig.de) and by Redis's `rdb.h`.

use bytes::Bytes;
use crc::{CRC_64_REDIS, Crc, Table};

use crate::resp::command::parse_i64;

const CRC64: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&CRC_64_REDIS);

const TYPE_STRING: u8 = 0;
/// Written: Redis 5. Strings look the same since, and older servers should be able to read them.
const VERSION_WRITTEN: u16 = 9;
/// Read: Redis 7.2.
const VERSION_MAX: u16 = 11;
const VERSION_BYTES: usize = 2;
const CRC_BYTES: usize = 8;

/// The two high bits of a length's first byte.
const LEN_6_BITS: u8 = 0b00;
const LEN_14_BITS: u8 = 0b01;
const LEN_ENCODED: u8 = 0b11;
/// With a tag of `0b10` the whole first byte tells how wide the length is.
const LEN_32_BITS: u8 = 0x80;
const LEN_64_BITS: u8 = 0x81;

/// With a tag of [`LEN_ENCODED`] the six low bits tell what follows instead of bytes.
const ENCODED_I8: u8 = 0;
const ENCODED_I16: u8 = 1;
const ENCODED_I32: u8 = 2;
const ENCODED_LZF: u8 = 3;

/// No LZF block grows by more when it is unpacked: three bytes stand for at most 264.
const LZF_GROWTH_MAX: usize = 88;

/// Why a payload was refused. Redis's own texts, where it has one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum PayloadError {
    #[error("DUMP payload version or checksum are wrong")]
    Envelope,
    #[error("Bad data format")]
    Format,
    #[error("the payload holds a value of RDB type {0}; only strings (type 0) are supported")]
    Type(u8),
    #[error("the payload's value of {len} bytes is larger than the limit of {max} bytes")]
    TooLarge { len: u64, max: usize },
}

pub(super) fn dump_string(value: &[u8]) -> Vec<u8> {
    const HEAD_BYTES_MAX: usize = 10;
    let mut payload = Vec::with_capacity(HEAD_BYTES_MAX + value.len() + VERSION_BYTES + CRC_BYTES);
    payload.push(TYPE_STRING);
    match parse_i64(value).and_then(|number| i32::try_from(number).ok()) {
        Some(number) => push_integer(&mut payload, number),
        None => {
            push_len(&mut payload, value.len());
            payload.extend_from_slice(value);
        }
    }
    payload.extend_from_slice(&VERSION_WRITTEN.to_le_bytes());
    let crc = CRC64.checksum(&payload);
    payload.extend_from_slice(&crc.to_le_bytes());
    payload
}

fn push_integer(out: &mut Vec<u8>, number: i32) {
    let tag = LEN_ENCODED << 6;
    if let Ok(number) = i8::try_from(number) {
        out.push(tag | ENCODED_I8);
        out.extend_from_slice(&number.to_le_bytes());
    } else if let Ok(number) = i16::try_from(number) {
        out.push(tag | ENCODED_I16);
        out.extend_from_slice(&number.to_le_bytes());
    } else {
        out.push(tag | ENCODED_I32);
        out.extend_from_slice(&number.to_le_bytes());
    }
}

fn push_len(out: &mut Vec<u8>, len: usize) {
    match len {
        0..0x40 => out.push(LEN_6_BITS << 6 | len as u8),
        0x40..0x4000 => out.extend_from_slice(&(u16::from(LEN_14_BITS) << 14 | len as u16).to_be_bytes()),
        _ => match u32::try_from(len) {
            Ok(len) => {
                out.push(LEN_32_BITS);
                out.extend_from_slice(&len.to_be_bytes());
            }
            Err(_) => {
                out.push(LEN_64_BITS);
                out.extend_from_slice(&(len as u64).to_be_bytes());
            }
        },
    }
}

/// The string in a payload, of at most `max` bytes.
pub(super) fn restore_string(payload: &[u8], max: usize) -> Result<Bytes, PayloadError> {
    let mut reader = Reader { rest: body(payload)?, max };
    match reader.byte()? {
        TYPE_STRING => {}
        other => return Err(PayloadError::Type(other)),
    }
    let value = reader.string()?;
    if reader.rest.is_empty() { Ok(value) } else { Err(PayloadError::Format) }
}

/// The payload without its envelope, once that is found to be in order.
fn body(payload: &[u8]) -> Result<&[u8], PayloadError> {
    let (checked, crc) = payload.split_last_chunk::<CRC_BYTES>().ok_or(PayloadError::Envelope)?;
    let (body, version) = checked.split_last_chunk::<VERSION_BYTES>().ok_or(PayloadError::Envelope)?;
    let known = u16::from_le_bytes(*version) <= VERSION_MAX;
    if known && CRC64.checksum(checked) == u64::from_le_bytes(*crc) {
        Ok(body)
    } else {
        Err(PayloadError::Envelope)
    }
}

struct Reader<'a> {
    rest: &'a [u8],
    /// The longest string that may come out.
    max: usize,
}

enum Length {
    Bytes(usize),
    /// No length, but one of the `ENCODED_` ways.
    Encoded(u8),
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], PayloadError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(PayloadError::Format)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PayloadError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(PayloadError::Format)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, PayloadError> {
        self.array().map(|[byte]| byte)
    }

    fn length(&mut self) -> Result<Length, PayloadError> {
        let first = self.byte()?;
        let low = first & 0x3f;
        let len = match (first >> 6, first) {
            (LEN_6_BITS, _) => u64::from(low),
            (LEN_14_BITS, _) => u64::from(low) << 8 | u64::from(self.byte()?),
            (LEN_ENCODED, _) => return Ok(Length::Encoded(low)),
            (_, LEN_32_BITS) => u64::from(u32::from_be_bytes(self.array()?)),
            (_, LEN_64_BITS) => u64::from_be_bytes(self.array()?),
            _ => return Err(PayloadError::Format),
        };
        match usize::try_from(len) {
            Ok(fits) if fits <= self.max => Ok(Length::Bytes(fits)),
            _ => Err(PayloadError::TooLarge { len, max: self.max }),
        }
    }

    fn plain_length(&mut self) -> Result<usize, PayloadError> {
        match self.length()? {
            Length::Bytes(len) => Ok(len),
            Length::Encoded(_) => Err(PayloadError::Format),
        }
    }

    fn string(&mut self) -> Result<Bytes, PayloadError> {
        let number = match self.length()? {
            Length::Bytes(len) => return self.take(len).map(Bytes::copy_from_slice),
            Length::Encoded(ENCODED_I8) => i32::from(i8::from_le_bytes(self.array()?)),
            Length::Encoded(ENCODED_I16) => i32::from(i16::from_le_bytes(self.array()?)),
            Length::Encoded(ENCODED_I32) => i32::from_le_bytes(self.array()?),
            Length::Encoded(ENCODED_LZF) => {
                let packed_len = self.plain_length()?;
                let len = self.plain_length()?;
                return unpack_lzf(self.take(packed_len)?, len).map(Bytes::from);
            }
            Length::Encoded(_) => return Err(PayloadError::Format),
        };
        Ok(Bytes::copy_from_slice(itoa::Buffer::new().format(number).as_bytes()))
    }
}

/// LZF (Marc Lehmann's liblzf): runs of literal bytes, and copies of what was already written.
///
/// ```text
/// 000LLLLL                    the next L + 1 bytes as they are
/// LLLooooo oooooooo           L + 2 bytes from o + 1 bytes back, L below 7
/// 111ooooo LLLLLLLL oooooooo  L + 9 bytes from o + 1 bytes back
/// ```
fn unpack_lzf(packed: &[u8], len: usize) -> Result<Vec<u8>, PayloadError> {
    if len > packed.len().saturating_mul(LZF_GROWTH_MAX) {
        return Err(PayloadError::Format);
    }
    let mut out = Vec::with_capacity(len);
    let mut input = Reader { rest: packed, max: len };
    while !input.rest.is_empty() {
        let control = usize::from(input.byte()?);
        if control < 0b10_0000 {
            out.extend_from_slice(input.take(control + 1)?);
        } else {
            let mut count = (control >> 5) + 2;
            if count == 9 {
                count += usize::from(input.byte()?);
            }
            let back = ((control & 0x1f) << 8 | usize::from(input.byte()?)) + 1;
            let from = out.len().checked_sub(back).ok_or(PayloadError::Format)?;
            // The copy may overlap what it writes: that is how runs are packed.
            for at in from..from + count {
                out.push(out[at]);
            }
        }
        if out.len() > len {
            return Err(PayloadError::Format);
        }
    }
    if out.len() == len { Ok(out) } else { Err(PayloadError::Format) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 1 << 20;

    fn sealed(body: &[u8], version: u16) -> Vec<u8> {
        let mut payload = body.to_vec();
        payload.extend_from_slice(&version.to_le_bytes());
        let crc = CRC64.checksum(&payload);
        payload.extend_from_slice(&crc.to_le_bytes());
        payload
    }

    fn restored(body: &[u8]) -> Result<Bytes, PayloadError> {
        restore_string(&sealed(body, 10), MAX)
    }

    #[test]
    fn lengths_are_written_in_the_shortest_form() {
        let head = |len: usize, bytes: usize| dump_string(&vec![b'x'; len])[1..=bytes].to_vec();
        assert_eq!(head(0, 1), [0]);
        assert_eq!(head(63, 1), [63]);
        assert_eq!(head(64, 2), [0x40, 64]);
        assert_eq!(head(16_383, 2), [0x7f, 0xff]);
        assert_eq!(head(16_384, 5), [0x80, 0, 0, 0x40, 0]);
    }

    #[test]
    fn small_integers_are_packed() {
        for (text, len) in [
            ("-128", 2),
            ("127", 2),
            ("128", 3),
            ("-32768", 3),
            ("2147483647", 5),
            ("2147483648", 11),
            ("01", 3),
        ] {
            let payload = dump_string(text.as_bytes());
            assert_eq!(payload.len() - 1 - VERSION_BYTES - CRC_BYTES, len, "{text}");
            assert_eq!(restore_string(&payload, MAX).unwrap(), text, "{text}");
        }
    }

    #[test]
    fn compressed_strings_are_unpacked() {
        // As Redis 7.0 dumps 100 times "a".
        assert_eq!(restored(b"\x00\xc3\x09\x40\x64\x01aa\xe0\x57\x00\x01aa").unwrap(), "a".repeat(100));
    }

    #[test]
    fn hostile_payloads_are_refused() {
        use PayloadError::{Envelope, Format, TooLarge, Type};
        assert_eq!(restore_string(b"", MAX), Err(Envelope));
        assert_eq!(restore_string(&sealed(b"\x00\x01v", 11), MAX).unwrap(), "v");
        assert_eq!(restore_string(&sealed(b"\x00\x01v", 12), MAX), Err(Envelope));
        for (body, error) in [
            (&b""[..], Format),
            (b"\x00", Format),
            (b"\x00\x02v", Format),
            (b"\x00\x01vw", Format),
            (b"\x01\x01v", Type(1)),
            (b"\x00\x82", Format),
            (b"\x00\xc4", Format),
            (b"\x00\xc2\x01", Format),
            (b"\x00\x80\xff\xff\xff\xff", TooLarge { len: u64::from(u32::MAX), max: MAX }),
            (b"\x00\x81\xff\xff\xff\xff\xff\xff\xff\xff", TooLarge { len: u64::MAX, max: MAX }),
            // LZF: a copy from before the start, a wrong length, an impossible length, cut short.
            (b"\x00\xc3\x02\x03\x20\x00", Format),
            (b"\x00\xc3\x02\x05\x00a", Format),
            (b"\x00\xc3\x02\x80\x00\x0f\xff\xff\x00a", Format),
            (b"\x00\xc3\x09\x03\x00a", Format),
            (b"\x00\xc3\xc0\x01\x03\x00a", Format),
        ] {
            assert_eq!(restored(body), Err(error), "{}", body.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn any_string_survives(value in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(restore_string(&dump_string(&value), MAX), Ok(Bytes::from(value)));
        }

        #[test]
        fn any_body_is_read_without_panic(mut body in proptest::collection::vec(any::<u8>(), 0..60)) {
            body.insert(0, TYPE_STRING);
            let _ = restored(&body);
            body.insert(1, 0xc3);
            let _ = restored(&body);
        }
    }
}
