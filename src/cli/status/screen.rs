//! Where `status` prints: once, one after the other, or in place on a terminal.

use std::env;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, StdoutLock, Write};

use rustix::termios::tcgetwinsize;

/// Back to the upper left corner, without clearing: nothing flickers.
const HOME: &str = "\x1b[H";
/// Clears what an earlier drawing left to the right.
const CLEAR_LINE: &str = "\x1b[K";
/// Clears what is below.
const CLEAR_BELOW: &str = "\x1b[J";

/// Standard output, and how it is used.
pub(super) struct Screen {
    stdout: StdoutLock<'static>,
    way: Way,
}

enum Way {
    /// One text after the other, with this between them.
    After { between: &'static str, first: bool },
    /// Each in place of the one before.
    InPlace,
}

impl Screen {
    fn new(way: Way) -> Self {
        let stdout = io::stdout().lock();
        Self { stdout, way }
    }

    /// For one text.
    pub(super) fn once() -> Self {
        Self::lines()
    }

    /// For texts one after the other.
    pub(super) fn lines() -> Self {
        Self::new(Way::After {
            between: "",
            first: true,
        })
    }

    /// For texts that are watched: in place on a terminal, else with an empty line between them.
    pub(super) fn watched() -> Self {
        let is_dumb = env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        Self::new(if io::stdout().is_terminal() && !is_dumb {
            Way::InPlace
        } else {
            Way::After {
                between: "\n",
                first: true,
            }
        })
    }

    /// Shows a text, by one write where that can be.
    pub(super) fn show(&mut self, text: &str) -> io::Result<()> {
        let shown = match &mut self.way {
            Way::After { between, first } => {
                let between = if *first { "" } else { *between };
                *first = false;
                format!("{between}{text}")
            }
            Way::InPlace => {
                let size = tcgetwinsize(&self.stdout);
                let size = size.map(|size| (size.ws_col.into(), size.ws_row.into()));
                drawing(text, size.unwrap_or((0, 0)))
            }
        };
        self.stdout.write_all(shown.as_bytes())?;
        self.stdout.flush()
    }
}

/// What draws the text over an earlier one, cut to the terminal's columns and rows (0: unknown): a longer one would move
/// what is above out of its place.
fn drawing(text: &str, (columns, rows): (usize, usize)) -> String {
    let known = |size: usize| if size == 0 { usize::MAX } else { size };
    let (columns, rows) = (known(columns), known(rows));
    let all = text.lines().count();
    // The last row stays empty for the cursor.
    let fits = all < rows;
    let lines = if fits { all } else { rows.saturating_sub(2) };
    let mut drawing = HOME.to_owned();
    for line in text.lines().take(lines) {
        drawing.extend(line.chars().take(columns));
        drawing.push_str(CLEAR_LINE);
        drawing.push('\n');
    }
    if !fits {
        // Writing to a string does not fail.
        let _ = write!(drawing, "({} more lines){CLEAR_LINE}", all - lines);
        drawing.push('\n');
    }
    drawing.push_str(CLEAR_BELOW);
    drawing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_drawn_over_the_one_before() {
        assert_eq!(
            drawing("a\nb\n", (80, 24)),
            "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J"
        );
        assert_eq!(drawing("a\nb\n", (0, 0)), "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J");
    }

    #[test]
    fn what_does_not_fit_the_terminal_is_cut_and_said_to_be() {
        let text = "one\ntwo\nthree\nfour\n";
        let drawn = drawing(text, (3, 4));
        assert_eq!(
            drawn,
            "\x1b[Hone\x1b[K\ntwo\x1b[K\n(2 more lines)\x1b[K\n\x1b[J"
        );
        assert!(drawing(text, (3, 5)).contains("fou\x1b[K"));
    }
}
