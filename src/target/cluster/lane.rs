//! One flow's connection to one node: what is written on it, and whose the replies are.
//!
//! Invariants: a lane has its name before anything else is sent, and is to the very node, in the very life, that the
//!   positions were read from; replies are matched to [`Role`]s in order.

use std::ops::RangeInclusive;
use std::task::{Context, Poll};

use crate::resp::Scanner;
use crate::target::error::TargetError;
use crate::target::settings::Settings;
use crate::target::writer::batch::Batch;
use crate::target::writer::link::{Link, WriteError};

use super::stamp::{FieldNames, Present};
use super::takeover::Master;

/// What a command on a lane is, and so what its reply means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// A stamp; whether its fields are there already.
    Stamp(bool),
    /// The removal of what is of no use any more.
    Removal,
    /// The record of a refused entry.
    Record,
    /// A sign of life.
    Ping,
    /// A command of the batch by itself; whether the answer 0 to it may tell something.
    Plain { n: u32, tells: bool },
    /// Begins the transaction of a group, of so many commands.
    Multi(u32),
    /// A command of the batch in the transaction of a group.
    Queued(u32),
    /// The position of a slot, in the transaction of the group.
    Position(u32),
    /// Ends the transaction of the group.
    Exec(u32),
}

#[derive(Debug)]
pub(super) struct Lane {
    pub settings: Settings,
    pub link: Link,
    pub scanner: Scanner,
    /// What is being sent, or was and is not all answered. Most of its commands are not listed: `roles` is the list.
    pub batch: Batch,
    /// Of each command in the batch, in order.
    pub roles: Vec<Role>,
    pub answered: usize,
    /// The node.
    pub now: Present,
    /// Slots that its stamp may be about besides those that the node has: it had them, and their owners' stamps may not
    /// be about them yet.
    pub had: Vec<RangeInclusive<u16>>,
    /// The key of its stamp.
    pub stamp_key: String,
    /// Its fields there.
    pub stamp_fields: [String; 2],
}

impl Lane {
    pub async fn open(
        settings: &Settings,
        master: &Master,
        name: Option<&str>,
        fields: Option<&FieldNames>,
    ) -> Result<Self, TargetError> {
        let stamp_fields = fields.map(|names| names.of_node(&master.now.id));
        let settings = Settings {
            endpoint: master.endpoint.clone(),
            cluster: None,
            ..settings.clone()
        };
        let link = Link::open(&settings, Some(&master.now.server), name).await?;
        Ok(Self {
            link,
            scanner: Scanner::new(),
            batch: Batch::default(),
            roles: Vec::new(),
            answered: 0,
            had: Vec::new(),
            stamp_key: master.stamp_key(&settings.task),
            stamp_fields: stamp_fields.unwrap_or_default(),
            now: master.now.clone(),
            settings,
        })
    }

    /// Whom this talks to, for errors.
    pub fn addr(&self) -> String {
        self.settings.addr()
    }

    /// Forgets what was sent before, to be filled anew. Everything is answered.
    pub fn clear(&mut self) {
        self.batch.clear();
        self.roles.clear();
        self.answered = 0;
    }

    /// Appends one of our own commands.
    pub fn words(&mut self, role: Role, words: &[&[u8]]) {
        self.batch.out.command(words.len(), None);
        words.iter().for_each(|word| self.batch.out.word(word));
        self.roles.push(role);
    }

    /// The same of one that is encoded already, in pieces.
    #[inline]
    pub fn encoded(&mut self, role: Role, pieces: &[&[u8]]) {
        self.batch.out.encoded_unlisted(pieces);
        self.roles.push(role);
    }

    /// Begins to send what it was filled with.
    pub fn start(&mut self) {
        if self.roles.is_empty() {
            return;
        }
        let ends = |role: &Role| matches!(role, Role::Exec(_));
        self.batch.sending.transaction = self.roles.iter().any(ends);
        self.batch.sending.expected = self.roles.len();
        self.link.start(&self.batch);
    }

    /// Replies still to come.
    pub fn unanswered(&self) -> usize {
        self.roles.len() - self.answered
    }

    /// Writes on, as far as that goes now.
    pub fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<(), TargetError> {
        match self.link.poll_write(Some(&self.batch), cx) {
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
            Poll::Ready(Err(WriteError::Socket(cause))) => Err(self.lost(cause)),
            Poll::Ready(Err(WriteError::Spill(cause))) => Err(TargetError::Spill(cause)),
        }
    }

    pub fn lost(&self, cause: std::io::Error) -> TargetError {
        TargetError::Lost {
            addr: self.addr(),
            unanswered: self.unanswered(),
            cause,
        }
    }
}
