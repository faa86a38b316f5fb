//! The command line. `--help`, completions and the check of the manual page all come from these definitions.

use std::fmt::Write;
use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::config::{LEVELS, Severity};
use crate::process::Exit;

/// Replicate a live Dragonfly into Redis
///
/// df2redis connects to a Dragonfly master as a replica, copies its dataset to a Redis server, and then follows its
/// writes until it is stopped. What to copy from where to where stands in a task file; see df2redis.toml(5).
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
    /// Run a task: copy the source to the target, then follow its writes
    ///
    /// Runs in the foreground until it is stopped. SIGTERM, SIGINT (Ctrl-C) and SIGQUIT finish what is in flight, for at
    /// most task.shutdown_timeout, and end with exit code 0; a second one ends at once. SIGHUP is ignored: a lost
    /// session does not end a task. Every start copies the whole dataset again.
    Replicate(Replicate),
    /// Look at task files
    Config(ConfigArguments),
}

/// Arguments of `replicate`.
#[derive(Debug, Args)]
pub struct Replicate {
    /// The task file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The task's name, for a task file that does not name it [default: the file's name without .toml]
    #[arg(long, value_name = "NAME")]
    pub task_name: Option<String>,
    /// The least severe lines to log, instead of log.level of the task file
    #[arg(long, value_name = "LEVEL", value_parser = level_parser())]
    pub log_level: Option<Severity>,
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
    /// Connects to nothing. Prints one line for each correct task on standard output; complaints and warnings go to
    /// standard error, each with file, line, column and key.
    Check(Check),
}

/// Arguments of `config check`.
#[derive(Debug, Args)]
pub struct Check {
    /// A task file; can be given several times
    #[arg(long, value_name = "FILE", required = true)]
    pub config: Vec<PathBuf>,
}

fn level_parser() -> impl TypedValueParser<Value = Severity> {
    PossibleValuesParser::new(LEVELS.map(|(word, _)| word)).try_map(|text| {
        let known = LEVELS.iter().find(|(word, _)| *word == text);
        known.map(|(_, level)| *level).ok_or("not a log level")
    })
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
           df2redis config check --config /etc/df2redis/orders.toml\n  \
           df2redis replicate --config /etc/df2redis/orders.toml\n  \
           df2redis replicate --config orders.toml --log-level debug >/dev/null &\n\n\
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

    #[test]
    fn the_definitions_are_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_option_of_replicate_is_understood() {
        let line = "df2redis replicate --config a.toml --task-name b --log-level warning";
        let matches = command().try_get_matches_from(line.split(' ')).unwrap();
        let Command::Replicate(replicate) = Arguments::from_arg_matches(&matches).unwrap().command
        else {
            panic!("not replicate");
        };
        assert_eq!(replicate.config, PathBuf::from("a.toml"));
        assert_eq!(replicate.task_name.as_deref(), Some("b"));
        assert_eq!(replicate.log_level, Some(Severity::Warning));
    }
}
