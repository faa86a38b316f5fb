//! The simulated master's ordinary clients: a real Redis executes their commands, and what they change goes into
//! the journal in the form Dragonfly gives it.
//!
//! Invariants: one command at a time, under one lock, so that the journal's order is the order of execution; the
//!   Redis behind it is the state that a replica's target must come to hold.
//! Without that Redis, the keys that the master was made with can be read, and no more.
//! Not simulated: blocking commands, scripts, `XREADGROUP`, and commands that only Dragonfly has. They are refused,
//!   not imitated.

use super::super::client::{Client, Reply};
use super::super::redis_server::RedisServer;
use super::commands::error;
use super::convert;
use super::dataset::{Dataset, Record};
use super::hub::{Hub, lock};
use super::options::Options;
use super::rewrite::{self, Entry};
use std::collections::HashSet;

/// Keys copied at once for a snapshot.
const BATCH: usize = 200;
/// Databases looked at.
const DATABASES: u32 = 16;

/// The Redis behind a simulated master.
pub struct Front {
    client: Client,
    writes: HashSet<String>,
    db: u32,
    server: RedisServer,
}

impl Front {
    /// Starts it, empty.
    #[must_use]
    #[track_caller]
    pub fn start() -> Self {
        let server = RedisServer::start_with(&["--rdbcompression", "no"]);
        let mut client = server.client();
        let writes = write_commands(&mut client);
        Self {
            client,
            writes,
            db: 0,
            server,
        }
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// Executes a command in a database.
    pub fn execute<A: AsRef<[u8]>>(&mut self, db: u32, args: &[A]) -> Reply {
        if self.db != db {
            let selected = self.client.try_cmd(&["SELECT", &db.to_string()]);
            match selected {
                Ok(reply) if !reply.is_error() => self.db = db,
                Ok(reply) => return reply,
                Err(cause) => return error(format!("ERR the backing store is gone: {cause}")),
            }
        }
        self.client
            .try_cmd(args)
            .unwrap_or_else(|cause| error(format!("ERR the backing store is gone: {cause}")))
    }

    /// Whether a command may change something.
    #[must_use]
    pub fn is_write(&self, name: &str) -> bool {
        self.writes.contains(name)
    }

    /// The number of databases that hold keys, as `INFO keyspace` shows them.
    #[must_use]
    pub fn keyspace(&mut self) -> String {
        self.execute(0, &["INFO", "keyspace"]).text()
    }

    /// Everything it holds, in Dragonfly's encodings.
    #[must_use]
    pub fn snapshot(&mut self, options: &Options) -> Dataset {
        let mut dataset = Dataset {
            release: options.release,
            records: Vec::new(),
            scripts: options.dataset.scripts.clone(),
        };
        for db in 0..DATABASES {
            let mut keys: Vec<Vec<u8>> = self
                .execute(db, &["KEYS", "*"])
                .items()
                .iter()
                .map(Reply::bytes)
                .collect();
            keys.sort();
            for part in keys.chunks(BATCH) {
                dataset.records.extend(self.records(db, part));
            }
        }
        dataset
    }

    fn records(&mut self, db: u32, keys: &[Vec<u8>]) -> Vec<Record> {
        let questions: Vec<Vec<Vec<u8>>> = keys
            .iter()
            .flat_map(|key| {
                [
                    vec![b"DUMP".to_vec(), key.clone()],
                    vec![b"PEXPIRETIME".to_vec(), key.clone()],
                ]
            })
            .collect();
        let answers = self.client.try_pipeline(&questions).unwrap_or_default();
        let mut records = Vec::with_capacity(keys.len());
        for (key, pair) in keys.iter().zip(answers.chunks(2)) {
            let [payload, expiry] = pair else { continue };
            if let Some(value) = convert::from_redis_dump(&payload.bytes()) {
                let expire_at_ms = expiry.int().filter(|at| *at > 0);
                records.push(Record {
                    db,
                    expire_at_ms,
                    ..Record::new(key, value)
                });
            }
        }
        records
    }
}

/// The names of all commands that may write, by themselves or in one of their sub-commands.
fn write_commands(client: &mut Client) -> HashSet<String> {
    let may_write = |about: &Reply| {
        let flags = about.items().get(2).map(Reply::items).unwrap_or_default();
        flags.iter().any(|flag| *flag == "write")
    };
    let table = client.ok(&["COMMAND"]);
    let writes = table.items().iter().filter(|about| {
        let inner = about.items().get(9).map(Reply::items).unwrap_or_default();
        may_write(about) || inner.iter().any(may_write)
    });
    writes
        .filter_map(|about| about.items().first())
        .map(|name| name.text().to_uppercase())
        .collect()
}

/// Executes a client's command and journals what it changed.
#[must_use]
pub fn run(hub: &Hub, db: u32, request: &[Vec<u8>]) -> Reply {
    if let Some(port) = hub.options.holds {
        return of_other(port, db, request);
    }
    let Some(front) = &hub.front else {
        let name = request
            .first()
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .unwrap_or_default();
        return of_dataset(hub, db, &name.to_uppercase(), request);
    };
    one(hub, &mut lock(front), db, request, None)
}

/// What another Redis has of a key.
fn of_other(port: u16, db: u32, request: &[Vec<u8>]) -> Reply {
    let mut client = Client::connect(port);
    client.ok(&["SELECT", &db.to_string()]);
    let answer = client.try_cmd(request);
    let reply = answer.unwrap_or_else(|cause| error(format!("ERR it is gone: {cause}")));
    match request
        .first()
        .is_some_and(|name| name.eq_ignore_ascii_case(b"DUMP"))
    {
        true => convert::dump_reply(reply),
        false => reply,
    }
}

/// Without a Redis behind it a master knows the keys it was made with, and nothing of what was journalled since.
fn of_dataset(hub: &Hub, db: u32, name: &str, request: &[Vec<u8>]) -> Reply {
    let key = request.get(1).map(Vec::as_slice).unwrap_or_default();
    let records = &hub.options.dataset.records;
    let places = hub.places.get_or_init(|| {
        let numbered = records.iter().enumerate();
        numbered
            .map(|(at, record)| ((record.db, record.key.clone()), at))
            .collect()
    });
    let found = places.get(&(db, key.to_vec())).map(|at| &records[*at]);
    match (name, found) {
        ("DUMP", Some(record)) => {
            Reply::Bulk(super::encode::dump(record.value.kind, &record.value.bytes))
        }
        ("DUMP", None) => Reply::Nil,
        ("PEXPIRETIME", Some(record)) => Reply::Int(record.expire_at_ms.unwrap_or(-1)),
        ("PEXPIRETIME", None) => Reply::Int(-2),
        ("EXISTS", found) => Reply::Int(i64::from(found.is_some())),
        _ => error(format!("ERR unknown command `{name}`")),
    }
}

/// A key that a client watches, and how it was then.
pub struct Watched {
    db: u32,
    key: Vec<u8>,
    touched: u64,
    exists: Reply,
}

/// Watches keys.
#[must_use]
pub fn watch(hub: &Hub, db: u32, keys: &[Vec<u8>]) -> Vec<Watched> {
    let Some(front) = &hub.front else {
        return Vec::new();
    };
    let mut front = lock(front);
    let mut all = lock(&hub.touched);
    let watched = keys.iter().map(|key| Watched {
        db,
        key: key.clone(),
        touched: *all.entry(key.clone()).or_default(),
        exists: front.execute(db, &[b"EXISTS".to_vec(), key.clone()]),
    });
    watched.collect()
}

/// Notes that a command writes: every word of it may be a key, and a flush is about all.
fn touch(hub: &Hub, name: &str, request: &[Vec<u8>]) {
    let mut all = lock(&hub.touched);
    if name.starts_with("FLUSH") {
        all.values_mut().for_each(|times| *times += 1);
    }
    for word in request {
        if let Some(times) = all.get_mut(word) {
            *times += 1;
        }
    }
}

/// Executes the commands of a `MULTI`, whose entries share one transaction id, unless a watched key was written to.
#[must_use]
pub fn run_transaction(hub: &Hub, db: u32, queued: &[Vec<Vec<u8>>], watched: &[Watched]) -> Reply {
    let Some(front) = &hub.front else {
        return error("ERR EXEC without MULTI");
    };
    let mut front = lock(front);
    let changed = watched.iter().any(|was| {
        lock(&hub.touched).get(&was.key) != Some(&was.touched)
            || front.execute(was.db, &[b"EXISTS".to_vec(), was.key.clone()]) != was.exists
    });
    if changed {
        return Reply::Nil;
    }
    let txid = Some(hub.next_txid());
    Reply::Array(
        queued
            .iter()
            .map(|request| one(hub, &mut front, db, request, txid))
            .collect(),
    )
}

fn one(hub: &Hub, front: &mut Front, db: u32, request: &[Vec<u8>], txid: Option<u64>) -> Reply {
    let name = request
        .first()
        .map(|name| String::from_utf8_lossy(name).to_uppercase())
        .unwrap_or_default();
    if rewrite::is_refused(&name) && !(hub.options.defects && rewrite::has_defect(&name)) {
        return error(format!(
            "ERR {name} is not offered by the simulated Dragonfly"
        ));
    }
    if !front.is_write(&name) {
        let reply = front.execute(db, request);
        return if name == "DUMP" {
            convert::dump_reply(reply)
        } else {
            reply
        };
    }
    touch(hub, &name, request);
    let flow_of = |key: &[u8]| hub.flow_of(key);
    let master = (hub.options.release, hub.options.defects);
    let (reply, entries) = rewrite::execute(front, &flow_of, master, db, &name, request);
    journal(hub, entries, txid);
    reply
}

/// Journals what one command changed: several entries share a transaction id, as commands over several shards
/// do.
fn journal(hub: &Hub, entries: Vec<Entry>, txid: Option<u64>) {
    let flows: HashSet<usize> = entries.iter().map(|entry| entry.flow).collect();
    let told = entries.first().and_then(|entry| entry.has_txid);
    let own = if told.unwrap_or(entries.len() > 1) {
        hub.next_txid()
    } else {
        0
    };
    let txid = txid.unwrap_or(own);
    for entry in entries {
        if entry.global {
            hub.journal_global(entry.db, &entry.args);
        } else {
            hub.journal_on(
                entry.flow,
                super::Stamp::of(entry.db, txid, flows.len()),
                &entry.args,
            );
        }
    }
}
