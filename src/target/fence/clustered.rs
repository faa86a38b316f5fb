//! The fence of a cluster, where what is written may be on any node.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redis::{Value, cmd};

use super::Fence;
use crate::target::cluster::{self, FieldNames, Resumed, Topology};
use crate::target::control::Control;
use crate::target::error::TargetError;
use crate::target::slot::{SLOTS, slot_of};

/// What there is besides where the target is a cluster.
#[derive(Debug)]
pub(super) struct Clustered {
    pub(super) topology: Arc<Topology>,
    pub(super) history: Mutex<History>,
    /// Stamps, positions of slots and lists of withheld keys that were there.
    pub(super) keys: Vec<String>,
    /// Stamps of nodes that have others now.
    pub(super) stale: Vec<(String, String)>,
}

/// What becomes another one with every full sync.
#[derive(Debug)]
pub(super) struct History {
    /// Which full sync stamps and positions of slots belong to.
    pub(super) epoch: String,
    /// By flow, where it goes on; empty if everything is copied.
    pub(super) resumed: Vec<Arc<Resumed>>,
}

impl Clustered {
    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A full sync begins: positions that were there say nothing about what comes, whose LSNs may be another master's.
    pub(super) fn begin(&self, epoch: String) {
        *self.history() = History {
            epoch,
            resumed: Vec::new(),
        };
    }
}

/// Slots of a cluster that have passed a global command before; none of a server.
#[derive(Debug, Clone, Default)]
pub struct Passed(Vec<bool>);

impl Passed {
    /// Whether there is any.
    pub fn is_empty(&self) -> bool {
        !self.0.contains(&true)
    }

    /// Whether the slot of this key is one.
    pub fn has(&self, key: &[u8]) -> bool {
        !self.0.is_empty() && self.0.get(usize::from(slot_of(key))) == Some(&true)
    }
}

impl Fence {
    /// Whether they are the same.
    pub(in crate::target) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// What connections to the nodes of a cluster are called.
    pub(in crate::target) fn connection_name(&self) -> String {
        cluster::connection_name(&self.0.task, &self.0.token)
    }

    /// The nodes that the fence was taken on; none where the target is one server.
    pub(in crate::target) fn topology(&self) -> Option<Arc<Topology>> {
        Some(self.0.cluster.as_ref()?.topology.clone())
    }

    /// Stamps that no node's is any more: where they are, and the node.
    pub(in crate::target) fn stale_stamps(&self) -> Vec<(String, String)> {
        let clustered = self.0.cluster.as_ref();
        clustered.map_or_else(Vec::new, |clustered| clustered.stale.clone())
    }

    /// Which full sync stamps belong to.
    pub(in crate::target) fn epoch(&self) -> String {
        let clustered = self.0.cluster.as_ref();
        clustered.map_or_else(String::new, |clustered| clustered.history().epoch.clone())
    }

    /// Where a flow goes on in the slots of a cluster.
    pub(in crate::target) fn resumed(&self, flow: u32) -> Option<Arc<Resumed>> {
        let clustered = self.0.cluster.as_ref()?;
        clustered.history().resumed.get(flow as usize).cloned()
    }

    /// The same in a cluster: in each stamp all flows move at once, so whatever is lost, a node has all flows on the same
    /// side of the command, and one node before it has all of them meet there again. A stamp that is behind it already
    /// stays as it is: flows that were taken back by another node have not reached it. Positions of slots stay: those
    /// before the command are in its stamps' shadow from now on, and none is behind it but in slots that have
    /// [passed](Self::passed) it.
    pub(super) async fn move_stamps(
        &self,
        control: &mut Control,
        lsns: &[(u32, u64)],
    ) -> Result<(), TargetError> {
        const DOING: &str = "storing the positions of all flows";
        let stamps = match control.nodes() {
            Some(nodes) => cluster::stamps(nodes, DOING, &self.0.task).await?,
            None => Vec::new(),
        };
        let epoch = self.epoch();
        let store = |(key, fields): &(String, cluster::Fields)| {
            let mut store = cmd("HSET");
            store.arg(key);
            let mut any = false;
            for (flow, lsn) in lsns {
                for (field, known) in FieldNames::of(*flow, &epoch).lsns(fields) {
                    store.arg(field).arg(known.max(*lsn));
                    any = true;
                }
            }
            any.then_some(store)
        };
        let stores: Vec<_> = stamps.iter().filter_map(store).collect();
        self.each(control, DOING, &stores).await?;
        Ok(())
    }

    /// Which slots of a cluster have passed a global command before, of which these are the positions behind it. A node
    /// that a replica has replaced takes all flows back, and they meet at the command again: but only what it, or any
    /// other node, had not got yet is to be done.
    ///
    /// A slot has passed it if any flow's position in it, or stamp on its node, is behind it: before anything behind the
    /// command is sent to anybody, all flows' stamps are behind it on every node, and a slot takes with it what it has.
    pub fn passed(&self, lsns: &[(u32, u64)]) -> Passed {
        let mut passed = Passed::default();
        for (flow, lsn) in lsns {
            let resumed = self.resumed(*flow);
            let Some(resumed) = resumed.filter(|flow| flow.caught_up >= *lsn) else {
                continue;
            };
            passed.0.resize(usize::from(SLOTS), false);
            for (passed, at) in passed.0.iter_mut().zip(&resumed.by_slot) {
                *passed |= at >= lsn;
            }
        }
        passed
    }

    /// Sends commands of which each may be on another node of a cluster, so that no transaction holds them together, and
    /// none is behind the fence as those of [`commit`](Self::commit) are. Instead every connection to a node is named
    /// like those of flows, and the fence is read behind that: whoever takes it over ends them, and what is on its way. So
    /// all of these commands were executed before that, or are lost, or answered; a part of them may be any of it. That
    /// is right for commands that may be repeated, and for one alone of which it is recorded that the answer is not
    /// known. No answer is an error; no order is kept.
    pub(in crate::target) async fn each(
        &self,
        control: &mut Control,
        doing: &str,
        commands: &[redis::Cmd],
    ) -> Result<Vec<Value>, TargetError> {
        if let Some(nodes) = control.nodes() {
            nodes.belong_to(self).await?;
        }
        self.held(control, doing).await?;
        control.ask_each(doing, commands).await
    }

    /// Whether another process has taken over a cluster: it has ended the connections of this one, which looks here before
    /// it takes the fence again. One server ends none, so there nobody has to ask.
    pub async fn refuse_successor(&self, control: &mut Control) -> Result<(), TargetError> {
        if !self.is_of_cluster() {
            return Ok(());
        }
        let token: Option<Vec<u8>> = control
            .ask("looking at the fence", &self.question())
            .await?;
        match token {
            // An attempt that did not come to its end may have taken it.
            Some(token) if super::is_own(&token) => Ok(()),
            token => match self.check(control.addr(), token) {
                // Emptied, or as it was before: that is decided by what is read with the fence.
                Err(TargetError::Vanished { .. }) => Ok(()),
                held => held,
            },
        }
    }

    pub(in crate::target) fn is_of_cluster(&self) -> bool {
        self.0.cluster.is_some()
    }
}
