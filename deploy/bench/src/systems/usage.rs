//! Processor time and memory of a cluster, by part.

use std::time::Duration;

use anyhow::Context;
use tercet_harness::up::Part;

/// `USER_HZ`, in which /proc counts processor time: the same on every machine that Linux runs on today.
const TICKS_PER_SECOND: f64 = 100.0;

/// Which processes are to be looked at.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pids {
    frontend: Vec<i32>,
    workers: Vec<i32>,
    /// Postmasters: all other processes of a PostgreSQL are their children.
    databases: Vec<i32>,
}

impl Pids {
    pub(super) fn of(parts: &[Part]) -> Self {
        let kind = |kind: &str| {
            let parts = parts.iter().filter(|part| part.kind == kind);
            parts.filter_map(|part| part.pid).collect::<Vec<_>>()
        };
        Self { frontend: kind("frontend"), workers: kind("worker"), databases: kind("database") }
    }

    /// What they have used since they were started.
    pub(crate) fn cpu(&self) -> anyhow::Result<Cpu> {
        let mut backends = Duration::ZERO;
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
            // It may end while it is looked at; then it is among what its parent has waited for.
            let Some(stat) = pid.and_then(|pid: i32| Stat::of(pid).ok()) else { continue };
            if self.databases.contains(&stat.parent) {
                backends += stat.own;
            }
        }
        let sum = |pids: &[i32]| {
            let stats = pids.iter().map(|pid| Stat::of(*pid).map(|stat| stat.own + stat.children));
            stats.sum::<anyhow::Result<Duration>>()
        };
        Ok(Cpu {
            frontend: sum(&self.frontend)?,
            workers: sum(&self.workers)?,
            databases: sum(&self.databases)? + backends,
        })
    }

    /// Bytes in memory.
    pub(crate) fn frontend_memory(&self) -> anyhow::Result<u64> {
        resident(*self.frontend.first().context("there is no frontend")?)
    }

    /// Of the worker that has most.
    pub(crate) fn worker_memory(&self) -> anyhow::Result<u64> {
        let all = self.workers.iter().map(|pid| resident(*pid)).collect::<anyhow::Result<Vec<_>>>()?;
        all.into_iter().max().context("there are no workers")
    }
}

/// Processor time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cpu {
    pub(crate) frontend: Duration,
    pub(crate) workers: Duration,
    pub(crate) databases: Duration,
}

impl Cpu {
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            frontend: self.frontend.saturating_sub(before.frontend),
            workers: self.workers.saturating_sub(before.workers),
            databases: self.databases.saturating_sub(before.databases),
        }
    }
}

/// A line of /proc/PID/stat.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stat {
    parent: i32,
    own: Duration,
    /// Of children that have ended.
    children: Duration,
}

impl Stat {
    fn of(pid: i32) -> anyhow::Result<Self> {
        let path = format!("/proc/{pid}/stat");
        let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
        Self::parse(&text).with_context(|| path)
    }

    /// As proc(5) numbers the fields. The name of the program, in brackets, may hold anything.
    fn parse(text: &str) -> Option<Self> {
        let (_, fields) = text.rsplit_once(") ")?;
        let fields: Vec<&str> = fields.split(' ').collect();
        let field = |number: usize| fields.get(number - 3);
        let ticks = |number| field(number)?.parse::<f64>().ok();
        let time = |user, system| {
            Some(Duration::from_secs_f64((ticks(user)? + ticks(system)?).max(0.0) / TICKS_PER_SECOND))
        };
        Some(Self { parent: field(4)?.parse().ok()?, own: time(14, 15)?, children: time(16, 17)? })
    }
}

fn resident(pid: i32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let kibibytes = crate::machine::kibibytes(&text, "VmRSS").with_context(|| path)?;
    Ok((kibibytes * 1024.0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_whatever_the_program_is_called() {
        let text = "42 (a) b (c) S 7 42 42 0 -1 4194560 1 2 3 4 250 50 1000 0 20 0 1 0 99 1 2\n";
        let seconds = Duration::from_secs;
        assert_eq!(Stat::parse(text), Some(Stat { parent: 7, own: seconds(3), children: seconds(10) }));
        assert_eq!(Stat::parse("42 (a) S 7"), None);
    }

    #[test]
    fn this_process_has_memory_and_a_parent() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(resident(own).unwrap() > 1 << 16);
        assert_eq!(Stat::of(own).unwrap().parent, nix::unistd::getppid().as_raw());
    }
}
