//! How far files have got: one line that moves at a terminal, plain lines elsewhere.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use crate::admin::explain::{Bytes, Span};
use crate::time;

/// The least time between two looks of the line.
const REDRAW: Duration = Duration::from_millis(250);

/// Tells on standard error how far it is.
#[derive(Debug)]
pub(super) struct Progress {
    style: Style,
    begun: Instant,
    drawn: Option<Instant>,
    width: usize,
    done: u64,
    /// All that there is, as far as is known.
    pub(super) total: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Moving,
    Plain,
    Silent,
}

impl Progress {
    /// Says nothing where facts go to a script.
    pub(super) fn new(is_for_scripts: bool) -> Self {
        let style = match (is_for_scripts, io::stderr().is_terminal()) {
            (true, _) => Style::Silent,
            (false, true) => Style::Moving,
            (false, false) => Style::Plain,
        };
        let begun = time::monotonic();
        Self { style, begun, drawn: None, width: 0, done: 0, total: 0 }
    }

    /// So many bytes more are done of what is called `what`.
    pub(super) fn advance(&mut self, what: &str, bytes: u64) {
        self.done += bytes;
        let now = time::monotonic();
        let is_due = self.drawn.is_none_or(|drawn| now.duration_since(drawn) >= REDRAW);
        if self.style != Style::Moving || !is_due {
            return;
        }
        self.drawn = Some(now);
        let line = format!("{what}: {}", self.told(now));
        self.draw(&line);
    }

    fn told(&self, now: Instant) -> String {
        let seconds = now.duration_since(self.begun).as_secs_f64();
        let mut told =
            format!("{} of about {}", Bytes(self.done), Bytes(self.total.max(self.done)));
        if seconds >= 1.0 && self.done > 0 {
            let rate = self.done as f64 / seconds;
            told += &format!(", {}/s", Bytes(rate as u64));
            let left = self.total.saturating_sub(self.done) as f64 / rate;
            told += &format!(", {} left", Span(left as u64 * 1_000));
        }
        told
    }

    fn draw(&mut self, line: &str) {
        let width = line.chars().count();
        let blank = " ".repeat(self.width.saturating_sub(width));
        // Whoever looks at it may be gone.
        let _ = write!(io::stderr(), "\r{line}{blank}");
        let _ = io::stderr().flush();
        self.width = width;
    }

    /// A line that stays.
    pub(super) fn line(&mut self, line: &str) {
        match self.style {
            Style::Silent => {}
            Style::Plain => eprintln!("{line}"),
            Style::Moving => {
                self.draw(line);
                eprintln!();
                self.width = 0;
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.width > 0 {
            eprintln!();
        }
    }
}
