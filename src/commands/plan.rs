//! What to send to a target in place of a journalled command.
//!
//! Invariants: every planned command has at least one word; nothing is lost without a trace: what
//!   is not sent as it came is a [`Note`], a [`Nothing`] or an [`Unsupported`], to be counted.
//! Units: times are Unix milliseconds by the source's clock.
//! Facts: the forms of Dragonfly v1.14 to v1.40.1; which release of Redis knows which option.

use std::borrow::Cow;
use std::fmt;

use super::features::Features;
use super::table::{How, Needs, Spec, lookup};
use super::{float, hash, translate};
use crate::entry::Args;

/// A word to send: borrowed from the entry where it can be.
pub type Word<'a> = Cow<'a, [u8]>;

/// What becomes of the expiry of single members where the target has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberExpiry {
    /// The members are written without it, and it is told when the first of them expires.
    Emulate,
    /// The members are written without it, and counted.
    Drop,
    /// It counts as not supported.
    Stop,
}

/// What a plan depends on besides the words.
#[derive(Clone, Copy)]
pub struct Context<'c> {
    /// The target.
    pub features: &'c Features,
    /// When the entry was received.
    pub received_at_ms: i64,
    /// The policy for the expiry of single members.
    pub on_member_expiry: MemberExpiry,
    /// The entry's database at the source.
    pub db: u32,
    /// The entry's transaction id.
    pub txid: u64,
    /// What else is known of when and by whom it was journalled.
    pub circumstances: Circumstances,
    /// The target's database for one of the source; `None` for one that is not copied.
    pub map_db: &'c dyn Fn(u32) -> Option<u32>,
}

/// In which circumstances an entry was journalled and received.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Circumstances {
    /// The source can be asked again where the entry does not tell the truth. Else the best is made of it.
    pub reads_again: bool,
    /// Its times count from a moment that is not known to the second: it was received late, or about when a second ended.
    pub is_vague: bool,
    /// The source journals a `GETEX` that only reads as an end of the key at that moment: before v1.40.
    pub reads_end_keys: bool,
}

/// A type of thing that can be unsupported, for policies and counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// JSON documents.
    Json,
    /// Bloom filters.
    Bloom,
    /// Count-min sketches.
    Cms,
    /// Top-k sketches.
    Topk,
    /// Cuckoo filters.
    Cuckoo,
    /// Search indexes.
    Search,
    /// Expiry of hash fields and set members.
    MemberExpiry,
    /// A result that the source's journal does not carry.
    Lost,
    /// A command with keys in several slots of a cluster.
    CrossSlot,
    /// Any other command.
    Command,
    /// A value, of a type or size that the target does not take.
    Value,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Json,
        Self::Bloom,
        Self::Cms,
        Self::Topk,
        Self::Cuckoo,
        Self::Search,
        Self::MemberExpiry,
        Self::Lost,
        Self::CrossSlot,
        Self::Command,
        Self::Value,
    ];

    /// The name in configuration, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Bloom => "bloom",
            Self::Cms => "cms",
            Self::Topk => "topk",
            Self::Cuckoo => "cuckoo",
            Self::Search => "search",
            Self::MemberExpiry => "member_expiry",
            Self::Lost => "lost",
            Self::CrossSlot => "cross_slot",
            Self::Command => "command",
            Self::Value => "value",
        }
    }
}

/// Why something cannot be had on the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// No row of the table has this name.
    Unknown,
    /// The target must be of this Redis release or a later one.
    Release(u16, u16),
    /// The target lacks the module, named here.
    Module(&'static str),
    /// No target has anything like it.
    NoCounterpart,
    /// The source journals only the keys of this command, not what came of it.
    Lost,
    /// The target has no expiry for single members, and the policy is to stop.
    MemberExpiry,
    /// The words are not those of this command.
    Malformed(&'static str),
    /// The key moves between a database that is copied and one that is not.
    OtherDatabase,
    /// It combines a key that is copied with one that is not.
    CrossesFilter,
    /// It combines keys of several slots, and the target is a cluster.
    CrossesSlots,
    /// A value of so many bytes is more than the target takes.
    Size(u64),
    /// A value of this RDB type has no counterpart.
    Type(u8),
    /// The target does not take this script: it cannot compile it, or its user may not load any.
    Script,
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => out.write_str("not known to this release of df2redis"),
            Self::Release(major, minor) => write!(out, "needs Redis {major}.{minor} or later"),
            Self::Module(module) => write!(out, "needs the {module} commands on the target"),
            Self::NoCounterpart => out.write_str("has no counterpart in Redis"),
            Self::Lost => out.write_str("its result is lost by the source's journal"),
            Self::MemberExpiry => {
                out.write_str("the target cannot let single members of this key expire")
            }
            Self::Malformed(what) => write!(out, "malformed: {what}"),
            Self::CrossesFilter => {
                out.write_str("combines a key that is copied with one that the filter leaves out")
            }
            Self::CrossesSlots => {
                out.write_str("combines keys that are in different slots of the cluster")
            }
            Self::OtherDatabase => {
                out.write_str("moves a key between a database that is copied and one that is not")
            }
            Self::Script => out.write_str("the target does not take this script"),
            Self::Size(bytes) => write!(out, "a value of {bytes} bytes is too large"),
            Self::Type(kind) => write!(out, "values of type {kind} have no counterpart in Redis"),
        }
    }
}

/// What cannot be had on the target: the policy for its kind decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsupported {
    /// Which policy and counter it belongs to.
    pub kind: Kind,
    /// Why.
    pub reason: Reason,
}

impl fmt::Display for Unsupported {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(out)
    }
}

/// In what a planned command falls short of the source's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Note {
    /// The expiry of single members was left out.
    MemberExpiryDropped,
    /// Members of the key, which is word 1, expire at this time, and the target does not see to it.
    MemberExpiryDue(i64),
    /// The stream chooses the entry's id anew: it differs from the source's.
    StreamIdChosen,
    /// The command is not in the table, and went to the target as it came, because that has one of this name.
    PassedOn,
}

/// Why nothing has to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Nothing {
    /// The command changed nothing.
    NoEffect,
    /// It is about something that only the source has.
    SourceOnly,
    /// It would only have set the expiry of single members, which was left out.
    MemberExpiryDropped,
    /// It may stand for a result that the journal does not carry (`SORT … STORE` over several
    /// shards), or for a mere read inside a transaction: the journal does not tell them apart.
    PerhapsLost,
    /// It only sets the expiry of single members of the key, which is word 1: at this time. The target does not see to
    /// it.
    MemberExpiryDue(i64),
}

/// Why an entry cannot be trusted: see the head of `reread::defects` in the task's room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Defect {
    /// Only the keys of the command are journalled, not what came of it.
    ResultLost,
    /// The target would compute it anew, and may order equal elements or round otherwise.
    ComputedAnew,
    /// A read may have been journalled as the end of the key.
    ReadEndsKey,
    /// The stream entry's id is left to whoever applies it.
    IdOpen,
    /// A time that counts from a moment not known to the second.
    VagueTime,
    /// Scores may be cut to six digits.
    ScoresCut,
    /// More elements may have been taken than are journalled.
    CountLost,
}

/// A command that concerns more than single keys: all flows meet at it, and it runs once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Global {
    /// Every database is emptied.
    FlushAll,
    /// The entry's database is emptied.
    FlushDb,
    /// The keys of these slots are deleted, first and last slot inclusive.
    FlushSlots(Vec<(u16, u16)>),
}

/// A `RESTORE`, whose payload must take the form that the target can load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restore<'a> {
    /// The key; whatever it holds is replaced.
    pub key: &'a [u8],
    /// Type, value, version and checksum, not checked yet.
    pub payload: &'a [u8],
    /// Absolute expiry.
    pub expire_at_ms: Option<i64>,
}

/// One or more commands, each of at least one word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commands<'a> {
    words: Vec<Word<'a>>,
    /// Where the second and later commands begin.
    starts: Vec<usize>,
}

impl<'a> Commands<'a> {
    /// One command, of its name and room for `words` in all.
    pub(super) fn new(name: &'static [u8], words: usize) -> Self {
        let mut all = Vec::with_capacity(words.max(1));
        all.push(Cow::Borrowed(name));
        Self {
            words: all,
            starts: Vec::new(),
        }
    }

    /// A word of the last command.
    pub(super) fn word(mut self, word: impl Into<Word<'a>>) -> Self {
        self.words.push(word.into());
        self
    }

    /// Words of the last command.
    pub(super) fn words(mut self, words: impl IntoIterator<Item = &'a [u8]>) -> Self {
        self.words.extend(words.into_iter().map(Cow::Borrowed));
        self
    }

    /// An integer as a word of the last command.
    pub(super) fn number(self, number: i64) -> Self {
        self.word(itoa::Buffer::new().format(number).as_bytes().to_vec())
    }

    /// Begins a further command.
    pub(super) fn next(mut self, name: &'static [u8]) -> Self {
        self.starts.push(self.words.len());
        self.words.push(Cow::Borrowed(name));
        self
    }

    /// The commands in order.
    pub fn iter(&self) -> impl Iterator<Item = &[Word<'a>]> {
        let begins = std::iter::once(0).chain(self.starts.iter().copied());
        let ends = self.starts.iter().copied().chain([self.words.len()]);
        begins
            .zip(ends)
            .map(|(begin, end)| self.words.get(begin..end).unwrap_or_default())
    }

    /// How many commands there are: at least 1.
    pub fn count(&self) -> usize {
        self.starts.len() + 1
    }
}

/// What to do for one command of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan<'a> {
    /// Send its words as they came.
    AsIs(Option<Note>),
    /// Send these instead, in order and in one transaction.
    Words(Commands<'a>, Option<Note>),
    /// Send nothing; it is done.
    Nothing(Nothing),
    /// Bring all flows together, then do this once.
    Global(Global),
    /// Send this value in the form that the target can load.
    Restore(Restore<'a>),
    /// Send nothing: the keys that it writes, or if it names none that it writes all its keys, are to be read again from
    /// the source.
    ReadAgain(Defect),
    /// Ask the policy.
    Unsupported(Unsupported),
}

impl<'a> Plan<'a> {
    /// These commands and nothing to note.
    pub(super) fn words(commands: Commands<'a>) -> Self {
        Self::Words(commands, None)
    }

    /// A command that cannot be had.
    pub(super) fn unsupported(kind: Kind, reason: Reason) -> Self {
        Self::Unsupported(Unsupported { kind, reason })
    }

    /// Asks the source again, where that can be; else `otherwise`.
    pub(super) fn again(context: &Context<'_>, defect: Defect, otherwise: Self) -> Self {
        match context.circumstances.reads_again {
            true => Self::ReadAgain(defect),
            false => otherwise,
        }
    }

    /// Only the keys of the command are there.
    pub(super) fn result_lost(context: &Context<'_>) -> Self {
        let lost = Self::unsupported(Kind::Lost, Reason::Lost);
        Self::again(context, Defect::ResultLost, lost)
    }

    /// A command whose words are not as they must be.
    pub(super) fn malformed(what: &'static str) -> Self {
        Self::unsupported(Kind::Command, Reason::Malformed(what))
    }

    /// A command that needs a later release of the target.
    pub(super) fn release(major: u16, minor: u16) -> Self {
        Self::unsupported(Kind::Command, Reason::Release(major, minor))
    }
}

/// Says what to send to the target for the command `args`.
#[inline]
pub fn plan<'a>(args: &Args<'a>, context: &Context<'_>) -> Plan<'a> {
    let Some(spec) = lookup(args.name()) else {
        return Plan::unsupported(Kind::Command, Reason::Unknown);
    };
    if let Some(lacking) = lacking(spec, context.features) {
        return Plan::Unsupported(lacking);
    }
    match spec.how {
        How::AsIs => Plan::AsIs(None),
        How::Set => translate::set(args, context),
        _ => planned(spec, args, context),
    }
}

/// What a target lacks for any form of this command.
fn lacking(spec: &Spec, features: &Features) -> Option<Unsupported> {
    let lacks = |kind, reason| Some(Unsupported { kind, reason });
    match spec.needs {
        Needs::Any => None,
        Needs::Release(major, minor) if features.at_least(major, minor) => None,
        Needs::Release(major, minor) => lacks(Kind::Command, Reason::Release(major, minor)),
        Needs::Json if features.json => None,
        Needs::Json => lacks(Kind::Json, Reason::Module("JSON")),
        Needs::Bloom if features.bloom => None,
        Needs::Bloom => {
            let kind = match spec.name.as_bytes() {
                [b'C', b'M', ..] => Kind::Cms,
                [b'C', b'F', ..] => Kind::Cuckoo,
                [b'T', ..] => Kind::Topk,
                _ => Kind::Bloom,
            };
            lacks(kind, Reason::Module("Bloom filter"))
        }
    }
}

fn planned<'a>(spec: &Spec, args: &Args<'a>, context: &Context<'_>) -> Plan<'a> {
    match spec.how {
        How::AsIs => Plan::AsIs(None),
        How::Set => translate::set(args, context),
        How::SetNx => translate::renamed(args, b"SET", 3),
        How::MSetNx => translate::renamed(args, b"MSET", usize::MAX),
        How::Del => translate::renamed(args, b"DEL", 2),
        How::Prepend => translate::prepend(args, context),
        How::AddFloat => float::add(args, context),
        How::AddFloatToField => float::add_to_field(args, context),
        How::Bitfield => translate::bitfield(args),
        How::ExpireIn { unit_ms } => translate::expire_in(args, context, unit_ms),
        How::Move => translate::move_key(args, context),
        How::Copy => translate::copy(args, context),
        How::Restore => translate::restore(args, context),
        How::ExpireAt => translate::expire_at(args, context),
        How::Sort => translate::sort(args, context),
        How::Geo { words } => translate::geo(args, context, usize::from(words)),
        How::Pop => translate::pop(args, context),
        How::MPop { least, most } => translate::mpop(args, context, least, most),
        How::StoreCounted => translate::store_counted(args, context),
        How::CmsMerge => translate::cms_merge(args),
        How::ZRangeStore => translate::zrangestore(args, context),
        How::ZAdd | How::GeoAdd => translate::add_with_options(args, context),
        How::XAdd => translate::xadd(args, context),
        How::XTrim => translate::xtrim(args, context),
        How::XGroup => translate::xgroup(args, context),
        How::SAddEx => hash::saddex(args, context),
        How::FieldExpire => hash::fieldexpire(args, context),
        How::HSetEx => hash::hsetex(args, context),
        How::HGetEx => hash::hgetex(args, context),
        How::HExpire => hash::hexpire(args, context),
        How::Script => translate::script(args),
        How::FlushAll => Plan::Global(Global::FlushAll),
        How::FlushDb => Plan::Global(Global::FlushDb),
        How::DflyCluster => translate::dflycluster(args),
        How::Ping => Plan::Nothing(Nothing::NoEffect),
        How::SourceOnly => Plan::Nothing(Nothing::SourceOnly),
        How::NoCounterpart(kind) => Plan::unsupported(kind, Reason::NoCounterpart),
    }
}
