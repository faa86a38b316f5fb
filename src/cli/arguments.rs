//! The command line. `--help`, completions and the option lists of the manual page all come from these definitions.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::config::{CONSOLES, Console, Glob, LEVELS, Severity};
use crate::process::Exit;

/// Replicate a live Dragonfly into Redis
///
/// df2redis connects to a Dragonfly master as a replica, copies its dataset to a Redis server, and then follows its
/// writes until it is stopped. What to copy from where to where stands in task files; see df2redis.toml(5).
#[derive(Debug, Parser)]
#[command(name = "df2redis", version = super::VERSION, propagate_version = true)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run tasks: copy the source to the target, then follow its writes
    ///
    /// Runs until it is stopped: in the foreground, or with --daemon detached from terminal and session. SIGTERM, SIGINT
    /// (Ctrl-C) and SIGQUIT finish what is in flight, for at most task.shutdown_timeout, and end with exit code 0; a
    /// second one ends at once. SIGHUP is ignored: a lost session does not end a task. A start goes on where the target
    /// is, if the source still has all that was written since; else it copies the whole dataset again.
    Replicate(Box<Replicate>),
    /// Show what tasks are doing
    ///
    /// Asks the process that runs them. Where none does, shows the state it left behind, and says so. Exit code: 0
    /// running, 1 dead and its PID file is still there (with --pidfile), 3 not running, 4 unknown; of several tasks the
    /// highest.
    Status(Status),
    /// Stop the process that holds a PID file, and wait until it is gone
    ///
    /// Sends SIGTERM, but only to a process that really holds the file. Exit code: 0 gone, or was not running; 1 still
    /// there; 4 not allowed or unknown.
    Stop(Stop),
    /// Wait until the target has caught up
    ///
    /// Reads the source's positions, and returns when the target has everything up to there: with writers stopped, the
    /// copy is complete. Exit code: 0 caught up, 3 a task does not run, 4 unknown, 75 not within --timeout.
    Wait(Wait),
    /// Change what running tasks log
    ///
    /// Prints what each logs from now on. Exit code: 0 changed, 3 a task does not run, 4 unknown, 64 no such module; of
    /// several tasks the highest.
    LogLevel(LogLevel),
    /// Approve what a running task waits for
    ///
    /// After a full sync, keys that the source no longer has are removed from the target. More of them than
    /// policy.max_delete wait until they are approved here: a source that was started empty, or is the wrong one, must
    /// not empty the target. `status` shows how many there are. Exit code: 0 approved, 1 nothing waits, 3 a task does
    /// not run, 4 unknown; of several tasks the highest.
    Approve(Approve),
    /// Run again what the target refused
    ///
    /// For a task that does not run. Runs each recorded entry again, exactly once and in their order, and says what
    /// became of it. Exit code: 0 nothing is left, 65 one was refused again or cannot be repeated, 73 the task runs.
    Retry(Retry),
    /// Give up what the target refused
    ///
    /// For a task that does not run. Removes the records of the entries that are named, so that the task goes on
    /// without them; without --all and ID only lists them. Exit code: 0 done, 64 no entry has such an ID, 73 the task
    /// runs.
    Skip(Skip),
    /// Remove what a task keeps of itself on the target, and its spool
    ///
    /// For a task that does not run, here or anywhere. Without --yes only lists its keys, df2redis:*:TASK: positions,
    /// refused entries, claim and fence; and its spool on this host. What was copied stays, and the next start is a full sync. Exit code: 0 done, 73
    /// the task runs.
    Forget(Forget),
    /// Compare source and target of a task, also while it runs
    ///
    /// Reads both servers and changes neither. Prints a table of what is equal, missing, different and extra. A key that
    /// is not the same on both sides is looked at again, until the task's positions on the target prove that it differs
    /// and that no write is on its way; without positions (target.positions = "none", or none stored yet) a difference
    /// is what stays the same in all rounds. Ctrl-C ends it with what is known so far. With --repair the task that runs puts
    /// right what differs, while it follows writes. Exit code: 0 equal, also after repair; 1 different, unsettled or stopped
    /// before the end; 3 there is nobody to repair, since the task does not run.
    Check(Box<Comparison>),
    /// Look at task files
    Config(ConfigArguments),
}

/// Which tasks, by their files and names.
#[derive(Debug, Clone, Args)]
pub struct Tasks {
    /// A task file, or a directory whose *.toml are task files; can be given several times
    #[arg(long, value_name = "PATH", default_value = "/etc/df2redis")]
    pub config: Vec<PathBuf>,
    /// Only the task of this name; can be given several times. For one task file that does not name its task: the name
    /// [default: the file's name without .toml]
    #[arg(long, value_name = "NAME")]
    pub task_name: Vec<String>,
}

/// Arguments of `replicate`.
#[derive(Debug, Args)]
pub struct Replicate {
    /// Which tasks.
    #[command(flatten)]
    pub tasks: Tasks,
    /// The least severe lines to log, instead of log.level of the task files
    #[arg(long, value_name = "LEVEL", value_parser = level_parser())]
    pub log_level: Option<Severity>,
    /// Whether lines also go to the console, instead of log.console of the task files
    #[arg(long, value_name = "WHEN", value_parser = console_parser())]
    pub log_console: Option<Console>,
    /// Write the process id to this file, and lock it as long as the process lives
    #[arg(long, value_name = "FILE")]
    pub pidfile: Option<PathBuf>,
    /// Detach from terminal and session; returns when the state of --ready is reached
    #[arg(long)]
    pub daemon: bool,
    /// Run as this user, by name or number, with all groups of that user
    #[arg(long, value_name = "USER", requires = "daemon")]
    pub user: Option<String>,
    /// Run with this group, by name or number [default: the group of --user]
    #[arg(long, value_name = "GROUP", requires = "daemon")]
    pub group: Option<String>,
    /// The working directory of the daemon
    #[arg(long, value_name = "DIR", default_value = "/", requires = "daemon")]
    pub chdir: PathBuf,
    /// The file mode creation mask of the daemon, octal
    #[arg(long, value_name = "MASK", default_value = "027", value_parser = umask, requires = "daemon")]
    pub umask: u32,
    /// What --daemon waits for
    #[arg(
        long,
        value_name = "STATE",
        value_enum,
        default_value_t,
        requires = "daemon"
    )]
    pub ready: Ready,
    /// How long --daemon waits; then it names the tasks that are not ready and exits 75, and the daemon goes on
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration, requires = "daemon")]
    pub ready_timeout: Duration,
}

/// What the caller of `--daemon` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, ValueEnum)]
pub enum Ready {
    /// Logs open, PID file and tasks locked
    #[default]
    Started,
    /// Every task has reached its source and its target
    Connected,
    /// Every task follows its source's writes
    Stable,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct Status {
    /// Which tasks.
    #[command(flatten)]
    pub tasks: Tasks,
    /// Ask the process that holds this PID file, whatever its tasks
    #[arg(long, value_name = "FILE", conflicts_with_all = ["config", "task_name"])]
    pub pidfile: Option<PathBuf>,
    /// Print JSON: one object per call, with all there is to know
    #[arg(long)]
    pub json: bool,
    /// Print it again every second until stopped
    #[arg(long)]
    pub watch: bool,
}

/// Arguments of `stop`.
#[derive(Debug, Args)]
pub struct Stop {
    /// The PID file of the process to stop
    #[arg(long, value_name = "FILE")]
    pub pidfile: PathBuf,
    /// How long to wait until it is gone
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub timeout: Duration,
    /// Send SIGKILL if it is still there then
    #[arg(long)]
    pub kill: bool,
}

/// Arguments of `wait`.
#[derive(Debug, Args)]
pub struct Wait {
    /// Which tasks.
    #[command(flatten)]
    pub tasks: Tasks,
    /// Ask the process that holds this PID file, whatever its tasks
    #[arg(long, value_name = "FILE", conflicts_with_all = ["config", "task_name"])]
    pub pidfile: Option<PathBuf>,
    /// How many entries each flow may be behind the positions that were read
    #[arg(long, value_name = "ENTRIES", default_value_t = 0)]
    pub lag: u64,
    /// How long to wait; then exits 75
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub timeout: Duration,
}

/// Arguments of `log-level`.
#[derive(Debug, Args)]
pub struct LogLevel {
    /// Which tasks.
    #[command(flatten)]
    pub tasks: Tasks,
    /// Ask the process that holds this PID file, whatever its tasks
    #[arg(long, value_name = "FILE", conflicts_with_all = ["config", "task_name"])]
    pub pidfile: Option<PathBuf>,
    /// The least severe lines to log from now on; "default" goes back to what the task started with
    #[arg(value_name = "LEVEL", value_parser = wanted_level_parser())]
    pub level: WantedLevel,
    /// Only for this module and those below it, such as source, target::writer or task
    #[arg(long, value_name = "MODULE")]
    pub module: Option<String>,
}

/// Arguments of `approve`.
#[derive(Debug, Args)]
pub struct Approve {
    /// Which tasks.
    #[command(flatten)]
    pub tasks: Tasks,
    /// Ask the process that holds this PID file, whatever its tasks
    #[arg(long, value_name = "FILE", conflicts_with_all = ["config", "task_name"])]
    pub pidfile: Option<PathBuf>,
}

/// A level asked for while tasks run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WantedLevel {
    /// What the task started with.
    Default,
    /// This and everything more severe.
    Level(Severity),
}

/// Which one task, by its file and name.
#[derive(Debug, Clone, Args)]
pub struct OneTask {
    /// The task file, or a directory whose *.toml are task files
    #[arg(long, value_name = "PATH", default_value = "/etc/df2redis")]
    pub config: PathBuf,
    /// The task of this name, where there are several. For a task file that does not name its task: the name [default:
    /// the file's name without .toml]
    #[arg(long, value_name = "NAME")]
    pub task_name: Option<String>,
}

/// Arguments of `retry`.
#[derive(Debug, Args)]
pub struct Retry {
    /// Which task.
    #[command(flatten)]
    pub task: OneTask,
}

/// Arguments of `skip`.
#[derive(Debug, Args)]
pub struct Skip {
    /// Which task.
    #[command(flatten)]
    pub task: OneTask,
    /// All entries
    #[arg(long, conflicts_with = "ids")]
    pub all: bool,
    /// The entry of this ID, as the list shows it; can be given several times
    #[arg(value_name = "ID")]
    pub ids: Vec<String>,
}

/// Arguments of `forget`.
#[derive(Debug, Args)]
pub struct Forget {
    /// Which task.
    #[command(flatten)]
    pub task: OneTask,
    /// Remove them
    #[arg(long)]
    pub yes: bool,
}

/// Arguments of `check`.
#[derive(Debug, Args)]
pub struct Comparison {
    /// Which task.
    #[command(flatten)]
    pub task: OneTask,
    /// How much of each key is compared
    #[arg(long, value_name = "MODE", value_enum, default_value_t)]
    pub mode: Thoroughness,
    /// Only so many keys, chosen by their names: the same ones each time
    #[arg(long, value_name = "N%", value_parser = percentage)]
    pub sample: Option<u64>,
    /// Only keys that match this pattern, beside the filters of the task
    #[arg(long = "match", value_name = "GLOB", value_parser = glob)]
    pub matching: Option<Glob>,
    /// How often a difference is looked at again, at most
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// How long between looks; all rounds together are what the target may take to get to where the source was
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration)]
    pub interval: Duration,
    /// Most requests to the source in a second [default: no limit]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub qps: Option<u32>,
    /// About how much memory to use
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = size)]
    pub max_memory: u64,
    /// How far apart the expiry times of a key may be
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration)]
    pub expiry_tolerance: Duration,
    /// Write a line of JSON for each key that is not equal to this file
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Have the running task read the keys that differ again from the source, and compare them once more; keys that only
    /// the target has are removed, unless they are more than policy.max_delete
    #[arg(long)]
    pub repair: bool,
    /// With --repair, for a task that does not run, here or anywhere: unless all is equal, discard how far it has come, so
    /// that its next start copies everything
    #[arg(long, requires = "repair")]
    pub discard_position: bool,
}

/// How much of each key is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Thoroughness {
    /// Type, every byte of the value, expiry, groups and consumers of streams
    #[default]
    Full,
    /// Type, expiry and length
    Outline,
    /// Type and length
    Length,
    /// As full for values up to 64 KiB, else type, expiry, length and samples of the value
    Smart,
}

/// Arguments of `config`.
#[derive(Debug, Args)]
pub struct ConfigArguments {
    /// What to do with the task files.
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// What to do with task files.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check task files and name everything that is wrong with them
    ///
    /// Prints one line for each correct task on standard output; complaints and warnings go to standard error, each with
    /// file, line, column and key. Connects to nothing without --connect; with it, prints what was found about both
    /// servers of each task, and exits with the code of the first error.
    Check(Check),
}

/// Arguments of `config check`.
#[derive(Debug, Args)]
pub struct Check {
    /// Which tasks.
    #[command(flatten)]
    pub tasks: Tasks,
    /// Also reach both servers, and report what an operator should know before the start
    #[arg(long)]
    pub connect: bool,
}

/// What stands for [`WantedLevel::Default`] on the command line.
const DEFAULT_LEVEL: &str = "default";

fn level_parser() -> impl TypedValueParser<Value = Severity> {
    PossibleValuesParser::new(LEVELS.map(|(word, _)| word)).try_map(|text| level(&text))
}

fn wanted_level_parser() -> impl TypedValueParser<Value = WantedLevel> {
    let words = LEVELS.map(|(word, _)| word).into_iter();
    PossibleValuesParser::new(words.chain([DEFAULT_LEVEL])).try_map(|text| match text.as_str() {
        DEFAULT_LEVEL => Ok(WantedLevel::Default),
        word => level(word).map(WantedLevel::Level),
    })
}

fn level(text: &str) -> Result<Severity, &'static str> {
    let known = LEVELS.iter().find(|(word, _)| *word == text);
    known.map(|(_, level)| *level).ok_or("not a log level")
}

fn console_parser() -> impl TypedValueParser<Value = Console> {
    PossibleValuesParser::new(CONSOLES.map(|(word, _)| word)).try_map(|text| {
        let known = CONSOLES.iter().find(|(word, _)| *word == text);
        known.map(|(_, console)| *console).ok_or("not a choice")
    })
}

/// A time such as `30s` or `1m 30s`; a bare number counts seconds.
fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    humantime::parse_duration(text).map_err(|error| format!("{error}; expected such as 30s"))
}

/// Bytes, in a text such as `64MiB`.
fn size(text: &str) -> Result<u64, &'static str> {
    crate::config::size(text).ok_or("expected a size such as 64MiB")
}

fn glob(text: &str) -> Result<Glob, String> {
    Glob::new(text.as_bytes()).map_err(|error| error.to_string())
}

/// Hundredths of a percent, in a text such as `5%` or `0.5%`.
fn percentage(text: &str) -> Result<u64, &'static str> {
    const EXPECTED: &str = "expected a share from 0.01% to 100%";
    let number = text.strip_suffix('%').unwrap_or(text);
    let share: f64 = number.trim().parse().map_err(|_| EXPECTED)?;
    let hundredths = (share * 100.0).round();
    match (1.0..=10_000.0).contains(&hundredths) {
        true => Ok(hundredths as u64),
        false => Err(EXPECTED),
    }
}

fn umask(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mask) if mask <= 0o777 => Ok(mask),
        _ => Err("expected an octal number from 000 to 777".to_owned()),
    }
}

/// The whole command line, with examples, files and exit codes behind the help.
pub fn command() -> clap::Command {
    let mut exits = String::new();
    for exit in Exit::ALL {
        // Writing to a string does not fail.
        let _ = writeln!(exits, "  {:<3} {}", exit.code(), exit.meaning());
    }
    let after = format!(
        "Examples:\n  \
           df2redis config check --connect\n  \
           df2redis replicate --config orders.toml --task-name orders &\n  \
           df2redis replicate --daemon --pidfile /run/df2redis/df2redis.pid --ready stable\n  \
           df2redis status --watch\n  \
           df2redis wait --lag 0 --timeout 60s\n  \
           df2redis check --config orders.toml --report differences.jsonl\n  \
           df2redis stop --pidfile /run/df2redis/df2redis.pid\n\n\
         Files:\n  \
           /etc/df2redis/*.toml                  task files, one task each\n  \
           /var/log/df2redis/TASK_COMMAND.log    logs of those tasks; of others: log/ beside the task file\n  \
           /var/lib/df2redis/                    state of those tasks; of others: state/ beside the task file\n\n\
         Exit codes:\n{exits}"
    );
    Arguments::command().after_help(after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::FromArgMatches;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        let matches = command().try_get_matches_from(line.split(' '))?;
        Arguments::from_arg_matches(&matches).map(|arguments| arguments.command)
    }

    fn replicate(line: &str) -> Box<Replicate> {
        match parse(line).unwrap() {
            Command::Replicate(replicate) => replicate,
            other => panic!("not replicate: {other:?}"),
        }
    }

    #[test]
    fn the_definitions_are_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_option_of_replicate_is_understood() {
        let read = replicate(
            "df2redis replicate --config a.toml --config b --task-name c --log-level warning --log-console never \
             --pidfile p --daemon --user u --group g --chdir d --umask 077 --ready stable --ready-timeout 90",
        );
        assert_eq!(read.tasks.config, ["a.toml", "b"].map(PathBuf::from));
        assert_eq!(read.tasks.task_name, ["c"]);
        assert_eq!(read.log_level, Some(Severity::Warning));
        assert_eq!(read.log_console, Some(Console::Never));
        assert_eq!(
            (read.user.as_deref(), read.group.as_deref()),
            (Some("u"), Some("g"))
        );
        assert_eq!(
            (read.daemon, read.umask, read.ready),
            (true, 0o77, Ready::Stable)
        );
        assert_eq!(read.ready_timeout, Duration::from_secs(90));
        assert_eq!((read.pidfile, read.chdir), (Some("p".into()), "d".into()));
    }

    #[test]
    fn tasks_are_looked_for_in_etc_and_a_daemon_is_careful_by_default() {
        let read = replicate("df2redis replicate");
        assert_eq!(read.tasks.config, [PathBuf::from("/etc/df2redis")]);
        assert_eq!(
            (read.chdir, read.umask, read.ready),
            ("/".into(), 0o27, Ready::Started)
        );
    }

    #[test]
    fn what_only_a_daemon_does_is_refused_without_daemon() {
        for option in ["--user u", "--umask 077", "--ready stable", "--chdir d"] {
            let refused = parse(&format!("df2redis replicate {option}")).unwrap_err();
            assert!(refused.to_string().contains("--daemon"), "{refused}");
        }
    }

    #[test]
    fn times_have_a_unit_or_are_seconds_and_masks_are_octal() {
        assert_eq!(duration("7"), Ok(Duration::from_secs(7)));
        assert_eq!(duration("200ms"), Ok(Duration::from_millis(200)));
        assert!(duration("soon").is_err());
        assert_eq!(umask("027"), Ok(0o27));
        assert!(umask("1000").is_err() && umask("9").is_err());
    }

    #[test]
    fn a_level_can_be_given_back() {
        let read = |line: &str| match parse(line).unwrap() {
            Command::LogLevel(read) => (read.level, read.module),
            other => panic!("not log-level: {other:?}"),
        };
        assert_eq!(
            read("df2redis log-level debug --module target::writer"),
            (
                WantedLevel::Level(Severity::Debug),
                Some("target::writer".to_owned())
            )
        );
        assert_eq!(
            read("df2redis log-level default"),
            (WantedLevel::Default, None)
        );
    }
}
