//! What a cluster leaves on the machine, read from /proc.

use std::path::Path;

/// Processes that belong to a data directory: they name it, or work in it (PostgreSQL's do, whatever they are called).
#[cfg(target_os = "linux")]
pub(crate) fn of_directory(dir: &Path) -> Vec<String> {
    let own = std::process::id();
    let entries = std::fs::read_dir("/proc").expect("Linux has /proc");
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != own)
        .filter_map(|pid| {
            let place = Path::new("/proc").join(pid.to_string());
            let command = std::fs::read(place.join("cmdline")).ok()?;
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            let works_there = std::fs::read_link(place.join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir));
            let names_it = command.contains(dir.to_str()?);
            (works_there || names_it).then(|| format!("{pid} {}", command.trim()))
        })
        .collect()
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn of_directory(_dir: &Path) -> Vec<String> {
    Vec::new()
}

/// Resident memory of a process in bytes.
#[cfg(target_os = "linux")]
pub(crate) fn resident_bytes(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a process has memory");
    let kib: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("VmRSS is a number");
    kib * 1024
}

/// Unknown here: bounds on it hold trivially.
#[cfg(not(target_os = "linux"))]
pub(crate) fn resident_bytes(_pid: i32) -> u64 {
    0
}
