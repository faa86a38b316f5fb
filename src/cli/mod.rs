//! Command line definitions, and one file per subcommand. Answers go to standard output, everything else to
//! standard error; a reader that goes away ends nothing.

mod alone;
mod approve;
mod arguments;
mod check;
mod config;
mod forget;
mod log_level;
mod repair;
mod replicate;
mod retry;
mod running;
mod skip;
mod status;
mod stop;
mod wait;

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write};

use clap::FromArgMatches;

use crate::process::Exit;
pub use arguments::{Arguments, Command, ConfigArguments, ConfigCommand, Replicate, command};

/// The program's version with its commit, as `--version` prints it.
pub const VERSION: &str = env!("DF2REDIS_VERSION");

/// Runs the command of a command line (program name included); `prepared` is how setting up the signals went.
pub fn run(arguments: impl IntoIterator<Item = OsString>, prepared: io::Result<()>) -> Exit {
    if let Err(error) = prepared {
        complain(format_args!("cannot set up signals: {error}"));
        return Exit::Internal;
    }
    let parsed = command()
        .try_get_matches_from(arguments)
        .and_then(|matches| Arguments::from_arg_matches(&matches));
    match parsed {
        Ok(Arguments {
            command: Command::Replicate(arguments),
        }) => replicate::run(&arguments),
        Ok(Arguments {
            command: Command::Config(arguments),
        }) => match arguments.command {
            ConfigCommand::Check(arguments) => config::check(&arguments),
        },
        Ok(Arguments {
            command: Command::Check(arguments),
        }) => check::run(&arguments),
        Ok(Arguments {
            command: Command::Status(arguments),
        }) => status::run(&arguments),
        Ok(Arguments {
            command: Command::Stop(arguments),
        }) => stop::run(&arguments),
        Ok(Arguments {
            command: Command::Wait(arguments),
        }) => wait::run(&arguments),
        Ok(Arguments {
            command: Command::LogLevel(arguments),
        }) => log_level::run(&arguments),
        Ok(Arguments {
            command: Command::Approve(arguments),
        }) => approve::run(&arguments),
        Ok(Arguments {
            command: Command::Retry(arguments),
        }) => retry::run(&arguments),
        Ok(Arguments {
            command: Command::Skip(arguments),
        }) => skip::run(&arguments),
        Ok(Arguments {
            command: Command::Forget(arguments),
        }) => forget::run(&arguments),
        Err(error) => {
            // Help and version are no errors, and go to standard output.
            let asked = !error.use_stderr();
            // A reader that is gone does not need the text.
            let _ = error.print();
            if asked { Exit::Done } else { Exit::Usage }
        }
    }
}

/// Says on standard error what went wrong.
fn complain(what: impl Display) {
    // If even that cannot be written there is nobody left to tell.
    let _ = writeln!(io::stderr(), "df2redis: {what}");
}
