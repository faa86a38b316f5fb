//! Every command that a Dragonfly journal can carry, as data.
//!
//! Invariants: one row per command; [`lookup`] finds each row whatever the case of the name, and
//!   nothing else. A command without a row is not sent.
//! Facts: the journal of Dragonfly v1.14 to v1.40.1; the releases are those of Redis. Valkey began
//!   at 7.2, so its numbers may be compared with them.

use super::plan::Kind;

/// Where a command's keys stand. The name is word 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    /// It has none.
    None,
    /// One, the word with this index.
    At(u8),
    /// Words 1 and 2.
    Two,
    /// From word `first` to the end, every `step` words.
    Every {
        /// Index of the first.
        first: u8,
        /// Distance to the next.
        step: u8,
    },
    /// Word 1 is a count, and that many keys follow.
    Counted,
    /// Word 1 is a key, word 2 a count, and that many keys follow.
    CountedInto,
    /// `SORT`: word 1, and the key after `STORE` if there is one.
    Sort,
    /// `GEORADIUS` and `GEORADIUSBYMEMBER`: word 1, and the key after `STORE` or `STOREDIST`,
    /// which can come from this word on.
    Geo(u8),
}

/// What a command does with its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Roles {
    /// Changes each by itself; none has to do with another.
    Each,
    /// Replaces or deletes each whole; none has to do with another.
    EachWhole,
    /// `RENAME`: deletes the first, replaces the second.
    Rename,
    /// `COPY`, `SORT … STORE`: reads the first, replaces the second.
    Copy,
    /// `LMOVE`: takes from the first, adds to the second.
    Transfer,
    /// `PFMERGE`: changes the first from the others.
    Into,
    /// `BITOP`: replaces the first from the others.
    IntoWhole,
    /// `LMPOP`: changes one of them, and which depends on all.
    Pop,
}

/// What a target must have before it knows the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Nothing that a supported target lacks.
    Any,
    /// This release (major, minor).
    Release(u16, u16),
    /// The JSON commands.
    Json,
    /// The Bloom filter and sketch commands.
    Bloom,
}

/// An error reply that says no more than that the command was applied before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tolerates {
    /// No error reply is harmless.
    Nothing,
    /// The key that it moved is gone already.
    NoSuchKey,
    /// The consumer group was made already.
    BusyGroup,
    /// The stream has this id, or a greater one, already.
    OlderId,
}

impl Tolerates {
    /// Whether `error`, a reply without its `-`, is that error. Only for an entry that may have
    /// been applied before: at a first application the same reply means that the copies differ.
    pub fn covers(self, error: &[u8]) -> bool {
        match self {
            Self::Nothing => false,
            Self::NoSuchKey => error.starts_with(b"ERR no such key"),
            Self::BusyGroup => error.starts_with(b"BUSYGROUP"),
            Self::OlderId => {
                error.starts_with(b"ERR The ID specified in X")
                    && error.windows(7).any(|words| words == b"smaller")
            }
        }
    }
}

/// How a command becomes one that the target understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    AsIs,
    Set,
    SetNx,
    MSetNx,
    Prepend,
    AddFloat,
    AddFloatToField,
    Bitfield,
    Del,
    ExpireIn {
        unit_ms: i64,
    },
    Move,
    Copy,
    Restore,
    ExpireAt,
    Sort,
    Geo {
        words: u8,
    },
    Pop,
    MPop {
        least: &'static [u8],
        most: &'static [u8],
    },
    StoreCounted,
    CmsMerge,
    ZRangeStore,
    ZAdd,
    GeoAdd,
    SAddEx,
    FieldExpire,
    HSetEx,
    HGetEx,
    HExpire,
    XAdd,
    XTrim,
    XGroup,
    Script,
    FlushAll,
    FlushDb,
    DflyCluster,
    Ping,
    SourceOnly,
    NoCounterpart(Kind),
}

/// One row: all that is known about a command.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// The name, upper case.
    pub name: &'static str,
    /// Where its keys stand.
    pub keys: Keys,
    /// What it does with them.
    pub roles: Roles,
    /// What the target must have. Options of a command can need more.
    pub needs: Needs,
    /// The error reply that a second application may give.
    pub tolerates: Tolerates,
    pub(super) how: How,
}

/// A command that changes the key in word 1 and goes out as it came.
const fn one(name: &'static str) -> Spec {
    Spec {
        name,
        keys: Keys::At(1),
        roles: Roles::Each,
        needs: Needs::Any,
        tolerates: Tolerates::Nothing,
        how: How::AsIs,
    }
}

/// A command without keys.
const fn none(name: &'static str, how: How) -> Spec {
    one(name).keys(Keys::None).how(how)
}

/// A JSON command on the key in word 1.
const fn json(name: &'static str) -> Spec {
    one(name).needs(Needs::Json)
}

/// A command of the Bloom filter module on the key in word 1.
const fn bloom(name: &'static str) -> Spec {
    one(name).needs(Needs::Bloom)
}

/// A command of the search module.
const fn search(name: &'static str) -> Spec {
    none(name, How::NoCounterpart(Kind::Search))
}

impl Spec {
    const fn keys(mut self, keys: Keys) -> Self {
        self.keys = keys;
        self
    }

    const fn roles(mut self, roles: Roles) -> Self {
        self.roles = roles;
        self
    }

    const fn needs(mut self, needs: Needs) -> Self {
        self.needs = needs;
        self
    }

    const fn since(self, major: u16, minor: u16) -> Self {
        self.needs(Needs::Release(major, minor))
    }

    const fn tolerates(mut self, tolerates: Tolerates) -> Self {
        self.tolerates = tolerates;
        self
    }

    const fn how(mut self, how: How) -> Self {
        self.how = how;
        self
    }
}

const FROM_1: Keys = Keys::Every { first: 1, step: 1 };

/// The rows, by family.
pub(super) static COMMANDS: &[Spec] = &[
    // Strings.
    one("SET").roles(Roles::EachWhole).how(How::Set),
    one("SETNX").roles(Roles::EachWhole).how(How::SetNx),
    one("MSET")
        .keys(Keys::Every { first: 1, step: 2 })
        .roles(Roles::EachWhole),
    one("MSETNX")
        .keys(Keys::Every { first: 1, step: 2 })
        .roles(Roles::EachWhole)
        .how(How::MSetNx),
    one("GETSET").roles(Roles::EachWhole),
    one("GETDEL").roles(Roles::EachWhole).since(6, 2),
    one("APPEND"),
    one("PREPEND").how(How::Prepend),
    one("INCR"),
    one("DECR"),
    one("INCRBY"),
    one("DECRBY"),
    one("INCRBYFLOAT").how(How::AddFloat),
    one("SETRANGE"),
    one("SETBIT"),
    one("BITFIELD").how(How::Bitfield),
    one("BITOP")
        .keys(Keys::Every { first: 2, step: 1 })
        .roles(Roles::IntoWhole),
    one("PFADD"),
    one("PFMERGE").keys(FROM_1).roles(Roles::Into),
    one("CL.THROTTLE").how(How::NoCounterpart(Kind::Command)),
    // Keys.
    one("DEL").keys(FROM_1).roles(Roles::EachWhole),
    one("UNLINK").keys(FROM_1).roles(Roles::EachWhole),
    one("DELEX").roles(Roles::EachWhole).how(How::Del),
    one("EXPIRE").how(How::ExpireIn { unit_ms: 1000 }),
    one("PEXPIRE").how(How::ExpireIn { unit_ms: 1 }),
    one("EXPIREAT"),
    one("PEXPIREAT").how(How::ExpireAt),
    one("PERSIST"),
    one("RENAME")
        .keys(Keys::Two)
        .roles(Roles::Rename)
        .tolerates(Tolerates::NoSuchKey),
    one("RENAMENX")
        .keys(Keys::Two)
        .roles(Roles::Rename)
        .tolerates(Tolerates::NoSuchKey),
    one("COPY")
        .keys(Keys::Two)
        .roles(Roles::Copy)
        .since(6, 2)
        .how(How::Copy),
    one("MOVE").roles(Roles::EachWhole).how(How::Move),
    one("RESTORE").roles(Roles::EachWhole).how(How::Restore),
    one("STICK").keys(FROM_1).how(How::SourceOnly),
    one("SORT")
        .keys(Keys::Sort)
        .roles(Roles::Copy)
        .how(How::Sort),
    // Lists.
    one("LPUSH"),
    one("RPUSH"),
    one("LPUSHX"),
    one("RPUSHX"),
    one("LINSERT"),
    one("LSET"),
    one("LTRIM"),
    one("LREM"),
    one("LPOP").how(How::Pop),
    one("RPOP").how(How::Pop),
    one("LMOVE")
        .keys(Keys::Two)
        .roles(Roles::Transfer)
        .since(6, 2),
    one("RPOPLPUSH").keys(Keys::Two).roles(Roles::Transfer),
    one("LMPOP")
        .keys(Keys::Counted)
        .roles(Roles::Pop)
        .how(How::MPop {
            least: b"LPOP",
            most: b"RPOP",
        }),
    // Sets.
    one("SADD"),
    one("SREM"),
    one("SMOVE").keys(Keys::Two).roles(Roles::Transfer),
    one("SUNIONSTORE").keys(FROM_1).roles(Roles::IntoWhole),
    one("SINTERSTORE").keys(FROM_1).roles(Roles::IntoWhole),
    one("SDIFFSTORE").keys(FROM_1).roles(Roles::IntoWhole),
    one("SADDEX").how(How::SAddEx),
    one("FIELDEXPIRE").how(How::FieldExpire),
    // Sorted sets.
    one("ZADD").how(How::ZAdd),
    one("ZINCRBY"),
    one("ZREM"),
    one("ZREMRANGEBYRANK"),
    one("ZREMRANGEBYSCORE"),
    one("ZREMRANGEBYLEX"),
    one("ZPOPMIN"),
    one("ZPOPMAX"),
    one("ZMPOP")
        .keys(Keys::Counted)
        .roles(Roles::Pop)
        .how(How::MPop {
            least: b"ZPOPMIN",
            most: b"ZPOPMAX",
        }),
    one("ZUNIONSTORE")
        .keys(Keys::CountedInto)
        .roles(Roles::IntoWhole)
        .how(How::StoreCounted),
    one("ZINTERSTORE")
        .keys(Keys::CountedInto)
        .roles(Roles::IntoWhole)
        .how(How::StoreCounted),
    one("ZDIFFSTORE")
        .keys(Keys::CountedInto)
        .roles(Roles::IntoWhole)
        .since(6, 2)
        .how(How::StoreCounted),
    one("ZRANGESTORE")
        .keys(Keys::Two)
        .roles(Roles::IntoWhole)
        .since(6, 2)
        .how(How::ZRangeStore),
    // Hashes.
    one("HSET"),
    one("HMSET"),
    one("HDEL"),
    one("HSETNX"),
    one("HINCRBY"),
    one("HINCRBYFLOAT").how(How::AddFloatToField),
    one("HSETEX").how(How::HSetEx),
    one("HGETEX").how(How::HGetEx),
    one("HEXPIRE").how(How::HExpire),
    // Geo.
    one("GEOADD").how(How::GeoAdd),
    one("GEORADIUS")
        .keys(Keys::Geo(6))
        .roles(Roles::Copy)
        .how(How::Geo { words: 6 }),
    one("GEORADIUSBYMEMBER")
        .keys(Keys::Geo(5))
        .roles(Roles::Copy)
        .how(How::Geo { words: 5 }),
    // Streams.
    one("XADD").tolerates(Tolerates::OlderId).how(How::XAdd),
    one("XTRIM").how(How::XTrim),
    one("XDEL"),
    one("XACK"),
    one("XSETID").tolerates(Tolerates::OlderId),
    one("XGROUP")
        .keys(Keys::At(2))
        .tolerates(Tolerates::BusyGroup)
        .how(How::XGroup),
    one("XCLAIM"),
    one("XAUTOCLAIM").since(6, 2),
    // JSON.
    json("JSON.SET"),
    json("JSON.DEL"),
    json("JSON.FORGET"),
    json("JSON.MERGE"),
    json("JSON.CLEAR"),
    json("JSON.NUMINCRBY"),
    json("JSON.NUMMULTBY"),
    json("JSON.STRAPPEND"),
    json("JSON.ARRAPPEND"),
    json("JSON.ARRINSERT"),
    json("JSON.ARRPOP"),
    json("JSON.ARRTRIM"),
    json("JSON.TOGGLE"),
    json("JSON.MSET").keys(Keys::Every { first: 1, step: 3 }),
    // Bloom and cuckoo filters, sketches.
    bloom("BF.RESERVE"),
    bloom("BF.ADD"),
    bloom("BF.MADD"),
    bloom("BF.INSERT"),
    one("BF.LOADCHUNK").how(How::NoCounterpart(Kind::Bloom)),
    bloom("CMS.INITBYDIM"),
    bloom("CMS.INITBYPROB"),
    bloom("CMS.INCRBY"),
    bloom("CMS.MERGE")
        .keys(Keys::CountedInto)
        .roles(Roles::Into)
        .how(How::CmsMerge),
    bloom("TOPK.RESERVE"),
    bloom("TOPK.ADD"),
    bloom("TOPK.INCRBY"),
    bloom("CF.RESERVE"),
    bloom("CF.ADD"),
    bloom("CF.ADDNX"),
    bloom("CF.INSERT"),
    bloom("CF.INSERTNX"),
    bloom("CF.DEL"),
    // Search indexes.
    search("FT.CREATE"),
    search("FT.ALTER"),
    search("FT.DROPINDEX"),
    search("FT.SYNUPDATE"),
    // The whole server.
    none("FLUSHALL", How::FlushAll),
    none("FLUSHDB", How::FlushDb),
    none("DFLYCLUSTER", How::DflyCluster),
    none("SCRIPT", How::Script),
    none("SHRINK", How::SourceOnly),
    none("PING", How::Ping),
];

/// Slots of the hash index: a power of two, and enough that most probes hit at once.
const SLOTS: usize = 512;

/// An empty slot.
const EMPTY: u8 = u8::MAX;

/// Row numbers by hash of the name; a taken slot moves a row to the next free one.
static INDEX: [u8; SLOTS] = index();

const fn index() -> [u8; SLOTS] {
    assert!(COMMANDS.len() < EMPTY as usize);
    let mut slots = [EMPTY; SLOTS];
    let mut row = 0;
    while row < COMMANDS.len() {
        let mut slot = hash(COMMANDS[row].name.as_bytes());
        while slots[slot] != EMPTY {
            slot = (slot + 1) % SLOTS;
        }
        slots[slot] = row as u8;
        row += 1;
    }
    slots
}

/// Folds the name's upper-case bytes into a slot number.
const fn hash(name: &[u8]) -> usize {
    let mut sum = name.len() as u64;
    let mut at = 0;
    while at < name.len() {
        // Only a shift per byte: every entry of a journal is looked up.
        sum = sum.rotate_left(7) ^ name[at].to_ascii_uppercase() as u64;
        at += 1;
    }
    (sum.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % SLOTS
}

/// Longer than any name in the table: longer names are not looked at.
const LONGEST: usize = 24;

/// The row of a command, whatever the case of its name.
#[inline]
pub fn lookup(name: &[u8]) -> Option<&'static Spec> {
    if name.len() > LONGEST {
        return None;
    }
    let mut slot = hash(name);
    loop {
        let row = *INDEX.get(slot)?;
        // An empty slot holds a number that no row has, and ends the search.
        let spec = COMMANDS.get(usize::from(row))?;
        let known = spec.name.as_bytes();
        // As a master writes it, nearly always.
        if known == name || known.eq_ignore_ascii_case(name) {
            return Some(spec);
        }
        slot = (slot + 1) % SLOTS;
    }
}

/// The names of all rows, in the table's order.
pub fn names() -> impl Iterator<Item = &'static str> {
    COMMANDS.iter().map(|spec| spec.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_found_by_its_name_in_any_case_and_only_once() {
        for (row, spec) in COMMANDS.iter().enumerate() {
            assert!(spec.name.len() <= LONGEST);
            for name in [spec.name.to_string(), spec.name.to_lowercase()] {
                let found = lookup(name.as_bytes()).unwrap();
                assert!(std::ptr::eq(found, &COMMANDS[row]), "{name}");
            }
        }
    }

    #[test]
    fn what_has_no_row_is_not_found() {
        for name in [
            &b""[..],
            b"SE",
            b"SETT",
            b"GET",
            b"EVAL",
            &[0xFF; 300],
            &[0; 24],
        ] {
            assert!(lookup(name).is_none());
        }
    }

    #[test]
    fn the_index_is_sparse_enough_for_short_searches() {
        for spec in COMMANDS {
            let start = hash(spec.name.as_bytes());
            let probes = (0..SLOTS)
                .find(|step| {
                    let row = INDEX[(start + step) % SLOTS];
                    COMMANDS[usize::from(row)].name == spec.name
                })
                .unwrap();
            assert!(probes < 8, "{} takes {probes} probes", spec.name);
        }
        assert_eq!(hash(b"SET"), hash(b"set"));
    }

    #[test]
    fn only_the_error_of_a_second_application_is_tolerated() {
        let cases: [(Tolerates, &[u8], bool); 7] = [
            (Tolerates::NoSuchKey, b"ERR no such key", true),
            (Tolerates::NoSuchKey, b"WRONGTYPE Operation", false),
            (
                Tolerates::BusyGroup,
                b"BUSYGROUP Consumer Group name already exists",
                true,
            ),
            (
                Tolerates::BusyGroup,
                b"NOGROUP No such consumer group",
                false,
            ),
            (
                Tolerates::OlderId,
                b"ERR The ID specified in XADD is equal or smaller than the target stream top item",
                true,
            ),
            (Tolerates::OlderId, b"ERR Invalid stream ID", false),
            (Tolerates::Nothing, b"ERR no such key", false),
        ];
        for (tolerates, error, expected) in cases {
            assert_eq!(tolerates.covers(error), expected);
        }
    }
}
