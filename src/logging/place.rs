//! Whether there is a console, and what kind.
//!
//! A terminal is what `isatty` calls one: `/dev/null` is a character device and none. Where standard output is none,
//! lines go to standard error, for a service manager, if it captures that (systemd's `$JOURNAL_STREAM` names the
//! file it gave us as device and inode) or if the operator says `always`; else nowhere.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use crate::config;

/// Where lines go besides the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Standard output, which is a terminal.
    Terminal {
        /// It understands more than text: progress can be drawn.
        drawn: bool,
        /// Lines may be coloured.
        coloured: bool,
    },
    /// Standard error, with priorities and without time.
    Syslog,
    /// Nowhere.
    Nowhere,
}

/// What the choice depends on.
pub(super) struct Streams<'e> {
    pub stdout_is_terminal: bool,
    /// Device and inode of standard error.
    pub stderr: Option<(u64, u64)>,
    pub variable: &'e dyn Fn(&str) -> Option<OsString>,
}

impl Streams<'static> {
    /// Those of this process.
    pub fn of_process() -> Self {
        let stderr = io::stderr().as_fd().try_clone_to_owned();
        let metadata = stderr.and_then(|stderr| File::from(stderr).metadata());
        Self {
            stdout_is_terminal: io::stdout().is_terminal(),
            stderr: metadata
                .ok()
                .map(|metadata| (metadata.dev(), metadata.ino())),
            variable: &|name| std::env::var_os(name),
        }
    }
}

impl Streams<'_> {
    /// Where lines go with that setting.
    pub fn place(&self, setting: config::Console) -> Place {
        match setting {
            config::Console::Never => Place::Nowhere,
            _ if self.stdout_is_terminal => {
                let term = self.variable("TERM").filter(|term| !term.is_empty());
                let drawn = term.is_some_and(|term| term != "dumb");
                Place::Terminal {
                    drawn,
                    // By no-color.org: whatever it is set to, but not to nothing.
                    coloured: drawn && !self.is_set("NO_COLOR"),
                }
            }
            config::Console::Always => Place::Syslog,
            config::Console::Auto if self.stderr_is_captured() => Place::Syslog,
            config::Console::Auto => Place::Nowhere,
        }
    }

    /// Whether a service manager reads standard error. The variable alone proves nothing: it is inherited by
    /// whatever a service starts, with its streams led elsewhere.
    pub fn stderr_is_captured(&self) -> bool {
        let Some((device, inode)) = self.stderr else {
            return false;
        };
        let stream = self.variable("JOURNAL_STREAM");
        stream.is_some_and(|stream| stream == *format!("{device}:{inode}"))
    }

    fn is_set(&self, name: &str) -> bool {
        self.variable(name).is_some_and(|value| !value.is_empty())
    }

    fn variable(&self, name: &str) -> Option<OsString> {
        (self.variable)(name)
    }
}

#[cfg(test)]
mod tests;
