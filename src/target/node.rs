//! A connection to one server for everything but the flows: questions, ownership, flushes.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, FromRedisValue, RedisConnectionInfo, RedisError};
use tokio::task::AbortHandle;

use super::error::TargetError;
use super::settings::Settings;
use crate::fail_point::{self, Place};
use crate::net::Endpoint;

/// How long a control command may take; scanning commands are cut into short ones.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// A connection to one server.
#[derive(Debug)]
pub(super) struct Node {
    connection: MultiplexedConnection,
    addr: String,
    /// The current database; unknown while a transaction with other ones has no answer.
    db: Option<u32>,
    /// A transaction was opened and has not ended: if it was cancelled, what is sent now would become a part of it.
    in_transaction: bool,
    driver: AbortHandle,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Node {
    /// Connects and logs in, with database 0 selected.
    pub async fn connect(settings: &Settings, endpoint: &Endpoint) -> Result<Self, TargetError> {
        let addr = endpoint.to_string();
        let stream = settings.stream(endpoint).await?;
        let info = RedisConnectionInfo::default().set_skip_set_lib_name();
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(ANSWER_TIMEOUT));
        let making = async {
            let (connection, driver) =
                MultiplexedConnection::new_with_config(&info, stream, config)
                    .await
                    .map_err(|error| login_error(&addr, error))?;
            let mut node = Self {
                connection,
                addr: addr.clone(),
                db: Some(0),
                in_transaction: false,
                driver: tokio::spawn(driver).abort_handle(),
            };
            node.log_in(settings).await?;
            Ok(node)
        };
        tokio::time::timeout(settings.connect_timeout, making)
            .await
            .map_err(|_| TargetError::Silent {
                addr: addr.clone(),
                doing: "logging in".to_owned(),
                after: settings.connect_timeout,
            })?
    }

    /// By hand: the library keeps the server's words to itself, and a password may be any bytes.
    async fn log_in(&mut self, settings: &Settings) -> Result<(), TargetError> {
        if let Some(password) = &settings.password {
            let mut login = redis::cmd("AUTH");
            if let Some(name) = &settings.username {
                login.arg(name);
            }
            login.arg(password.expose());
            let answer: Result<(), RedisError> = login.query_async(&mut self.connection).await;
            if let Err(error) = answer {
                return Err(match login_error(&self.addr, error) {
                    // Such as a password where none is set.
                    TargetError::Answer { addr, answer, .. } => TargetError::Login { addr, answer },
                    other => other,
                });
            }
        }
        // Without a password nothing was asked yet, and anything could be listening.
        let pong: Result<(), RedisError> =
            redis::cmd("PING").query_async(&mut self.connection).await;
        match pong {
            Err(error) if error.code() != Some("NOPERM") => Err(login_error(&self.addr, error)),
            _ => Ok(()),
        }
    }

    /// Whom this talks to, for errors.
    pub fn addr(&self) -> &str {
        &self.addr
    }

    /// Names the connection, so that whoever takes over can end it.
    pub async fn set_name(&mut self, name: &str) -> Result<(), TargetError> {
        let mut set = redis::cmd("CLIENT");
        set.arg("SETNAME").arg(name);
        self.ask("naming the connection", &set).await
    }

    /// Asks for a sign of life.
    pub async fn ping(&mut self) -> Result<(), TargetError> {
        self.ask("asking for a sign of life", &redis::cmd("PING"))
            .await
    }

    /// Loads a script. The server's words if it does not take it, now or ever.
    pub async fn load_script(&mut self, body: &[u8]) -> Result<Option<String>, TargetError> {
        let mut load = redis::cmd("SCRIPT");
        load.arg("LOAD").arg(body);
        match self.ask("loading a script", &load).await {
            Ok(redis::Value::BulkString(_) | redis::Value::SimpleString(_)) => Ok(None),
            Ok(other) => Ok(Some(format!("{other:?}"))),
            Err(TargetError::Answer { answer, .. } | TargetError::Permission { answer, .. }) => {
                Ok(Some(answer))
            }
            Err(error) => Err(error),
        }
    }

    /// Makes `db` the current database.
    pub(super) async fn select(&mut self, db: u32) -> Result<(), TargetError> {
        if self.db == Some(db) {
            return Ok(());
        }
        self.may_ask()?;
        let answer: Result<(), RedisError> = redis::cmd("SELECT")
            .arg(db)
            .query_async(&mut self.connection)
            .await;
        match answer {
            Ok(()) => {
                self.db = Some(db);
                Ok(())
            }
            Err(error) if error.code() == Some("ERR") || error.code() == Some("NOPERM") => {
                Err(TargetError::Database {
                    addr: self.addr.clone(),
                    db,
                    answer: text_of(&error),
                })
            }
            Err(error) => Err(self.error("selecting a database", "SELECT", error)),
        }
    }

    fn may_ask(&self) -> Result<(), TargetError> {
        match self.in_transaction {
            true => Err(TargetError::Lost {
                addr: self.addr.clone(),
                unanswered: 1,
                cause: std::io::Error::other("a transaction was left open"),
            }),
            false => Ok(()),
        }
    }

    /// Sends one command. `doing` is a phrase that fits after "while".
    pub(super) async fn ask<T: FromRedisValue>(
        &mut self,
        doing: &str,
        command: &redis::Cmd,
    ) -> Result<T, TargetError> {
        self.may_ask()?;
        let answer = command.query_async(&mut self.connection).await;
        answer.map_err(|error| self.error(doing, &name_of(command), error))
    }

    /// Sends several commands at once. `name` is what a missing permission is about.
    pub(super) async fn ask_all<T: FromRedisValue>(
        &mut self,
        doing: &str,
        name: &str,
        commands: &redis::Pipeline,
    ) -> Result<T, TargetError> {
        self.may_ask()?;
        let answer = commands.query_async(&mut self.connection).await;
        answer.map_err(|error| self.error(doing, name, error))
    }

    /// Sends several commands at once, and takes each answer by itself, errors too.
    pub(super) async fn answers(
        &mut self,
        commands: &[redis::Cmd],
    ) -> Result<Vec<Result<redis::Value, RedisError>>, TargetError> {
        let mut pipeline = redis::Pipeline::with_capacity(commands.len());
        for command in commands {
            pipeline.add_command(command.clone());
        }
        pipeline.ignore_errors();
        let answers = pipeline.query_async(&mut self.connection).await;
        answers.map_err(|error| self.error("asking several things", "", error))
    }

    /// Runs `there` in database `db` and then `here` in the current one, as one transaction. Yields all answers,
    /// each of which may be an error; `None` if a watched key was changed, and nothing was executed.
    ///
    /// `MULTI` goes ahead alone: were it refused, what follows it would be executed by itself. Not cancel safe:
    /// afterwards the connection answers nothing any more.
    pub(super) async fn transact(
        &mut self,
        doing: &str,
        db: u32,
        there: &[redis::Cmd],
        here: &[redis::Cmd],
    ) -> Result<Option<Vec<redis::Value>>, TargetError> {
        let home = self.db;
        let elsewhere = home.filter(|home| *home != db && !there.is_empty());
        let select = |db: u32| redis::cmd("SELECT").arg(db).take();
        let mut commands = Vec::with_capacity(there.len() + here.len() + 3);
        commands.extend(elsewhere.map(|_| select(db)));
        commands.extend_from_slice(there);
        commands.extend(elsewhere.map(select));
        commands.extend_from_slice(here);
        self.may_ask()?;
        self.in_transaction = true;
        fail_point::pass(Place::ControlSend);
        let opened: Result<(), RedisError> =
            redis::cmd("MULTI").query_async(&mut self.connection).await;
        if let Err(error) = opened {
            self.in_transaction = false;
            return Err(self.error(doing, "MULTI", error));
        }
        fail_point::pass(Place::ControlOpened);
        // Until it is answered, whether it was executed is unknown, and so is the database.
        self.db = None;
        commands.push(redis::cmd("EXEC"));
        let mut replies = self.answers(&commands).await?;
        fail_point::pass(Place::ControlAnswered);
        self.in_transaction = false;
        let executed = replies.pop();
        commands.pop();
        self.db = home;
        for (command, reply) in commands.iter().zip(replies) {
            if let Err(error) = reply {
                // Nothing was executed, for this reason.
                return Err(self.error(doing, &name_of(command), error));
            }
        }
        let mut answers = match executed {
            Some(Ok(redis::Value::Nil)) => return Ok(None),
            Some(Ok(redis::Value::Array(answers))) if answers.len() == commands.len() => answers,
            Some(Err(error)) => return Err(self.error(doing, "EXEC", error)),
            other => {
                return Err(TargetError::Answer {
                    addr: self.addr.clone(),
                    doing: doing.to_owned(),
                    answer: format!("{other:?}"),
                });
            }
        };
        if let Some(home) = elsewhere {
            let back = answers.remove(there.len() + 1);
            let out = answers.remove(0);
            for (db, answer) in [(db, out), (home, back)] {
                if let redis::Value::ServerError(error) = answer {
                    self.db = None;
                    return Err(TargetError::Database {
                        addr: self.addr.clone(),
                        db,
                        answer: text_of(&error.into()),
                    });
                }
            }
        }
        Ok(Some(answers))
    }

    pub(super) fn error(&self, doing: &str, command: &str, error: RedisError) -> TargetError {
        let addr = self.addr.clone();
        if error.is_timeout() {
            return TargetError::Silent {
                addr,
                doing: doing.to_owned(),
                after: ANSWER_TIMEOUT,
            };
        }
        if error.is_io_error() || error.is_connection_dropped() {
            return TargetError::Lost {
                addr,
                unanswered: 1,
                cause: std::io::Error::other(error.to_string()),
            };
        }
        // Of several, the first: the others follow from it, or say the same.
        let of_server = error.clone().into_server_errors();
        let first = of_server.and_then(|errors| errors.first().map(|(_, error)| error.clone()));
        let answer = text_of(&first.map_or(error, RedisError::from));
        TargetError::from_answer(&addr, doing, command, answer)
    }
}

pub(super) fn name_of(command: &redis::Cmd) -> String {
    match command.args_iter().next() {
        Some(redis::Arg::Simple(name)) => String::from_utf8_lossy(name).into_owned(),
        _ => String::new(),
    }
}

/// The server's own words, if they are the server's.
pub(super) fn text_of(error: &RedisError) -> String {
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        _ => error.to_string(),
    }
}

fn login_error(addr: &str, error: RedisError) -> TargetError {
    use redis::{ErrorKind, ServerErrorKind};
    let addr = addr.to_owned();
    match error.kind() {
        ErrorKind::Parse => TargetError::Protocol {
            addr,
            cause: crate::resp::Garbage {
                what: "during the login",
                head: Vec::new(),
            },
        },
        ErrorKind::Server(ServerErrorKind::BusyLoading) => TargetError::Unready {
            addr,
            doing: "logging in".to_owned(),
            answer: text_of(&error),
        },
        _ if error.is_io_error() || error.is_connection_dropped() => TargetError::Lost {
            addr,
            unanswered: 0,
            cause: std::io::Error::other(error.to_string()),
        },
        _ => TargetError::from_answer(&addr, "logging in", "AUTH", text_of(&error)),
    }
}
