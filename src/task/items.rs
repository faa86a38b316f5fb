//! What becomes of each item of a flow: left out by the filter, dropped as a ghost, translated,
//! or handed to the writer.
//!
//! Entries of the journal are here, keys of the snapshot in `values`.

mod foreign;
mod values;

use std::collections::HashSet;

use slog::Logger;

use crate::commands::{
    self, Circumstances, Filtered, Global, KeyIter, Kind, Nothing, Plan, Reason, Unsupported,
};
use crate::entry::{Args, Batch, Body, Command, Item, Spill};
use crate::target::{self, Outgoing, Tolerate};

use super::applier::Applier;
use super::barrier::Meeting;
use super::context::member_expiry;
use super::error::TaskError;
use super::ghosts::Verdict;
use super::large::{Large, LargeError};
use super::reread::Suspicion;

/// Keys that are df2redis' own are never copied, whatever the filter says.
pub(super) const OWN_KEYS: &[u8] = b"df2redis:";

/// Keys of a batch that the target had before this task: database there, and key.
pub(super) type Foreign = HashSet<(u32, Vec<u8>)>;

/// Commands whose one key is on the flow that owns it: no copies are journalled with them.
const OF_ONE_KEY: [&[u8]; 12] = [
    b"APPEND", b"HDEL", b"HINCRBY", b"HSET", b"INCR", b"INCRBY", b"LPUSH", b"RPUSH", b"SADD",
    b"SREM", b"XADD", b"ZADD",
];

/// Whether an item is done with.
pub(super) enum Took {
    /// It is with the writer, or needed nothing.
    Whole,
    /// It is a value that has to be built in steps: see [`Applier::build`].
    Steps,
    /// It is a global command.
    Meeting(Meeting, Global),
}

impl Applier {
    /// A command of the journal.
    pub(super) fn command(
        &mut self,
        batch: &Batch,
        command: &Command,
        foreign: &mut Foreign,
    ) -> Result<Took, TaskError> {
        // It may be about a key that was put aside.
        self.settle_doubts(true)?;
        match &command.args {
            Body::Inline(span) => {
                let args = self.checked(batch.slice(*span), command.words)?;
                self.look_back(&args, command);
                self.apply(batch, command, &args, None, foreign)
            }
            Body::Spilled(spill) => {
                let flow = self.flow;
                let large = blocking_if(true, || Large::read(spill, command.words))
                    .map_err(|error| large_error(flow, &self.context.task, error))?;
                let args = large.args().map_err(|cause| malformed(flow, cause))?;
                self.look_back(&args, command);
                if large.cut_short {
                    return self.apply_cut_short(batch, command, spill, &args, foreign);
                }
                self.apply(batch, command, &args, Some(&large), foreign)
            }
        }
    }

    /// A command of so many words that only the first ones are in memory.
    fn apply_cut_short(
        &mut self,
        batch: &Batch,
        command: &Command,
        spill: &Spill,
        head: &Args<'_>,
        foreign: &mut Foreign,
    ) -> Result<Took, TaskError> {
        let flow = self.flow;
        let task = self.context.task.clone();
        let keys = commands::keys(head);
        let mut uses = keys.clone();
        let single = uses.next().is_some_and(|first| first.index == 1) && uses.next().is_none();
        let planned = self.plan(batch, command, head);
        if single && foreign.is_empty() && matches!(planned, Plan::AsIs(_)) {
            let key = head.get(1).unwrap_or_default();
            if !self.context.task.filter.allows(command.db, key)
                || key.starts_with(OWN_KEYS)
                || self.withholds(batch, command, head, &keys)
                || self.distrusts(command, head)
            {
                return Ok(Took::Whole);
            }
            let encoded = blocking_if(true, || {
                Large::encode(spill, 2, command.words, &task.state_dir)
            })
            .map_err(|error| large_error(flow, &task, error))?;
            let db = self.context.task.target.db(command.db);
            let out = self.begin(db);
            let words = command.words as usize;
            out.command_with_tail(&[head.name(), key], &encoded, words, command.lsn);
            return Ok(Took::Whole);
        }
        let whole = blocking_if(true, || spill.read_all())
            .map_err(|cause| large_error(flow, &task, LargeError::File(cause)))?;
        let args = self.checked(&whole, command.words)?;
        self.apply(batch, command, &args, None, foreign)
    }

    pub(super) fn checked<'a>(&self, packed: &'a [u8], words: u32) -> Result<Args<'a>, TaskError> {
        Args::check(packed, words).map_err(|cause| malformed(self.flow, cause))
    }

    fn apply(
        &mut self,
        batch: &Batch,
        command: &Command,
        args: &Args<'_>,
        large: Option<&Large>,
        foreign: &mut Foreign,
    ) -> Result<Took, TaskError> {
        if !self.context.task.filter.allows_everything() && !is_global(args) {
            let context = self.context.clone();
            let filter = &context.task.filter;
            if !filter.allows_db(command.db) {
                return Ok(Took::Whole);
            }
            let keep = |key: &[u8]| filter.allows(command.db, key);
            match commands::filtered(args, keep) {
                Filtered::All => {}
                Filtered::Nothing => return Ok(Took::Whole),
                Filtered::Part(packed, words) => {
                    let args = self.checked(&packed, words)?;
                    return self.route(batch, command, &args, large, foreign);
                }
                Filtered::Crosses(key) => {
                    let crosses = Unsupported {
                        kind: Kind::Command,
                        reason: Reason::CrossesFilter,
                    };
                    let what = format!("{} with key {}", show(args.name()), show(key));
                    self.leave_out(command.db, &what, &crosses)?;
                    return Ok(Took::Whole);
                }
            }
        }
        self.route(batch, command, args, large, foreign)
    }

    pub(super) fn send(
        &mut self,
        batch: &Batch,
        command: &Command,
        (args, uses): (&Args<'_>, &KeyIter<'_>),
        large: Option<&Large>,
        foreign: &mut Foreign,
    ) -> Result<Took, TaskError> {
        if uses.clone().any(|used| used.key.starts_with(OWN_KEYS))
            || self.is_ghost(args)
            || !self.settle_foreign(command, args, foreign)
            || self.withholds(batch, command, args, uses)
            || self.distrusts(command, args)
        {
            return Ok(Took::Whole);
        }
        if large.is_none() && loaded(args).is_some() {
            // With the batch, before its first item.
            return Ok(Took::Whole);
        }
        let put_off = match self.context.grace_ms() {
            0 => None,
            grace_ms => commands::with_grace(args, grace_ms),
        };
        // By the time that the source meant.
        if put_off.is_some()
            && matches!(self.plan(batch, command, args), Plan::ReadAgain(_))
            && self.distrust(command, args)
        {
            return Ok(Took::Whole);
        }
        let put_off = match &put_off {
            Some((packed, words)) => Some(self.checked(packed, *words)?),
            None => None,
        };
        let args = put_off.as_ref().unwrap_or(args);
        self.follow_members(command, args);
        let planned = match self.plan(batch, command, args) {
            Plan::ReadAgain(_) if self.distrust(command, args) => return Ok(Took::Whole),
            // No more keys can be withheld: what can be had from the entry itself.
            Plan::ReadAgain(_) => self.plan_in(batch, command, args, Circumstances::default()),
            planned => planned,
        };
        self.carry_out(batch, command, args, large, planned)
    }

    /// Hands to the writer what an entry comes to.
    fn carry_out(
        &mut self,
        batch: &Batch,
        command: &Command,
        args: &Args<'_>,
        large: Option<&Large>,
        planned: Plan<'_>,
    ) -> Result<Took, TaskError> {
        let db = self.context.task.target.db(command.db);
        match planned {
            Plan::AsIs(note) => {
                self.send_as_is(command, args, large);
                self.note(command.db, args, note);
            }
            Plan::Words(planned, note) => {
                let out = self.begin(db);
                for words in planned.iter() {
                    out.command(words.len(), command.lsn);
                    for word in words {
                        put(out, word, large);
                    }
                }
                if let Some(name) = planned.iter().next().and_then(<[_]>::first) {
                    self.watch(name, command, args);
                }
                self.note(command.db, args, note);
            }
            Plan::Nothing(Nothing::MemberExpiryDue(at_ms)) => {
                if let Some(key) = args.get(1) {
                    self.expires(command.db, key, at_ms);
                }
            }
            Plan::Nothing(_) | Plan::ReadAgain(_) => {}
            Plan::Global(global) => {
                let meeting = Meeting {
                    words: args.iter().map(<[u8]>::to_vec).collect(),
                    db: command.db,
                    txid: command.txid,
                };
                return Ok(Took::Meeting(meeting, global));
            }
            Plan::Restore(restore) => {
                self.restore(batch, command, &restore, large)?;
            }
            Plan::Unsupported(unsupported) if self.context.passes_on(args.name(), &unsupported) => {
                let out = self.begin(db);
                out.command(args.len(), command.lsn);
                args.iter().for_each(|word| put(out, word, large));
                self.note(command.db, args, Some(commands::Note::PassedOn));
            }
            Plan::Unsupported(unsupported) => {
                self.leave_out(command.db, &describe(args), &unsupported)?;
            }
        }
        Ok(Took::Whole)
    }

    fn send_as_is(&mut self, command: &Command, args: &Args<'_>, large: Option<&Large>) {
        let db = self.context.task.target.db(command.db);
        let name = self.name_of(args);
        let out = self.begin(db);
        out.command(args.len(), command.lsn);
        out.word(name);
        for word in args.iter().skip(1) {
            put(out, word, large);
        }
        self.watch(name, command, args);
        if self.suspicion == Some(Suspicion::Pop)
            && let Some(key) = args.get(1)
        {
            self.popped(command, key);
        }
    }

    pub(super) fn plan<'a>(&self, batch: &Batch, command: &Command, args: &Args<'a>) -> Plan<'a> {
        self.plan_in(batch, command, args, self.circumstances(batch))
    }

    fn plan_in<'a>(
        &self,
        batch: &Batch,
        command: &Command,
        args: &Args<'a>,
        circumstances: Circumstances,
    ) -> Plan<'a> {
        let task = &self.context.task;
        let is_there = |db: &u32| *db == 0 || task.target.cluster.is_none();
        let map_db = |db| {
            let mapped = task.filter.allows_db(db).then(|| task.target.db(db));
            mapped.filter(is_there)
        };
        commands::plan(
            args,
            &commands::Context {
                features: &self.context.features,
                received_at_ms: batch.received_at_ms,
                on_member_expiry: member_expiry(task.policy.on_member_expiry),
                db: command.db,
                txid: command.txid,
                circumstances,
                map_db: &map_db,
            },
        )
    }

    /// Some commands answer 0, or -2 for a field, when what they are about is missing, which then has to be read again.
    fn watch(&mut self, name: &[u8], command: &Command, args: &Args<'_>) {
        if target::ANSWERS_MISSING.contains(&name) {
            self.writer.watch();
            // A list that is rotated may go at any time.
            if self.may_have_ended || self.suspicion == Some(Suspicion::PushIfThere) {
                self.doubt(command, args);
            }
        }
    }

    /// The name under which a command goes out that is otherwise as it is.
    fn name_of<'a>(&self, args: &Args<'a>) -> &'a [u8] {
        let rotates = self.suspicion == Some(Suspicion::PushIfThere);
        match args.name() {
            name if !rotates || !args.get(1).is_some_and(|key| self.may_expire(key)) => name,
            b"LPUSH" => b"LPUSHX",
            b"RPUSH" => b"RPUSHX",
            name => name,
        }
    }

    /// Begins a journal entry. It is applied once, so no error of it is a mere repetition.
    fn begin(&mut self, db: u32) -> &mut Outgoing {
        self.writer
            .begin(target::Kind::Entry, db, Tolerate::Nothing)
    }

    /// The copy of a PFMERGE result that the master journals on a flow that does not own it.
    fn is_ghost(&mut self, args: &Args<'_>) -> bool {
        let mut words = args.iter();
        let name = words.next().unwrap_or_default();
        if name != b"SET" {
            if OF_ONE_KEY.contains(&name)
                && let Some(key) = words.next()
            {
                self.ghosts.note(key);
            }
            return false;
        }
        let (key, value) = (words.next(), words.next());
        let (Some(key), Some(value)) = (key, value) else {
            return false;
        };
        match self.ghosts.judge(key, || value.starts_with(b"HYLL")) {
            Verdict::Keep => false,
            Verdict::Drop => true,
            // An entry cannot wait for what later ones tell.
            Verdict::Doubt => self.ghosts.settle() == Verdict::Drop,
        }
    }

    /// Loads the scripts that come with a batch. They are no keys, and need neither order nor transaction; one that the
    /// target does not take, such as one in Dragonfly's newer Lua, is a matter of `on_unsupported.command`.
    pub(super) async fn load_scripts(&mut self, batch: &Batch) -> Result<(), TaskError> {
        for item in &batch.items {
            let (db, body) = match item {
                Item::Script(body) => (0, batch.slice(*body)),
                Item::Command(command) => {
                    let Body::Inline(span) = &command.args else {
                        continue;
                    };
                    let packed = batch.slice(*span);
                    // One byte of length, and the name: few commands are looked at any further.
                    let name = packed.get(1..7).unwrap_or_default();
                    if !name.eq_ignore_ascii_case(b"SCRIPT") {
                        continue;
                    }
                    match loaded(&self.checked(packed, command.words)?) {
                        Some(body) => (command.db, body),
                        None => continue,
                    }
                }
                _ => continue,
            };
            let mut control = self.context.control.lock().await;
            let Some(answer) = control.load_script(body).await? else {
                continue;
            };
            drop(control);
            let refused = Unsupported {
                kind: Kind::Command,
                reason: Reason::Script,
            };
            let what = format!("a script ({answer})");
            self.context.unsupported(self.log(), db, &what, &refused)?;
        }
        Ok(())
    }

    /// Looks at the words of a command, long ones perhaps replaced: its keys are as they are.
    pub(super) fn with_args<T>(
        &self,
        batch: &Batch,
        command: &Command,
        look: impl FnOnce(&Args<'_>) -> T,
    ) -> Result<T, TaskError> {
        let whole;
        let packed = match &command.args {
            Body::Inline(span) => batch.slice(*span),
            Body::Spilled(spill) => {
                whole = self.words_of(spill, command.words)?;
                &whole
            }
        };
        Ok(look(&self.checked(packed, command.words)?))
    }

    /// The words of a command in a file, long ones replaced if there are few.
    fn words_of(&self, spill: &Spill, words: u32) -> Result<bytes::Bytes, TaskError> {
        let read = || {
            let large = Large::read(spill, words)?;
            if large.cut_short {
                return Ok(spill.read_all()?.into());
            }
            Ok(large.into_packed())
        };
        blocking_if(true, read).map_err(|error| large_error(self.flow, &self.context.task, error))
    }

    fn note(&mut self, db: u32, args: &Args<'_>, note: Option<commands::Note>) {
        match (note, args.get(1)) {
            (None, _) => {}
            (Some(commands::Note::MemberExpiryDue(at_ms)), Some(key)) => {
                self.expires(db, key, at_ms);
            }
            (Some(note), _) => self.context.note(self.log(), db, &describe(args), note),
        }
    }

    /// Does without what the target cannot hold or do, if the policy lets it.
    pub(super) fn leave_out(
        &self,
        db: u32,
        what: &str,
        unsupported: &Unsupported,
    ) -> Result<(), TaskError> {
        self.context
            .unsupported(self.log(), db, what, unsupported)?;
        self.skipped();
        Ok(())
    }

    pub(super) fn skipped(&self) {
        self.count(|counters| &counters.skipped, 1);
    }

    pub(super) fn log(&self) -> &Logger {
        &self.log
    }
}

fn put(out: &mut Outgoing, word: &[u8], large: Option<&Large>) {
    match large {
        Some(large) => large.word(word, out),
        None => out.word(word),
    }
}

fn is_global(args: &Args<'_>) -> bool {
    [&b"FLUSHALL"[..], b"FLUSHDB", b"DFLYCLUSTER", b"SCRIPT"]
        .iter()
        .any(|name| args.name().eq_ignore_ascii_case(name))
}

/// A command's name and first key.
pub(super) fn describe(args: &Args<'_>) -> String {
    match commands::keys(args).next() {
        Some(used) => format!("{} of key {}", show(args.name()), show(used.key)),
        None => show(args.name()),
    }
}

/// Bytes for people: quoted, escaped, cut.
pub(super) fn show(bytes: &[u8]) -> String {
    const SHOWN: usize = 128;
    let head = bytes.get(..SHOWN).unwrap_or(bytes);
    let more = if bytes.len() > SHOWN { "..." } else { "" };
    format!("\"{}\"{more}", head.escape_ascii())
}

fn malformed(flow: u32, cause: crate::entry::MalformedArgs) -> TaskError {
    TaskError::Malformed { flow, cause }
}

fn large_error(flow: u32, task: &crate::config::Task, error: LargeError) -> TaskError {
    match error {
        LargeError::Malformed(cause) => malformed(flow, cause),
        LargeError::File(cause) => TaskError::State {
            dir: task.state_dir.clone(),
            cause,
        },
    }
}

/// Runs what reads or writes files without holding up other flows.
pub(super) fn blocking_if<T>(blocks: bool, work: impl FnOnce() -> T) -> T {
    if blocks {
        tokio::task::block_in_place(work)
    } else {
        work()
    }
}

/// The body of the script that a command in memory loads.
fn loaded<'a>(args: &Args<'a>) -> Option<&'a [u8]> {
    let loads = args.name().eq_ignore_ascii_case(b"SCRIPT")
        && args
            .get(1)
            .is_some_and(|word| word.eq_ignore_ascii_case(b"LOAD"));
    args.get(2).filter(|_| loads)
}
