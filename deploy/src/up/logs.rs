//! The parts' log files, bounded.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// A log is moved to `ID.log.1` when it is larger.
const BYTES_MAX: u64 = 16 * 1024 * 1024;
const TAIL_BYTES: u64 = 8 * 1024;

/// Opens a log for appending, so that truncating it (see [`bound`]) makes its writers go on at the start.
pub(super) fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// Copies a log that has grown too large aside and empties it. A line that is written meanwhile may be lost.
pub(super) fn bound(path: &Path) -> std::io::Result<()> {
    bound_to(path, BYTES_MAX)
}

fn bound_to(path: &Path, bytes_max: u64) -> std::io::Result<()> {
    let Ok(meta) = path.metadata() else { return Ok(()) };
    if meta.len() > bytes_max {
        std::fs::copy(path, path.with_added_extension("1"))?;
        OpenOptions::new().write(true).open(path)?.set_len(0)?;
    }
    Ok(())
}

/// The last lines of a log.
pub(super) fn tail(path: &Path, lines: usize) -> Vec<String> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let start = file.metadata()?.len().saturating_sub(TAIL_BYTES);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let text = String::from_utf8_lossy(&read().unwrap_or_default()).into_owned();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].iter().map(|line| (*line).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_large_log_moves_aside_while_its_writer_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w1.log");
        let mut writer = open(&path).unwrap();
        writer.write_all(b"one\ntwo\nthree\n").unwrap();
        assert_eq!(tail(&path, 2), ["two", "three"]);
        bound_to(&path, 100).unwrap();
        assert_eq!(tail(&path, 9).len(), 3);
        bound_to(&path, 5).unwrap();
        writer.write_all(b"four\n").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"four\n", "no hole before it");
        assert_eq!(tail(&dir.path().join("w1.log.1"), 9).len(), 3);
        assert!(tail(&dir.path().join("none"), 1).is_empty());
    }
}
