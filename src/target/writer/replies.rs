//! Replies, matched to the commands they answer, and what follows from an error.

use std::io;

use super::batch::Item;
use super::refused::{Refused, Site};
use super::retry::Trouble;
use super::{Notice, SPARE, Writer};
use crate::fail_point::{self, Place};
use crate::resp::{ElementError, OK, QUEUED, Reply};
use crate::target::answer::Refusal;
use crate::target::error::TargetError;

/// Bytes kept of what the fence or a position holds: more than any of them has.
const KEPT: usize = 256;

impl Writer {
    /// Takes `count` bytes that were read.
    pub(super) fn take_replies(&mut self, count: usize) -> Result<(), TargetError> {
        fail_point::pass(Place::Replied);
        let buffer = std::mem::take(&mut self.link.replies);
        let result = self.take_bytes(buffer.get(..count).unwrap_or_default());
        self.link.replies = buffer;
        result
    }

    fn take_bytes(&mut self, mut rest: &[u8]) -> Result<(), TargetError> {
        while !rest.is_empty() {
            if self.scanner.is_between() {
                let usual = self.take_usual(rest)?;
                if usual > 0 {
                    rest = rest.get(usual..).unwrap_or_default();
                    continue;
                }
                self.scanner.keep(match self.is_checking() {
                    true => KEPT,
                    false => 0,
                });
                self.scanner.note_zeros(self.is_watching());
            }
            let (used, reply) = self
                .scanner
                .feed(rest)
                .map_err(|cause| TargetError::Protocol {
                    addr: self.addr.clone(),
                    cause,
                })?;
            rest = rest.get(used..).unwrap_or_default();
            if let Some(reply) = reply {
                self.take_reply(reply)?;
            }
        }
        Ok(())
    }

    /// Whether the next reply is to a check.
    fn is_checking(&self) -> bool {
        self.awaiting < self.sent
            && self
                .queue
                .get(self.awaiting)
                .is_some_and(|batch| batch.sending.left() <= batch.sending.checks.replies())
    }

    /// The fast path: a run of the reply nearly every command gets. Yields its bytes.
    fn take_usual(&mut self, bytes: &[u8]) -> Result<usize, TargetError> {
        if self.awaiting >= self.sent {
            return Ok(0);
        }
        let Some(batch) = self.queue.get_mut(self.awaiting) else {
            return Ok(0);
        };
        let sending = &mut batch.sending;
        let checks = sending.checks.replies();
        let left = sending.left().saturating_sub(checks);
        if sending.transaction {
            // MULTI is answered otherwise, and so is EXEC.
            if sending.answered == 0 || left < 2 {
                return Ok(0);
            }
            let count = run_of(bytes, QUEUED, left - 1);
            sending.answered += count;
            return Ok(count * QUEUED.len());
        }
        let count = run_of(bytes, OK, left);
        sending.answered += count;
        if count == left && checks == 0 {
            self.finish()?;
        }
        Ok(count * OK.len())
    }

    fn take_reply(&mut self, reply: Reply) -> Result<(), TargetError> {
        if reply == Reply::Push {
            return Ok(());
        }
        let Some(batch) = self.queue.get_mut(self.awaiting) else {
            return Err(self.unexpected("nothing was asked", reply));
        };
        if self.awaiting >= self.sent {
            return Err(self.unexpected("nothing was asked", reply));
        }
        let sending = &mut batch.sending;
        let (n, left, checks) = (sending.answered, sending.left(), sending.checks);
        sending.answered += 1;
        match (left <= checks.replies(), sending.transaction) {
            (true, _) => self.take_check(checks, left, reply)?,
            (false, true) => self.take_of_transaction(n, reply)?,
            (false, false) => self.take_of_pipeline(n, reply)?,
        }
        if left == 1 { self.finish() } else { Ok(()) }
    }

    fn take_of_pipeline(&mut self, n: usize, reply: Reply) -> Result<(), TargetError> {
        let from = self
            .queue
            .get(self.awaiting)
            .map(|batch| batch.sending.from);
        match reply {
            // With trouble before it, it will be sent again, and judged then.
            Reply::Error(_) if self.trouble.is_some() => Ok(()),
            Reply::Error(text) => self.take_error(n + from.unwrap_or_default(), text),
            Reply::Queued => Err(self.unexpected("writing without a transaction", reply)),
            _ => Ok(()),
        }
    }

    fn take_error(&mut self, command: usize, text: Vec<u8>) -> Result<(), TargetError> {
        let item = self.item_of(command);
        if item.is_some_and(|item| item.tolerate.covers(&text)) {
            return Ok(());
        }
        if let Some(refusal) = Refusal::of(&text) {
            self.refuse_other_dataset(refusal, &text)?;
            self.trouble = Some(Trouble {
                from: item.map_or(command, |item| item.first),
                refusal,
                answer: text,
            });
            return Ok(());
        }
        self.fail(command, &text)
    }

    fn take_of_transaction(&mut self, n: usize, reply: Reply) -> Result<(), TargetError> {
        let Some(batch) = self.queue.get_mut(self.awaiting) else {
            return Ok(());
        };
        let sending = &mut batch.sending;
        if n + 1 + sending.checks.replies() == sending.expected {
            return self.take_of_exec(reply);
        }
        match reply {
            Reply::Ok if n == 0 => Ok(()),
            Reply::Queued if n > 0 && !sending.multi_refused => Ok(()),
            Reply::Error(text) if n == 0 && Refusal::of(&text).is_none() => {
                Err(TargetError::from_answer(
                    &self.addr,
                    "opening a transaction",
                    "MULTI",
                    lossy(&text),
                ))
            }
            Reply::Error(text) => {
                sending.multi_refused |= n == 0;
                sending.queue_errors.push((n, text));
                Ok(())
            }
            _ if sending.multi_refused => Err(self.lost(io::Error::other(
                "MULTI was refused, and what followed it was not",
            ))),
            reply => Err(self.unexpected("filling a transaction", reply)),
        }
    }

    fn take_of_exec(&mut self, reply: Reply) -> Result<(), TargetError> {
        fail_point::pass(Place::TransactionAnswered);
        let Some(batch) = self.queue.get(self.awaiting) else {
            return Ok(());
        };
        // All replies but those of MULTI, EXEC and the checks have an element.
        let checks = batch.sending.checks.replies();
        let elements = (batch.sending.expected - checks) as u64 - 2;
        match reply {
            Reply::Array { len, errors } if len == elements => self.commit(errors),
            // What the fence is now tells what that means.
            Reply::Null if self.guard.is_some() => {
                self.guard
                    .iter_mut()
                    .for_each(|guard| guard.displaced = true);
                Ok(())
            }
            Reply::Error(text) if text.starts_with(b"EXECABORT") || batch.sending.multi_refused => {
                self.abort(text)
            }
            // Whether a transaction is still open there is unknown: only a new connection tells.
            Reply::Error(text) => Err(self.lost(io::Error::other(format!(
                "EXEC was refused: {}",
                lossy(&text)
            )))),
            reply => Err(self.unexpected("committing a transaction", reply)),
        }
    }

    /// The transaction was executed. Errors in it did not undo the rest, and are not tried again.
    fn commit(&mut self, errors: Vec<ElementError>) -> Result<(), TargetError> {
        let Some(batch) = self.queue.get(self.awaiting) else {
            return Ok(());
        };
        let (last_db, stores) = (batch.last_db, batch.sending.stores);
        let mut refused = Refused::default();
        self.take_missed_of_zeros();
        self.take_missed_of_delay();
        for error in errors {
            let index = usize::try_from(error.index).unwrap_or(usize::MAX);
            let command = match self.site(index) {
                Site::Command(command) => command,
                ours => return Err(self.refused_at(ours, &error.text)),
            };
            let item = self.item_of(command);
            if item.is_some_and(|item| item.tolerate.covers(&error.text)) {
                continue;
            }
            if self.is_missing(command, &error.text) {
                continue;
            }
            let mut text = error.text;
            if Refusal::of(&text).is_some() {
                text.extend_from_slice(
                    b" (in the middle of an executed transaction: not tried again, since what \
                      followed it has taken effect)",
                );
            }
            self.fail_executed(command, &text, &mut refused)?;
        }
        match &mut self.guard {
            Some(guard) => guard.stored = stores.or(guard.stored),
            None => self.db = Some(last_db),
        }
        self.refused = refused;
        if let Some(probe) = self.queue.get(self.awaiting).filter(|batch| batch.probe) {
            let found = (0..probe.out.commands()).filter_map(|n| probe.item_of(n));
            self.verified.extend(found.map(|item| item.db));
        }
        Ok(())
    }

    /// Nothing of the transaction was executed.
    fn abort(&mut self, text: Vec<u8>) -> Result<(), TargetError> {
        let Some(batch) = self.queue.get_mut(self.awaiting) else {
            return Ok(());
        };
        let errors = std::mem::take(&mut batch.sending.queue_errors);
        let for_now = errors
            .iter()
            .map(|(_, error)| error)
            .chain([&text])
            .find_map(|error| Some((Refusal::of(error)?, error.clone())));
        if let Some((refusal, answer)) = for_now {
            self.refuse_other_dataset(refusal, &answer)?;
            self.trouble = Some(Trouble {
                from: 0,
                refusal,
                answer,
            });
            return Ok(());
        }
        if errors.is_empty() {
            return Err(self.unexpected("committing a transaction", Reply::Error(text)));
        }
        for (n, error) in errors.into_iter().rev() {
            let command = match self.site(n.saturating_sub(1)) {
                Site::Command(command) => command,
                ours => return Err(self.refused_at(ours, &error)),
            };
            self.fail(command, &error)?;
            let record = self.record(command, &error);
            if let Some(batch) = self.queue.get_mut(self.awaiting) {
                batch.failed.extend(record);
                batch.remove(command);
            }
        }
        if let Some(batch) = self.queue.get_mut(self.awaiting) {
            batch.sending.again = true;
        }
        Ok(())
    }

    /// Every reply of the awaited batch has come.
    fn finish(&mut self) -> Result<(), TargetError> {
        if self.awaiting + 1 == self.sent && self.link.is_writing() {
            return Err(self.lost(io::Error::other("it answered before it was asked")));
        }
        self.stirred = true;
        if let Some(trouble) = self.trouble.take() {
            self.awaiting += 1;
            if self.awaiting < self.sent {
                self.trouble = Some(trouble);
                return Ok(());
            }
            self.send_again(trouble.from);
            self.counters.retries += 1;
            let (wait, attempt) = self.retry.back_off();
            self.notify(Notice::Refused {
                refusal: trouble.refusal,
                answer: lossy(&trouble.answer),
                wait,
                attempt,
            });
            return Ok(());
        }
        let front = self.queue.front_mut();
        if front.is_some_and(|batch| batch.sending.again) {
            self.send_again(0);
            if self.queue.front().is_some_and(|batch| !batch.is_empty()) {
                return Ok(());
            }
            // All of it was refused: nothing is left to be sent.
            self.sent = 1;
        }
        let Some(mut batch) = self.queue.pop_front() else {
            return Ok(());
        };
        fail_point::pass(match batch.sending.transaction {
            true => Place::TransactionChecked,
            false => Place::BatchAnswered,
        });
        self.sent -= 1;
        if !batch.probe && !batch.arming {
            self.counters.commands += batch.out.commands() as u64;
            self.counters.bytes += batch.out.len();
            if let Some((after, attempts)) = self.retry.succeed() {
                self.notify(Notice::Recovered { after, attempts });
            }
        }
        self.applied = batch.reaches.or(self.applied);
        let then = batch.then.take();
        batch.clear();
        if self.spare.len() < SPARE {
            self.spare.push(batch);
        }
        let refused = std::mem::take(&mut self.refused);
        let error = match &self.guard {
            Some(guard) if !refused.records.is_empty() => {
                let batch = refused.into_batch(guard.position_db);
                self.queue.push_front(batch);
                then
            }
            _ => then.or(refused.error),
        };
        self.queued = self.queue.iter().map(|batch| batch.out.in_memory()).sum();
        error.map_or(Ok(()), |error| Err(*error))
    }

    /// Nothing is in flight: what was sent waits again, the first batch from a command on.
    fn send_again(&mut self, from: usize) {
        for (index, batch) in self.queue.iter_mut().take(self.sent).enumerate() {
            batch.rewind(if index == 0 { from } else { 0 });
        }
        self.sent = 0;
        self.awaiting = 0;
        self.queued = self.queue.iter().map(|batch| batch.out.in_memory()).sum();
    }

    fn item_of(&self, command: usize) -> Option<Item> {
        self.queue
            .get(self.awaiting)
            .and_then(|batch| batch.item_of(command))
    }

    pub(super) fn unexpected(&self, doing: &str, reply: Reply) -> TargetError {
        match reply {
            Reply::Error(text) => TargetError::from_answer(&self.addr, doing, "it", lossy(&text)),
            reply => TargetError::Answer {
                addr: self.addr.clone(),
                doing: doing.to_owned(),
                answer: format!("{reply:?}"),
            },
        }
    }
}

/// How often `reply` stands at the start of `bytes`, at most `limit` times.
#[inline]
fn run_of(bytes: &[u8], reply: &[u8], limit: usize) -> usize {
    bytes
        .chunks_exact(reply.len())
        .take(limit)
        .take_while(|chunk| *chunk == reply)
        .count()
}

pub(super) fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}
