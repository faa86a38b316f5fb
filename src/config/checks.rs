//! From a task file as written to a checked task.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::document::{Document, Section, quoted, wrong_kind};
use super::glob::Glob;
use super::load::check_name;
use super::servers;
use super::task::{
    Audit, Conflict, Console, CrossSlot, Filter, Limits, Log, LogFormat, MaxDelete, MemberExpiry,
    OnFull, OnUnsupported, Policy, Reaction, Resync, Retry, Rotate, Severity, Spool, SpoolSync,
    Target, Task,
};

/// Database numbers that Redis can be configured to have.
pub(super) const DATABASES: Range<u32> = 0..(i32::MAX as u32);

/// Where tasks of the system keep their files.
const SYSTEM_TASKS: &str = "/etc/df2redis";
const SYSTEM_LOGS: &str = "/var/log/df2redis";
const SYSTEM_STATE: &str = "/var/lib/df2redis";

/// The smallest useful memory budget.
const LEAST_MEMORY: u64 = 16 << 20;

/// The smallest log worth rotating.
const LEAST_LOG: u64 = 1 << 20;

/// How many rotated logs can be kept.
const AUDITED: Range<u32> = 0..1_000_001;

/// How many old logs may stay.
const ROTATED: Range<u32> = 0..1_001;

/// The smallest useful spool: several segments for many flows.
const LEAST_SPOOL: u64 = 64 << 20;

const MILLISECOND: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// What a task file means depends on: where it stands, what the command line says, the environment.
pub(super) struct Surroundings<'s> {
    /// The file, absolute.
    file: PathBuf,
    /// The directory of the file, absolute.
    dir: PathBuf,
    /// The task's name by the command line.
    only_name: Option<&'s str>,
    env: &'s dyn Fn(&str) -> Option<OsString>,
}

impl<'s> Surroundings<'s> {
    /// Of a file that could be opened.
    pub fn of(
        path: &Path,
        only_name: Option<&'s str>,
        env: &'s dyn Fn(&str) -> Option<OsString>,
    ) -> io::Result<Self> {
        let file = std::path::absolute(path)?;
        let dir = file.parent().unwrap_or(Path::new("/")).to_owned();
        Ok(Self {
            file,
            dir,
            only_name,
            env,
        })
    }

    /// The task file itself.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// A path in the file: relative ones are relative to the file.
    pub fn path(&self, written: &str) -> PathBuf {
        self.dir.join(written)
    }

    /// An environment variable.
    pub fn variable(&self, name: &str) -> Option<OsString> {
        (self.env)(name)
    }

    /// A directory as the schema has it: one for the system's tasks, else one beside the file.
    fn default_dir(&self, system: &str, beside: &str) -> PathBuf {
        match self.file.starts_with(SYSTEM_TASKS) {
            true => PathBuf::from(system),
            false => self.dir.join(beside),
        }
    }
}

/// The task a file describes; `None` after at least one complaint.
pub(super) fn task(
    document: &Document,
    entries: &DeTable<'_>,
    around: &Surroundings<'_>,
) -> Option<Task> {
    let root = Section::root(document, entries);
    let section = root.table("task");
    let name = task_name(&section, around);
    let state_dir = dir(&section, "state_dir", around)
        .unwrap_or_else(|| around.default_dir(SYSTEM_STATE, "state"));
    let shutdown_timeout = section.duration("shutdown_timeout", MILLISECOND, HOUR);
    let filter = filter(&root.table("filter"));
    let source = servers::source(&root.table("source"), around);
    let target_section = root.table("target");
    let target = servers::target(&target_section, around);
    let policy = policy(&root.table("policy"));
    let limits = limits(&root.table("limits"));
    let spool = spool(&root.table("spool"));
    let retry = retry(&root.table("retry"));
    let audit = audit(&root.table("audit"));
    let log = log(&root.table("log"), around);
    if let (Some(target), Some(filter)) = (&target, &filter) {
        check_db_map(&target_section, target, filter);
        check_only_database_0(&target_section, target, filter);
    }
    if let (Some(source), Some(target)) = (&source, &target) {
        let (key, same) = match &target.cluster {
            Some(nodes) => ("addresses", nodes.addresses.contains(&source.address)),
            None => ("address", source.address == target.address),
        };
        if same {
            let at = Some(target_section.place_of(key));
            let what = match key {
                "address" => "is the address of the source too, expected another server",
                _ => "has the address of the source too, expected other servers",
            };
            target_section.complain(key, at, what.into());
        }
    }
    Some(Task {
        name: name?,
        file: around.file().to_owned(),
        state_dir,
        shutdown_timeout: shutdown_timeout?,
        source: source?,
        target: target?,
        filter: filter?,
        policy: policy?,
        limits: limits?,
        spool: spool?,
        retry: retry?,
        audit: audit?,
        log: log?,
        warnings: Vec::new(),
    })
}

/// The name: the file's word, the command line's, or the file's stem.
fn task_name(section: &Section<'_>, around: &Surroundings<'_>) -> Option<String> {
    if section.has("name") {
        let name = section.parsed("name", "a string", check_name)?;
        if let Some(wanted) = around.only_name.filter(|wanted| *wanted != name) {
            let at = Some(section.place_of("name"));
            let what = format!(
                "is {}, but --task-name asks for {}",
                quoted(&name),
                quoted(wanted)
            );
            section.complain("name", at, what);
            return None;
        }
        return Some(name);
    }
    if let Some(name) = around.only_name {
        return Some(name.to_owned());
    }
    let stem = around
        .file()
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy();
    match check_name(&stem) {
        Ok(name) => Some(name),
        Err(_) => {
            let what = format!(
                "is missing, and {} from the file's name cannot be a task name",
                quoted(&stem)
            );
            section.complain("name", None, what);
            None
        }
    }
}

/// A directory, which may not exist yet.
fn dir(section: &Section<'_>, key: &str, around: &Surroundings<'_>) -> Option<PathBuf> {
    let found = section.filled(key)?;
    let path = around.path(found.value);
    if path.exists() && !path.is_dir() {
        let what = format!("{} is a file, expected a directory", quoted(found.value));
        section.complain(key, Some(found.at), what);
        return None;
    }
    Some(path)
}

fn filter(section: &Section<'_>) -> Option<Filter> {
    let databases = databases(section);
    let include = globs(section, "include");
    let exclude = globs(section, "exclude");
    let all = || Glob::new(b"*").ok().map(|glob| vec![glob]);
    Some(Filter {
        databases: databases?,
        include: match include? {
            Some(globs) => globs,
            None => all()?,
        },
        exclude: exclude?.unwrap_or_default(),
    })
}

/// Outside: `None` after a complaint. Inside: `None` for all databases.
#[expect(clippy::option_option, reason = "absent and wrong are two things")]
fn databases(section: &Section<'_>) -> Option<Option<BTreeSet<u32>>> {
    let key = "databases";
    if !section.has(key) {
        return Some(None);
    }
    let mut databases = Some(BTreeSet::new());
    for found in section.array(key, "an array of database numbers")? {
        match section.integer_in(key, found.value, found.at, &DATABASES) {
            Some(db) => {
                databases.as_mut().map(|all| all.insert(db));
            }
            None => databases = None,
        }
    }
    databases.map(Some)
}

/// Outside: `None` after a complaint. Inside: `None` if the key is absent.
#[expect(clippy::option_option, reason = "absent and wrong are two things")]
fn globs(section: &Section<'_>, key: &str) -> Option<Option<Vec<Glob>>> {
    if !section.has(key) {
        return Some(None);
    }
    let expected = "an array of patterns such as [\"user:*\"]";
    let (mut globs, mut good) = (Vec::new(), true);
    for found in section.array(key, expected)? {
        let DeValue::String(text) = found.value else {
            section.complain(key, Some(found.at), wrong_kind(found.value, "a pattern"));
            good = false;
            continue;
        };
        match Glob::new(text.as_bytes()) {
            Ok(glob) => globs.push(glob),
            Err(error) => {
                section.complain(key, Some(found.at), format!("{} {error}", quoted(text)));
                good = false;
            }
        }
    }
    good.then_some(Some(globs))
}

/// No two databases that are copied may meet on the target: their keys would overwrite each other.
fn check_db_map(section: &Section<'_>, target: &Target, filter: &Filter) {
    let mapped = target
        .db_map
        .iter()
        .filter(|(from, _)| filter.allows_db(**from));
    for (from, to) in mapped {
        let others = target.db_map.keys().copied().chain([*to]);
        let mut rivals =
            others.filter(|other| filter.allows_db(*other) && target.db(*other) == *to);
        if let Some(other) = rivals
            .find(|other| other < from || (other > from && !target.db_map.contains_key(other)))
        {
            let what = format!(
                "databases {other} and {from} of the source would both become {to} on the target, \
                 expected one each (filter.databases can leave one out)"
            );
            section.complain("db_map", Some(section.place_of("db_map")), what);
        }
    }
}

/// Databases that the file names, and that a cluster does not have. Those that it does not name are looked for later.
fn check_only_database_0(section: &Section<'_>, target: &Target, filter: &Filter) {
    let named = filter.databases.iter().flatten();
    let mut elsewhere = named.filter(|db| **db != 0 && !target.db_map.contains_key(db));
    if target.cluster.is_some()
        && let Some(db) = elsewhere.next()
    {
        let what = format!(
            "leaves database {db} of filter.databases where it is, expected {{ \"{db}\" = 0 }}: a \
             cluster has only database 0"
        );
        section.complain("db_map", Some(section.place_of("db_map")), what);
    }
}

const REACTIONS: [(&str, Reaction); 2] = [("stop", Reaction::Stop), ("skip", Reaction::Skip)];

fn policy(section: &Section<'_>) -> Option<Policy> {
    let conflict = section.choice(
        "conflict",
        &[
            ("overwrite", Conflict::Overwrite),
            ("panic", Conflict::Panic),
            ("skip", Conflict::Skip),
        ],
    );
    let on_error = section.choice("on_error", &REACTIONS);
    let on_unsupported = on_unsupported(section);
    let on_member_expiry = section.choice(
        "on_member_expiry",
        &[
            ("emulate", MemberExpiry::Emulate),
            ("drop", MemberExpiry::Drop),
            ("stop", MemberExpiry::Stop),
        ],
    );
    let on_cross_slot = section.choice(
        "on_cross_slot",
        &[
            ("fetch", CrossSlot::Fetch),
            ("stop", CrossSlot::Stop),
            ("skip", CrossSlot::Skip),
        ],
    );
    let resync = section.choice(
        "resync",
        &[("reconcile", Resync::Reconcile), ("flush", Resync::Flush)],
    );
    let max_delete = section.parsed("max_delete", MAX_DELETE, |text| {
        max_delete(text).ok_or_else(|| format!("is neither, expected {MAX_DELETE}"))
    });
    let expiry_grace = section.duration("expiry_grace", Duration::ZERO, DAY);
    Some(Policy {
        on_cross_slot: on_cross_slot?,
        resync: resync?,
        max_delete: max_delete?,
        expiry_grace: expiry_grace?,
        conflict: conflict?,
        on_error: on_error?,
        on_unsupported: on_unsupported?,
        on_member_expiry: on_member_expiry?,
    })
}

const MAX_DELETE: &str = "a percentage such as \"20%\" or a number of keys such as \"1000\"";

fn max_delete(text: &str) -> Option<MaxDelete> {
    match text.strip_suffix('%') {
        Some(percent) => {
            let percent = percent.parse().ok().filter(|percent| *percent <= 100);
            percent.map(MaxDelete::Percent)
        }
        None => text.parse().ok().map(MaxDelete::Keys),
    }
}

/// One word for all kinds, or a table with a word for each.
fn on_unsupported(section: &Section<'_>) -> Option<OnUnsupported> {
    let key = "on_unsupported";
    if section.is_table(key) || !section.has(key) {
        let kinds = section.table(key);
        let reaction = |kind| kinds.choice(kind, &REACTIONS);
        let all = [
            reaction("json"),
            reaction("bloom"),
            reaction("cms"),
            reaction("topk"),
            reaction("cuckoo"),
            reaction("search"),
            reaction("command"),
            reaction("value"),
            reaction("lost"),
        ];
        let [json, bloom, cms, topk, cuckoo, search, command, value, lost] = all;
        return Some(OnUnsupported {
            json: json?,
            bloom: bloom?,
            cms: cms?,
            topk: topk?,
            cuckoo: cuckoo?,
            search: search?,
            command: command?,
            value: value?,
            lost: lost?,
        });
    }
    let all = section.choice(key, &REACTIONS)?;
    Some(OnUnsupported {
        json: all,
        bloom: all,
        cms: all,
        topk: all,
        cuckoo: all,
        search: all,
        command: all,
        value: all,
        lost: all,
    })
}

fn limits(section: &Section<'_>) -> Option<Limits> {
    Some(Limits {
        memory: section.size("memory", LEAST_MEMORY)?,
    })
}

fn spool(section: &Section<'_>) -> Option<Spool> {
    let max_size = section.size("max_size", LEAST_SPOOL);
    let min_free = section.size("min_free", 0);
    let keep = section.duration("keep", Duration::ZERO, DAY);
    let sync = section.choice(
        "sync",
        &[
            ("interval", SpoolSync::Interval),
            ("always", SpoolSync::Always),
            ("never", SpoolSync::Never),
        ],
    );
    let on_full = section.choice(
        "on_full",
        &[
            ("disconnect", OnFull::Disconnect),
            ("throttle", OnFull::Throttle),
        ],
    );
    Some(Spool {
        max_size: max_size?,
        min_free: min_free?,
        keep: keep?,
        sync: sync?,
        on_full: on_full?,
    })
}

fn retry(section: &Section<'_>) -> Option<Retry> {
    let initial = section.duration("initial", MILLISECOND, DAY);
    let max = section.duration("max", MILLISECOND, DAY);
    let max_elapsed = match section.has("max_elapsed") {
        true => section
            .duration("max_elapsed", MILLISECOND, 30 * DAY)
            .map(Some),
        false => Some(None),
    };
    if let (Some(initial), Some(max)) = (initial, max)
        && initial > max
    {
        let key = if section.has("initial") {
            "initial"
        } else {
            "max"
        };
        let what = format!(
            "the first wait, {}, is longer than the longest, {}, expected initial <= max",
            humantime::format_duration(initial),
            humantime::format_duration(max)
        );
        section.complain(key, Some(section.place_of(key)), what);
    }
    Some(Retry {
        initial: initial?,
        max: max?,
        max_elapsed: max_elapsed?,
    })
}

fn log(section: &Section<'_>, around: &Surroundings<'_>) -> Option<Log> {
    let dir = dir(section, "dir", around).unwrap_or_else(|| around.default_dir(SYSTEM_LOGS, "log"));
    let level = section.choice("level", &LEVELS);
    let format = section.choice(
        "format",
        &[("text", LogFormat::Text), ("json", LogFormat::Json)],
    );
    let console = section.choice("console", &CONSOLES);
    let rotate = rotate(section);
    Some(Log {
        dir,
        level: level?,
        format: format?,
        console: console?,
        rotate: rotate?,
    })
}

fn audit(section: &Section<'_>) -> Option<Audit> {
    Some(Audit {
        keys_per_second: section.integer("keys_per_second", AUDITED)?,
    })
}

/// Inner `None`: somebody else rotates.
fn rotate(section: &Section<'_>) -> Option<Option<Rotate>> {
    let keep = section.integer("rotate_keep", ROTATED);
    let compress = section.boolean("rotate_compress");
    if !section.has("rotate_size") {
        for key in ["rotate_keep", "rotate_compress"] {
            if section.has(key) {
                let what = "has no effect without log.rotate_size, expected that as well";
                section.complain(key, Some(section.place_of(key)), what.to_owned());
                return None;
            }
        }
        return Some(None);
    }
    let size = section.size("rotate_size", LEAST_LOG);
    Some(Some(Rotate {
        size: size?,
        keep: keep?,
        compress: compress?,
    }))
}

/// The words for log levels, in a file as on the command line.
pub const LEVELS: [(&str, Severity); 6] = [
    ("trace", Severity::Trace),
    ("debug", Severity::Debug),
    ("info", Severity::Info),
    ("warning", Severity::Warning),
    ("error", Severity::Error),
    ("critical", Severity::Critical),
];

/// The names of console settings, for task files and the command line.
pub const CONSOLES: [(&str, Console); 3] = [
    ("auto", Console::Auto),
    ("always", Console::Always),
    ("never", Console::Never),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn around(file: &str) -> Surroundings<'static> {
        Surroundings::of(Path::new(file), None, &|_| None).unwrap()
    }

    #[test]
    fn tasks_of_the_system_use_the_systems_directories_and_others_stay_beside_their_file() {
        let system = around("/etc/df2redis/orders.toml");
        assert_eq!(
            system.default_dir(SYSTEM_LOGS, "log"),
            Path::new("/var/log/df2redis")
        );
        assert_eq!(
            system.default_dir(SYSTEM_STATE, "state"),
            Path::new("/var/lib/df2redis")
        );
        let own = around("/home/me/df2redis/orders.toml");
        assert_eq!(
            own.default_dir(SYSTEM_LOGS, "log"),
            Path::new("/home/me/df2redis/log")
        );
        assert_eq!(
            own.default_dir(SYSTEM_STATE, "state"),
            Path::new("/home/me/df2redis/state")
        );
    }

    #[test]
    fn relative_paths_are_relative_to_the_file_and_absolute_ones_stay() {
        let own = around("/home/me/orders.toml");
        assert_eq!(own.path("tls/ca.pem"), Path::new("/home/me/tls/ca.pem"));
        assert_eq!(own.path("/srv/ca.pem"), Path::new("/srv/ca.pem"));
    }
}
