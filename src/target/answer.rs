//! What an error reply means for the command it answers.
//!
//! Facts: error codes of Redis 5 to 8 and Valkey, as their sources and the captures show them.

/// Errors of a command that are no failure: what it was to bring about is there already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Tolerate {
    /// None.
    #[default]
    Nothing,
    /// The key, or what the command acts on in it, is gone.
    NoSuchKey,
    /// The consumer group exists.
    BusyGroup,
    /// The stream is already at that id or past it.
    StreamId,
}

impl Tolerate {
    /// Whether this error is none.
    pub fn covers(self, error: &[u8]) -> bool {
        match self {
            Self::Nothing => false,
            Self::NoSuchKey => {
                contains(error, b"no such key") || contains(error, b"requires the key to exist")
            }
            Self::BusyGroup => error.starts_with(b"BUSYGROUP"),
            Self::StreamId => {
                contains(error, b"equal or smaller than") || contains(error, b"is smaller than")
            }
        }
    }
}

/// Why a target refuses for now what it would accept later. Nothing was executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// `maxmemory` is reached and nothing can be evicted.
    OutOfMemory,
    /// It reads its dataset from disk.
    Loading,
    /// It is a replica.
    ReadOnly,
    /// A script or function runs for too long.
    Busy,
    /// A replica without its master.
    MasterDown,
    /// A cluster's slot is on the move.
    TryAgain,
    /// A cluster has no master for a slot.
    ClusterDown,
    /// It cannot persist, and is set to refuse writes then.
    CannotPersist,
    /// It has fewer good replicas than `min-replicas-to-write`.
    NoReplicas,
}

impl Refusal {
    /// Whether what the target holds may be another dataset afterwards: it was restarted, reads its dataset
    /// anew, or was made a replica of another server.
    pub fn may_change_dataset(self) -> bool {
        match self {
            Self::Loading | Self::ReadOnly | Self::MasterDown => true,
            Self::OutOfMemory
            | Self::Busy
            | Self::TryAgain
            | Self::ClusterDown
            | Self::CannotPersist
            | Self::NoReplicas => false,
        }
    }

    /// Reads an error's code. An aborted transaction is judged by the reason it gives.
    pub fn of(error: &[u8]) -> Option<Self> {
        let error = match memchr::memmem::find(error, b"because of: ") {
            Some(at) if error.starts_with(b"EXECABORT") => error.get(at + 12..).unwrap_or_default(),
            _ => error,
        };
        let code = error.split(|byte| *byte == b' ').next();
        Some(match code.unwrap_or_default() {
            b"OOM" => Self::OutOfMemory,
            b"LOADING" => Self::Loading,
            b"READONLY" => Self::ReadOnly,
            b"BUSY" => Self::Busy,
            b"MASTERDOWN" => Self::MasterDown,
            b"TRYAGAIN" => Self::TryAgain,
            b"CLUSTERDOWN" => Self::ClusterDown,
            b"MISCONF" => Self::CannotPersist,
            b"NOREPLICAS" => Self::NoReplicas,
            _ => return None,
        })
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(text, part).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aborted_transaction_is_judged_by_its_reason() {
        for (error, refusal) in [
            (
                &b"OOM command not allowed when used memory > 'maxmemory'."[..],
                Some(Refusal::OutOfMemory),
            ),
            (
                b"EXECABORT Transaction discarded because of: READONLY You can't write",
                Some(Refusal::ReadOnly),
            ),
            (
                b"EXECABORT Transaction discarded because of previous errors.",
                None,
            ),
            (b"BUSYGROUP Consumer Group name already exists", None),
            (b"BUSY Redis is busy running a script.", Some(Refusal::Busy)),
            (b"WRONGTYPE Operation against a key", None),
            (b"", None),
        ] {
            assert_eq!(Refusal::of(error), refusal, "{}", error.escape_ascii());
        }
    }

    #[test]
    fn only_the_declared_error_is_tolerated() {
        let busy = b"BUSYGROUP Consumer Group name already exists";
        assert!(Tolerate::BusyGroup.covers(busy));
        assert!(!Tolerate::Nothing.covers(busy));
        assert!(!Tolerate::NoSuchKey.covers(busy));
        let id =
            b"ERR The ID specified in XADD is equal or smaller than the target stream top item";
        assert!(Tolerate::StreamId.covers(id));
        assert!(Tolerate::NoSuchKey.covers(b"ERR no such key"));
    }
}
