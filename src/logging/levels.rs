//! What is severe enough to be logged, by module, changeable while tasks run.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use slog::{Drain, Level, Never, OwnedKVList, Record};

use crate::config::{LEVELS, Severity};

/// What stands before a module's name in a record.
const CRATE: &str = "df2redis::";

/// The modules at the top, which every other is below of.
const ROOMS: [&str; 13] = [
    "admin", "cli", "commands", "config", "entry", "logging", "net", "process", "rdb", "resp",
    "source", "target", "task",
];

/// The levels of one task's log. Cloning is cheap, and all clones are one.
#[derive(Debug, Clone)]
pub struct Levels(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The most verbose of all, as a number: what is beyond it need not be looked at.
    most: AtomicUsize,
    wanted: RwLock<Wanted>,
}

#[derive(Debug)]
struct Wanted {
    at_start: Severity,
    all: Severity,
    modules: BTreeMap<String, Severity>,
}

impl Levels {
    /// The same level for every module.
    pub(super) fn new(level: Severity) -> Self {
        Self(Arc::new(Inner {
            most: AtomicUsize::new(level.as_level().as_usize()),
            wanted: RwLock::new(Wanted {
                at_start: level,
                all: level,
                modules: BTreeMap::new(),
            }),
        }))
    }

    /// Sets the level of a module and of those below it, or of all that have none of their own. No level: the one it
    /// had at the start, for all modules if none is named.
    pub fn set(&self, module: Option<&str>, level: Option<Severity>) {
        let mut wanted = self
            .0
            .wanted
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        match (module, level) {
            (Some(module), Some(level)) => drop(wanted.modules.insert(module.to_owned(), level)),
            (Some(module), None) => drop(wanted.modules.remove(module)),
            (None, Some(level)) => wanted.all = level,
            (None, None) => {
                wanted.all = wanted.at_start;
                wanted.modules.clear();
            }
        }
        let levels = wanted.modules.values().chain([&wanted.all]);
        let most = levels.map(|level| level.as_level().as_usize()).max();
        self.0
            .most
            .store(most.unwrap_or_default(), Ordering::Relaxed);
    }

    /// In words: `info`, or `info, target::writer=debug`.
    pub fn describe(&self) -> String {
        let wanted = self.0.wanted.read().unwrap_or_else(PoisonError::into_inner);
        let mut text = word(wanted.all).to_owned();
        for (module, level) in &wanted.modules {
            // Writing to a string does not fail.
            let _ = write!(text, ", {module}={}", word(*level));
        }
        text
    }

    /// Whether there can be a module of this name, such as `task` or `target::writer`.
    pub fn is_module(name: &str) -> bool {
        let mut parts = name.split("::");
        let is_name = |part: &str| {
            !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        };
        parts.next().is_some_and(|room| ROOMS.contains(&room)) && parts.all(is_name)
    }

    /// The modules that [`Levels::is_module`] knows at the top.
    pub fn rooms() -> &'static [&'static str] {
        &ROOMS
    }

    fn wants(&self, record: &Record<'_>) -> bool {
        let level = record.level();
        if level.as_usize() > self.0.most.load(Ordering::Relaxed) {
            return false;
        }
        let wanted = self.0.wanted.read().unwrap_or_else(PoisonError::into_inner);
        level.is_at_least(wanted.of(record.module()))
    }
}

impl Wanted {
    /// The level of the longest name that covers the module.
    fn of(&self, module: &str) -> Level {
        let module = module.strip_prefix(CRATE).unwrap_or(module);
        let covers = |name: &str| {
            let rest = module.strip_prefix(name);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        let closest = self.modules.iter().filter(|(name, _)| covers(name));
        let closest = closest.max_by_key(|(name, _)| name.len());
        closest.map_or(self.all, |(_, level)| *level).as_level()
    }
}

fn word(level: Severity) -> &'static str {
    let known = LEVELS.iter().find(|(_, known)| *known == level);
    known.map_or("", |(word, _)| word)
}

/// Passes on what is severe enough.
pub(super) struct Filter<D> {
    pub(super) levels: Levels,
    pub(super) drain: D,
}

impl<D: Drain<Ok = (), Err = Never>> Drain for Filter<D> {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        match self.levels.wants(record) {
            true => self.drain.log(record, values),
            false => Ok(()),
        }
    }

    fn is_enabled(&self, level: Level) -> bool {
        level.as_usize() <= self.levels.0.most.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level_of(levels: &Levels, module: &str) -> Level {
        levels.0.wanted.read().unwrap().of(module)
    }

    #[test]
    fn the_closest_module_decides_and_a_level_can_be_given_back() {
        let levels = Levels::new(Severity::Info);
        levels.set(Some("target"), Some(Severity::Error));
        levels.set(Some("target::writer"), Some(Severity::Trace));
        assert_eq!(
            level_of(&levels, "df2redis::target::writer::batch"),
            Level::Trace
        );
        assert_eq!(level_of(&levels, "df2redis::target::writers"), Level::Error);
        assert_eq!(level_of(&levels, "df2redis::task"), Level::Info);
        assert_eq!(
            levels.describe(),
            "info, target=error, target::writer=trace"
        );
        levels.set(Some("target::writer"), None);
        assert_eq!(level_of(&levels, "df2redis::target::writer"), Level::Error);
        levels.set(None, Some(Severity::Debug));
        levels.set(None, None);
        assert_eq!(levels.describe(), "info");
    }

    #[test]
    fn what_no_module_wants_is_refused_by_one_number() {
        let levels = Levels::new(Severity::Warning);
        let most = |levels: &Levels| levels.0.most.load(Ordering::Relaxed);
        assert_eq!(most(&levels), Level::Warning.as_usize());
        levels.set(Some("task"), Some(Severity::Debug));
        assert_eq!(most(&levels), Level::Debug.as_usize());
        levels.set(Some("task"), None);
        assert_eq!(most(&levels), Level::Warning.as_usize());
    }

    #[test]
    fn every_room_of_the_program_and_nothing_else_is_a_module() {
        let lib = include_str!("../lib.rs");
        let rooms = lib
            .lines()
            .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
        assert_eq!(rooms.collect::<Vec<_>>(), ROOMS);
        assert!(Levels::is_module("target::writer") && Levels::is_module("task"));
        for wrong in ["targets", "", "target::", "writer", "target writer"] {
            assert!(!Levels::is_module(wrong), "{wrong}");
        }
    }
}
