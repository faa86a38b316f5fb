//! A writer's side of the fence: what is asked behind each batch, and what the answers mean.
//!
//! ```text
//!             ┌──────────── WATCH ok, token ours, record there ─────────────────┐
//!             ▼                                                                 │
//!   armed ── transaction ──► EXEC ── executed ──► position moved ── checks ─────┤
//!     ▲                        ├── refused for now ─────────────── checks ──────┤
//!     │                        └── not executed: the fence moved ─ checks ──► error, told apart by the token
//!   arming batch ◄── a check was refused for now ◄──────────────────────────────┘
//! ```
//!
//! Invariants: a transaction is sent only when `armed`; the connection is in the position database between batches;
//!   `stored` is what the target holds, or the connection is given up: it is compared when the connection is armed,
//!   and a dataset that is replaced later is seen by the `WATCH`.

use bytes::BytesMut;

use self::Answer::{Other, Text};
use super::Writer;
use super::batch::{Checks, words};
use super::retry::Trouble;
use crate::resp::Reply;
use crate::target::answer::Refusal;
use crate::target::error::TargetError;
use crate::target::failed::{Failed, Numbers};
use crate::target::fence::{self, Fence};
use crate::target::position;

/// What ties a writer to its task's positions.
#[derive(Debug, Clone)]
pub struct Fenced {
    /// The right to write.
    pub fence: Fence,
    /// The flow whose position it moves.
    pub flow: u32,
    /// The position that is stored; `None` if there is none, as after [`Fence::begin_snapshot`].
    pub stored: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Guard {
    pub fence: Fence,
    pub flow: u32,
    pub position_db: u32,
    field: String,
    /// The position the target holds.
    pub stored: Option<u64>,
    /// Whether the fence is watched, and was ours afterwards.
    pub armed: bool,
    /// A transaction was not executed, because the fence was written to.
    pub displaced: bool,
    /// Of refused commands.
    pub numbers: Numbers,
}

impl Guard {
    pub fn new(fenced: Fenced) -> Self {
        Self {
            position_db: fenced.fence.position_db(),
            field: position::lsn_field(fenced.flow),
            fence: fenced.fence,
            flow: fenced.flow,
            stored: fenced.stored,
            armed: false,
            displaced: false,
            numbers: Numbers::default(),
        }
    }

    /// Encodes the checks.
    pub fn ask(&self, checks: Checks, out: &mut BytesMut) {
        let names = self.fence.names();
        let fence = names.fence.as_bytes();
        match checks {
            Checks::Nothing => {}
            Checks::Fence => words(out, &[b"GET", fence]),
            Checks::Arming | Checks::Rearming => {
                words(out, &[b"WATCH", fence]);
                words(out, &[b"GET", fence]);
                let position = names.position.as_bytes();
                match checks {
                    Checks::Arming => words(out, &[b"HGET", position, self.field.as_bytes()]),
                    _ => words(out, &[b"HEXISTS", position, position::PHASE.as_bytes()]),
                }
            }
        }
    }

    /// Encodes the move to a position.
    pub fn store(&self, next: u64, out: &mut BytesMut) {
        let position = self.fence.names().position.as_bytes();
        let next = itoa::Buffer::new().format(next).to_owned();
        words(
            out,
            &[b"HSET", position, self.field.as_bytes(), next.as_bytes()],
        );
    }

    /// Encodes the record of a refused entry.
    pub fn record(&self, failed: &Failed, out: &mut BytesMut) {
        let key = self.fence.names().failed.as_bytes();
        let json = failed.json();
        words(out, &[b"HSET", key, failed.id.as_bytes(), json.as_bytes()]);
    }

    fn other_position(&self, found: Option<Vec<u8>>) -> String {
        let flow = self.flow;
        match (found, self.stored) {
            (None, _) => format!("the position of flow {flow} is gone"),
            (Some(found), Some(stored)) => format!(
                "the position of flow {flow} is {}, and {stored} was stored",
                found.escape_ascii()
            ),
            (Some(found), None) => format!(
                "the position of flow {flow} is {}, and none was stored",
                found.escape_ascii()
            ),
        }
    }

    fn is_stored(&self, text: Option<&[u8]>) -> bool {
        match (self.stored, text) {
            (None, None) => true,
            (Some(stored), Some(text)) => itoa::Buffer::new().format(stored).as_bytes() == text,
            _ => false,
        }
    }
}

impl Writer {
    /// Has the position stored that everything pushed so far reaches, if it is not, and is not about to be: with
    /// what is waiting, or by itself. Without a fence this does nothing.
    pub fn store(&mut self) {
        let Some(guard) = &self.guard else {
            return;
        };
        let marked = self.queue.iter().rev().find_map(|batch| batch.reaches);
        let newest = self.open.reaches.or(marked).or(self.applied);
        let is_stored = |batch: &super::batch::Batch| match batch.sending.expected {
            0 => batch.atomic && batch.reaches == newest,
            _ => batch.sending.stores == newest,
        };
        if newest.is_none() || newest == guard.stored || self.queue.iter().any(is_stored) {
            return;
        }
        self.open.reaches = newest;
        self.open.stand_alone(guard.position_db);
    }

    /// The position that the next start finds; without a fence the applied one.
    pub fn stored(&self) -> Option<u64> {
        match &self.guard {
            Some(guard) => guard.stored,
            None => self.applied,
        }
    }

    /// The position was moved by [`Fence::move_all`]: everything before `next` is applied. Nothing is unanswered.
    pub fn stands_at(&mut self, next: u64) {
        debug_assert!(self.is_settled(), "moved while something is unanswered");
        self.applied = Some(next);
        if let Some(guard) = &mut self.guard {
            guard.stored = Some(next);
        }
    }

    /// Takes the reply to a check; `left` replies of its batch are to come, this one included.
    pub(super) fn take_check(
        &mut self,
        checks: Checks,
        left: usize,
        reply: Reply,
    ) -> Result<(), TargetError> {
        let Some(guard) = &mut self.guard else {
            return Ok(());
        };
        let answer = match reply {
            Reply::Error(text) => return self.check_refused(text),
            Reply::Text(text) => Text(Some(text)),
            Reply::Null => Text(None),
            other => Other(other),
        };
        match (checks, left, answer) {
            (Checks::Arming | Checks::Rearming, 3, Other(Reply::Ok)) => {
                guard.armed = true;
                Ok(())
            }
            (Checks::Arming | Checks::Rearming, 2, Text(token))
            | (Checks::Fence, 1, Text(token)) => {
                guard.fence.check(&self.addr, token)?;
                match guard.displaced {
                    true => Err(fence::rewritten(&self.addr)),
                    false => Ok(()),
                }
            }
            (Checks::Rearming, 1, Other(Reply::Integer(1))) => Ok(()),
            (Checks::Rearming, 1, Other(Reply::Integer(_))) => Err(TargetError::Vanished {
                addr: self.addr.clone(),
                what: format!("{} is gone", guard.fence.names().position),
            }),
            (Checks::Arming, 1, Text(position)) if guard.is_stored(position.as_deref()) => Ok(()),
            (Checks::Arming, 1, Text(position)) => Err(TargetError::Vanished {
                addr: self.addr.clone(),
                what: guard.other_position(position),
            }),
            (_, _, Other(reply)) => Err(self.unexpected("looking at the fence", reply)),
            (_, _, Text(_)) => Err(self.unexpected("looking at the fence", Reply::Other)),
        }
    }

    /// A check was answered with an error. If it is one of those that pass, it is asked again before the next
    /// transaction.
    fn check_refused(&mut self, text: Vec<u8>) -> Result<(), TargetError> {
        if let Some(guard) = &mut self.guard {
            guard.armed = false;
        }
        let Some(refusal) = Refusal::of(&text) else {
            return Err(self.unexpected("looking at the fence", Reply::Error(text)));
        };
        self.refuse_other_dataset(refusal, &text)?;
        let is_arming = self
            .queue
            .get(self.awaiting)
            .is_some_and(|batch| batch.arming);
        if is_arming && self.trouble.is_none() {
            self.trouble = Some(Trouble {
                from: 0,
                refusal,
                answer: text,
            });
        }
        Ok(())
    }

    /// Behind a fence, what may have changed the dataset ends the connection: positions are to be read again.
    pub(super) fn refuse_other_dataset(
        &self,
        refusal: Refusal,
        text: &[u8],
    ) -> Result<(), TargetError> {
        match self.guard.is_some() && refusal.may_change_dataset() {
            true => Err(TargetError::Unready {
                addr: self.addr.clone(),
                doing: "writing".to_owned(),
                answer: String::from_utf8_lossy(text).into_owned(),
            }),
            false => Ok(()),
        }
    }
}

/// An answer to a check.
enum Answer {
    /// What a key or field holds, if it is there.
    Text(Option<Vec<u8>>),
    Other(Reply),
}
