//! Places at which a test has the process die, as by `kill -9`, and limits that it sets so low that they are reached.
//!
//! Armed with a place and a number in [`DIE_AT`], such as `transaction_sent 3`, the process ends itself at the third
//! pass of that place, counted from its start. A place that is passed while nothing is armed costs one load.
//!
//! Invariants: a build without `debug_assertions` (the profiles `release`, `quick` and `bench`) holds nothing of this
//!   but the names of the variants, of which nothing is left in the binary: [`pass`] is empty there, and the variable
//!   is not looked at.

/// Declares the places once: variant, name, and what it is.
macro_rules! places {
    ($($(#[doc = $what:literal])+ $variant:ident = $name:literal,)+) => {
        /// Where the process can be made to die.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Place {
            $($(#[doc = $what])+ $variant,)+
        }

        #[cfg(debug_assertions)]
        impl Place {
            /// Every place there is.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// What it is called in the variable.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

places! {
    /// The fence is about to be taken.
    FenceTake = "fence_take",
    /// It is ours, and the positions are read.
    FenceTaken = "fence_taken",
    /// A transaction of the control connection is about to begin: fence, phases, flushes, positions of all flows.
    ControlSend = "control_send",
    /// Its `MULTI` is answered, and nothing else of it is sent.
    ControlOpened = "control_opened",
    /// Its `EXEC` is answered.
    ControlAnswered = "control_answered",
    /// The source has answered what it grants on every flow.
    Registered = "registered",
    /// A full sync is decided on, and the target does not know.
    FullSyncRecord = "full_sync_record",
    /// The target knows.
    FullSyncRecorded = "full_sync_recorded",
    /// The snapshot of a flow was read to its end.
    SnapshotEnded = "snapshot_ended",
    /// `DFLY STARTSTABLE` is about to be sent.
    StartStable = "start_stable",
    /// It is answered.
    StartedStable = "started_stable",
    /// Every snapshot is in the target, and the target does not know.
    StableRecord = "stable_record",
    /// The target knows.
    StableRecorded = "stable_recorded",
    /// A session that resumed follows writes.
    Resumed = "resumed",
    /// All flows have met at a global command, and nothing is done about it.
    FlushBegin = "flush_begin",
    /// What it removes is removed, and the positions are before it.
    FlushApplied = "flush_applied",
    /// The positions are behind it, and the flows still stand.
    FlushPassed = "flush_passed",
    /// Entries of a flow are decoded, and not handed on.
    Received = "received",
    /// A batch that is no transaction is about to be sent.
    BatchSend = "batch_send",
    /// The kernel has all of it.
    BatchSent = "batch_sent",
    /// All of it is answered, and nobody was told.
    BatchAnswered = "batch_answered",
    /// A transaction is about to be sent.
    TransactionSend = "transaction_send",
    /// The kernel has a part of it.
    TransactionPart = "transaction_part",
    /// The kernel has all of it.
    TransactionSent = "transaction_sent",
    /// Bytes have come from the target, and were not looked at.
    Replied = "replied",
    /// `EXEC` is answered, and nobody was told.
    TransactionAnswered = "transaction_answered",
    /// What is asked behind a transaction is answered too.
    TransactionChecked = "transaction_checked",
    /// The nodes of a cluster are about to be told how far a flow has come.
    StampSend = "stamp_send",
    /// One of them has answered that.
    StampAnswered = "stamp_answered",
    /// All have, and nobody was told.
    StampStored = "stamp_stored",
    /// Positions of slots that the stamps have passed are about to be removed.
    PositionsRemove = "positions_remove",
    /// The removal of one is answered.
    PositionRemoved = "position_removed",
    /// Entries of a slot that is on the move are set aside.
    SlotParked = "slot_parked",
    /// Slots that have moved are known to be where they are now, and no node was told.
    SlotsMoved = "slots_moved",
    /// Of what several nodes are asked on control connections, one has answered its part.
    NodeAnswered = "node_answered",
    /// Whoever wrote to a cluster before is cut off, and nothing is read.
    StrangersEnded = "strangers_ended",
    /// Withheld keys are about to be asked for at the source.
    RereadAsk = "reread_ask",
    /// They are read, and nothing is written of them.
    RereadAnswered = "reread_answered",
    /// What was read is on its way to the target.
    RereadWritten = "reread_written",
    /// The target's keys are about to be walked, to find those that the source no longer has.
    ReconcileWalk = "reconcile_walk",
    /// Some seem to be gone, and their flows do not know.
    ReconcileSuspect = "reconcile_suspect",
    /// Their flows have settled them, and the walk goes on.
    ReconcileSettled = "reconcile_settled",
    /// A walk found nothing, and the target does not know.
    ReconcileRecord = "reconcile_record",
    /// The target knows.
    ReconcileRecorded = "reconcile_recorded",
    /// The target is lost, and nothing is done about it.
    TargetLost = "target_lost",
    /// It is reached again and its positions are read, and no flow writes.
    TargetReopened = "target_reopened",
    /// The flows go on where it is.
    TargetBack = "target_back",
    /// A position is about to be acknowledged to the source.
    Acknowledge = "acknowledge",
    /// The kernel has the acknowledgement.
    Acknowledged = "acknowledged",
    /// Records of the journal are about to be written to the spool.
    RecordWrite = "record_write",
    /// A spilled body is written in part.
    RecordPart = "record_part",
    /// They are written, and nobody was told.
    RecordWritten = "record_written",
    /// Records of a snapshot are about to be written to the spool.
    OverflowWrite = "overflow_write",
    /// They are written, and nobody was told.
    OverflowWritten = "overflow_written",
    /// A segment is about to be made.
    SegmentCreate = "segment_create",
    /// It has its name and its head.
    SegmentCreated = "segment_created",
    /// A segment is about to be sealed.
    SegmentSeal = "segment_seal",
    /// It is sealed, and nobody was told.
    SegmentSealed = "segment_sealed",
    /// A segment is about to be removed.
    SegmentRemove = "segment_remove",
    /// It is removed.
    SegmentRemoved = "segment_removed",
    /// Bytes of a segment are about to be put on the device.
    Sync = "sync",
    /// They are there.
    Synced = "synced",
}

/// The environment variable that arms one place: its name, a blank, and at which pass to die, from 1.
#[cfg(debug_assertions)]
pub const DIE_AT: &str = "DF2REDIS_DIE_AT";

/// Dies here, if that is what the environment says.
#[inline(always)]
pub fn pass(place: Place) {
    #[cfg(debug_assertions)]
    armed::pass(place);
    #[cfg(not(debug_assertions))]
    let _ = place;
}

/// The environment variable with the number of keys that a flow withholds at most.
#[cfg(debug_assertions)]
pub const MOST_WITHHELD: &str = "DF2REDIS_MOST_WITHHELD";

/// How many keys a flow withholds at most: `usual`, unless the environment says otherwise.
#[inline(always)]
pub fn most_withheld(usual: usize) -> usize {
    #[cfg(debug_assertions)]
    return armed::most_withheld(usual);
    #[cfg(not(debug_assertions))]
    usual
}

#[cfg(debug_assertions)]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::{DIE_AT, MOST_WITHHELD, Place};

    static MOST: OnceLock<Option<usize>> = OnceLock::new();

    pub(super) fn most_withheld(usual: usize) -> usize {
        let read = || {
            let text = std::env::var(MOST_WITHHELD).ok()?;
            Some(text.parse().expect("a number of keys"))
        };
        MOST.get_or_init(read).unwrap_or(usual)
    }

    static ARMED: OnceLock<Option<(Place, u64)>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);

    pub(super) fn pass(place: Place) {
        if let Some((armed, at)) = ARMED.get_or_init(read)
            && *armed == place
            && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == *at
        {
            die();
        }
    }

    /// What the environment says. A place that there is not would make a test that proves nothing, so that is the end.
    fn read() -> Option<(Place, u64)> {
        let text = std::env::var(DIE_AT).ok()?;
        let read = parse(&text);
        if read.is_none() {
            eprintln!("{DIE_AT}={text:?} is no place and number");
            std::process::abort();
        }
        read
    }

    pub(super) fn parse(text: &str) -> Option<(Place, u64)> {
        let (name, at) = text.split_once(' ')?;
        let place = Place::ALL.iter().find(|place| place.name() == name)?;
        Some((*place, at.parse().ok().filter(|at| *at > 0)?))
    }

    /// Ends the process as `kill -9` does: nothing is flushed, closed or told.
    fn die() -> ! {
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
        // Not reached: nobody survives that.
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use super::Place;
    use super::armed::parse;

    #[test]
    fn every_place_is_named_once_and_found_by_its_name() {
        for place in Place::ALL {
            let name = place.name();
            assert_eq!(parse(&format!("{name} 7")), Some((*place, 7)));
            assert_eq!(parse(&format!("{name} 0")), None);
        }
        assert_eq!(parse("nowhere 1"), None);
        assert_eq!(parse("sync"), None);
    }
}
