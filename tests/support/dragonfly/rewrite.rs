//! From a client's command to the journal entries it leaves, in the forms of v1.40.1.
//!
//! Invariants: the entries, applied in order, change a copy as the command changed the original; times are absolute.
//! Facts: recorded journals of v1.40.1 (`journal`, `journal-flush`). The master's defects are imitated only with
//!   `Options::defects`, and then the first line does not hold: scores of `Z...STORE` cut to six digits, results of
//!   `SORT ... STORE` and `GEORADIUS ... STORE` lost across shards, one element for `LMPOP ... COUNT` and `BLMPOP`, no
//!   entry for `XREADGROUP` (before v1.37), ends of keys for a `GETEX` that only reads (before v1.40), open ids of stream
//!   entries (before v1.27).

use super::super::client::Reply;
use super::convert;
use super::encode::{dump, first_key};
use super::front::Front;
use super::release::Release;

/// One journal entry to be.
pub struct Entry {
    /// The flow it goes to.
    pub flow: usize,
    /// The database it is for.
    pub db: u32,
    /// Its words.
    pub args: Vec<Vec<u8>>,
    /// Whether it goes to every flow instead.
    pub global: bool,
    /// Whether it has a transaction id; if that is not said, those have one that are not alone.
    pub has_txid: Option<bool>,
}

type Words = [Vec<u8>];

/// Commands that are imitated only with their defects.
#[must_use]
pub fn has_defect(name: &str) -> bool {
    ["LMPOP", "BLMPOP", "XREADGROUP"].contains(&name)
}

/// Commands that are not imitated.
#[must_use]
pub fn is_refused(name: &str) -> bool {
    const REFUSED: &[&str] = &[
        "BLPOP",
        "BRPOP",
        "BLMOVE",
        "BRPOPLPUSH",
        "BLMPOP",
        "BZPOPMIN",
        "BZPOPMAX",
        "BZMPOP",
        "LMPOP",
        "ZMPOP",
        "EVAL",
        "EVALSHA",
        "FCALL",
        "FUNCTION",
        "SCRIPT",
        "XREADGROUP",
        "SUBSCRIBE",
        "PSUBSCRIBE",
        "MONITOR",
        "SWAPDB",
        "WATCH",
        "RESTORE-ASKING",
        "MIGRATE",
        "GEOSEARCHSTORE",
        "SYNC",
        "PSYNC",
        "REPLICAOF",
        "SLAVEOF",
        "SHUTDOWN",
        "DEBUG",
    ];
    REFUSED.contains(&name)
}

/// Executes a write on the backing store and says what it leaves in the journal.
#[must_use]
pub fn execute(
    front: &mut Front,
    flow_of: &dyn Fn(&[u8]) -> usize,
    (release, defects): (Release, bool),
    db: u32,
    name: &str,
    request: &Words,
) -> (Reply, Vec<Entry>) {
    let mut call = Call {
        front,
        flow_of,
        db,
        request,
        release,
        defects,
        entries: Vec::new(),
    };
    let key = first_key(request).unwrap_or_default().to_vec();
    let reply = match name {
        "FLUSHALL" | "FLUSHDB" => call.global(name),
        "SET" | "SETEX" | "PSETEX" => call.set(&key),
        "SETNX" | "RENAMENX" | "PERSIST" | "HSETNX" | "RENAME" => call.on_success(name, &key),
        "GETEX" => call.get_ex(&key),
        "MSET" | "MSETNX" => call.multi_set(name),
        "DEL" | "UNLINK" => call.delete(release),
        "EXPIRE" | "PEXPIRE" | "EXPIREAT" | "PEXPIREAT" => call.expire(&key),
        "COPY" | "BITOP" | "PFMERGE" => call.store_result(name),
        "SPOP" => call.pop_members(&key),
        "SMOVE" => call.move_member(&key),
        "LMOVE" | "RPOPLPUSH" => call.move_element(name, &key),
        "SUNIONSTORE" | "SINTERSTORE" | "SDIFFSTORE" => call.store_set(&key),
        "ZUNIONSTORE" | "ZINTERSTORE" | "ZDIFFSTORE" | "ZRANGESTORE" => call.store_zset(&key),
        "SORT" | "GEORADIUS" | "GEORADIUSBYMEMBER" => call.store_option(name),
        "XADD" => call.add_to_stream(&key),
        "XTRIM" => call.trim_stream(&key),
        "LMPOP" => call.pop_several(true),
        "BLMPOP" => call.pop_several(false),
        "XREADGROUP" => call.run(),
        _ => call.verbatim(name, &key),
    };
    (reply, call.entries)
}

struct Call<'a> {
    front: &'a mut Front,
    flow_of: &'a dyn Fn(&[u8]) -> usize,
    db: u32,
    request: &'a Words,
    release: Release,
    defects: bool,
    entries: Vec<Entry>,
}

impl Call<'_> {
    fn run(&mut self) -> Reply {
        self.front.execute(self.db, self.request)
    }

    fn ask(&mut self, args: &[&[u8]]) -> Reply {
        self.front.execute(self.db, args)
    }

    fn push(&mut self, key: &[u8], args: &[&[u8]]) {
        self.push_owned(key, args.iter().map(|arg| arg.to_vec()).collect());
    }

    fn push_owned(&mut self, key: &[u8], args: Vec<Vec<u8>>) {
        let (flow, db) = ((self.flow_of)(key), self.db);
        self.entries.push(Entry {
            flow,
            db,
            args,
            global: false,
            has_txid: None,
        });
    }

    /// The command as it came, with its name in capitals.
    fn push_verbatim(&mut self, name: &str, key: &[u8]) {
        let mut args = self.request.to_vec();
        if let Some(first) = args.first_mut() {
            *first = name.as_bytes().to_vec();
        }
        self.push_owned(key, args);
    }

    fn verbatim(&mut self, name: &str, key: &[u8]) -> Reply {
        let reply = self.run();
        if !reply.is_error() {
            self.push_verbatim(name, key);
        }
        reply
    }

    fn global(&mut self, name: &str) -> Reply {
        let reply = self.run();
        if !reply.is_error() {
            self.push_verbatim(name, b"");
            if let Some(entry) = self.entries.last_mut() {
                entry.global = true;
            }
        }
        reply
    }

    /// When the key expires in Unix milliseconds; `None` for never or no key.
    fn expiry(&mut self, key: &[u8]) -> Option<i64> {
        self.ask(&[b"PEXPIRETIME", key]).int().filter(|at| *at >= 0)
    }

    fn exists(&mut self, key: &[u8]) -> bool {
        self.ask(&[b"EXISTS", key]).int() == Some(1)
    }

    fn option(&self, option: &str) -> Option<usize> {
        self.request
            .iter()
            .position(|word| word.eq_ignore_ascii_case(option.as_bytes()))
    }

    fn set(&mut self, key: &[u8]) -> Reply {
        let existed = self
            .option("NX")
            .or(self.option("XX"))
            .map(|_| self.exists(key));
        let reply = self.run();
        let refused = match existed {
            Some(existed) if self.option("NX").is_some_and(|at| at > 2) => existed,
            Some(existed) if self.option("XX").is_some_and(|at| at > 2) => !existed,
            _ => false,
        };
        // A time in the past deletes the key, and the real master journals nothing.
        if reply.is_error() || refused || !self.exists(key) {
            return reply;
        }
        let value = self.ask(&[b"GET", key]).bytes();
        let mut args = vec![b"SET".to_vec(), key.to_vec(), value];
        if self.option("KEEPTTL").is_some_and(|at| at > 2) {
            args.push(b"KEEPTTL".to_vec());
        } else if let Some(at) = self.expiry(key) {
            args.extend([b"PXAT".to_vec(), at.to_string().into_bytes()]);
        }
        self.push_owned(key, args);
        reply
    }

    /// Verbatim when the reply says that something was done; renaming across shards becomes two entries.
    fn on_success(&mut self, name: &str, key: &[u8]) -> Reply {
        let reply = self.run();
        if reply.is_error() || reply.int() == Some(0) {
            return reply;
        }
        let renamed = self
            .request
            .get(2)
            .filter(|_| name.starts_with("RENAME"))
            .cloned();
        match renamed {
            Some(to) if (self.flow_of)(&to) != (self.flow_of)(key) => {
                self.push(key, &[b"DEL", key]);
                self.push_restore(self.db, &to);
            }
            _ => self.push_verbatim(name, key),
        }
        reply
    }

    /// `RESTORE` with the key's present value and expiry, or `DEL` when it has none.
    fn push_restore(&mut self, db: u32, key: &[u8]) {
        let payload = self.front.execute(db, &[b"DUMP".as_slice(), key]).bytes();
        let at = self
            .front
            .execute(db, &[b"PEXPIRETIME".as_slice(), key])
            .int()
            .filter(|at| *at > 0);
        let args = match convert::from_redis_dump(&payload) {
            None => vec![b"DEL".to_vec(), key.to_vec()],
            Some(value) => {
                let at = at.unwrap_or(0).to_string().into_bytes();
                let payload = dump(value.kind, &value.bytes);
                vec![
                    b"RESTORE".to_vec(),
                    key.to_vec(),
                    at,
                    payload,
                    b"REPLACE".to_vec(),
                    b"ABSTTL".to_vec(),
                ]
            }
        };
        let flow = (self.flow_of)(key);
        self.entries.push(Entry {
            flow,
            db,
            args,
            global: false,
            has_txid: None,
        });
    }

    fn get_ex(&mut self, key: &[u8]) -> Reply {
        let reply = self.run();
        if matches!(reply, Reply::Bulk(_)) && self.request.len() == 2 {
            if self.defects && !self.release.has_lineage() {
                let now = self.ask(&[b"TIME"]);
                let part = |n: usize| now.items().get(n).and_then(|part| part.text().parse().ok());
                let ms = part(0).unwrap_or(0) * 1_000 + part(1).unwrap_or(0) / 1_000;
                self.push(key, &[b"PEXPIREAT", key, i64::to_string(&ms).as_bytes()]);
            }
        } else if matches!(reply, Reply::Bulk(_)) {
            match self.expiry(key) {
                Some(at) => self.push(key, &[b"PEXPIREAT", key, at.to_string().as_bytes()]),
                None if self.option("PERSIST").is_some() => self.push(key, &[b"PERSIST", key]),
                None => self.push(key, &[b"DEL", key]),
            }
        }
        reply
    }

    fn multi_set(&mut self, name: &str) -> Reply {
        let reply = self.run();
        if reply.is_error() || (name == "MSETNX" && reply.int() == Some(0)) {
            return reply;
        }
        let pairs: Vec<(Vec<u8>, Vec<Vec<u8>>)> = self
            .request
            .get(1..)
            .unwrap_or_default()
            .chunks(2)
            .filter_map(|pair| Some((pair.first()?.clone(), pair.to_vec())))
            .collect();
        self.by_shard("MSET", pairs);
        reply
    }

    /// One entry for each shard, with the words that belong to its keys.
    fn by_shard(&mut self, name: &str, words: Vec<(Vec<u8>, Vec<Vec<u8>>)>) {
        let mut flows: Vec<(usize, Vec<Vec<u8>>)> = Vec::new();
        for (key, words) in words {
            let flow = (self.flow_of)(&key);
            match flows.iter_mut().find(|(known, _)| *known == flow) {
                Some((_, args)) => args.extend(words),
                None => flows.push((flow, [vec![name.as_bytes().to_vec()], words].concat())),
            }
        }
        let db = self.db;
        self.entries
            .extend(flows.into_iter().map(|(flow, args)| Entry {
                flow,
                db,
                args,
                global: false,
                has_txid: None,
            }));
    }

    /// From v1.40 the keys that were there; before, all that were named.
    fn delete(&mut self, release: Release) -> Reply {
        let named: Vec<Vec<u8>> = self.request.get(1..).unwrap_or_default().to_vec();
        let mut there = Vec::new();
        for key in named {
            if !release.has_lineage() || (!there.contains(&key) && self.exists(&key)) {
                there.push(key);
            }
        }
        let reply = self.run();
        if !reply.is_error() {
            self.by_shard(
                "DEL",
                there
                    .into_iter()
                    .map(|key| (key.clone(), vec![key]))
                    .collect(),
            );
        }
        reply
    }

    fn expire(&mut self, key: &[u8]) -> Reply {
        let reply = self.run();
        if reply.int() == Some(1) {
            match self.expiry(key) {
                Some(at) => self.push(key, &[b"PEXPIREAT", key, at.to_string().as_bytes()]),
                None => self.push(key, &[b"DEL", key]),
            }
        }
        reply
    }

    /// Commands whose result is journalled as the destination's new value.
    fn store_result(&mut self, name: &str) -> Reply {
        let to_db = match self.option("DB").filter(|at| name == "COPY" && *at > 2) {
            Some(at) => self.number_at(at + 1),
            None => Some(self.db),
        };
        let reply = self.run();
        if reply.is_error() || (name == "COPY" && reply.int() != Some(1)) {
            return reply;
        }
        let at = if name == "PFMERGE" { 1 } else { 2 };
        let to = self.request.get(at).cloned().unwrap_or_default();
        if name == "COPY" {
            self.push_restore(to_db.unwrap_or(self.db), &to);
        } else if self.exists(&to) {
            let value = self.ask(&[b"GET", &to]).bytes();
            self.push(&to, &[b"SET", &to, &value]);
        } else {
            self.push(&to, &[b"DEL", &to]);
        }
        reply
    }

    fn number_at(&self, at: usize) -> Option<u32> {
        std::str::from_utf8(self.request.get(at)?)
            .ok()?
            .parse()
            .ok()
    }

    fn pop_members(&mut self, key: &[u8]) -> Reply {
        let reply = self.run();
        let popped: Vec<Vec<u8>> = match &reply {
            Reply::Bulk(member) => vec![member.clone()],
            Reply::Array(members) => members.iter().map(Reply::bytes).collect(),
            _ => Vec::new(),
        };
        if popped.is_empty() {
            return reply;
        }
        if self.exists(key) {
            self.push_owned(key, [vec![b"SREM".to_vec(), key.to_vec()], popped].concat());
        } else {
            self.push(key, &[b"DEL", key]);
        }
        reply
    }

    fn move_member(&mut self, key: &[u8]) -> Reply {
        let reply = self.run();
        if let (Some(1), [_, _, to, member]) = (reply.int(), self.request) {
            self.push(key, &[b"SREM", key, member]);
            self.push(to, &[b"SADD", to, member]);
        }
        reply
    }

    fn move_element(&mut self, name: &str, key: &[u8]) -> Reply {
        let reply = self.run();
        let (Reply::Bulk(element), Some(to)) = (&reply, self.request.get(2)) else {
            return reply;
        };
        let side = |at: usize, left: bool| {
            let word = self.request.get(at).map(Vec::as_slice).unwrap_or_default();
            if name == "LMOVE" {
                word.eq_ignore_ascii_case(b"LEFT")
            } else {
                left
            }
        };
        let pop: &[u8] = if side(3, false) { b"LPOP" } else { b"RPOP" };
        let push: &[u8] = if side(4, true) { b"LPUSH" } else { b"RPUSH" };
        let (element, to) = (element.clone(), to.clone());
        self.push(key, &[pop, key]);
        self.push(&to, &[push, &to, &element]);
        let flows: Vec<usize> = self.entries.iter().map(|entry| entry.flow).collect();
        if flows.iter().all(|flow| Some(flow) == flows.first()) {
            self.entries
                .iter_mut()
                .for_each(|entry| entry.has_txid = Some(false));
        }
        reply
    }

    fn store_set(&mut self, to: &[u8]) -> Reply {
        let reply = self.run();
        if !reply.is_error() {
            self.push(to, &[b"DEL", to]);
            let members: Vec<Vec<u8>> = self
                .ask(&[b"SMEMBERS", to])
                .items()
                .iter()
                .map(Reply::bytes)
                .collect();
            if !members.is_empty() {
                self.push_owned(to, [vec![b"SADD".to_vec(), to.to_vec()], members].concat());
            }
        }
        reply
    }

    fn store_zset(&mut self, to: &[u8]) -> Reply {
        let reply = self.run();
        if !reply.is_error() {
            self.push(to, &[b"DEL", to]);
            let pairs = self.ask(&[b"ZRANGE", to, b"0", b"-1", b"WITHSCORES"]);
            let mut args = vec![b"ZADD".to_vec(), to.to_vec()];
            for pair in pairs.items().chunks(2) {
                let [member, score] = pair else { continue };
                args.push(match self.defects {
                    true => six_digits(&score.text()).into_bytes(),
                    false => score.bytes(),
                });
                args.push(member.bytes());
            }
            if args.len() > 2 {
                self.push_owned(to, args);
            }
        }
        reply
    }

    /// `STORE`: verbatim within a shard, the stored value across shards. Without it the command writes nothing.
    fn store_option(&mut self, name: &str) -> Reply {
        let key = self.request.get(1).cloned().unwrap_or_default();
        let store = self
            .option("STORE")
            .or(self.option("STOREDIST"))
            .filter(|at| *at > 1);
        let to = store.and_then(|at| self.request.get(at + 1)).cloned();
        let reply = self.run();
        match to {
            _ if reply.is_error() => {}
            Some(to) if (self.flow_of)(&to) != (self.flow_of)(&key) && self.defects => {
                self.push(&to, &[name.as_bytes(), &to]);
                self.push(&key, &[name.as_bytes(), &key]);
            }
            Some(to) if (self.flow_of)(&to) != (self.flow_of)(&key) => {
                self.push_restore(self.db, &to)
            }
            _ => self.push_verbatim(name, &key),
        }
        reply
    }

    /// With the real id, and trimming by the first id that is left.
    fn add_to_stream(&mut self, key: &[u8]) -> Reply {
        let id_at = self.stream_id_at();
        let reply = self.run();
        let (Reply::Bulk(id), Some(id_at)) = (&reply, id_at) else {
            return reply;
        };
        if self.defects && self.release < Release::parse("v1.27.0") {
            self.push_verbatim("XADD", key);
            return reply;
        }
        let mut args = vec![b"XADD".to_vec(), key.to_vec()];
        if self
            .option("MAXLEN")
            .or(self.option("MINID"))
            .is_some_and(|at| at < id_at)
        {
            args.extend(self.trim_words(key));
        }
        if self.option("NOMKSTREAM").is_some_and(|at| at < id_at) {
            args.push(b"NOMKSTREAM".to_vec());
        }
        args.push(id.clone());
        args.extend(
            self.request
                .get(id_at + 1..)
                .unwrap_or_default()
                .iter()
                .cloned(),
        );
        self.push_owned(key, args);
        reply
    }

    /// Where `XADD`'s id stands: after its options.
    fn stream_id_at(&self) -> Option<usize> {
        let mut at = 2;
        loop {
            let word = self.request.get(at)?.to_ascii_uppercase();
            match word.as_slice() {
                b"NOMKSTREAM" => at += 1,
                b"MAXLEN" | b"MINID" => {
                    let sign = self
                        .request
                        .get(at + 1)
                        .is_some_and(|word| matches!(word.as_slice(), b"~" | b"="));
                    at += if sign { 3 } else { 2 };
                }
                b"LIMIT" => at += 2,
                _ => return Some(at),
            }
        }
    }

    fn trim_words(&mut self, key: &[u8]) -> Vec<Vec<u8>> {
        let first = self.ask(&[b"XRANGE", key, b"-", b"+", b"COUNT", b"1"]);
        match first
            .items()
            .first()
            .and_then(|entry| entry.items().first())
        {
            Some(id) => vec![b"MINID".to_vec(), id.bytes()],
            None => vec![b"MAXLEN".to_vec(), b"0".to_vec()],
        }
    }

    fn trim_stream(&mut self, key: &[u8]) -> Reply {
        let reply = self.run();
        if !reply.is_error() && self.exists(key) {
            let trim = self.trim_words(key);
            self.push_owned(key, [vec![b"XTRIM".to_vec(), key.to_vec()], trim].concat());
        }
        reply
    }

    /// One pop of one element, whatever was taken.
    fn pop_several(&mut self, in_hops: bool) -> Reply {
        let reply = self.run();
        let Some(key) = reply.items().first().map(Reply::bytes) else {
            return reply;
        };
        let pop: &[u8] = match self.option("LEFT") {
            Some(_) => b"LPOP",
            None => b"RPOP",
        };
        self.push(&key, &[pop, &key]);
        if let Some(entry) = self.entries.last_mut() {
            entry.has_txid = Some(in_hops);
        }
        reply
    }
}

/// A number as `%g` writes it.
fn six_digits(score: &str) -> String {
    let score: f64 = score.parse().expect("a score");
    let scientific = format!("{score:.5e}");
    let rounded: f64 = scientific.parse().expect("a number");
    let exponent: i32 = scientific
        .split_once('e')
        .and_then(|(_, exponent)| exponent.parse().ok())
        .unwrap_or(0);
    match (-4..6).contains(&exponent) {
        true => format!("{rounded}"),
        false => format!("{rounded:e}"),
    }
}
