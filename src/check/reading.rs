//! What was read of a key on one side, and how two readings differ.
//!
//! What one side does not tell (an older stream type, a value read in pieces) is `None` and not compared.

use std::fmt;

use serde_json::{Value as Json, json};

use super::batch::Found;
use super::digest::Digest;
use super::settings::Losses;

/// What a value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    String,
    /// A list.
    List,
    /// A set.
    Set,
    /// A hash.
    Hash,
    /// A sorted set.
    Sorted,
    /// A stream.
    Stream,
    /// A JSON document.
    Json,
    /// Something else, by the name that `TYPE` gives.
    Other(String),
}

impl Kind {
    /// By the name that `TYPE` gives; none for no key.
    pub(super) fn of_name(name: &str) -> Option<Self> {
        Some(match name {
            "none" => return None,
            "string" => Self::String,
            "list" => Self::List,
            "set" => Self::Set,
            "hash" => Self::Hash,
            "zset" => Self::Sorted,
            "stream" => Self::Stream,
            "ReJSON-RL" => Self::Json,
            other => Self::Other(other.to_owned()),
        })
    }

    /// The name that `TYPE` gives.
    pub fn name(&self) -> &str {
        match self {
            Self::String => "string",
            Self::List => "list",
            Self::Set => "set",
            Self::Hash => "hash",
            Self::Sorted => "zset",
            Self::Stream => "stream",
            Self::Json => "ReJSON-RL",
            Self::Other(name) => name,
        }
    }
}

/// What belongs to a stream beside its entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StreamParts {
    /// The id generated last.
    pub last: Digest,
    /// Entries ever added.
    pub added: Option<u64>,
    /// The greatest id that was deleted.
    pub max_deleted: Option<Digest>,
    /// Names of groups, and what each was delivered last.
    pub groups: Digest,
    /// Entries that each group has read.
    pub read: Option<Digest>,
    /// Names of consumers.
    pub consumers: Digest,
    /// Pending entries: group, id, how often they were delivered.
    pub pending: Option<Digest>,
    /// And to whom.
    pub owners: Option<Digest>,
    /// Consumers, and how many entries are pending for each.
    pub pending_counts: Option<Digest>,
    /// And when.
    pub pending_times: Option<Digest>,
    /// When consumers were seen last.
    pub seen: Option<Digest>,
    /// And got something last.
    pub active: Option<Digest>,
}

/// Expiry times of single members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemberExpiry {
    /// How many members have one.
    pub count: u64,
    /// Members and times.
    pub digest: Digest,
}

/// A key as one side shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// What it is.
    pub kind: Kind,
    /// Bytes of a string, elements of everything else; 0 where that means nothing.
    pub length: u64,
    /// All of the value; or of the parts that were looked at, the same on both sides.
    pub value: Option<Digest>,
    /// Only samples of the value were looked at.
    pub sampled: bool,
    /// When it expires, in Unix milliseconds.
    pub expires_at_ms: Option<i64>,
    /// Expiry times of its members, if this side tells.
    pub member_expiry: Option<MemberExpiry>,
    /// Members may have expired without a trace.
    pub members_expire: bool,
    /// What else a stream has.
    pub stream: Option<Box<StreamParts>>,
}

impl Reading {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            length: 0,
            value: None,
            sampled: false,
            expires_at_ms: None,
            member_expiry: None,
            members_expire: false,
            stream: None,
        }
    }

    /// For the report.
    pub(super) fn json(&self) -> Json {
        let mut text = json!({ "type": self.kind.name(), "length": self.length });
        let fields = [
            ("digest", self.value.map(|digest| json!(digest.to_string()))),
            ("expires_at_ms", self.expires_at_ms.map(|at| json!(at))),
            (
                "member_expiry",
                self.member_expiry.filter(|members| members.count > 0).map(
                    |members| json!({ "count": members.count, "digest": members.digest.to_string() }),
                ),
            ),
            ("stream", self.stream.as_deref().map(StreamParts::json)),
        ];
        if let Some(object) = text.as_object_mut() {
            for (name, value) in fields {
                if let Some(value) = value {
                    object.insert(name.to_owned(), value);
                }
            }
        }
        text
    }
}

impl StreamParts {
    fn json(&self) -> Json {
        let text = |digest: Digest| digest.to_string();
        json!({
            "last_id": text(self.last),
            "entries_added": self.added,
            "max_deleted_entry_id": self.max_deleted.map(text),
            "groups": text(self.groups),
            "entries_read": self.read.map(text),
            "consumers": text(self.consumers),
            "pending": self.pending.map(text),
            "pending_owners": self.owners.map(text),
            "pending_counts": self.pending_counts.map(text),
            "pending_times": self.pending_times.map(text),
            "seen_times": self.seen.map(text),
            "active_times": self.active.map(text),
        })
    }

    /// Whether what must be equal is, as far as both sides tell.
    fn agrees(&self, other: &Self) -> bool {
        self.last == other.last
            && agree(&self.added, &other.added)
            && agree(&self.max_deleted, &other.max_deleted)
            && self.groups == other.groups
            && agree(&self.read, &other.read)
            && self.consumers == other.consumers
            && agree(&self.pending, &other.pending)
            && agree(&self.owners, &other.owners)
            && agree(&self.pending_counts, &other.pending_counts)
            && agree(&self.pending_times, &other.pending_times)
    }

    fn same_times(&self, other: &Self) -> bool {
        agree(&self.seen, &other.seen) && agree(&self.active, &other.active)
    }
}

fn agree<T: PartialEq>(one: &Option<T>, other: &Option<T>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one == other,
        _ => true,
    }
}

/// How a key differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Only the source has it.
    Missing,
    /// Only the target has it.
    Extra,
    /// It is of another type.
    Type,
    /// The value is another one.
    Value,
    /// It has more or fewer elements or bytes.
    Length,
    /// It expires at another time, or only on one side.
    Expiry,
    /// Something else that belongs to a stream.
    StreamMetadata,
    /// Expiry times of single members.
    MemberExpiry,
    /// Expiry times of single members, which the task drops by its policy.
    DroppedMemberExpiry,
    /// A value without a counterpart on the target, which the task skips by its policy.
    Unsupported,
    /// The target had it before the task, which leaves it alone by its policy.
    Foreign,
    /// When a stream's consumers were seen or got something last, which no journal tells.
    ConsumerTimes,
}

impl Class {
    /// All, in the order of the table.
    pub const ALL: [Class; 12] = [
        Self::Missing,
        Self::Extra,
        Self::Type,
        Self::Value,
        Self::Length,
        Self::Expiry,
        Self::StreamMetadata,
        Self::MemberExpiry,
        Self::DroppedMemberExpiry,
        Self::Unsupported,
        Self::Foreign,
        Self::ConsumerTimes,
    ];

    /// The name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Type => "type",
            Self::Value => "value",
            Self::Length => "length",
            Self::Expiry => "expiry",
            Self::StreamMetadata => "stream_metadata",
            Self::MemberExpiry => "member_expiry",
            Self::DroppedMemberExpiry => "dropped_member_expiry",
            Self::Unsupported => "unsupported",
            Self::Foreign => "foreign",
            Self::ConsumerTimes => "consumer_times",
        }
    }

    /// Whether it is a loss that was chosen or cannot be helped, and no difference.
    pub const fn is_expected(self) -> bool {
        match self {
            Self::DroppedMemberExpiry | Self::Unsupported | Self::Foreign | Self::ConsumerTimes => {
                true
            }
            Self::Missing
            | Self::Extra
            | Self::Type
            | Self::Value
            | Self::Length
            | Self::Expiry
            | Self::StreamMetadata
            | Self::MemberExpiry => false,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How far apart two readings of one expiry time may be that is told as the time left.
const MOVES_MS: u64 = 100;

/// What counts as a difference.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// How far apart expiry times may be, in milliseconds.
    pub tolerance: i64,
    /// By how much later than at the source keys may expire on the target, beside that.
    pub grace: i64,
    pub losses: Losses,
}

impl Rules {
    /// How two readings differ; not at all if empty. Most telling first.
    pub fn differences(&self, source: Option<&Reading>, target: Option<&Reading>) -> Vec<Class> {
        let (source, target) = match (source, target) {
            (None, None) => return Vec::new(),
            (Some(source), None) if self.is_skipped(&source.kind) => {
                return vec![Class::Unsupported];
            }
            (Some(_), None) => return vec![Class::Missing],
            (None, Some(_)) => return vec![Class::Extra],
            (Some(source), Some(target)) => (source, target),
        };
        if source.kind != target.kind {
            let mut classes = vec![Class::Type];
            classes.extend(self.expiry(source, target));
            return classes;
        }
        let mut classes = Vec::new();
        let (value, length) = (self.value(source, target), source.length != target.length);
        // Members that have expired on the source are still on a target that was not told to remove them.
        let outlived =
            source.members_expire && self.losses.member_expiry && target.length > source.length;
        if outlived {
            classes.push(Class::DroppedMemberExpiry);
        } else {
            classes.extend(value);
            classes.extend(length.then_some(Class::Length));
        }
        classes.extend(self.expiry(source, target));
        if let (Some(here), Some(there)) = (&source.stream, &target.stream) {
            classes.extend((!here.agrees(there)).then_some(Class::StreamMetadata));
            classes.extend((!here.same_times(there)).then_some(Class::ConsumerTimes));
        }
        if let (Some(here), Some(there)) = (&source.member_expiry, &target.member_expiry)
            && here != there
            && !outlived
        {
            classes.push(match self.losses.member_expiry && there.count == 0 {
                true => Class::DroppedMemberExpiry,
                false => Class::MemberExpiry,
            });
        }
        classes
    }

    /// Whether two readings are the same but for what is expected.
    pub fn equal(&self, source: Option<&Reading>, target: Option<&Reading>) -> bool {
        let classes = self.differences(source, target);
        classes.iter().all(|class| class.is_expected())
    }

    /// Whether one side shows a key as it did before. Servers before Redis 7 tell only how long it has left, so when it
    /// expires moves a little from look to look.
    pub fn stays(&self, before: &Found, now: &Found) -> bool {
        match (before, now) {
            (Found::Read(before), Found::Read(now)) => {
                let apart = before.expires_at_ms.zip(now.expires_at_ms);
                let before = Reading {
                    expires_at_ms: match apart {
                        Some((before, now)) if before.abs_diff(now) <= self.steady_ms() => {
                            Some(now)
                        }
                        _ => before.expires_at_ms,
                    },
                    ..Reading::clone(before)
                };
                before == **now
            }
            (before, now) => before == now,
        }
    }

    fn steady_ms(&self) -> u64 {
        self.tolerance.unsigned_abs().max(MOVES_MS)
    }

    fn value(&self, source: &Reading, target: &Reading) -> Option<Class> {
        if source.sampled != target.sampled {
            // Their lengths differ, and tell it.
            return None;
        }
        (!agree(&source.value, &target.value)).then_some(Class::Value)
    }

    fn expiry(&self, source: &Reading, target: &Reading) -> Option<Class> {
        let differs = match (source.expires_at_ms, target.expires_at_ms) {
            (Some(here), Some(there)) => {
                let later = there.saturating_sub(here);
                later < -self.tolerance || later > self.tolerance.saturating_add(self.grace)
            }
            (here, there) => here != there,
        };
        differs.then_some(Class::Expiry)
    }

    fn is_skipped(&self, kind: &Kind) -> bool {
        match kind {
            Kind::Json => self.losses.json,
            Kind::Other(name) => {
                let name = name.to_ascii_lowercase();
                (name.starts_with("mbbloom") && !name.contains("cf") && self.losses.bloom)
                    || (name.starts_with("cms") && self.losses.cms)
                    || (name.starts_with("topk") && self.losses.topk)
                    || ((name.starts_with("mbbloomcf") || name.contains("cuckoo"))
                        && self.losses.cuckoo)
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expiring(at_ms: Option<i64>) -> Found {
        Found::Read(Box::new(Reading {
            expires_at_ms: at_ms,
            ..Reading::new(Kind::String)
        }))
    }

    #[test]
    fn a_key_stays_as_it_was_though_its_time_left_is_told_a_little_later() {
        let exact = Rules {
            tolerance: 0,
            grace: 0,
            losses: Losses::default(),
        };
        let loose = Rules {
            tolerance: 1000,
            ..exact
        };
        let before = expiring(Some(50_000));
        assert!(exact.stays(&before, &expiring(Some(50_001))));
        assert!(!exact.stays(&before, &expiring(Some(50_101))));
        assert!(loose.stays(&before, &expiring(Some(49_000))));
        assert!(!loose.stays(&before, &expiring(Some(51_001))));
        assert!(!loose.stays(&before, &expiring(None)));
        assert!(!loose.stays(&before, &Found::Absent));
        let other = Found::Read(Box::new(Reading::new(Kind::List)));
        assert!(!loose.stays(&expiring(None), &other));
    }
}
