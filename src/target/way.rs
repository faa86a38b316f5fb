//! One flow's way into the target, whatever that is: one server, or a cluster.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use super::answer::Tolerate;
use super::cluster;
use super::dead_letter::ErrorPolicy;
use super::error::TargetError;
use super::outgoing::Outgoing;
use super::settings::Settings;
use super::writer::{self, Counters, Fenced, Kind, Limits, MayExpire, Missed, Notice};

/// A connection to one server, or one to every master of a cluster; owned by one flow.
#[derive(Debug)]
pub struct Writer(Way);

#[derive(Debug)]
enum Way {
    Server(Box<writer::Writer>),
    Cluster(Box<cluster::Writer>),
}

impl Writer {
    /// Connects and logs in. With a fence, the servers must be those it was taken on, and positions are stored.
    pub async fn connect(
        settings: &Settings,
        limits: Limits,
        policy: ErrorPolicy,
        fenced: Option<Fenced>,
    ) -> Result<Self, TargetError> {
        Ok(Self(match settings.cluster {
            None => {
                let connecting = writer::Writer::connect(settings, limits, policy, fenced);
                Way::Server(Box::new(connecting.await?))
            }
            Some(_) => {
                let connecting = cluster::Writer::connect(settings, limits, policy, fenced);
                Way::Cluster(Box::new(connecting.await?))
            }
        }))
    }

    /// Starts an item in a database of the target. Its commands, if any, are pushed to what is
    /// returned before anything else is called. `tolerate` names errors of them that are none.
    #[inline]
    pub fn begin(&mut self, kind: Kind, db: u32, tolerate: Tolerate) -> &mut Outgoing {
        match &mut self.0 {
            Way::Server(writer) => writer.begin(kind, db, tolerate),
            Way::Cluster(writer) => writer.begin(kind, tolerate),
        }
    }

    /// When everything pushed so far is answered, position `next` is applied.
    #[inline]
    pub fn mark(&mut self, next: u64) {
        match &mut self.0 {
            Way::Server(writer) => writer.mark(next),
            Way::Cluster(writer) => writer.mark(next),
        }
    }

    /// Whether the window is open. One item may be pushed whatever its size.
    #[inline]
    pub fn has_room(&self) -> bool {
        match &self.0 {
            Way::Server(writer) => writer.has_room(),
            Way::Cluster(writer) => writer.has_room(),
        }
    }

    /// Whether everything pushed was answered.
    pub fn is_settled(&self) -> bool {
        match &self.0 {
            Way::Server(writer) => writer.is_settled(),
            Way::Cluster(writer) => writer.is_settled(),
        }
    }

    /// Whether everything pushed was answered, but for what waits because its slot of a cluster is on the move.
    pub fn is_answered(&self) -> bool {
        match &self.0 {
            Way::Server(writer) => writer.is_settled(),
            Way::Cluster(writer) => writer.is_answered(),
        }
    }

    /// The position everything before which the target has answered for.
    pub fn applied(&self) -> Option<u64> {
        match &self.0 {
            Way::Server(writer) => writer.applied(),
            Way::Cluster(writer) => writer.applied(),
        }
    }

    /// Has the position stored that everything pushed so far reaches, if it is not, and is not about to be. Without a
    /// fence this does nothing.
    pub fn store(&mut self) {
        match &mut self.0 {
            Way::Server(writer) => writer.store(),
            Way::Cluster(writer) => writer.store(),
        }
    }

    /// The position that the next start finds; without a fence the applied one.
    pub fn stored(&self) -> Option<u64> {
        match &self.0 {
            Way::Server(writer) => writer.stored(),
            Way::Cluster(writer) => writer.stored(),
        }
    }

    /// The position was moved by [`Fence::move_all`](super::Fence::move_all): everything before `next` is applied.
    /// Nothing is unanswered.
    pub fn stands_at(&mut self, next: u64) {
        match &mut self.0 {
            Way::Server(writer) => writer.stands_at(next),
            Way::Cluster(writer) => writer.stands_at(next),
        }
    }

    /// From now on a journal entry that finds its key missing is no error: its keys are noted, and so are those of
    /// entries that have taken effect later than `patience` after they were begun.
    pub fn note_missing(&mut self, patience: Duration) {
        match &mut self.0 {
            Way::Server(writer) => writer.note_missing(patience),
            Way::Cluster(writer) => writer.note_missing(patience),
        }
    }

    /// Only keys for which this holds may be missing because they have expired.
    pub fn may_expire(&mut self, may_expire: MayExpire) {
        match &mut self.0 {
            Way::Server(writer) => writer.may_expire(may_expire),
            Way::Cluster(writer) => writer.may_expire(may_expire),
        }
    }

    /// Whether the target has not answered for what was sent for 100 ms. More would only wait.
    pub fn is_held_up(&self) -> bool {
        match &self.0 {
            Way::Server(writer) => writer.is_held_up(),
            Way::Cluster(writer) => writer.is_held_up(),
        }
    }

    /// The item that was begun is a PEXPIREAT or PERSIST, which answers 0 when the key is missing.
    #[inline]
    pub fn watch(&mut self) {
        match &mut self.0 {
            Way::Server(writer) => writer.watch(),
            Way::Cluster(writer) => writer.watch(),
        }
    }

    /// The keys noted since the last call.
    pub fn take_missed(&mut self) -> Vec<Missed> {
        match &mut self.0 {
            Way::Server(writer) => writer.take_missed(),
            Way::Cluster(writer) => writer.take_missed(),
        }
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        match &self.0 {
            Way::Server(writer) => writer.counters(),
            Way::Cluster(writer) => writer.counters(),
        }
    }

    /// Slots of a cluster that are on the move, so that their entries wait.
    pub fn moving(&self) -> BTreeSet<u16> {
        match &self.0 {
            Way::Server(_) => BTreeSet::new(),
            Way::Cluster(writer) => writer.moving(),
        }
    }

    /// The oldest notice not yet taken.
    pub fn notice(&mut self) -> Option<Notice> {
        match &mut self.0 {
            Way::Server(writer) => writer.notice(),
            Way::Cluster(writer) => writer.notice(),
        }
    }

    /// Writes what can be written and reads what has come, until something was answered for or
    /// there is a notice. Never ends while there is nothing to do, unless a connection does.
    /// Cancel safe. After an error the writer is of no further use.
    pub async fn drive(&mut self) -> Result<(), TargetError> {
        std::future::poll_fn(|cx| match &mut self.0 {
            Way::Server(writer) => writer.poll_drive(cx),
            Way::Cluster(writer) => writer.poll_drive(cx),
        })
        .await
    }

    /// Drives until everything pushed was answered. Cancel safe.
    pub async fn settle(&mut self) -> Result<(), TargetError> {
        while !self.is_settled() {
            self.drive().await?;
        }
        Ok(())
    }

    /// The same until [`is_answered`](Self::is_answered). Cancel safe.
    pub async fn settle_others(&mut self) -> Result<(), TargetError> {
        while !self.is_answered() {
            self.drive().await?;
        }
        Ok(())
    }

    /// Closes the connections in order; best after [`settle`](Self::settle).
    pub async fn close(self) -> io::Result<()> {
        match self.0 {
            Way::Server(writer) => writer.close().await,
            Way::Cluster(writer) => writer.close().await,
        }
    }
}
