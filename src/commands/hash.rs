//! Commands about the expiry of single hash fields and set members.
//!
//! Redis 7.4 and Valkey 9 let hash fields expire; nothing lets set members expire. Where the
//! target cannot, the members are written without it: noted, with the time or as dropped, or not supported, by policy.
//! All times go out absolute. A time that is past deletes the field, as it should.

use super::plan::{Commands, Context, Defect, Kind, MemberExpiry, Note, Nothing, Plan, Reason};
use super::translate::{integer, is, member_expires_in};
use crate::entry::{Args, ArgsIter};

/// What the policy makes of an expiry that the target cannot keep, where the rest of the command
/// is `command`, or nothing.
fn without_expiry<'a>(
    context: &Context<'_>,
    at_ms: i64,
    command: Option<Commands<'a>>,
) -> Plan<'a> {
    match (context.on_member_expiry, command) {
        (MemberExpiry::Stop, _) => Plan::unsupported(Kind::MemberExpiry, Reason::MemberExpiry),
        (MemberExpiry::Emulate, None) => Plan::Nothing(Nothing::MemberExpiryDue(at_ms)),
        (MemberExpiry::Emulate, Some(command)) => {
            Plan::Words(command, Some(Note::MemberExpiryDue(at_ms)))
        }
        (MemberExpiry::Drop, None) => Plan::Nothing(Nothing::MemberExpiryDropped),
        (MemberExpiry::Drop, Some(command)) => {
            Plan::Words(command, Some(Note::MemberExpiryDropped))
        }
    }
}

/// Whether what a command does to a hash depends on whether a field is there: late, it may have expired on the target.
pub fn depends_on_field(args: &Args<'_>) -> bool {
    ["HINCRBY", "HINCRBYFLOAT", "HSETNX"]
        .iter()
        .any(|name| is(args.name(), name))
}

/// When members expire that have so many seconds to live.
fn expires_in(context: &Context<'_>, seconds: i64) -> i64 {
    member_expires_in(context, seconds.saturating_mul(1000))
}

/// Whether a time that the target is to keep cannot be told from the entry.
fn is_vague(context: &Context<'_>) -> bool {
    context.circumstances.reads_again && context.circumstances.is_vague
}

/// The words from this index on.
fn after<'a>(args: &Args<'a>, skipped: usize) -> ArgsIter<'a> {
    let mut words = args.iter();
    for _ in 0..skipped {
        words.next();
    }
    words
}

/// `SADDEX k [KEEPTTL] seconds m…`: members without their expiry.
pub(super) fn saddex<'a>(args: &Args<'a>, context: &Context<'_>) -> Plan<'a> {
    let mut words = after(args, 1);
    let Some(key) = words.next() else {
        return Plan::malformed("SADDEX without a key");
    };
    let seconds = words.find(|word| !is(word, "KEEPTTL")).and_then(integer);
    let seconds = seconds.filter(|_| words.clone().next().is_some());
    let Some(seconds) = seconds else {
        return Plan::malformed("SADDEX without a time and members");
    };
    let command = Commands::new(b"SADD", args.len()).word(key).words(words);
    without_expiry(context, expires_in(context, seconds), Some(command))
}

/// Sets the expiry of hash fields, and leaves a set alone, whose members cannot expire.
const EXPIRE_IF_HASH: &[u8] = b"if redis.call('TYPE',KEYS[1]).ok=='hash' then \
    return redis.call('HPEXPIREAT',KEYS[1],ARGV[1],'FIELDS',#ARGV-1,unpack(ARGV,2)) end";

/// More words than this would not fit Lua's stack in one call.
const UNPACK_LIMIT: usize = 4096;

/// `FIELDEXPIRE k seconds f…`, of a hash or a set: the entry does not say which.
///
/// The target looks, and does nothing for a set: only under
/// [`MemberExpiry::Emulate`] somebody else sees to that. Under
/// [`MemberExpiry::Stop`] a set makes it answer `WRONGTYPE`, for the error policy.
pub(super) fn fieldexpire<'a>(args: &Args<'a>, context: &Context<'_>) -> Plan<'a> {
    let (Some(key), Some(seconds)) = (args.get(1), args.get(2).and_then(integer)) else {
        return Plan::malformed("FIELDEXPIRE without a time");
    };
    let fields = after(args, 3);
    let count = args.len().saturating_sub(3);
    if count == 0 {
        return Plan::malformed("FIELDEXPIRE without a field");
    }
    let at = expires_in(context, seconds);
    if !context.features.hash_field_expiry() {
        return without_expiry(context, at, None);
    }
    if is_vague(context) || context.circumstances.reads_again && count > UNPACK_LIMIT {
        return Plan::ReadAgain(Defect::VagueTime);
    }
    if context.on_member_expiry == MemberExpiry::Stop || count > UNPACK_LIMIT {
        return Plan::words(expire_fields(key, at, None, fields, count));
    }
    let command = Commands::new(b"EVAL", args.len() + 2)
        .words([EXPIRE_IF_HASH, b"1", key])
        .number(at)
        .words(fields);
    match context.on_member_expiry {
        MemberExpiry::Emulate => Plan::Words(command, Some(Note::MemberExpiryDue(at))),
        _ => Plan::words(command),
    }
}

/// `HPEXPIREAT key ms [condition] FIELDS count field…`.
fn expire_fields<'a>(
    key: &'a [u8],
    at_ms: i64,
    condition: Option<&'a [u8]>,
    fields: ArgsIter<'a>,
    count: usize,
) -> Commands<'a> {
    Commands::new(b"HPEXPIREAT", count + 6)
        .word(key)
        .number(at_ms)
        .words(condition)
        .words([&b"FIELDS"[..]])
        .number(count as i64)
        .words(fields)
}

/// Takes `FIELDS n` from the words: what remains are the fields, `each` words apiece.
fn fields(words: &mut ArgsIter<'_>, each: usize) -> Option<usize> {
    let count: usize = words.next().and_then(integer)?.try_into().ok()?;
    let expected = count.checked_mul(each)?;
    (count > 0 && words.clone().count() == expected).then_some(count)
}

/// `HEXPIRE k seconds [NX|XX|GT|LT] FIELDS n f…`.
pub(super) fn hexpire<'a>(args: &Args<'a>, context: &Context<'_>) -> Plan<'a> {
    let (Some(key), Some(seconds)) = (args.get(1), args.get(2).and_then(integer)) else {
        return Plan::malformed("HEXPIRE without a time");
    };
    let mut words = after(args, 3);
    let mut option = words.next();
    let condition = option.filter(|word| !is(word, "FIELDS"));
    if condition.is_some() {
        option = words.next();
    }
    let named = option.is_some_and(|word| is(word, "FIELDS"));
    let Some(count) = named.then(|| fields(&mut words, 1)).flatten() else {
        return Plan::malformed("HEXPIRE without fields");
    };
    if seconds <= 0 && condition.is_none() {
        // Gone at once: no clock has to agree.
        return Plan::words(Commands::new(b"HDEL", count + 2).word(key).words(words));
    }
    let at = if seconds <= 0 {
        1
    } else {
        expires_in(context, seconds)
    };
    if !context.features.hash_field_expiry() {
        return without_expiry(context, at, None);
    }
    if is_vague(context) {
        return Plan::ReadAgain(Defect::VagueTime);
    }
    Plan::words(expire_fields(key, at, condition, words, count))
}

/// An expiry option of `HSETEX` and `HGETEX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expiry {
    /// None was given.
    None,
    /// At this time.
    At(i64),
    /// What there is stays.
    Keep,
    /// What there is goes.
    Persist,
}

/// Reads `EX s`, `PX ms`, `EXAT s`, `PXAT ms`, `KEEPTTL` or `PERSIST`; `Err` if a number is
/// missing, `Ok(None)` if it is another word.
fn expiry(
    word: &[u8],
    words: &mut ArgsIter<'_>,
    context: &Context<'_>,
) -> Result<Option<Expiry>, Plan<'static>> {
    if is(word, "KEEPTTL") {
        return Ok(Some(Expiry::Keep));
    }
    if is(word, "PERSIST") {
        return Ok(Some(Expiry::Persist));
    }
    let time: fn(&Context<'_>, i64) -> i64 = if is(word, "EX") {
        expires_in
    } else if is(word, "PX") {
        member_expires_in
    } else if is(word, "EXAT") {
        |_, time| time.saturating_mul(1000)
    } else if is(word, "PXAT") {
        |context, time| member_expires_in(context, time.saturating_sub(context.received_at_ms))
    } else {
        return Ok(None);
    };
    let number = words.next().and_then(integer);
    let number = number.ok_or_else(|| Plan::malformed("an option without its time"))?;
    Ok(Some(Expiry::At(time(context, number))))
}

/// `HGETEX k [option] FIELDS n f…`: the expiry is all that it changes.
pub(super) fn hgetex<'a>(args: &Args<'a>, context: &Context<'_>) -> Plan<'a> {
    let mut words = after(args, 1);
    let Some(key) = words.next() else {
        return Plan::malformed("HGETEX without a key");
    };
    let mut set = Expiry::None;
    let count = loop {
        let Some(word) = words.next() else {
            return Plan::malformed("HGETEX without fields");
        };
        if is(word, "FIELDS") {
            break fields(&mut words, 1);
        }
        match expiry(word, &mut words, context) {
            Ok(Some(found)) => set = found,
            Ok(None) => return Plan::malformed("HGETEX with an unknown option"),
            Err(plan) => return plan,
        }
    };
    let Some(count) = count else {
        return Plan::malformed("HGETEX with another number of fields");
    };
    match set {
        Expiry::None | Expiry::Keep => Plan::Nothing(Nothing::NoEffect),
        // Without field expiry nothing was set, and nothing is to be undone.
        Expiry::Persist if !context.features.hash_field_expiry() => {
            Plan::Nothing(Nothing::NoEffect)
        }
        Expiry::At(at) if !context.features.hash_field_expiry() => {
            without_expiry(context, at, None)
        }
        Expiry::Persist => {
            let command = Commands::new(b"HPERSIST", count + 4)
                .words([key, b"FIELDS"])
                .number(count as i64)
                .words(words);
            Plan::words(command)
        }
        Expiry::At(_) if is_vague(context) => Plan::ReadAgain(Defect::VagueTime),
        Expiry::At(time) => Plan::words(expire_fields(key, time, None, words, count)),
    }
}

/// Which fields an `HSETEX` sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// All.
    Always,
    /// Each that does not exist.
    EachAbsent,
    /// All, if none exists.
    NoneExists,
    /// All, if all exist.
    AllExist,
}

impl When {
    fn word(self) -> &'static [u8] {
        match self {
            Self::Always => b"",
            Self::EachAbsent => b"NX",
            Self::NoneExists => b"FNX",
            Self::AllExist => b"FXX",
        }
    }
}

/// An `HSETEX` of either form, understood.
struct HSetEx<'a> {
    key: &'a [u8],
    when: When,
    /// Fields that exist keep the expiry that they have.
    keep: bool,
    /// Expiry of the fields that are set.
    at_ms: Option<i64>,
    /// Fields and values.
    pairs: ArgsIter<'a>,
    count: usize,
}

/// Reads `HSETEX k [NX|FNX|FXX] [KEEPTTL] seconds f v …` (Dragonfly's own) and
/// `HSETEX k [FNX|FXX] [EX s|PX ms|EXAT s|PXAT ms|KEEPTTL] FIELDS n f v …` (Redis 8).
fn read_hsetex<'a>(args: &Args<'a>, context: &Context<'_>) -> Result<HSetEx<'a>, Plan<'static>> {
    let mut words = after(args, 1);
    let key = words.next().unwrap_or_default();
    let (mut when, mut keep, mut at_ms) = (When::Always, false, None);
    loop {
        let Some(word) = words.next() else {
            return Err(Plan::malformed("HSETEX without fields"));
        };
        if is(word, "NX") {
            when = When::EachAbsent;
        } else if is(word, "FNX") {
            when = When::NoneExists;
        } else if is(word, "FXX") {
            when = When::AllExist;
        } else if is(word, "FIELDS") {
            let count = fields(&mut words, 2);
            let count = count.ok_or_else(|| Plan::malformed("HSETEX with odd fields"))?;
            return Ok(HSetEx {
                key,
                when,
                keep,
                at_ms,
                pairs: words,
                count,
            });
        } else if let Some(seconds) = integer(word) {
            let left = words.clone().count();
            if left == 0 || !left.is_multiple_of(2) {
                return Err(Plan::malformed("HSETEX with odd fields"));
            }
            let at_ms = Some(expires_in(context, seconds));
            return Ok(HSetEx {
                key,
                when,
                keep,
                at_ms,
                pairs: words,
                count: left / 2,
            });
        } else {
            match expiry(word, &mut words, context)? {
                Some(Expiry::Keep) => keep = true,
                Some(Expiry::At(time)) => at_ms = Some(time),
                _ => return Err(Plan::malformed("HSETEX with an unknown option")),
            }
        }
    }
}

/// Sets fields as `HSETEX` does: ARGV is the condition, whether fields that exist keep their
/// expiry, the expiry of the others (may be empty), fields and values.
const SET_FIELDS: &[u8] = b"local k,when,keep,at=KEYS[1],ARGV[1],ARGV[2]=='1',ARGV[3] \
    if when=='FNX' or when=='FXX' then for i=4,#ARGV,2 do \
    if (when=='FNX')==(redis.call('HEXISTS',k,ARGV[i])==1) then return 0 end end end \
    for i=4,#ARGV,2 do local f=ARGV[i] local there=redis.call('HEXISTS',k,f)==1 \
    if not (there and when=='NX') then local t=at \
    if there and keep then local was=redis.call('HPEXPIRETIME',k,'FIELDS',1,f)[1] \
    t=was>0 and string.format('%.0f',was) or '' end \
    redis.call('HSET',k,f,ARGV[i+1]) \
    if t~='' then redis.call('HPEXPIREAT',k,t,'FIELDS',1,f) end end end return 1";

/// `HSETEX` in either form.
pub(super) fn hsetex<'a>(args: &Args<'a>, context: &Context<'_>) -> Plan<'a> {
    let set = match read_hsetex(args, context) {
        Ok(set) => set,
        Err(plan) => return plan,
    };
    if !context.features.hash_field_expiry() {
        let command = match set.when {
            When::Always => hset(&set),
            _ => script(&set, false, None),
        };
        // Nothing can have an expiry here: without a new one there is nothing to drop.
        return match set.at_ms {
            None => Plan::words(command),
            Some(at) => without_expiry(context, at, Some(command)),
        };
    }
    if set.at_ms.is_some() && is_vague(context) {
        return Plan::ReadAgain(Defect::VagueTime);
    }
    let plain = !set.keep && set.when != When::EachAbsent;
    Plan::words(match (set.when, set.at_ms) {
        (When::Always, None) if !set.keep => hset(&set),
        (_, Some(at)) if plain && context.features.hash_set_with_expiry() => native(&set, at),
        (When::Always, Some(at)) if plain => hset(&set)
            .next(b"HPEXPIREAT")
            .word(set.key)
            .number(at)
            .words([&b"FIELDS"[..]])
            .number(set.count as i64)
            .words(set.pairs.clone().step_by(2)),
        (_, at) => script(&set, set.keep, at),
    })
}

fn hset<'a>(set: &HSetEx<'a>) -> Commands<'a> {
    Commands::new(b"HSET", set.count.saturating_mul(2).saturating_add(2))
        .word(set.key)
        .words(set.pairs.clone())
}

fn native<'a>(set: &HSetEx<'a>, at_ms: i64) -> Commands<'a> {
    let condition = Some(set.when.word()).filter(|word| !word.is_empty());
    Commands::new(b"HSETEX", set.count.saturating_mul(2).saturating_add(7))
        .word(set.key)
        .words(condition)
        .words([&b"PXAT"[..]])
        .number(at_ms)
        .words([&b"FIELDS"[..]])
        .number(set.count as i64)
        .words(set.pairs.clone())
}

fn script<'a>(set: &HSetEx<'a>, keep: bool, at_ms: Option<i64>) -> Commands<'a> {
    let keep: &[u8] = if keep { b"1" } else { b"0" };
    let command = Commands::new(b"EVAL", set.count.saturating_mul(2).saturating_add(7)).words([
        SET_FIELDS,
        b"1",
        set.key,
        set.when.word(),
        keep,
    ]);
    match at_ms {
        Some(at) => command.number(at),
        None => command.words([&b""[..]]),
    }
    .words(set.pairs.clone())
}
