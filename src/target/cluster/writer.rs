//! One flow's way into a cluster: items in, a lane to every master, and positions that survive whatever happens there.
//!
//! ```text
//!  begin, mark ──► open ──sort──► flight ──► lane 0: stamp, commands by slot ──┐
//!                                        ├─► lane 1: stamp, commands by slot ──┼─ every reply ──► applied
//!                                        └─► lane N: stamp, commands by slot ──┘
//! ```
//!
//! One flight is unanswered at a time. In it a slot's commands are either **plain**, if every one of them leaves its key
//! whole and reads nothing (`SET`, `DEL`, `RESTORE … REPLACE`), does the same with elements (`HSET`, `SADD`, `ZADD`) or
//! with its end (`PEXPIREAT`), or one **transaction** that ends in the slot's position:
//! `MULTI … HSET df2redis:position:<task>:{tag} <flow> <next> EXEC`. Commands of different slots have no order among each
//! other, so nothing is lost by sorting; commands of one slot keep theirs. When a flight is answered, everything before
//! `next` is in the cluster; the flights that follow begin by saying so on every lane, in a **stamp**.
//!
//! # Why every entry takes effect exactly once
//!
//! Of one flow; flows share no key. Let `p` be what stands as a slot's position on the slot's owner, `s` the stamp there.
//!
//! 1. *What `p` says.* The transaction that stored `p` held, or came behind, every entry of the slot before `p`: an earlier
//!    flight was answered without a refusal, or the session had ended. Owner and slot change together with the position,
//!    which is a key of the slot: it moves with it, and shares the fate of its writes in every failover, because a master's
//!    replication is one ordered stream, of which a replica has a beginning.
//! 2. *What `s` says.* It was sent only after all entries before it were answered, wherever they went. So it proves them on
//!    the node it is on as long as that node's dataset is that stream's beginning, for the slots that it names.
//! 3. *Going on.* A flow goes on at the least stamp. Of each slot, entries before `max(p, s)` are skipped, safe or not;
//!    nothing lies between the least stamp and there that was not done, by 1 and 2. What follows `max(p, s)` in the slot and
//!    has been done nevertheless was plain, or a later `p` would stand there. Done again in order, and followed by what
//!    was not done yet, plain writes come to the same: the last one of each key decides, and each unsafe one finds the
//!    state that it found, or would have found, at first. That is why *mixtures* on one key are right, and why one refused
//!    command of a plain group is no harm though later ones of it were executed: the whole group comes again.
//!    Plain writes of *elements* too: since none of them takes an element or a key away, nor touches a key's end, what is
//!    in a key and not named again was there at first, and of each element that is named the last write decides. A key
//!    is of another type only if a later `SET`, `DEL` or `RESTORE` replaced it, which comes again as well; until then
//!    they are refused with WRONGTYPE, without effect. So that such an answer is not taken for an error, nor an error for
//!    such an answer, it counts only where something may be done for the second time: in slots that were parked, and up
//!    to `AHEAD` entries behind what was found. Elements further behind the last stamp go in a transaction. And the key
//!    is read again from the source.
//!    Plain writes of *ends* too: the last one decides, elements leave it alone, and what replaces or deletes the key
//!    comes again behind them. The source journals none for a key that it has not, so the key was there at first, or
//!    one of these made it. What time alone can change is what late entries are watched for anyway: an end that has
//!    passed when it comes again takes the key with it. After a start every entry that may come again is late, and of a
//!    key that such an end was given, all further entries are withheld until it was read again; behind a redirect, keys
//!    whose entries take longer than they may are read again; and so is a key whose end is put off when that is near.
//! 4. *Nobody else writes.* Before anything is read, connections of whoever wrote before are ended on every node; see
//!    [`super::takeover`]. Nothing of them takes effect later.
//! 5. *Redirects.* A command that is answered with MOVED, ASK or TRYAGAIN was not executed, and neither was any of its
//!    transaction; of a plain group some may have been. The slot's commands are **parked**, whole and in order, and later
//!    ones of the slot behind them, until the slot has an owner that takes them; nothing of it is sent meanwhile, so none
//!    overtakes another. Of a plain group, what was executed comes again, see 3. A transaction comes with a position that
//!    covers what was parked; if it was too much to be sent at once, the first entry of what is left. What is applied, and
//!    so every stamp, stays before the oldest parked entry; other slots go on, and what is parked for long is in a file,
//!    so that they have the memory. An ASK is not followed: what it is about is on both sides until the slot has moved. Anything else that is
//!    refused for now leaves a state like that after a kill, and is treated like one: the session's side of the target
//!    ends, and everything is read again.
//!    A move changes the stamps of both nodes, which are written again before the slot's next entry: at first the slot is
//!    in both, and in the owner's alone when all nodes have answered, so that a kill in between finds it in one. Only then
//!    the old ones go. That is done only between nodes that have lived on: a node that was restarted, or replaced by its
//!    replica, may have lost what it had answered for, and everything is read again.
//!    A master that gives away its last slot becomes a replica itself, and whoever has its first replica then takes
//!    another replication id. Both look like a replacement: it was none if the process lives and nobody has voted. No
//!    replica takes a master's place without the votes of most masters, and each counts its own. One that voted before
//!    the look before this one took the master for dead, which that look would have told; votes since then are in the
//!    counts of the masters, or of the one that left.
//! 6. *Slots that moved* while nobody wrote, or between the last stamp and a kill: a slot's `s` is the stamp that names the
//!    slot. Is that its owner's, see 2. Is it another node's, the slot may have been there; it holds if neither that node,
//!    nor any other whose stamp names the slot, nor the owner was restarted or replaced since: then the slot's keys left
//!    with all that the stamp proves. In every other case nobody knows, and everything is copied anew. A stamp names its
//!    node, so that one which moved with its slot is not mistaken.
//! 7. *Positions that are removed* are at or before the stamps that were answered on every node: there `max(p, s)` is `s`.
//!    So the least stamp alone, without those of the single nodes, would not do: a node that lost its last writes in a
//!    failover takes the flow back, behind where positions on other nodes were removed.
//! 8. *Nothing is taken back.* A flow that went on at the least of several stamps stores none before it has reached the
//!    greatest of all that is known. What it sends meanwhile to a slot that is ahead, which is no entry but a change of the
//!    lists beside the positions, goes with the position that the slot has. So a second kill finds what the first one
//!    found, and positions that only grow.
//!
//! A node whose keys are removed by somebody else shows it: the stamp makes its field anew, which the reply tells.
//!
//! What this cannot see: a cluster that loses the record and the fence in a failover between a takeover and the old
//! process' next look. It was cut off everywhere by then, and looks at the fence before it writes again. And a node that
//! could not be reached at the takeover, and is a master again later; see [`super::takeover`]. Nor what operators and
//! chance do between two looks: CLUSTER FAILOVER TAKEOVER, which asks nobody for votes, of a master whose slots are all
//! moved on at once; a new node that is given slots, and restarted without their keys.

use std::collections::{BTreeSet, VecDeque};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::by_slot::BySlot;
use super::flight::{Flight, Open};
use super::flow::Flow;
use super::lane::Lane;
use super::parked::Parking;
use super::refresh::Fresh;
use super::round::Item;
use super::takeover::{Topology, Votes};
use crate::resp::Reply;
use crate::target::answer::Tolerate;
use crate::target::control::Control;
use crate::target::dead_letter::ErrorPolicy;
use crate::target::error::TargetError;
use crate::target::fence::Fence;
use crate::target::outgoing::Outgoing;
use crate::target::settings::Settings;
use crate::target::slot_of;
use crate::target::writer::missed::{HELD_UP, Missing};
use crate::target::writer::patience::Patience;
use crate::target::writer::{Counters, Fenced, Kind, Limits, MayExpire, Missed, Notice};

/// How long is waited for the fence to be read, when a connection was lost.
const LOOK: Duration = Duration::from_secs(5);
/// Who owns what is looked at after so many calls of `store`, of which there is one each second and a few more.
const LOOK_EVERY: u32 = 10;
/// The part of the window that may be parked in memory.
const IN_PARKING: usize = 4;

pub(super) type Refreshing = Pin<Box<dyn Future<Output = Result<Fresh, TargetError>> + Send>>;
type Looking = Pin<Box<dyn Future<Output = TargetError> + Send>>;

/// A flow's connections to all masters.
pub(in crate::target) struct Writer {
    pub(super) addr: String,
    pub(super) settings: Settings,
    pub(super) limits: Limits,
    pub(super) policy: ErrorPolicy,
    pub(super) lanes: Vec<Lane>,
    /// Whose slots are.
    pub(super) slots: BySlot,
    /// Of the masters, when it was looked at last who owns what.
    pub(super) votes: Votes,
    pub(super) flow: Option<Flow>,
    pub(super) open: Open,
    pub(super) flight: Option<Flight>,
    /// An empty one, with memory.
    pub(super) spare: Flight,
    /// Commands of the flight that were refused for good before anything was executed.
    pub(super) dropped: Vec<u32>,
    /// The position that everything pushed reaches.
    pub(super) marked: Option<u64>,
    pub(super) applied: Option<u64>,
    pub(super) last_stamp: Option<Instant>,
    pub(super) overdue: Patience,
    /// What a lost connection means.
    pub(super) looking: Option<Looking>,
    /// Slots that are on the move.
    pub(super) parking: Parking,
    /// Whether who owns what is to be looked at again.
    pub(super) must_look: bool,
    pub(super) refreshing: Option<Refreshing>,
    pub(super) fresh: Option<Fresh>,
    pub(super) looks: u32,
    pub(super) ticks: u32,
    pub(super) notices: VecDeque<Notice>,
    pub(super) missing: Missing,
    pub(super) counters: Counters,
    pub(super) stirred: bool,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer")
            .field("addr", &self.addr)
            .field("lanes", &self.lanes.len())
            .field("applied", &self.applied)
            .finish_non_exhaustive()
    }
}

impl Writer {
    /// Connects to every master. With a fence, to those that it was taken on, and looks at it once more.
    pub async fn connect(
        settings: &Settings,
        limits: Limits,
        policy: ErrorPolicy,
        fenced: Option<Fenced>,
    ) -> Result<Self, TargetError> {
        let fence = fenced.as_ref().map(|fenced| fenced.fence.clone());
        let topology = match fence.as_ref().and_then(Fence::topology) {
            Some(topology) => topology,
            None => Arc::new(asked_topology(settings).await?),
        };
        let name = fence.as_ref().map(Fence::connection_name);
        let (spill_dir, window) = (limits.spill_dir.clone(), limits.window);
        let stored = fenced.as_ref().and_then(|fenced| fenced.stored);
        let mut flow = fenced.map(Flow::new);
        let mut lanes = Vec::with_capacity(topology.masters.len());
        for master in &topology.masters {
            let fields = flow.as_ref().map(|flow| &flow.names);
            lanes.push(Lane::open(settings, master, name.as_deref(), fields).await?);
        }
        if let Some(flow) = &mut flow
            && let Some(resumed) = &flow.resumed
        {
            for lane in &mut lanes {
                let named = resumed.named.get(&lane.now.id).cloned();
                let named = named.filter(|named| *named != lane.now.slots);
                lane.had = named.unwrap_or_default();
            }
            // Slots have moved while nobody looked.
            flow.restamps = lanes.iter().any(|lane| !lane.had.is_empty());
        }
        let mut writer = Self {
            addr: settings.addr(),
            settings: settings.clone(),
            overdue: Patience::new(limits.answer),
            limits,
            policy,
            lanes,
            slots: BySlot::new(&topology.owners),
            votes: topology.votes.clone(),
            flow,
            open: Open::default(),
            flight: None,
            spare: Flight::default(),
            dropped: Vec::new(),
            marked: stored,
            applied: stored,
            last_stamp: None,
            looking: None,
            parking: Parking::new(spill_dir, window / IN_PARKING),
            must_look: false,
            refreshing: None,
            fresh: None,
            looks: 0,
            ticks: 0,
            notices: VecDeque::new(),
            missing: Missing::default(),
            counters: Counters::default(),
            stirred: false,
        };
        if let Some(fence) = fence {
            writer.look_at(&fence).await?;
        }
        Ok(writer)
    }

    /// Reads the fence, now that every lane has its name.
    async fn look_at(&mut self, fence: &Fence) -> Result<(), TargetError> {
        const DOING: &str = "looking at the fence";
        let key = fence.names().fence.clone();
        let slot = slot_of(key.as_bytes());
        let owner = self.slots.owner(slot);
        let lane = owner.and_then(|owner| self.lanes.get_mut(owner));
        let Some(lane) = lane else {
            return Err(self.unready(DOING, "no master owns the slot of the fence".to_owned()));
        };
        let answer = fence_of(lane, &key).await?;
        match answer {
            Reply::Text(token) => fence.check(&self.addr, Some(token)),
            Reply::Null => fence.check(&self.addr, None),
            Reply::Error(text) => {
                let text = String::from_utf8_lossy(&text).into_owned();
                match super::replies::is_for_now(text.as_bytes()) {
                    true => Err(self.unready(DOING, text)),
                    false => Err(TargetError::from_answer(&self.addr, DOING, "GET", text)),
                }
            }
            other => Err(TargetError::Answer {
                addr: self.addr.clone(),
                doing: DOING.to_owned(),
                answer: format!("{other:?}"),
            }),
        }
    }

    pub fn begin(&mut self, kind: Kind, tolerate: Tolerate) -> &mut Outgoing {
        if self.open.begun.is_none() {
            self.open.begun = self.missing.begin();
        }
        self.open.place();
        self.open.items.push(Item {
            first: self.open.out.commands(),
            kind,
            tolerate,
        });
        &mut self.open.out
    }

    pub fn mark(&mut self, next: u64) {
        self.marked = Some(next);
        if self.open.out.is_empty() && self.flight.is_none() {
            self.applied = self.parking.bounded(self.marked);
        }
    }

    pub fn has_room(&self) -> bool {
        let sent = self.flight.as_ref();
        let sent = sent.map_or(0, |flight| flight.out.in_memory());
        sent + self.open.out.in_memory() + self.parking.in_memory() < self.limits.window
            && self.open.out.commands() < self.limits.batch_commands
    }

    /// Whether everything pushed was answered, and all nodes know.
    pub fn is_settled(&self) -> bool {
        self.open.out.is_empty()
            && self.flight.is_none()
            && self.parking.is_empty()
            && !self.must_stamp()
    }

    /// Whether everything pushed was answered but what waits for its slot.
    pub fn is_answered(&self) -> bool {
        self.open.out.is_empty() && self.flight.is_none()
    }

    pub(super) fn must_stamp(&self) -> bool {
        let flow = self.flow.as_ref();
        flow.is_some_and(|flow| self.applied.is_some_and(|at| flow.is_due(at)))
    }

    pub fn applied(&self) -> Option<u64> {
        self.applied
    }

    /// The position that the next start finds at least; without a fence the applied one.
    pub fn stored(&self) -> Option<u64> {
        match &self.flow {
            Some(flow) => flow.stored,
            None => self.applied,
        }
    }

    /// Has positions of slots removed that the nodes' stamps have passed; who owns what is looked at from time to time.
    /// Stamps follow by themselves.
    pub fn store(&mut self) {
        self.ticks = self.ticks.wrapping_add(1);
        // One flow tells the others.
        let looks = self.flow.as_ref().is_none_or(|flow| flow.flow == 0);
        self.must_look |= looks && self.ticks.is_multiple_of(LOOK_EVERY);
        if let Some(flow) = &mut self.flow {
            flow.removable = flow.stored;
        }
    }

    /// See [`Fence::move_all`].
    pub fn stands_at(&mut self, next: u64) {
        debug_assert!(self.flight.is_none(), "moved while something is unanswered");
        self.applied = Some(next);
        self.marked = Some(next);
        if let Some(flow) = &mut self.flow {
            flow.stored = Some(next);
            flow.restamps = true;
        }
    }

    pub fn note_missing(&mut self, patience: Duration) {
        self.missing.note_from_now_on(patience);
    }

    pub fn may_expire(&mut self, may_expire: MayExpire) {
        self.missing.are_among(may_expire);
    }

    pub fn is_held_up(&self) -> bool {
        let at = self.flight.as_ref().and_then(|flight| flight.at);
        at.is_some_and(|at| at.elapsed() > HELD_UP)
    }

    pub fn watch(&mut self) {
        self.open.watches |= self.missing.is_noted();
    }

    pub fn take_missed(&mut self) -> Vec<Missed> {
        self.missing.take()
    }

    pub fn counters(&self) -> Counters {
        let flight = self.flight.as_ref();
        Counters {
            in_flight_bytes: flight.map_or(0, |flight| flight.out.len()),
            ..self.counters
        }
    }

    /// Slots of which entries wait, since they are on the move.
    pub fn moving(&self) -> BTreeSet<u16> {
        let flight = self.flight.iter();
        let sent = flight.flat_map(|flight| flight.parked.keys().copied());
        self.parking.slots().chain(sent).collect()
    }

    pub fn notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    pub async fn close(mut self) -> io::Result<()> {
        for lane in &mut self.lanes {
            lane.link.close().await?;
        }
        Ok(())
    }

    pub fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TargetError>> {
        if let Some(looking) = &mut self.looking {
            return looking.as_mut().poll(cx).map(Err);
        }
        match self.poll_lanes(cx) {
            Poll::Ready(Err(error @ TargetError::Lost { .. })) if self.flow.is_some() => {
                self.look(error);
                self.poll_drive(cx)
            }
            other => other,
        }
    }

    /// A connection was lost: whoever takes over ends them.
    fn look(&mut self, error: TargetError) {
        let Some(fence) = self.flow.as_ref().map(|flow| flow.fence.clone()) else {
            return;
        };
        let settings = self.settings.clone();
        let asking = async move {
            let mut control = Control::connect(&settings).await?;
            fence.held(&mut control, "looking at the fence").await
        };
        self.looking = Some(Box::pin(async move {
            match tokio::time::timeout(LOOK, asking).await {
                Ok(Err(taken @ TargetError::TakenOver { .. })) => taken,
                _ => error,
            }
        }));
    }

    fn poll_lanes(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TargetError>> {
        loop {
            self.poll_refresh(cx)?;
            if self.flight.is_none() {
                self.take_off()?;
            }
            for lane in &mut self.lanes {
                lane.poll_write(cx)?;
            }
            if std::mem::take(&mut self.stirred) {
                return Poll::Ready(Ok(()));
            }
            let mut moved = false;
            for index in 0..self.lanes.len() {
                let Some(lane) = self.lanes.get_mut(index) else {
                    continue;
                };
                match lane.link.poll_read(cx) {
                    Poll::Pending => {}
                    Poll::Ready(Ok(0)) => {
                        return Poll::Ready(Err(lane.lost(io::ErrorKind::UnexpectedEof.into())));
                    }
                    Poll::Ready(Ok(count)) => {
                        moved = true;
                        self.take_replies(index, count)?;
                    }
                    Poll::Ready(Err(cause)) => return Poll::Ready(Err(lane.lost(cause))),
                }
            }
            if moved {
                self.overdue.nothing_is_due();
                continue;
            }
            if self.flight.is_none() {
                self.overdue.nothing_is_due();
                return Poll::Pending;
            }
            let written = self.lanes.iter().map(|lane| lane.link.written).sum();
            if self.overdue.poll_lost(written, cx).is_ready() {
                return Poll::Ready(Err(TargetError::Silent {
                    addr: self.addr.clone(),
                    doing: "writing".to_owned(),
                    after: self.limits.answer,
                }));
            }
            return Poll::Pending;
        }
    }

    pub(super) fn unready(&self, doing: &str, answer: String) -> TargetError {
        TargetError::Unready {
            addr: self.addr.clone(),
            doing: doing.to_owned(),
            answer,
        }
    }
}

/// What stands in the fence, as a node says.
async fn fence_of(lane: &mut Lane, key: &str) -> Result<Reply, TargetError> {
    let settings = lane.settings.clone();
    let words = [&b"GET"[..], key.as_bytes()];
    lane.link.ask(&settings, &words).await
}

/// Who owns which slots, where no fence has told.
async fn asked_topology(settings: &Settings) -> Result<Topology, TargetError> {
    let mut control = Control::connect(settings).await?;
    match control.nodes() {
        Some(nodes) => Topology::read(nodes).await,
        None => Err(TargetError::NotACluster {
            addr: settings.addr(),
        }),
    }
}
