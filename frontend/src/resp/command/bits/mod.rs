//! Strings as arrays of bits. Bit 0 is the most significant bit of the first byte, as in Redis.

mod bitcount;
mod bitfield;
mod bitop;
mod bitpos;
mod field;
mod range;
mod setbit;

use bytes::{Bytes, BytesMut};

use super::{CommandError, Spec, parse_i64};

/// The rows of this family.
pub const COMMANDS: &[Spec] = &[
    bitcount::BITCOUNT,
    bitfield::BITFIELD,
    bitfield::BITFIELD_RO,
    bitop::BITOP,
    bitpos::BITPOS,
    setbit::GETBIT,
    setbit::SETBIT,
];

const BITS_PER_BYTE: usize = 8;

const BIT_OFFSET: CommandError =
    CommandError::Text(std::borrow::Cow::Borrowed("ERR bit offset is not an integer or out of range"));

/// The offset of a bit inside a value of at most `value_bytes_max` bytes.
fn bit_offset(number: i64, value_bytes_max: usize) -> Result<usize, CommandError> {
    let offset = usize::try_from(number).map_err(|_| BIT_OFFSET)?;
    if offset / BITS_PER_BYTE >= value_bytes_max {
        return Err(BIT_OFFSET);
    }
    Ok(offset)
}

fn parse_bit_offset(text: &[u8], value_bytes_max: usize) -> Result<usize, CommandError> {
    bit_offset(parse_i64(text).ok_or(BIT_OFFSET)?, value_bytes_max)
}

/// A copy of `data` to change, with zeros behind it up to `len`.
fn grown(data: &Bytes, len: usize) -> BytesMut {
    let mut grown = BytesMut::zeroed(data.len().max(len));
    grown[..data.len()].copy_from_slice(data);
    grown
}
