//! What people see while it runs: a bar on a terminal, plain lines anywhere else.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

#[derive(Clone, Debug)]
pub struct Progress {
    bar: ProgressBar,
    begun: Instant,
}

impl Progress {
    /// For a run of about so many seconds.
    pub fn new(seconds: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(seconds), ProgressDrawTarget::stderr());
        let style =
            ProgressStyle::with_template("{bar:30} {elapsed_precise} of about {duration_precise}  {msg}");
        // The template is ours and is sound; were it not, there would be another bar.
        if let Ok(style) = style {
            bar.set_style(style);
        }
        Self { bar, begun: Instant::now() }
    }

    /// A line that stays.
    pub fn say(&self, text: &str) {
        let line = format!("{:>7.1}s {text}", self.begun.elapsed().as_secs_f64());
        match self.bar.is_hidden() {
            true => eprintln!("{line}"),
            false => self.bar.println(line),
        }
    }

    /// Where it is now.
    pub fn at(&self, done: Duration, text: String) {
        self.bar.set_position(done.as_secs());
        self.bar.set_message(text);
    }

    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
