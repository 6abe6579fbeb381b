//! What `tercet up` and `tercet drain` print: a spinner with the current step on a terminal, plain lines elsewhere.
//!
//! A reader that goes away (`tercet up | head`) does not take the cluster with it, so failed writes are ignored.

use std::cell::RefCell;
use std::io::{IsTerminal, Write};
use std::rc::Rc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tercet_frontend::coordinator::status::ChangeStatus;

const STEP: &str = "{spinner} {msg} ({elapsed})";
const CHANGE: &str = "{msg} {wide_bar} {percent} %";

#[derive(Clone, Debug)]
pub(crate) struct Progress {
    /// `None` where standard output is no terminal.
    spinner: Option<ProgressBar>,
    /// The last news that were told as a line.
    told: Rc<RefCell<String>>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let spinner = std::io::stdout().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
            shape(&bar, STEP);
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self { spinner, told: Rc::default() }
    }

    /// What is being done now.
    pub(crate) fn step(&self, text: &str) {
        match self.bar(STEP) {
            Some(bar) => bar.set_message(text.to_owned()),
            None => line(text),
        }
    }

    /// As [`Self::step`], for what is asked again and again: a line only when it has changed.
    pub(crate) fn news(&self, text: &str) {
        if self.spinner.is_some() || *self.told.borrow() != text {
            text.clone_into(&mut self.told.borrow_mut());
            self.step(text);
        }
    }

    /// How far a ring change has come: a bar on a terminal, else a line whenever it has come further.
    pub(crate) fn change(&self, change: &ChangeStatus) {
        let text = format!("{}: {} of {} partitions copied", change.what, change.copied, change.copies);
        match self.bar(CHANGE) {
            Some(bar) => {
                bar.set_length(change.copies as u64);
                bar.set_position(change.copied as u64);
                bar.set_message(text);
            }
            None => self.news(&text),
        }
    }

    /// Whether there is a terminal, on which what moves can be shown.
    pub(crate) fn is_live(&self) -> bool {
        self.spinner.is_some()
    }

    /// The bar, begun again if it was finished.
    fn bar(&self, template: &str) -> Option<&ProgressBar> {
        let bar = self.spinner.as_ref()?;
        if bar.is_finished() {
            bar.reset();
        }
        shape(bar, template);
        Some(bar)
    }

    /// Something that is to stay on the screen.
    pub(crate) fn say(&self, text: &str) {
        match &self.spinner {
            Some(bar) => bar.suspend(|| line(text)),
            None => line(text),
        }
    }

    /// Ends the spinner; [`Progress::say`] still works.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.spinner {
            bar.finish_and_clear();
        }
    }
}

fn shape(bar: &ProgressBar, template: &str) {
    // The templates are constants; a wrong one would show in any run.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
}

fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}
