//! What becomes of each item of a flow: left out by the filter, dropped as a ghost, translated,
//! or handed to the writer.

use std::collections::HashSet;

use slog::Logger;

use crate::commands::{
    self, Circumstances, Filtered, Global, KeyUse, Kind, Nothing, Plan, Reason, Unsupported,
};
use crate::entry::{Args, Batch, Body, Command, Item, Record, Share, Span, Spill, Text};
use crate::rdb;
use crate::target::form::{self, Bytes, FormError, Formed, Notes, Step, Value};
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
    /// A key of the snapshot.
    pub(super) fn record(
        &mut self,
        batch: &Batch,
        record: &Record,
        foreign: &mut Foreign,
    ) -> Result<Took, TaskError> {
        let key = batch.text(&record.key);
        if key.starts_with(OWN_KEYS) || !self.context.task.filter.allows(record.db, key) {
            return Ok(Took::Whole);
        }
        self.refuse_database(record.db)?;
        match self.ghosts.judge(key, || is_hyperloglog(batch, record)) {
            Verdict::Keep => self.settle_doubts(false)?,
            Verdict::Drop => return Ok(Took::Whole),
            Verdict::Doubt => {
                self.doubtful.extend(alone(batch, record, key));
                return Ok(Took::Whole);
            }
        }
        let db = self.context.task.target.db(record.db);
        if !foreign.is_empty() {
            let place = (db, key.to_vec());
            if foreign.contains(&place) {
                if self.context.ownership.conflict() == target::Conflict::Skip {
                    return Ok(Took::Whole);
                }
                foreign.remove(&place);
                self.release(db, key);
            }
        }
        if let Some(seen) = &mut self.baselines {
            seen.note(record.db, key);
        }
        let has_fields = record.kind == rdb::kind::HASH_EXPIRING;
        self.note_end(record.db, key, record.expire_at_ms, has_fields);
        self.form(batch, record, key)
    }

    /// Applies or drops what was put aside, once other keys have told what it is; with `anyway`
    /// also when they have not.
    pub(super) fn settle_doubts(&mut self, anyway: bool) -> Result<(), TaskError> {
        if self.doubtful.is_empty() || !(anyway || self.ghosts.is_settled()) {
            return Ok(());
        }
        for batch in std::mem::take(&mut self.doubtful) {
            if let Some(Item::Record(record)) = batch.items.first()
                && self.ghosts.settle() == Verdict::Keep
            {
                self.form(&batch, record, batch.text(&record.key))?;
            }
        }
        Ok(())
    }

    fn form(&mut self, batch: &Batch, record: &Record, key: &[u8]) -> Result<Took, TaskError> {
        let context = &self.context;
        let value = value_of(batch, record, key, self.context.grace_ms());
        let settings = context.form_settings(batch.received_at_ms);
        let db = context.task.target.db(record.db);
        let repeatable = self.repeatable(record.kind);
        let spilled = matches!(record.value, Body::Spilled(_));
        let out = self.writer.begin(repeatable, db, Tolerate::Nothing);
        let formed = blocking_if(spilled, || form::form(&value, &settings, None, out));
        let whole = formed.map(|formed| match formed {
            Formed::Whole(notes) => Some(notes),
            Formed::Steps(_) => None,
        });
        match whole {
            Ok(Some(notes)) => {
                self.noted(record.db, key, notes);
                Ok(Took::Whole)
            }
            Ok(None) => Ok(Took::Steps),
            Err(error) => self.unformed(record.db, key, error).map(|()| Took::Whole),
        }
    }

    /// Builds a value in steps, while the writer has room. The rest of the flow waits.
    pub(super) async fn build(&mut self, batch: &Batch, record: &Record) -> Result<(), TaskError> {
        let context = self.context.clone();
        let key = batch.text(&record.key);
        let value = value_of(batch, record, key, self.context.grace_ms());
        let settings = context.form_settings(batch.received_at_ms);
        let db = context.task.target.db(record.db);
        let out = self
            .writer
            .begin(target::Kind::Record, db, Tolerate::Nothing);
        let mut build = match form::form(&value, &settings, None, out) {
            Ok(Formed::Steps(build)) => build,
            Ok(Formed::Whole(notes)) => {
                self.noted(record.db, key, notes);
                return Ok(());
            }
            Err(error) => return self.unformed(record.db, key, error),
        };
        // The chunks of a list are not safe to repeat one by one, so each goes alone.
        loop {
            while !self.writer.has_room() {
                self.writer.drive().await?;
            }
            let out = self
                .writer
                .begin(target::Kind::Entry, db, Tolerate::Nothing);
            match blocking_if(true, || build.step(out)) {
                Ok(Step::More) => {}
                Ok(Step::Done(notes)) => {
                    self.noted(record.db, key, notes);
                    return Ok(());
                }
                Err(error) => return self.unformed(record.db, key, error),
            }
        }
    }

    /// Whether the commands that make a value can be repeated one by one.
    fn repeatable(&self, kind: u8) -> target::Kind {
        match self.context.features.form(kind) {
            commands::Form::Native => target::Kind::Entry,
            _ => target::Kind::Record,
        }
    }

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
        let mut uses = commands::keys(head);
        let single = uses.next().is_some_and(|first| first.index == 1) && uses.next().is_none();
        let planned = self.plan(batch, command, head);
        if single && foreign.is_empty() && matches!(planned, Plan::AsIs(_)) {
            let key = head.get(1).unwrap_or_default();
            if !self.context.task.filter.allows(command.db, key)
                || key.starts_with(OWN_KEYS)
                || self.withholds(batch, command, head)
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
        args: &Args<'_>,
        large: Option<&Large>,
        foreign: &mut Foreign,
    ) -> Result<Took, TaskError> {
        if commands::keys(args).any(|used| used.key.starts_with(OWN_KEYS))
            || self.is_ghost(args)
            || !self.settle_foreign(command, args, foreign)
            || self.withholds(batch, command, args)
            || self.distrusts(command, args)
        {
            return Ok(Took::Whole);
        }
        if large.is_none() && loaded(args).is_some() {
            // With the batch, before its first item.
            return Ok(Took::Whole);
        }
        let db = self.context.task.target.db(command.db);
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
        match planned {
            Plan::AsIs(note) => {
                let name = self.name_of(args);
                let out = self.begin(db);
                out.command(args.len(), command.lsn);
                out.word(name);
                for word in args.iter().skip(1) {
                    put(out, word, large);
                }
                self.watch(name, command, args);
                self.note(command.db, args, note);
                if self.suspicion == Some(Suspicion::Pop)
                    && let Some(key) = args.get(1)
                {
                    self.popped(command, key);
                }
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

    fn restore(
        &mut self,
        batch: &Batch,
        command: &Command,
        restore: &commands::Restore<'_>,
        large: Option<&Large>,
    ) -> Result<(), TaskError> {
        let long = large.and_then(|large| large.long(restore.payload));
        self.restore_value(command.db, restore, long, batch.received_at_ms, command.lsn)
    }

    /// Gives a key the value of a payload, which is `long` where there is one.
    pub(super) fn restore_value(
        &mut self,
        source_db: u32,
        restore: &commands::Restore<'_>,
        long: Option<Spill>,
        now_ms: i64,
        lsn: Option<u64>,
    ) -> Result<(), TaskError> {
        let context = self.context.clone();
        let grace_ms = context.grace_ms();
        let restore = &commands::Restore {
            expire_at_ms: restore.expire_at_ms.map(|at| at.saturating_add(grace_ms)),
            ..*restore
        };
        let value_of_long;
        let value = match &long {
            Some(payload) => {
                let opened = match blocking_if(true, || form::restored_in_file(payload)) {
                    Ok(opened) => opened,
                    Err(error) => return self.unformed(source_db, restore.key, error),
                };
                let Some((kind, value)) = opened else {
                    return self.damaged(source_db, restore.key, "its checksum is wrong");
                };
                value_of_long = value;
                Value {
                    key: restore.key,
                    kind,
                    bytes: Bytes::Spilled(&value_of_long),
                    expire_at_ms: restore.expire_at_ms,
                }
            }
            None => match form::restored(restore) {
                Ok(value) => value,
                Err(error) => return self.damaged(source_db, restore.key, &error.to_string()),
            },
        };
        let bytes = value.bytes.len();
        let mut settings = context.form_settings(now_ms);
        // A RESTORE of the journal is an entry like any other: one transaction.
        settings.limits.whole = u64::MAX;
        let db = context.task.target.db(source_db);
        let out = self
            .writer
            .begin(target::Kind::Entry, db, Tolerate::Nothing);
        let formed = blocking_if(long.is_some(), || {
            match form::form(&value, &settings, lsn, out)? {
                Formed::Whole(notes) => Ok(notes),
                Formed::Steps(mut build) => loop {
                    if let Step::Done(notes) = build.step(out)? {
                        break Ok(notes);
                    }
                },
            }
        });
        match formed {
            Ok(notes) => self.noted_apart(source_db, restore.key, notes, bytes),
            Err(error) => self.unformed(source_db, restore.key, error)?,
        }
        Ok(())
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

    /// Makes way for a command on keys that were on the target first, or says that it must not be
    /// applied.
    pub(super) fn settle_foreign(
        &mut self,
        command: &Command,
        args: &Args<'_>,
        foreign: &mut Foreign,
    ) -> bool {
        if foreign.is_empty() {
            return true;
        }
        let db = self.context.task.target.db(command.db);
        let theirs: Vec<KeyUse<'_>> = commands::keys(args)
            .filter(|used| used.written && foreign.contains(&(db, used.key.to_vec())))
            .collect();
        let skip = self.context.ownership.conflict() == target::Conflict::Skip;
        if skip && theirs.iter().any(|used| !used.whole) {
            self.skipped();
            return false;
        }
        for used in theirs {
            foreign.remove(&(db, used.key.to_vec()));
            if !used.whole {
                let out = self.begin(db);
                out.command(2, command.lsn);
                out.word(b"DEL");
                out.word(used.key);
            }
            self.release(db, used.key);
        }
        true
    }

    /// From now on the key is this task's.
    fn release(&mut self, db: u32, key: &[u8]) {
        self.released.insert((db, key.to_vec()));
        let db_of_set = self.context.task.target.position_db;
        let out = self
            .writer
            .begin(target::Kind::Record, db_of_set, Tolerate::Nothing);
        self.context.ownership.adopt(out, db, key, None);
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

    /// Which keys of a batch were on the target first.
    pub(super) async fn foreign_of(&mut self, batch: &Batch) -> Result<Foreign, TaskError> {
        if self.context.ownership.foreign_count() == 0 {
            return Ok(Foreign::new());
        }
        if self.writer.is_settled() {
            // The list on the target knows of them by now.
            self.released.clear();
        }
        let task = &self.context.task;
        let mut keys: Vec<(u32, Vec<u8>)> = Vec::new();
        for item in &batch.items {
            match item {
                Item::Record(record) => {
                    keys.push((task.target.db(record.db), batch.text(&record.key).to_vec()));
                }
                Item::Command(command) => {
                    let db = task.target.db(command.db);
                    self.with_args(batch, command, |args| {
                        let written = commands::keys(args).filter(|used| used.written);
                        keys.extend(written.map(|used| (db, used.key.to_vec())));
                    })?;
                }
                _ => {}
            }
        }
        // What was released may still be on its way to the list on the target.
        keys.retain(|key| !self.released.contains(key));
        let mut control = self.context.control.lock().await;
        let borrowed: Vec<_> = keys.iter().map(|(db, key)| (*db, key.as_slice())).collect();
        let ownership = &self.context.ownership;
        let foreign = ownership.foreign(&mut control, &borrowed).await?;
        Ok(keys
            .into_iter()
            .zip(foreign)
            .filter_map(|(key, foreign)| foreign.then_some(key))
            .collect())
    }

    fn noted(&mut self, db: u32, key: &[u8], notes: Notes) {
        self.noted_apart(db, key, notes, 0);
    }

    /// The same of a value of so many bytes that may just have been read from the source.
    pub(super) fn noted_apart(&mut self, db: u32, key: &[u8], notes: Notes, bytes: u64) {
        if let Some(at_ms) = notes.due_ms {
            self.expires_apart(db, key, at_ms, bytes);
        }
        if notes.expiry_dropped > 0 {
            let what = show(key);
            self.context
                .note(self.log(), db, &what, commands::Note::MemberExpiryDropped);
        }
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

    pub(super) fn damaged(&self, db: u32, key: &[u8], cause: &str) -> Result<(), TaskError> {
        Err(TaskError::Damaged {
            key: show(key),
            db,
            cause: cause.to_owned(),
        })
    }

    pub(super) fn unformed(&self, db: u32, key: &[u8], error: FormError) -> Result<(), TaskError> {
        let what = show(key);
        let unsupported = match error {
            FormError::Unsupported(unsupported) => unsupported,
            FormError::File(cause) => {
                return Err(TaskError::State {
                    dir: self.context.task.state_dir.clone(),
                    cause,
                });
            }
            FormError::Damaged { .. } => {
                return self.damaged(db, key, &error.to_string());
            }
        };
        self.leave_out(db, &what, &unsupported)
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

/// A batch of this one record, which is in memory.
fn alone(batch: &Batch, record: &Record, key: &[u8]) -> Option<Batch> {
    let Body::Inline(span) = &record.value else {
        return None;
    };
    let value = batch.slice(*span);
    let record = Record {
        key: Text::Owned(key.into()),
        value: Body::Inline(Span {
            start: 0,
            len: span.len,
        }),
        ..record.clone()
    };
    Some(Batch {
        bytes: value.to_vec().into(),
        items: vec![Item::Record(record)],
        received_at_ms: batch.received_at_ms,
        share: Share::none(),
    })
}

fn put(out: &mut Outgoing, word: &[u8], large: Option<&Large>) {
    match large {
        Some(large) => large.word(word, out),
        None => out.word(word),
    }
}

fn value_of<'a>(batch: &'a Batch, record: &'a Record, key: &'a [u8], grace_ms: i64) -> Value<'a> {
    Value {
        key,
        kind: record.kind,
        bytes: match &record.value {
            Body::Inline(span) => Bytes::Inline(batch.slice(*span)),
            Body::Spilled(spill) => Bytes::Spilled(spill),
        },
        expire_at_ms: record.expire_at_ms.map(|at| at.saturating_add(grace_ms)),
    }
}

fn is_hyperloglog(batch: &Batch, record: &Record) -> bool {
    let (rdb::kind::STRING, Body::Inline(span)) = (record.kind, &record.value) else {
        return false;
    };
    let mut cursor = rdb::Cursor::new(batch.slice(*span));
    rdb::string::read(&mut cursor).is_ok_and(|text| text.into_bytes().starts_with(b"HYLL"))
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
