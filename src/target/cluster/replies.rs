//! Replies of the nodes, matched to what was sent, and what follows from an error.

use super::lane::{Lane, Role};
use super::parked::Behind;
use super::round::{Group, Repeats, place, repeats};
use super::writer::Writer;
use crate::fail_point::{self, Place};
use crate::resp::{OK, QUEUED, Reply, usual, usual_transaction};
use crate::target::Tolerate;
use crate::target::answer::Refusal;
use crate::target::dead_letter::ErrorPolicy;
use crate::target::error::TargetError;
use crate::target::failed::{self, Failed};
use crate::target::writer::Notice;
use crate::target::writer::missed::ANSWERS_MISSING;

/// Whether an error says that nothing was executed, and that it may be later, or elsewhere.
pub(super) fn is_for_now(error: &[u8]) -> bool {
    Refusal::of(error).is_some() || is_redirect(error)
}

/// Whether an error says that a slot is another node's, or on its way to one.
fn is_redirect(error: &[u8]) -> bool {
    [&b"MOVED "[..], b"ASK ", b"TRYAGAIN "]
        .iter()
        .any(|code| error.starts_with(code))
}

impl Lane {
    /// The fast path: takes the next answer, or those to a whole transaction, if it is as nearly all are and nothing else
    /// is to be learnt from it. How many bytes it has.
    fn take_usual(&mut self, bytes: &[u8], watches: bool) -> Option<usize> {
        let (len, replies) = match self.roles.get(self.answered)? {
            Role::Multi(count) => {
                let count = *count as usize;
                if let Some((len, zero)) = usual_transaction(bytes, count)
                    && (!watches || zero.is_none_or(|zero| self.is_position(zero)))
                {
                    fail_point::pass(Place::TransactionAnswered);
                    (len, count + 2)
                } else {
                    (bytes.starts_with(OK).then_some(OK.len())?, 1)
                }
            }
            Role::Plain { tells, .. } => {
                let (len, is_zero) = usual(bytes)?;
                if is_zero && *tells && watches {
                    return None;
                }
                (len, 1)
            }
            Role::Queued(_) | Role::Position(_) => {
                (bytes.starts_with(QUEUED).then_some(QUEUED.len())?, 1)
            }
            _ => return None,
        };
        self.answered += replies;
        Some(len)
    }

    /// Whether this command of the transaction that is answered next stores the position, which answers 0 but for the
    /// first time.
    fn is_position(&self, command: usize) -> bool {
        let role = self.roles.get(self.answered + 1 + command);
        matches!(role, Some(Role::Position(_)))
    }
}

impl Writer {
    /// Takes `count` bytes that a lane has read.
    pub(super) fn take_replies(&mut self, index: usize, count: usize) -> Result<(), TargetError> {
        fail_point::pass(Place::Replied);
        let Some(lane) = self.lanes.get_mut(index) else {
            return Ok(());
        };
        let buffer = std::mem::take(&mut lane.link.replies);
        let result = self.take_bytes(index, buffer.get(..count).unwrap_or_default());
        if let Some(lane) = self.lanes.get_mut(index) {
            lane.link.replies = buffer;
        }
        result?;
        match self.flight.is_some() && self.lanes.iter().all(|lane| lane.unanswered() == 0) {
            true => self.finish(),
            false => Ok(()),
        }
    }

    fn take_bytes(&mut self, index: usize, mut rest: &[u8]) -> Result<(), TargetError> {
        let flight = self.flight.as_ref();
        let watches = self.missing.is_noted() && flight.is_some_and(|flight| flight.watches);
        while !rest.is_empty() {
            let Some(lane) = self.lanes.get_mut(index) else {
                return Ok(());
            };
            if lane.scanner.is_between() {
                if let Some(used) = lane.take_usual(rest, watches) {
                    rest = rest.get(used..).unwrap_or_default();
                    continue;
                }
                lane.scanner.note_zeros(watches);
            }
            let scanned = lane.scanner.feed(rest);
            let (used, reply) = scanned.map_err(|cause| TargetError::Protocol {
                addr: lane.addr(),
                cause,
            })?;
            rest = rest.get(used..).unwrap_or_default();
            match reply {
                None | Some(Reply::Push) => {}
                Some(reply) => self.take_reply(index, reply)?,
            }
        }
        Ok(())
    }

    fn take_reply(&mut self, index: usize, reply: Reply) -> Result<(), TargetError> {
        let Some(lane) = self.lanes.get_mut(index) else {
            return Ok(());
        };
        let Some(role) = lane.roles.get(lane.answered).copied() else {
            return Err(unexpected(&lane.addr(), "nothing was asked", reply));
        };
        lane.answered += 1;
        let zero = lane.scanner.first_zero();
        if let (Role::Exec(group), Reply::Array { len, errors }) = (role, &reply)
            && errors.is_empty()
            && self.is_executed(group, *len, zero)
        {
            fail_point::pass(Place::TransactionAnswered);
            return Ok(());
        }
        let addr = |writer: &Self| {
            let lane = writer.lanes.get(index);
            lane.map(Lane::addr).unwrap_or_default()
        };
        match (role, reply) {
            (role, Reply::Error(text)) if is_redirect(&text) && role != Role::Record => {
                self.redirected(role);
                Ok(())
            }
            // The state of what else is under way is that after a kill: everything is read again.
            (role, Reply::Error(text)) if is_for_now(&text) && role != Role::Ping => {
                Err(TargetError::Unready {
                    addr: addr(self),
                    doing: "writing".to_owned(),
                    answer: String::from_utf8_lossy(&text).into_owned(),
                })
            }
            (Role::Ping, _) => Ok(()),
            (Role::Plain { n, .. }, Reply::Error(text)) if self.was_done(n, &text) => Ok(()),
            (Role::Plain { n, .. }, Reply::Error(text)) => self.refused(n, &text, false),
            (Role::Plain { n, tells: true }, Reply::Integer(0)) if self.missing.is_noted() => {
                self.note_missed(n, true, |name| ANSWERS_MISSING.contains(&name));
                Ok(())
            }
            (Role::Plain { .. }, Reply::Queued) => Err(unexpected(
                &addr(self),
                "writing without a transaction",
                Reply::Queued,
            )),
            (Role::Plain { .. }, _) | (Role::Multi(_), Reply::Ok) => Ok(()),
            (Role::Queued(_) | Role::Position(_), Reply::Queued) => Ok(()),
            (Role::Queued(n), Reply::Error(text)) => self.refused(n, &text, true),
            (Role::Exec(group), Reply::Array { len, errors }) => {
                fail_point::pass(Place::TransactionAnswered);
                self.take_executed(index, group, len, errors)
            }
            (Role::Exec(group), Reply::Error(text)) if text.starts_with(b"EXECABORT") => {
                let flight = self.flight.as_mut();
                let group = flight.and_then(|flight| flight.groups.get_mut(group as usize));
                if let Some(group) = group {
                    group.again = !group.redirected;
                }
                Ok(())
            }
            // The field was there, or somebody has removed what the task has on this node.
            (Role::Stamp(true), Reply::Integer(1..)) => Err(TargetError::Vanished {
                addr: addr(self),
                what: "the stamp of a flow is gone".to_owned(),
            }),
            (Role::Stamp(_) | Role::Removal | Role::Record, Reply::Integer(_)) => {
                match role {
                    Role::Stamp(_) => fail_point::pass(Place::StampAnswered),
                    Role::Removal => fail_point::pass(Place::PositionRemoved),
                    _ => {}
                }
                Ok(())
            }
            (
                Role::Stamp(_) | Role::Removal | Role::Record | Role::Position(_),
                Reply::Error(text),
            ) => Err(TargetError::Record {
                addr: addr(self),
                key: "a position or stamp of the task".to_owned(),
                what: String::from_utf8_lossy(&text).into_owned(),
            }),
            (_, reply) => Err(unexpected(&addr(self), "writing", reply)),
        }
    }

    /// A slot is on the move: its commands of this flight are parked when all is answered.
    fn redirected(&mut self, role: Role) {
        self.must_look = true;
        let Some(flight) = &mut self.flight else {
            return;
        };
        let of_command = |n: u32| {
            let at = flight.order.iter().position(|command| *command == n)?;
            let mut groups = flight.groups.iter();
            groups.position(|group| group.commands().contains(&at))
        };
        let group = match role {
            Role::Plain { n, .. } | Role::Queued(n) => of_command(n),
            Role::Position(group) | Role::Exec(group) => Some(group as usize),
            // The nodes are told again, where the stamps are then.
            Role::Stamp(_) => {
                flight.stamp = None;
                None
            }
            Role::Removal | Role::Record | Role::Ping | Role::Multi(_) => None,
        };
        if let Some(group) = group.and_then(|group| flight.groups.get_mut(group)) {
            group.redirected = true;
            group.again = false;
        }
    }

    /// How many positions a group's transaction stores.
    fn positions_of(&self, group: &Group) -> u64 {
        u64::from(self.flow.is_some() && group.reaches().is_some())
    }

    /// Whether a group's transaction was executed, and there is nothing else to be learnt from its answer.
    fn is_executed(&self, group: u32, len: u64, zero: Option<u64>) -> bool {
        let flight = self.flight.as_ref();
        let Some(group) = flight.and_then(|flight| flight.groups.get(group as usize)) else {
            return false;
        };
        let commands = group.commands().len() as u64;
        // The position answers 0 but for the first time.
        let tells_nothing = zero.is_none_or(|zero| zero >= commands);
        tells_nothing && self.dropped.is_empty() && commands + self.positions_of(group) == len
    }

    /// A group's transaction was executed. Errors in it did not undo the rest, and are not tried again.
    fn take_executed(
        &mut self,
        index: usize,
        group: u32,
        len: u64,
        errors: Vec<crate::resp::ElementError>,
    ) -> Result<(), TargetError> {
        let Some(flight) = &self.flight else {
            return Ok(());
        };
        let group = flight.groups.get(group as usize);
        let commands = group.and_then(|group| flight.order.get(group.commands()));
        let commands: Vec<u32> = commands
            .unwrap_or_default()
            .iter()
            .copied()
            .filter(|n| !self.dropped.contains(n))
            .collect();
        let positions = group.map_or(0, |group| self.positions_of(group));
        let zeros = match self.lanes.get_mut(index) {
            Some(lane) => lane.scanner.take_zeros(),
            None => Vec::new(),
        };
        if len != commands.len() as u64 + positions {
            let addr = self.addr.clone();
            let reply = Reply::Array { len, errors };
            return Err(unexpected(&addr, "committing a transaction", reply));
        }
        let command = |element: u64| {
            let element = usize::try_from(element).ok()?;
            commands.get(element).copied()
        };
        if self.missing.is_noted() {
            for n in zeros.into_iter().filter_map(command) {
                self.note_missed(n, true, |name| ANSWERS_MISSING.contains(&name));
            }
        }
        for error in errors {
            let Some(n) = command(error.index) else {
                return Err(TargetError::Record {
                    addr: self.addr.clone(),
                    key: "the position of a slot".to_owned(),
                    what: String::from_utf8_lossy(&error.text).into_owned(),
                });
            };
            if self.missing.is_noted() && Tolerate::NoSuchKey.covers(&error.text) {
                self.note_missed(n, true, |_| true);
                continue;
            }
            if !self.was_done(n, &error.text) {
                self.refused_executed(n, &error.text)?;
            }
        }
        Ok(())
    }

    /// Whether a command was refused because it and others behind it, which replaced its key by one of another type, were
    /// done before. They come again too. That nothing else is behind it cannot be told, so the key is read again.
    fn was_done(&mut self, n: u32, text: &[u8]) -> bool {
        let (Some(flight), Some(flow)) = (&self.flight, &self.flow) else {
            return false;
        };
        let command = n as usize;
        let (name, slot) = place(&flight.out, command);
        let is_repeated = || {
            slot.is_some_and(|slot| flight.parked.contains_key(&slot))
                || flight
                    .out
                    .lsn(command)
                    .is_some_and(|lsn| flow.may_be_done(lsn))
        };
        let was_done = text.starts_with(b"WRONGTYPE ")
            && self.missing.is_noted()
            && repeats(&flight.out, command, name) == Repeats::Elements
            && is_repeated();
        if was_done {
            self.note_missed(n, true, |_| true);
        }
        was_done
    }

    fn note_missed(&mut self, n: u32, certain: bool, of: impl Fn(&[u8]) -> bool) {
        if let Some(flight) = &self.flight {
            let db = || Some(0);
            self.missing.note(&flight.out, n as usize, certain, of, db);
        }
    }

    /// A command was refused for good, and has not taken effect. In a transaction, nothing has.
    fn refused(&mut self, n: u32, text: &[u8], queued: bool) -> Result<(), TargetError> {
        if self.is_tolerated(n, text) {
            return Ok(());
        }
        if let Some(error) = self.stops_at(n, text, false) {
            return Err(error);
        }
        self.pass_over(n, text)?;
        let record = self.record(n, text);
        if let Some(flight) = &mut self.flight {
            flight.records.extend(record);
        }
        if queued {
            self.dropped.push(n);
        }
        Ok(())
    }

    /// A command was refused for good, in a transaction that has taken effect.
    fn refused_executed(&mut self, n: u32, text: &[u8]) -> Result<(), TargetError> {
        if self.is_tolerated(n, text) {
            return Ok(());
        }
        let record = self.record(n, text);
        let stops = self.stops_at(n, text, record.is_some());
        if stops.is_none() {
            self.pass_over(n, text)?;
        }
        if let Some(flight) = &mut self.flight {
            flight.records.extend(record);
            if flight.then.is_none() {
                flight.then = stops.map(Box::new);
            }
        }
        Ok(())
    }

    fn is_tolerated(&self, n: u32, text: &[u8]) -> bool {
        let flight = self.flight.as_ref();
        flight.is_some_and(|flight| flight.item_of(n as usize).tolerate.covers(text))
    }

    /// The error that a refused command ends the task with, if it does.
    fn stops_at(&self, n: u32, text: &[u8], recorded: bool) -> Option<TargetError> {
        let (ErrorPolicy::Stop, Some(flight)) = (&self.policy, &self.flight) else {
            return None;
        };
        let described = flight.out.describe(n as usize);
        let error = TargetError::of_refused(&self.addr, described, text, recorded);
        Some(error)
    }

    /// The record of a refused command, if it is a journal entry's and there is room.
    fn record(&mut self, n: u32, text: &[u8]) -> Option<Failed> {
        let flight = self.flight.as_ref()?;
        let flow = self.flow.as_mut()?;
        let lsn = flight.out.lsn(n as usize)?;
        if !flow.fence.count_failed(failed::MOST) {
            return None;
        }
        let place = (flow.flow, lsn, flow.numbers.next(lsn));
        Some(Failed::of(&flight.out, n as usize, place, 0, text))
    }

    /// Notes a command in the dead-letter file.
    fn pass_over(&mut self, n: u32, text: &[u8]) -> Result<(), TargetError> {
        let (Some(flight), ErrorPolicy::Skip { dead_letter }) = (&self.flight, &self.policy) else {
            return Ok(());
        };
        let flow = self.flow.as_ref().map(|flow| flow.flow);
        dead_letter.record(&flight.out, n as usize, flow, 0, text)?;
        self.counters.skipped += 1;
        if self.notices.len() < crate::target::writer::NOTICES {
            self.notices.push_back(Notice::Skipped {
                command: flight.out.describe(n as usize),
                db: 0,
                answer: String::from_utf8_lossy(text).into_owned(),
            });
        }
        self.stirred = true;
        Ok(())
    }

    /// Every lane is answered: what was not executed is sent again, records follow, or the flight is over.
    fn finish(&mut self) -> Result<(), TargetError> {
        if let Some(lane) = self.lanes.iter().find(|lane| lane.link.is_writing()) {
            return Err(lane.lost(std::io::Error::other("it answered before it was asked")));
        }
        let Some(flight) = self.flight.take() else {
            return Ok(());
        };
        if !flight.records.is_empty() || flight.groups.iter().any(|group| group.again) {
            self.send(flight, false);
            return Ok(());
        }
        for group in &flight.groups {
            let taken = flight.parked.get(&group.slot);
            if group.redirected {
                let commands = flight.order.get(group.commands()).unwrap_or_default();
                let was = flight.was(group.slot, self.applied());
                self.parking.park(group.slot, &flight, commands, was);
                fail_point::pass(Place::SlotParked);
            } else if let Some(Behind::More(Some(first))) = taken.map(|taken| taken.behind) {
                self.parking.advance(group.slot, first);
            }
        }
        let atomic = flight.groups.iter().any(|group| group.atomic);
        fail_point::pass(match atomic {
            true => Place::TransactionChecked,
            false => Place::BatchAnswered,
        });
        let doubted = match self.missing.is_noted() {
            true => flight.came_late(),
            false => Vec::new(),
        };
        self.flight = Some(flight);
        doubted
            .into_iter()
            .for_each(|n| self.note_missed(n, false, |_| true));
        let then = self.flight.as_mut().and_then(|flight| flight.then.take());
        self.land();
        then.map_or(Ok(()), |error| Err(*error))
    }
}

fn unexpected(addr: &str, doing: &str, reply: Reply) -> TargetError {
    match reply {
        Reply::Error(text) => {
            let text = String::from_utf8_lossy(&text).into_owned();
            TargetError::from_answer(addr, doing, "it", text)
        }
        reply => TargetError::Answer {
            addr: addr.to_owned(),
            doing: doing.to_owned(),
            answer: format!("{reply:?}"),
        },
    }
}
