//! Where all flows meet at a global command (FLUSHALL, FLUSHDB, FLUSHSLOTS).
//!
//! The master runs such a command alone: every flow's earlier entries happened before it, every
//! later one after it, and it stands in every flow. So the n-th global command of each flow is the
//! same one, and a flow that reads it waits until all others have; then one of them runs it, once.
//!
//! A flow that has drained before its global command is never there: then the others do not wait either, and end
//! before the command too.
//!
//! Invariant: between the arrival of the last flow and [`Barrier::release`] no flow applies
//!   anything.
//! Facts: reference, journal §8. A global command that any flow reads before the end of its own
//!   snapshot spoils that snapshot (the master goes on sending keys that it deleted), see rdb §7.

use std::sync::Mutex;

use tokio::sync::watch;

/// What identifies one global command in every flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meeting {
    /// The command's words.
    pub words: Vec<Vec<u8>>,
    /// Source database it was given in.
    pub db: u32,
    /// Transaction id: equal in all flows.
    pub txid: u64,
}

/// What an arriving flow has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// All flows have arrived: run the command, move these flows to these positions, then call [`Barrier::release`].
    /// Flows that have no position yet are not among them.
    Run(Vec<(u32, u64)>),
    /// Another flow runs it: wait with [`Barrier::released`] for this round.
    Wait(u64),
}

/// Flows that met at different commands: the streams contradict each other.
#[derive(Debug, Clone, thiserror::Error)]
#[error("flow {flow} reached \"{found}\" where another flow reached \"{expected}\"")]
pub struct Disagreement {
    /// The flow that came last.
    pub flow: u32,
    /// Its command's name.
    pub found: String,
    /// The others' command's name.
    pub expected: String,
}

#[derive(Debug, Default)]
struct Round {
    meeting: Option<Meeting>,
    arrived: u32,
    /// Flows, and their positions behind the command.
    positions: Vec<(u32, u64)>,
}

/// One per session.
#[derive(Debug)]
pub struct Barrier {
    flows: u32,
    round: Mutex<Round>,
    /// Rounds that are over.
    released: watch::Sender<u64>,
    /// A flow has ended: nothing after this round is met.
    left: watch::Sender<bool>,
}

impl Barrier {
    /// A barrier for `flows` flows.
    pub fn new(flows: u32) -> Self {
        Self {
            flows,
            round: Mutex::default(),
            released: watch::Sender::new(0),
            left: watch::Sender::new(false),
        }
    }

    /// Called by each flow once everything before its global command is applied. `next` is its position behind it, if
    /// stable sync has begun there.
    pub fn arrive(
        &self,
        flow: u32,
        meeting: Meeting,
        next: Option<u64>,
    ) -> Result<Role, Disagreement> {
        let mut round = self
            .round
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        match &round.meeting {
            Some(expected) if *expected != meeting => {
                return Err(Disagreement {
                    flow,
                    found: name(&meeting),
                    expected: name(expected),
                });
            }
            Some(_) => {}
            None => round.meeting = Some(meeting),
        }
        round.arrived += 1;
        round.positions.extend(next.map(|next| (flow, next)));
        if round.arrived == self.flows {
            Ok(Role::Run(round.positions.clone()))
        } else {
            Ok(Role::Wait(*self.released.borrow()))
        }
    }

    /// Ends the round: every waiting flow goes on.
    pub fn release(&self) {
        let mut round = self
            .round
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *round = Round::default();
        self.released.send_modify(|rounds| *rounds += 1);
    }

    /// A flow has ended with everything it was given: the others can no longer meet it.
    pub fn leave(&self) {
        self.left.send_replace(true);
    }

    /// Waits until the round after `round` rounds is over; `false` if that cannot happen any more. Cancel safe.
    pub async fn released(&self, round: u64) -> bool {
        let (mut released, mut left) = (self.released.subscribe(), self.left.subscribe());
        // The senders live as long as `self`, so neither can fail.
        tokio::select! {
            biased;
            _ = released.wait_for(|rounds| *rounds > round) => true,
            _ = left.wait_for(|left| *left) => false,
        }
    }
}

fn name(meeting: &Meeting) -> String {
    let words: Vec<_> = meeting
        .words
        .iter()
        .map(|word| String::from_utf8_lossy(word))
        .collect();
    format!("{} (transaction {})", words.join(" "), meeting.txid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn flush(txid: u64) -> Meeting {
        Meeting {
            words: vec![b"FLUSHALL".to_vec()],
            db: 0,
            txid,
        }
    }

    #[test]
    fn a_flow_without_a_position_is_not_moved() {
        let barrier = Barrier::new(2);
        assert_eq!(barrier.arrive(1, flush(1), Some(7)).unwrap(), Role::Wait(0));
        let role = barrier.arrive(0, flush(1), None).unwrap();
        assert_eq!(role, Role::Run(vec![(1, 7)]));
    }

    #[tokio::test]
    async fn nobody_waits_for_a_flow_that_has_ended() {
        let barrier = Barrier::new(2);
        let Role::Wait(round) = barrier.arrive(0, flush(1), Some(7)).unwrap() else {
            panic!("the other flow is not there");
        };
        let (released, ()) =
            tokio::join!(biased; barrier.released(round), async { barrier.leave() });
        assert!(!released);
    }

    #[tokio::test]
    async fn each_global_command_runs_once_and_nobody_passes_it_before() {
        const FLOWS: u32 = 5;
        let barrier = Arc::new(Barrier::new(FLOWS));
        let runs = Arc::new(AtomicU32::new(0));
        let mut flows = tokio::task::JoinSet::new();
        for flow in 0..FLOWS {
            let (barrier, runs) = (barrier.clone(), runs.clone());
            flows.spawn(async move {
                for txid in 1..=100 {
                    let next = txid * 10 + u64::from(flow);
                    match barrier.arrive(flow, flush(txid), Some(next)).unwrap() {
                        Role::Run(positions) => {
                            let expected =
                                (0..FLOWS).map(|flow| (flow, txid * 10 + u64::from(flow)));
                            let there: BTreeMap<_, _> = positions.into_iter().collect();
                            assert!(there.into_iter().eq(expected));
                            runs.fetch_add(1, Ordering::SeqCst);
                            barrier.release();
                        }
                        Role::Wait(round) => assert!(barrier.released(round).await),
                    }
                    assert!(u64::from(runs.load(Ordering::SeqCst)) >= txid);
                }
            });
        }
        while let Some(result) = flows.join_next().await {
            result.unwrap();
        }
        assert_eq!(runs.load(Ordering::SeqCst), 100);
    }

    #[test]
    fn flows_that_meet_at_different_commands_are_told_apart() {
        let barrier = Barrier::new(2);
        assert_eq!(barrier.arrive(0, flush(7), Some(1)).unwrap(), Role::Wait(0));
        let error = barrier.arrive(1, flush(8), Some(1)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "flow 1 reached \"FLUSHALL (transaction 8)\" where another flow reached \"FLUSHALL (transaction 7)\""
        );
    }
}
