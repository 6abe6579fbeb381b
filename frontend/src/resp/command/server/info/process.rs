//! What the operating system says of this process. Zeros where it is not Linux.

use std::time::Duration;

/// Resident memory in bytes.
pub(super) fn resident_bytes() -> u64 {
    const PAGE_BYTES: u64 = 4096;
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    resident_pages(&statm).unwrap_or(0) * PAGE_BYTES
}

fn resident_pages(statm: &str) -> Option<u64> {
    statm.split(' ').nth(1)?.parse().ok()
}

/// Time spent in the kernel and in user code.
pub(super) fn cpu_times() -> (Duration, Duration) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    parse_cpu(&stat).unwrap_or_default()
}

fn parse_cpu(stat: &str) -> Option<(Duration, Duration)> {
    // The second field is the program's name in brackets and may contain anything.
    let (_, after_name) = stat.rsplit_once(") ")?;
    let mut fields = after_name.split(' ').skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    let (user, system) = (ticks()?, ticks()?);
    // The kernel reports in hundredths of a second (USER_HZ) on every platform.
    Some((Duration::from_millis(system * 10), Duration::from_millis(user * 10)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read_by_position() {
        assert_eq!(resident_pages("1000 250 30 4 0 5 0\n"), Some(250));
        let stat = "42 (a) b) S 1 42 42 0 -1 4194560 100 0 0 0 150 25 0 0 20 0 4 0";
        assert_eq!(parse_cpu(stat), Some((Duration::from_millis(250), Duration::from_millis(1500))));
        assert_eq!(parse_cpu(""), None);
    }
}
