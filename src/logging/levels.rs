//! What a task logs: a level for everything, and others for single modules, changeable while it runs.
//!
//! A line that nobody wants costs one atomic load. The table of modules is looked at only while there is one, and
//! only for lines that some module may want.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use slog::{Drain, Level, Never, OwnedKVList, Record};

use crate::config::{LEVELS, Severity};

include!(concat!(env!("OUT_DIR"), "/modules.rs"));

/// The crate's own name, with which the module of every line begins.
const CRATE: &str = env!("CARGO_CRATE_NAME");

/// The levels of one task. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Levels {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// No line beyond this is wanted by any module.
    most: AtomicUsize,
    /// The level of all modules, or 0 (which is no level) while some have their own.
    common: AtomicUsize,
    /// What the task started with.
    initial: Severity,
    table: RwLock<Table>,
}

#[derive(Debug)]
struct Table {
    all: Severity,
    modules: BTreeMap<String, Severity>,
}

impl Levels {
    /// The same level for every module.
    pub fn new(initial: Severity) -> Self {
        let level = initial.as_level().as_usize();
        Self {
            shared: Arc::new(Shared {
                most: AtomicUsize::new(level),
                common: AtomicUsize::new(level),
                initial,
                table: RwLock::new(Table {
                    all: initial,
                    modules: BTreeMap::new(),
                }),
            }),
        }
    }

    /// Sets the level of a module and those below it that have no level of their own, or of all that have none.
    ///
    /// No level is the way back: for a module it and those below it have none of their own any more; for all, the
    /// task logs what it did at its start.
    pub fn set(&self, module: Option<&str>, level: Option<Severity>) {
        let mut table = self.write();
        match (module, level) {
            (Some(module), Some(level)) => {
                table.modules.insert(module.to_owned(), level);
            }
            (Some(module), None) => table.modules.retain(|name, _| !is_within(name, module)),
            (None, Some(level)) => table.all = level,
            (None, None) => {
                table.all = self.shared.initial;
                table.modules.clear();
            }
        }
        let all = table.all.as_level().as_usize();
        let levels = table
            .modules
            .values()
            .map(|level| level.as_level().as_usize());
        let most = levels.fold(all, usize::max);
        let common = if table.modules.is_empty() { all } else { 0 };
        // With the table still locked, so that two changes at once leave what belongs together.
        self.shared.most.store(most, Ordering::Relaxed);
        self.shared.common.store(common, Ordering::Relaxed);
    }

    /// In words, such as `info, target::writer=debug`.
    pub fn describe(&self) -> String {
        let table = self.read();
        let mut words = word(table.all).to_owned();
        for (module, level) in &table.modules {
            // Writing to a string does not fail.
            let _ = write!(words, ", {module}={}", word(*level));
        }
        words
    }

    /// Whether there is a module of that name, such as `source` or `target::writer`.
    pub fn is_module(name: &str) -> bool {
        MODULES.contains(&name)
    }

    /// The modules at the top, to be named when one is not known.
    pub fn rooms() -> Vec<&'static str> {
        let top = MODULES.iter().filter(|name| !name.contains("::"));
        top.copied().collect()
    }

    fn wants(&self, record: &Record<'_>) -> bool {
        let level = record.level().as_usize();
        if level > self.shared.most.load(Ordering::Relaxed) {
            return false;
        }
        match Level::from_usize(self.shared.common.load(Ordering::Relaxed)) {
            Some(common) => level <= common.as_usize(),
            None => level <= self.read().of(record.module()).as_usize(),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.shared
            .table
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.shared
            .table
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// The level of a line's module: of the longest name in the table that it is within.
    fn of(&self, path: &str) -> Level {
        let inside = path
            .strip_prefix(CRATE)
            .and_then(|rest| rest.strip_prefix("::"));
        let found = inside.and_then(|path| {
            let mut within = self
                .modules
                .iter()
                .filter(|(name, _)| is_within(path, name));
            // Names that one path is within begin with each other, so the last in order is the longest.
            within.next_back()
        });
        found.map_or(self.all, |(_, level)| *level).as_level()
    }
}

/// The word for a level, as in task files.
fn word(level: Severity) -> &'static str {
    let known = LEVELS.iter().find(|(_, known)| *known == level);
    known.map_or("unknown", |(word, _)| word)
}

/// Whether `path` is the module or below it.
fn is_within(path: &str, module: &str) -> bool {
    path.strip_prefix(module)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Passes on what the levels want.
pub(super) struct Wanted<D> {
    pub levels: Levels,
    pub drain: D,
}

impl<D: Drain<Ok = (), Err = Never>> Drain for Wanted<D> {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        if self.levels.wants(record) {
            self.drain.log(record, values)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slog::{RecordLocation, RecordStatic, b};

    /// Whether a line of that module and level is wanted.
    fn wants(levels: &Levels, module: &'static str, level: Level) -> bool {
        let location = RecordLocation {
            file: "",
            line: 0,
            column: 0,
            function: "",
            module,
        };
        let place = RecordStatic {
            location: &location,
            level,
            tag: "",
        };
        levels.wants(&Record::new(&place, &format_args!(""), b!()))
    }

    #[test]
    fn a_module_has_the_level_of_the_longest_name_it_is_within() {
        let levels = Levels::new(Severity::Info);
        levels.set(Some("target"), Some(Severity::Error));
        levels.set(Some("target::writer"), Some(Severity::Trace));
        for (module, least) in [
            ("df2redis::task", Level::Info),
            ("df2redis", Level::Info),
            ("df2redis::target", Level::Error),
            ("df2redis::target::lane", Level::Error),
            ("df2redis::target::writer", Level::Trace),
            ("df2redis::target::writer::replies", Level::Trace),
            ("df2redis::target::writers", Level::Error),
            ("df2redis::targets", Level::Info),
            ("target::writer", Level::Info),
        ] {
            for level in [
                Level::Critical,
                Level::Error,
                Level::Warning,
                Level::Info,
                Level::Debug,
                Level::Trace,
            ] {
                let expected = level.as_usize() <= least.as_usize();
                assert_eq!(wants(&levels, module, level), expected, "{module} {level}");
            }
        }
        assert_eq!(
            levels.describe(),
            "info, target=error, target::writer=trace"
        );
    }

    #[test]
    fn levels_go_back_to_what_they_were() {
        let levels = Levels::new(Severity::Warning);
        levels.set(None, Some(Severity::Debug));
        levels.set(Some("target"), Some(Severity::Trace));
        levels.set(Some("target::writer"), Some(Severity::Error));
        levels.set(Some("source"), Some(Severity::Error));
        levels.set(Some("target"), None);
        assert_eq!(levels.describe(), "debug, source=error");
        assert!(wants(&levels, "df2redis::target::writer", Level::Debug));
        assert!(!wants(&levels, "df2redis::source", Level::Warning));
        levels.set(None, None);
        assert_eq!(levels.describe(), "warning");
        assert!(wants(&levels, "df2redis::source", Level::Warning));
        assert!(!wants(&levels, "df2redis::source", Level::Info));
    }

    #[test]
    fn a_clone_has_the_same_levels() {
        let levels = Levels::new(Severity::Info);
        levels.clone().set(Some("task"), Some(Severity::Trace));
        assert!(wants(&levels, "df2redis::task::host", Level::Trace));
    }

    #[test]
    fn modules_that_do_not_exist_are_not_known() {
        for name in [
            "source",
            "source::dragonfly",
            "logging::levels",
            "task",
            "target",
        ] {
            assert!(Levels::is_module(name), "{name}");
        }
        for name in [
            "",
            "sauce",
            "source::",
            "df2redis::source",
            "main",
            "source::nothing",
        ] {
            assert!(!Levels::is_module(name), "{name}");
        }
        // The names are those that lines have.
        assert_eq!(module_path!(), format!("{CRATE}::logging::levels::tests"));
        let top = Levels::rooms();
        assert!(
            top.contains(&"task") && !top.iter().any(|name| name.contains(':')),
            "{top:?}"
        );
    }
}
