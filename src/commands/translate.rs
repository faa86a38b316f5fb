//! The translations of single commands, one function each.
//!
//! Each has the words as the source journals them, checked only for what it reads; a target that
//! refuses the rest says so itself.

use super::keys::{counted, geo_store, sort_store};
use super::plan::{Commands, Context, Defect, Global, Kind, Note, Nothing, Plan, Reason, Restore};
use crate::entry::Args;

/// Whether a word is this option, whatever its case.
pub(super) fn is(word: &[u8], option: &str) -> bool {
    word.eq_ignore_ascii_case(option.as_bytes())
}

/// A word as a decimal integer.
pub(super) fn integer(word: &[u8]) -> Option<i64> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

/// `SET`: `STICK` and `_MCFLAGS n` go; `PXAT` becomes a command of its own before Redis 6.2.
#[inline]
pub(super) fn set<'a>(args: &Args<'a>, context: &Context<'_>) -> Plan<'a> {
    if args.len() == 3 {
        return Plan::AsIs(None);
    }
    let recent = context.features.at_least(6, 2);
    let mut options = args.iter().skip(3);
    match (options.next(), args.len()) {
        (Some(option), 5) if recent && is(option, "PXAT") => Plan::AsIs(None),
        (Some(option), 4) if recent && is(option, "KEEPTTL") => Plan::AsIs(None),
        _ => set_with_options(args, context, recent),
    }
}

fn set_with_options<'a>(args: &Args<'a>, context: &Context<'_>, recent: bool) -> Plan<'a> {
    let mut words = args.iter().skip(1);
    let (Some(key), Some(value)) = (words.next(), words.next()) else {
        return Plan::malformed("SET without a value");
    };
    let mut command = Commands::new(b"SET", args.len()).words([key, value]);
    let mut expire_at = None;
    while let Some(option) = words.next() {
        if is(option, "STICK") {
            continue;
        } else if is(option, "_MCFLAGS") {
            words.next();
        } else if is(option, "PXAT") && !recent {
            expire_at = words.next();
        } else if is(option, "KEEPTTL") && !context.features.at_least(6, 0) {
            return Plan::release(6, 0);
        } else {
            command = command.word(option);
        }
    }
    if let Some(time) = expire_at {
        command = command.next(b"PEXPIREAT").words([key, time]);
    }
    Plan::words(command)
}

/// The same words under another name, at most `words` of them.
pub(super) fn renamed<'a>(args: &Args<'a>, name: &'static [u8], words: usize) -> Plan<'a> {
    let rest = args.iter().take(words).skip(1);
    if args.len() < words.min(3) {
        return Plan::malformed("words are missing");
    }
    Plan::words(Commands::new(name, args.len()).words(rest))
}

/// Puts `ARGV[1]` before the string; an absent key counts as empty, an expiry stays.
const PREPEND: &[u8] =
    b"redis.call('SET',KEYS[1],ARGV[1]..(redis.call('GET',KEYS[1]) or ''),'KEEPTTL')";

/// `PREPEND`: a script, so that reading and writing are one step.
pub(super) fn prepend<'a>(args: &Args<'a>, context: &Context<'_>) -> Plan<'a> {
    if !context.features.at_least(6, 0) {
        return Plan::release(6, 0);
    }
    match (args.get(1), args.get(2)) {
        (Some(key), Some(value)) => {
            Plan::words(Commands::new(b"EVAL", 5).words([PREPEND, b"1", key, value]))
        }
        _ => Plan::malformed("PREPEND without a value"),
    }
}

/// `BITFIELD`: nothing if it only reads.
pub(super) fn bitfield<'a>(args: &Args<'a>) -> Plan<'a> {
    let mut words = args.iter().skip(2);
    while let Some(word) = words.next() {
        // GET type offset; OVERFLOW behaviour.
        if is(word, "GET") {
            words.nth(1);
        } else if is(word, "OVERFLOW") {
            words.next();
        } else {
            return Plan::AsIs(None);
        }
    }
    Plan::Nothing(Nothing::NoEffect)
}

/// `EXPIRE` and `PEXPIRE`: relative times become absolute.
pub(super) fn expire_in<'a>(args: &Args<'a>, context: &Context<'_>, unit_ms: i64) -> Plan<'a> {
    let (Some(key), Some(time)) = (args.get(1), args.get(2).and_then(integer)) else {
        return Plan::malformed("no time");
    };
    let command = Commands::new(b"PEXPIREAT", args.len())
        .word(key)
        .number(absolute(context, time, unit_ms))
        .words(args.iter().skip(3));
    Plan::words(command)
}

/// A time relative to the receipt of the entry as an absolute one, never before 1970.
pub(super) fn absolute(context: &Context<'_>, time: i64, unit_ms: i64) -> i64 {
    context
        .received_at_ms
        .saturating_add(time.saturating_mul(unit_ms))
        .max(1)
}

/// When a member of a set or a hash expires that has `ms` to live: the source counts whole seconds, from the whole second
/// in which it executes the command.
pub(super) fn member_expires_in(context: &Context<'_>, ms: i64) -> i64 {
    let now = context.received_at_ms.div_euclid(1000);
    let seconds = ms.div_euclid(1000) + i64::from(ms.rem_euclid(1000) > 0);
    now.saturating_add(seconds).saturating_mul(1000).max(1)
}

/// `MOVE`: the database is renumbered. It is journalled even when it moved nothing, so a key that
/// goes to a database that is not copied cannot simply be deleted.
pub(super) fn move_key<'a>(args: &Args<'a>, context: &Context<'_>) -> Plan<'a> {
    let (Some(key), Some(db)) = (args.get(1), args.get(2).and_then(database)) else {
        return Plan::malformed("MOVE without a database");
    };
    match ((context.map_db)(context.db), (context.map_db)(db)) {
        (None, None) => Plan::Nothing(Nothing::NoEffect),
        (Some(from), Some(to)) if from == to => Plan::Nothing(Nothing::NoEffect),
        (Some(_), Some(to)) if to == db => Plan::AsIs(None),
        (Some(_), Some(to)) => {
            Plan::words(Commands::new(b"MOVE", 3).word(key).number(i64::from(to)))
        }
        _ => Plan::unsupported(Kind::Command, Reason::OtherDatabase),
    }
}

fn database(word: &[u8]) -> Option<u32> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

/// `COPY`: as it is, unless it names a database.
pub(super) fn copy<'a>(args: &Args<'a>, context: &Context<'_>) -> Plan<'a> {
    if args.len() < 3 {
        return Plan::result_lost(context);
    }
    let mut command = Commands::new(b"COPY", args.len()).words(args.iter().skip(1).take(2));
    let mut named = false;
    let mut words = args.iter().skip(3);
    while let Some(word) = words.next() {
        command = command.word(word);
        if is(word, "DB") {
            let Some(db) = words.next().and_then(database) else {
                return Plan::malformed("COPY without a database");
            };
            let Some(to) = (context.map_db)(db) else {
                return Plan::unsupported(Kind::Command, Reason::OtherDatabase);
            };
            command = command.number(i64::from(to));
            named = true;
        }
    }
    if named {
        Plan::words(command)
    } else {
        Plan::AsIs(None)
    }
}

/// `RESTORE`: a relative time becomes absolute, `STICK` and the eviction hints go.
pub(super) fn restore<'a>(args: &Args<'a>, context: &Context<'_>) -> Plan<'a> {
    let mut words = args.iter().skip(1);
    let (Some(key), Some(time), Some(payload)) = (words.next(), words.next(), words.next()) else {
        return Plan::malformed("RESTORE without a payload");
    };
    let Some(time) = integer(time).filter(|time| *time >= 0) else {
        return Plan::malformed("RESTORE without a time");
    };
    let expire_at_ms = match time {
        0 => None,
        _ if words.any(|word| is(word, "ABSTTL")) => Some(time),
        _ if context.circumstances.reads_again => return Plan::ReadAgain(Defect::VagueTime),
        _ => Some(absolute(context, time, 1)),
    };
    Plan::Restore(Restore {
        key,
        payload,
        expire_at_ms,
    })
}

/// `PEXPIREAT`: an end that is past when it comes may be what the source journals for a mere `GETEX`.
pub(super) fn expire_at<'a>(args: &Args<'a>, context: &Context<'_>) -> Plan<'a> {
    /// By how much the source's clock may be taken for slower than it is.
    const CLOCK_MS: i64 = 500;
    let is_past = || {
        let at = args.get(2).and_then(integer);
        at.is_some_and(|at| at <= context.received_at_ms.saturating_add(CLOCK_MS))
    };
    if context.circumstances.reads_end_keys && is_past() {
        Plan::again(context, Defect::ReadEndsKey, Plan::AsIs(None))
    } else {
        Plan::AsIs(None)
    }
}

/// `SORT`: matters only with `STORE`. With nothing but a key inside a transaction, it may be what
/// the source journals for a `SORT … STORE` over several shards.
pub(super) fn sort<'a>(args: &Args<'a>, context: &Context<'_>) -> Plan<'a> {
    if sort_store(args).is_some() {
        Plan::again(context, Defect::ComputedAnew, Plan::AsIs(None))
    } else if args.len() == 2 && context.txid != 0 {
        let perhaps = Plan::Nothing(Nothing::PerhapsLost);
        Plan::again(context, Defect::ResultLost, perhaps)
    } else {
        Plan::Nothing(Nothing::NoEffect)
    }
}

/// `GEORADIUS` and the like, `words` at least: matters only with `STORE`.
pub(super) fn geo<'a>(args: &Args<'a>, context: &Context<'_>, words: usize) -> Plan<'a> {
    if args.len() < words {
        Plan::result_lost(context)
    } else if geo_store(args, words).is_some() {
        Plan::again(context, Defect::ComputedAnew, Plan::AsIs(None))
    } else {
        Plan::Nothing(Nothing::NoEffect)
    }
}

/// `LPOP` and `RPOP`: a count needs Redis 6.2.
pub(super) fn pop<'a>(args: &Args<'a>, context: &Context<'_>) -> Plan<'a> {
    if args.len() > 2 && !context.features.at_least(6, 2) {
        Plan::release(6, 2)
    } else {
        Plan::AsIs(None)
    }
}

/// `LMPOP` and `ZMPOP`: with one key they are a pop of either end, which every target knows.
pub(super) fn mpop<'a>(
    args: &Args<'a>,
    context: &Context<'_>,
    least: &'static [u8],
    most: &'static [u8],
) -> Plan<'a> {
    let Some(keys) = counted(args, 1) else {
        return Plan::result_lost(context);
    };
    if context.features.at_least(7, 0) {
        return Plan::AsIs(None);
    }
    let mut words = args.iter().skip(2);
    let (1, Some(key), Some(end)) = (keys, words.next(), words.next()) else {
        return Plan::release(7, 0);
    };
    let name = if is(end, "LEFT") || is(end, "MIN") {
        least
    } else {
        most
    };
    let command = Commands::new(name, 3).word(key);
    match (words.next(), words.next()) {
        (Some(_), Some(count)) if name.starts_with(b"Z") || context.features.at_least(6, 2) => {
            Plan::words(command.word(count))
        }
        (Some(_), Some(_)) => Plan::release(6, 2),
        _ => Plan::words(command),
    }
}

/// `ZUNIONSTORE d n k…` and the like: over several shards the source journals only keys.
pub(super) fn store_counted<'a>(args: &Args<'a>, context: &Context<'_>) -> Plan<'a> {
    if counted(args, 2).is_some() {
        Plan::AsIs(None)
    } else {
        Plan::result_lost(context)
    }
}

/// `CMS.MERGE d n k…`: likewise, and a sketch that is read again cannot be converted.
pub(super) fn cms_merge<'a>(args: &Args<'a>) -> Plan<'a> {
    if counted(args, 2).is_some() {
        Plan::AsIs(None)
    } else {
        Plan::unsupported(Kind::Lost, Reason::Lost)
    }
}

/// `ZRANGESTORE d k min max`: likewise.
pub(super) fn zrangestore<'a>(args: &Args<'a>, context: &Context<'_>) -> Plan<'a> {
    if args.len() >= 5 {
        Plan::AsIs(None)
    } else {
        Plan::result_lost(context)
    }
}

/// `ZADD` and `GEOADD`: options that came with Redis 6.2.
pub(super) fn add_with_options<'a>(args: &Args<'a>, context: &Context<'_>) -> Plan<'a> {
    if context.features.at_least(6, 2) {
        return Plan::AsIs(None);
    }
    let geo = args.name().first().is_some_and(|first| is(&[*first], "G"));
    let recent: &[&str] = if geo {
        &["NX", "XX", "CH"]
    } else {
        &["GT", "LT"]
    };
    let options = ["NX", "XX", "CH", "INCR", "GT", "LT"];
    let found = args
        .iter()
        .skip(2)
        .take_while(|word| options.iter().any(|option| is(word, option)))
        .any(|word| recent.iter().any(|option| is(word, option)));
    if found {
        Plan::release(6, 2)
    } else {
        Plan::AsIs(None)
    }
}

/// `XADD`: releases before v1.27 leave the choice of the id to whoever applies the entry.
pub(super) fn xadd<'a>(args: &Args<'a>, context: &Context<'_>) -> Plan<'a> {
    let mut words = args.iter().skip(2).peekable();
    let mut recent = false;
    while let Some(word) = words.next() {
        if is(word, "NOMKSTREAM") {
            recent = true;
        } else if is(word, "LIMIT") {
            recent = true;
            words.next();
        } else if is(word, "MAXLEN") || is(word, "MINID") {
            recent |= is(word, "MINID");
            words.next_if(|word| *word == b"=" || *word == b"~");
            words.next();
        } else {
            if recent && !context.features.at_least(6, 2) {
                return Plan::release(6, 2);
            }
            return match word.ends_with(b"*") {
                true => {
                    let chosen = Plan::AsIs(Some(Note::StreamIdChosen));
                    Plan::again(context, Defect::IdOpen, chosen)
                }
                false => Plan::AsIs(None),
            };
        }
    }
    Plan::malformed("XADD without an id")
}

/// `XTRIM`: `MINID` and `LIMIT` need Redis 6.2.
pub(super) fn xtrim<'a>(args: &Args<'a>, context: &Context<'_>) -> Plan<'a> {
    let recent = |word: &[u8]| is(word, "MINID") || is(word, "LIMIT");
    if context.features.at_least(6, 2) || !args.iter().skip(2).any(recent) {
        Plan::AsIs(None)
    } else {
        Plan::release(6, 2)
    }
}

/// Moves a group, and leaves its count of entries read as it is: `XGROUP SETID` alone forgets it.
const MOVE_GROUP: &[u8] = b"local read=false \
    for _,group in ipairs(redis.call('XINFO','GROUPS',KEYS[1])) do if group[2]==ARGV[1] then \
    for i=1,#group,2 do if group[i]=='entries-read' then read=group[i+1] end end end end \
    if read then return redis.call('XGROUP','SETID',KEYS[1],ARGV[1],ARGV[2],'ENTRIESREAD',read) end \
    return redis.call('XGROUP','SETID',KEYS[1],ARGV[1],ARGV[2])";

/// `XGROUP`: `ENTRIESREAD n` goes before Redis 7.0; from there on `SETID` without it keeps the count,
/// as it does at the source.
pub(super) fn xgroup<'a>(args: &Args<'a>, context: &Context<'_>) -> Plan<'a> {
    let features = context.features;
    if features.at_least(7, 0) {
        let moves = args.len() == 5 && args.get(1).is_some_and(|word| is(word, "SETID"));
        return match (moves, args.get(2), args.get(3), args.get(4)) {
            (true, Some(key), Some(group), Some(id)) => {
                let words = [MOVE_GROUP, b"1", key, group, id];
                Plan::words(Commands::new(b"EVAL", 6).words(words))
            }
            _ => Plan::AsIs(None),
        };
    }
    let creates = |word| is(word, "CREATECONSUMER");
    if args.get(1).is_some_and(creates) && !features.at_least(6, 2) {
        return Plan::release(6, 2);
    }
    // XGROUP CREATE|SETID key group id [MKSTREAM] [ENTRIESREAD n]
    if args.iter().skip(5).all(|word| !is(word, "ENTRIESREAD")) {
        return Plan::AsIs(None);
    }
    let mut command = Commands::new(b"XGROUP", args.len()).words(args.iter().take(5).skip(1));
    let mut words = args.iter().skip(5);
    while let Some(word) = words.next() {
        if is(word, "ENTRIESREAD") {
            words.next();
        } else {
            command = command.word(word);
        }
    }
    Plan::words(command)
}

/// `SCRIPT`: only `LOAD` means something to the target.
pub(super) fn script<'a>(args: &Args<'a>) -> Plan<'a> {
    match args.get(1) {
        Some(word) if is(word, "LOAD") => Plan::AsIs(None),
        Some(word) if is(word, "FLAGS") => Plan::Nothing(Nothing::SourceOnly),
        _ => Plan::unsupported(Kind::Command, Reason::NoCounterpart),
    }
}

/// `DFLYCLUSTER FLUSHSLOTS first last …`.
pub(super) fn dflycluster<'a>(args: &Args<'a>) -> Plan<'a> {
    if !args.get(1).is_some_and(|word| is(word, "FLUSHSLOTS")) {
        return Plan::unsupported(Kind::Command, Reason::NoCounterpart);
    }
    let slot = |word: &[u8]| {
        std::str::from_utf8(word)
            .ok()
            .and_then(|word| word.parse().ok())
            .filter(|slot: &u16| *slot < 16384)
    };
    let mut ranges = Vec::with_capacity(args.len() / 2);
    let mut words = args.iter().skip(2);
    while let Some(first) = words.next() {
        match (slot(first), words.next().and_then(slot)) {
            (Some(first), Some(last)) if first <= last => ranges.push((first, last)),
            _ => return Plan::malformed("not a range of slots"),
        }
    }
    if ranges.is_empty() {
        return Plan::malformed("no slots");
    }
    Plan::Global(Global::FlushSlots(ranges))
}
