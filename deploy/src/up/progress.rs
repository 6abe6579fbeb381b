//! What `tercet up` prints: a spinner with the current step on a terminal, plain lines elsewhere.
//!
//! A reader that goes away (`tercet up | head`) does not take the cluster with it, so failed writes are ignored.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

#[derive(Clone, Debug)]
pub(super) struct Progress {
    /// `None` where standard output is no terminal.
    spinner: Option<ProgressBar>,
}

impl Progress {
    pub(super) fn new() -> Self {
        let spinner = std::io::stdout().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self { spinner }
    }

    /// What is being done now.
    pub(super) fn step(&self, text: &str) {
        match &self.spinner {
            Some(bar) => bar.set_message(text.to_owned()),
            None => line(text),
        }
    }

    /// Something that is to stay on the screen.
    pub(super) fn say(&self, text: &str) {
        match &self.spinner {
            Some(bar) => bar.suspend(|| line(text)),
            None => line(text),
        }
    }

    /// Ends the spinner; [`Progress::say`] still works.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.spinner {
            bar.finish_and_clear();
        }
    }
}

fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}
