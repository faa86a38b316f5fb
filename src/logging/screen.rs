//! A terminal as indicatif draws on it: each drawing is one write, and a failed one is the last.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use indicatif::TermLike;

use super::outlet::Outlet;

/// Columns and rows of a terminal that does not say.
const USUAL: (u16, u16) = (80, 24);

pub(super) struct Screen {
    outlet: Arc<Outlet>,
    /// Drawn and not yet written.
    pending: Mutex<String>,
}

impl Screen {
    pub fn new(outlet: &Arc<Outlet>) -> Self {
        Self {
            outlet: Arc::clone(outlet),
            pending: Mutex::default(),
        }
    }

    fn add(&self, text: impl fmt::Display) -> io::Result<()> {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        fmt::Write::write_fmt(&mut *pending, format_args!("{text}")).map_err(io::Error::other)
    }

    fn move_cursor(&self, n: usize, direction: char) -> io::Result<()> {
        match n {
            // A parameter of 0 would mean 1.
            0 => Ok(()),
            n => self.add(format_args!("\x1b[{n}{direction}")),
        }
    }

    /// Columns and rows.
    fn size(&self) -> (u16, u16) {
        match rustix::termios::tcgetwinsize(self.outlet.fd()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col, size.ws_row),
            _ => USUAL,
        }
    }
}

impl fmt::Debug for Screen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Screen").finish_non_exhaustive()
    }
}

impl TermLike for Screen {
    fn width(&self) -> u16 {
        self.size().0
    }

    fn height(&self) -> u16 {
        self.size().1
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.move_cursor(n, 'A')
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.move_cursor(n, 'B')
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.move_cursor(n, 'C')
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.move_cursor(n, 'D')
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.add(format_args!("{text}\r\n"))
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.add(text)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.add("\r\x1b[2K")
    }

    fn flush(&self) -> io::Result<()> {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let drawn = std::mem::take(&mut *pending);
        // Not held while the terminal takes its time.
        drop(pending);
        self.outlet.write(drawn.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests;
