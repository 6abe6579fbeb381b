//! Children that do not outlive the supervisor.
//!
//! Linux can send a process a signal when its parent dies, whatever the parent died of. The signal is tied to the
//! *thread* that spawned the child, so the supervisor spawns from its main thread only. Elsewhere the roles notice that
//! their standard input ended, and a PostgreSQL that is left behind is stopped by the next start.

#![allow(unsafe_code)] // `pre_exec` is unsafe: the closure runs between fork and exec. The project's one exemption.

use nix::sys::signal::Signal;
use tokio::process::Command;

/// Makes the kernel send `signal` to the child when the calling thread ends. Call it last: changing the user clears the
/// request, and `Command` changes the user before it runs the closure.
#[cfg(target_os = "linux")]
pub(super) fn with_parent(command: &mut Command, signal: Signal) {
    let parent = nix::unistd::getpid();
    let request = move || {
        nix::sys::prctl::set_pdeathsig(signal)?;
        // The parent may have died between fork and prctl, in which case no signal will ever come.
        if nix::unistd::getppid() != parent {
            return Err(nix::errno::Errno::ESRCH.into());
        }
        Ok(())
    };
    // SAFETY: the closure makes two system calls, prctl and getppid, both async-signal-safe. It allocates nothing: an
    // `io::Error` from an errno is a plain number.
    unsafe { command.pre_exec(request) };
}

#[cfg(not(target_os = "linux"))]
pub(super) fn with_parent(_command: &mut Command, _signal: Signal) {}
