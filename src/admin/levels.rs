//! Stands in for `logging::Levels` until that is there: remembers levels, changes nothing.

use std::sync::{Arc, Mutex, PoisonError};

use crate::config::Severity;

/// Levels of a log that can be changed while it is written. Cloning is cheap.
#[derive(Debug, Clone, Default)]
pub struct Levels(Arc<Mutex<Option<(Option<String>, Severity)>>>);

impl Levels {
    /// Sets the level of a module, or of all; `None` goes back to what the log started with.
    pub fn set(&self, module: Option<&str>, level: Option<Severity>) {
        let set = level.map(|level| (module.map(str::to_owned), level));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = set;
    }

    /// The levels in words.
    pub fn describe(&self) -> String {
        format!(
            "{:?}",
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        )
    }

    /// Whether there is such a module.
    pub fn is_module(name: &str) -> bool {
        matches!(name.split("::").next(), Some("source" | "target" | "task"))
    }
}
