//! What the simulated master answers, request by request.
//!
//! Invariants: an order that would harm a real master is recorded as a violation, and the connection or session
//!   it came from ends.
//! Facts: replies and error texts as observed on v1.40.1 and v1.27.4.

use super::super::client::Reply;
use super::connection::{self, Conn};
use super::front;
use super::hub::Hub;
use super::report;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SYNTAX: &str = "ERR syntax error";
const NOT_A_NUMBER: &str = "ERR value is not an integer or out of range";

/// What a connection is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Ordinary,
    Control(u32),
    Flow {
        session: u32,
        flow: usize,
        link: u64,
    },
}

/// The state of one connection.
pub struct Peer<'a> {
    hub: &'a Arc<Hub>,
    conn: &'a Arc<Conn>,
    user: Option<String>,
    db: u32,
    ip: String,
    port: u32,
    role: Role,
    quit: bool,
    queued: Option<Vec<Vec<Vec<u8>>>>,
    watched: Vec<front::Watched>,
}

impl<'a> Peer<'a> {
    /// A connection that has said nothing yet.
    #[must_use]
    pub fn new(hub: &'a Arc<Hub>, conn: &'a Arc<Conn>) -> Self {
        let open = hub
            .options
            .users
            .get("default")
            .is_none_or(|user| user.password.is_empty());
        let user = open.then(|| "default".to_owned());
        let ip = conn.peer.ip().to_string();
        Self {
            hub,
            conn,
            user,
            db: 0,
            ip,
            port: 0,
            role: Role::Ordinary,
            quit: false,
            queued: None,
            watched: Vec::new(),
        }
    }

    /// What to call it in a violation; `None` for an ordinary connection.
    #[must_use]
    fn role(&self) -> Option<String> {
        match self.role {
            Role::Ordinary => None,
            Role::Control(session) => Some(format!("the control connection of SYNC{session}")),
            Role::Flow { session, flow, .. } => Some(format!("flow {flow} of SYNC{session}")),
        }
    }

    /// Whether the connection is to be closed after its last answer.
    #[must_use]
    pub fn quits(&self) -> bool {
        self.quit
    }

    /// The connection ended in a reset. That is held against the replica only while its session lives, so that none of
    /// it comes after whoever waits for the session's end.
    pub fn reset(&self) {
        let (Role::Control(session) | Role::Flow { session, .. }) = self.role else {
            return;
        };
        let sessions = self.hub.sessions();
        if let Some(role) = self.role()
            && sessions.live.contains_key(&session)
        {
            let how = "ended in a reset instead of in order";
            self.hub.violation(format!("{role} {how}"));
        }
    }

    /// The connection is over: so is its session.
    pub fn gone(&self) {
        match self.role {
            Role::Ordinary => {}
            Role::Control(session) => self
                .hub
                .drop_session(session, "the control connection ended"),
            Role::Flow { session, flow, .. } => self
                .hub
                .drop_session(session, &format!("flow {flow} ended")),
        }
    }

    /// Answers one request.
    pub fn answer(&mut self, request: &[Vec<u8>], output: &mut Vec<u8>) {
        let words: Vec<String> = request
            .iter()
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect();
        let name = words
            .first()
            .map(|word| word.to_uppercase())
            .unwrap_or_default();
        let second = words
            .get(1)
            .map(|word| word.to_uppercase())
            .unwrap_or_default();
        if name == "REPLCONF" && second == "ACK" && self.allowed(&name).is_ok() {
            return self.acknowledge(&words);
        }
        let reply = match self.allowed(&name) {
            Err(refused) => Some(refused),
            Ok(()) if name == "HELLO" => {
                self.hello(&words, output);
                None
            }
            Ok(()) if (name.as_str(), second.as_str()) == ("DFLY", "FLOW") => {
                self.flow(&words, output)
            }
            Ok(()) => self.reply(&name, &second, &words, request),
        };
        let Some(reply) = reply else { return };
        if let Role::Flow {
            session,
            flow,
            link,
        } = self.role
        {
            self.hub.violation(format!(
                "{name} on flow {flow} of SYNC{session}, where only REPLCONF ACK may come"
            ));
            let mut bytes = Vec::new();
            reply.encode(&mut bytes);
            if let Some(link) = self.hub.shards[flow].lock().link(link) {
                link.inject(&bytes);
            }
            return;
        }
        reply.encode(output);
    }

    fn allowed(&self, name: &str) -> Result<(), Reply> {
        if matches!(name, "AUTH" | "HELLO" | "QUIT") {
            return Ok(());
        }
        let Some(user) = &self.user else {
            return Err(error("NOAUTH Authentication required."));
        };
        let commands = self
            .hub
            .options
            .users
            .get(user)
            .and_then(|user| user.commands.as_ref());
        if commands.is_some_and(|commands| {
            !commands
                .iter()
                .any(|command| command.eq_ignore_ascii_case(name))
        }) {
            return Err(error(format!("NOPERM {user} has no ACL permissions")));
        }
        Ok(())
    }

    fn reply(
        &mut self,
        name: &str,
        second: &str,
        words: &[String],
        request: &[Vec<u8>],
    ) -> Option<Reply> {
        Some(match name {
            "AUTH" => self.auth(words),
            "QUIT" => {
                self.quit = true;
                simple("OK")
            }
            "PING" => words.get(1).map_or_else(
                || simple("PONG"),
                |word| Reply::Bulk(word.clone().into_bytes()),
            ),
            "ECHO" => Reply::Bulk(request.get(1).cloned().unwrap_or_default()),
            "CLIENT" if matches!(second, "SETNAME" | "SETINFO") => simple("OK"),
            "SELECT" => self.select(words),
            "INFO" => Reply::Bulk(report::info(self.hub, &second.to_lowercase()).into_bytes()),
            "ROLE" => report::role(self.hub),
            "TIME" => report::time(self.hub),
            "CONFIG" if second == "GET" => report::setting(self.hub, words),
            "WAIT" => self.wait(words),
            "REPLCONF" => return self.replconf(words),
            "DFLY" => self.dfly(second, words),
            "MULTI" if self.hub.front.is_some() => {
                self.queued = Some(Vec::new());
                simple("OK")
            }
            "DISCARD" if self.queued.take().is_some() => simple("OK"),
            "WATCH" if self.hub.front.is_some() && self.queued.is_none() => {
                let keys = request.get(1..).unwrap_or_default();
                self.watched.extend(front::watch(self.hub, self.db, keys));
                simple("OK")
            }
            "UNWATCH" if self.hub.front.is_some() => {
                self.watched.clear();
                simple("OK")
            }
            "EXEC" => match self.queued.take() {
                Some(queued) => {
                    let watched = std::mem::take(&mut self.watched);
                    front::run_transaction(self.hub, self.db, &queued, &watched)
                }
                None => error("ERR EXEC without MULTI"),
            },
            _ => match &mut self.queued {
                Some(queued) => {
                    queued.push(request.to_vec());
                    simple("QUEUED")
                }
                None => front::run(self.hub, self.db, request),
            },
        })
    }

    fn auth(&mut self, words: &[String]) -> Reply {
        let (user, password) = match words {
            [_, password] => ("default", password),
            [_, user, password] => (user.as_str(), password),
            _ => return error(SYNTAX),
        };
        match self.hub.options.users.get(user) {
            Some(known) if known.password == *password => {
                self.user = Some(user.to_owned());
                simple("OK")
            }
            None if user == "default" => simple("OK"),
            _ => error("WRONGPASS invalid username-password pair or user is disabled."),
        }
    }

    fn hello(&mut self, words: &[String], output: &mut Vec<u8>) {
        let upper: Vec<String> = words.iter().map(|word| word.to_uppercase()).collect();
        if let Some(at) = upper.iter().position(|word| word == "AUTH") {
            let credentials: Vec<String> = words
                .get(at..at + 3)
                .map(<[String]>::to_vec)
                .unwrap_or_default();
            let reply = self.auth(&credentials);
            if reply.is_error() {
                return reply.encode(output);
            }
        }
        if self.user.is_none() {
            let text = "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH \
                        <user> <pass> option can be used to authenticate the client and select the RESP protocol \
                        version at the same time";
            return error(text).encode(output);
        }
        match words.get(1).map(String::as_str) {
            Some("3") => report::hello(self.hub, 3, output),
            None | Some("2") => report::hello(self.hub, 2, output),
            Some(_) => error("NOPROTO unsupported protocol version").encode(output),
        }
    }

    fn select(&mut self, words: &[String]) -> Reply {
        match words
            .get(1)
            .and_then(|word| word.parse().ok())
            .filter(|db| *db < 16)
        {
            Some(db) => {
                self.db = db;
                simple("OK")
            }
            None => error("ERR DB index is out of range"),
        }
    }

    /// A PING entry on every flow, then as many replicas as have acknowledged it in time.
    fn wait(&self, words: &[String]) -> Reply {
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
        let (Some(wanted), Some(millis)) = (number(1), number(2)) else {
            return error(NOT_A_NUMBER);
        };
        let positions = self.hub.ping();
        let deadline =
            Instant::now() + Duration::from_millis(if millis == 0 { 60_000 } else { millis });
        loop {
            let reached = report::replicas_at(self.hub, &positions);
            if reached >= wanted || Instant::now() >= deadline || self.hub.stopping() {
                return Reply::Int(reached.cast_signed());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn acknowledge(&self, words: &[String]) {
        if let (Role::Flow { flow, link, .. }, Some(position)) =
            (self.role, words.get(2).and_then(|word| word.parse().ok()))
        {
            self.hub.acknowledge(flow, link, position);
        }
    }

    fn replconf(&mut self, words: &[String]) -> Option<Reply> {
        if words.len() == 1 {
            return Some(simple("OK"));
        }
        if words.len().is_multiple_of(2) {
            return Some(error(SYNTAX));
        }
        if words.len() == 3 && words[1].eq_ignore_ascii_case("capa") && words[2] == "dragonfly" {
            let session = self.hub.open_session(self.conn, self.ip.clone(), self.port);
            self.role = Role::Control(session);
            return Some(self.handshake(session));
        }
        for pair in words[1..].chunks(2) {
            let [option, value] = pair else {
                return Some(error(SYNTAX));
            };
            let alone = words.len() == 3;
            match option.to_lowercase().as_str() {
                "capa" => {}
                "listening-port" => match value.parse() {
                    Ok(port) => self.port = port,
                    Err(_) => return Some(error(NOT_A_NUMBER)),
                },
                "ip-address" => self.ip.clone_from(value),
                "client-id" if alone => {}
                "client-version" if alone => return self.client_version(value),
                _ => return Some(error(SYNTAX)),
            }
        }
        Some(simple("OK"))
    }

    fn handshake(&self, session: u32) -> Reply {
        let release = self.hub.options.release;
        let flows = self
            .hub
            .faults()
            .flow_count()
            .unwrap_or(self.hub.shards.len());
        let id = simple(&self.hub.master_id);
        let mut reply = vec![
            id.clone(),
            simple(&format!("SYNC{session}")),
            Reply::Int(flows as i64),
        ];
        reply.extend(release.handshake_number().map(Reply::Int));
        if release.has_lineage() {
            reply.push(id);
        }
        Reply::Array(reply)
    }

    fn client_version(&mut self, value: &str) -> Option<Reply> {
        let Ok(version) = value.parse::<u64>() else {
            return Some(error(NOT_A_NUMBER));
        };
        let Role::Control(session) = self.role else {
            self.hub
                .violation("REPLCONF CLIENT-VERSION on a connection without a session");
            self.quit = true;
            return None;
        };
        match self.hub.sessions().live.get_mut(&session) {
            Some(live) => {
                live.version = Some(version);
                Some(simple("OK"))
            }
            None => {
                self.hub.violation(format!(
                    "REPLCONF CLIENT-VERSION after the end of SYNC{session}"
                ));
                self.quit = true;
                None
            }
        }
    }

    fn flow(&mut self, words: &[String], output: &mut Vec<u8>) -> Option<Reply> {
        if let Role::Flow { session, flow, .. } = self.role {
            self.hub.violation(format!(
                "a second DFLY FLOW on the connection of flow {flow} of SYNC{session}"
            ));
            self.quit = true;
            return None;
        }
        let (session, flow, wanted) = match self.flow_arguments(words) {
            Ok(arguments) => arguments,
            Err(text) => return Some(error(format!("ERR {text}"))),
        };
        match self.hub.register(self.conn, session, flow, wanted) {
            Err(text) => Some(error(format!("ERR {text}"))),
            Ok((partial, token, link)) => {
                self.role = Role::Flow {
                    session,
                    flow,
                    link,
                };
                let kind = if partial { "PARTIAL" } else { "FULL" };
                Reply::Array(vec![simple(kind), simple(&token)]).encode(output);
                // The stream follows this reply, so it must be out first.
                if connection::send(self.conn, output).is_ok() {
                    self.hub.start_sender(self.conn, flow, link);
                }
                None
            }
        }
    }

    /// Session, flow and wanted position, in the real master's order of checks.
    fn flow_arguments(&self, words: &[String]) -> Result<(u32, usize, Option<u64>), &'static str> {
        let release = self.hub.options.release;
        let most = if release.flow_takes_vector() {
            7
        } else {
            5 + usize::from(release.flow_takes_lsn())
        };
        if words.len() < 5 || words.len() > most {
            return Err("syntax error");
        }
        if words[2] != self.hub.master_id {
            return Err("bad master id");
        }
        let session = session_number(&words[3]).ok_or("bad sync id")?;
        let number = "value is not an integer or out of range";
        let flow: usize = words[4].parse().map_err(|_| number)?;
        if flow >= self.hub.shards.len() {
            return Err(number);
        }
        let wanted = match &words[5..] {
            [lsn] => Some(lsn.parse().map_err(|_| number)?),
            [old, vector] if self.is_last_master(old) => {
                let lsns: Vec<&str> = vector.split('-').collect();
                if lsns.len() != self.hub.shards.len() {
                    return Err("syntax error");
                }
                Some(lsns[flow].parse().map_err(|_| number)?)
            }
            _ => None,
        };
        Ok((session, flow, wanted))
    }

    /// Whether this is the id of the master in whose place this one goes on.
    fn is_last_master(&self, id: &str) -> bool {
        let last = self.hub.options.last_master.as_ref();
        last.is_some_and(|(last, _)| last == id)
    }

    fn dfly(&mut self, second: &str, words: &[String]) -> Reply {
        let session = words
            .get(2)
            .map(|word| session_number(word).ok_or("bad sync id"));
        let outcome = match (second, session) {
            ("SYNC", Some(session)) => session.and_then(|session| self.hub.start_snapshot(session)),
            ("STARTSTABLE", Some(session)) => {
                session.and_then(|session| self.hub.start_stable(session))
            }
            ("REPLICAOFFSET", _) => return report::offsets(self.hub),
            ("THREAD", None) => {
                return Reply::Array(vec![
                    Reply::Int(0),
                    Reply::Int(self.hub.shards.len() as i64),
                ]);
            }
            ("THREAD", Some(_)) => match words[2].parse::<usize>() {
                Ok(thread) if thread < self.hub.shards.len() => Ok(()),
                _ => Err("value is not an integer or out of range"),
            },
            ("EXPIRE", _) => Ok(()),
            _ => Err("syntax error"),
        };
        match outcome {
            Ok(()) => simple("OK"),
            Err(text) => error(format!("ERR {text}")),
        }
    }
}

fn session_number(word: &str) -> Option<u32> {
    word.strip_prefix("SYNC")?.parse().ok()
}

/// A simple string.
#[must_use]
pub fn simple(text: &str) -> Reply {
    Reply::Simple(text.to_owned())
}

/// An error.
#[must_use]
pub fn error(text: impl Into<String>) -> Reply {
    Reply::Error(text.into())
}
