//! `df2redis check --repair`: what is done about keys that differ.
//!
//! A task that runs reads them again from its source, in the order of entries; nobody else could write them beside it. One
//! that does not run would apply entries on top of whatever was written meanwhile, so for it nothing can be done but to
//! have its next start copy everything.
//!
//! Invariant: a task that did not run cannot be started on this host while it is compared.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::alone::{failed, locked};
use super::complain;
use super::running::{Subject, ask};
use crate::admin::{LONGEST_REPAIR, MOST_REPAIRED};
use crate::check::{Class, Difference, Outcome};
use crate::config::Task;
use crate::process::{Exit, Stop, TaskLock, task_holder};
use crate::task::{Doubted, discard_position, has_position};

/// How soon a task that is busy is asked again.
const AGAIN: Duration = Duration::from_millis(50);

/// What can be done.
pub(super) enum Way {
    /// The task runs, and is asked.
    Running,
    /// It does not run, and cannot be started meanwhile. Whether it would go on where the target is.
    Stopped { _lock: TaskLock, has_position: bool },
}

impl Way {
    /// Looks for the task. What is wrong is said on standard error.
    pub(super) async fn find(task: &Task, discards: bool) -> Result<Self, Exit> {
        match task_holder(&task.state_dir, &task.name) {
            Ok(Some(_)) if discards => {
                complain(format_args!(
                    "task {} runs, and repairs keys itself: leave --discard-position out",
                    task.name
                ));
                return Err(Exit::Usage);
            }
            Ok(Some(_)) => return Ok(Self::Running),
            Ok(None) => {}
            Err(error) => {
                complain(format_args!(
                    "cannot tell whether task {} runs: {error}",
                    task.name
                ));
                return Err(Exit::Unknown);
            }
        }
        let lock = locked(task)?;
        let has_position = has_position(task).await.map_err(|error| failed(&error))?;
        if has_position && !discards {
            complain(format_args!(
                "task {} does not run, and would go on where the target is, with entries on top of what is repaired \
                 now: start it first, or have its next start copy everything with --discard-position",
                task.name
            ));
            return Err(Exit::NotRunning);
        }
        Ok(Self::Stopped {
            _lock: lock,
            has_position,
        })
    }

    /// Of a task that does not run: what becomes of keys that differ, or may differ, in words.
    pub(super) async fn leave_to_full_sync(
        &self,
        task: &Task,
        outcome: &Outcome,
    ) -> Result<Option<String>, Exit> {
        let Self::Stopped { has_position, .. } = self else {
            return Ok(None);
        };
        if outcome.is_equal() {
            return Ok(None);
        }
        if *has_position {
            discard_position(task)
                .await
                .map_err(|error| failed(&error))?;
        }
        let done = match has_position {
            true => "its positions are discarded: ",
            false => "",
        };
        Ok(Some(format!(
            "task {} does not run; {done}its next start copies everything in place",
            task.name
        )))
    }
}

/// What was brought to a running task.
#[derive(Debug, Default)]
pub(super) struct Brought {
    /// Keys it has taken, to be compared again.
    pub(super) keys: Vec<Difference>,
    /// Keys that only the target has.
    extra: Vec<Difference>,
    bytes: u64,
    /// Keys that were not brought, and why.
    left: Vec<(u64, String)>,
}

impl Brought {
    /// What was not brought, and why, by line.
    pub(super) fn left(&self) -> Vec<String> {
        let left = self.left.iter();
        left.map(|(keys, why)| format!("{keys} of the different keys were not repaired: {why}"))
            .collect()
    }

    fn leave(&mut self, keys: u64, why: &str) {
        match self.left.iter_mut().find(|(_, known)| known == why) {
            Some((count, _)) => *count += keys,
            None => self.left.push((keys, why.to_owned())),
        }
    }
}

/// Brings keys to the task that runs.
pub(super) struct Bringer {
    task: Task,
    stop: watch::Receiver<Stop>,
    /// Bytes that the names of keys may take until they are compared again.
    most: u64,
    brought: Brought,
}

impl Bringer {
    pub(super) fn new(task: &Task, most: u64, stop: watch::Receiver<Stop>) -> Self {
        Self {
            task: task.clone(),
            stop,
            most,
            brought: Brought::default(),
        }
    }

    /// Brings what is found, until there is no more; but for keys that only the target has.
    pub(super) async fn bring_all(mut self, mut found: mpsc::Receiver<Difference>) -> Self {
        let mut some = Vec::with_capacity(MOST_REPAIRED);
        while found.recv_many(&mut some, MOST_REPAIRED).await > 0 {
            let kept = self.keep(std::mem::take(&mut some));
            let (extra, others) = kept.into_iter().partition(is_extra);
            self.brought.extra.extend::<Vec<_>>(extra);
            self.bring(others).await;
        }
        self
    }

    /// Brings those too, if they are few enough; whoever takes part ends here.
    pub(super) async fn finish(mut self, outcome: &Outcome) -> Brought {
        let extra = std::mem::take(&mut self.brought.extra);
        let count = extra.len() as u64;
        let most = self.task.policy.max_delete;
        let (gone, owned) = (outcome.tally.of(Class::Extra), outcome.tally.keys());
        if count == 0 {
            return self.brought;
        }
        if !outcome.complete {
            let why = "only the target has them, and not every key was looked at";
            self.brought.leave(count, why);
        } else if !most.allows(gone, owned) {
            let why = format!(
                "only the target has them, and they are more than policy.max_delete, {most}"
            );
            self.brought.leave(count, &why);
        } else {
            self.bring(extra).await;
        }
        self.brought
    }

    /// Those that can be remembered and brought.
    fn keep(&mut self, found: Vec<Difference>) -> Vec<Difference> {
        let mut kept = Vec::with_capacity(found.len());
        for difference in found {
            let bytes = (difference.key.len() + size_of::<Difference>()) as u64;
            if difference.key.len() > LONGEST_REPAIR {
                self.brought.leave(1, "their names are over 32 KiB");
            } else if self.brought.bytes + bytes > self.most {
                let why = "there are more than fit into --max-memory: check again";
                self.brought.leave(1, why);
            } else {
                self.brought.bytes += bytes;
                kept.push(difference);
            }
        }
        kept
    }

    async fn bring(&mut self, mut keys: Vec<Difference>) {
        while !keys.is_empty() {
            let mut bytes = 0;
            let fit = keys.iter().take(MOST_REPAIRED).take_while(|difference| {
                bytes += difference.key.len();
                bytes <= LONGEST_REPAIR
            });
            let fit = fit.count().max(1);
            let rest = keys.split_off(fit);
            let some = std::mem::replace(&mut keys, rest);
            match self.ask(&some).await {
                Ok(()) => self.brought.keys.extend(some),
                Err(why) => self.brought.leave(some.len() as u64, &why),
            }
        }
    }

    /// Until the task has taken them, or does not want to.
    async fn ask(&mut self, keys: &[Difference]) -> Result<(), String> {
        let doubted: Vec<_> = keys.iter().map(doubted).collect();
        loop {
            let subjects = [Subject::Task(Box::new(self.task.clone()))];
            let (name, keys) = (self.task.name.clone(), doubted.clone());
            let asking = spawn_blocking(move || {
                ask(&subjects, None, |control, _, deadline| {
                    control.repair(&name, &keys, deadline)
                })
            });
            let answer = asking.await.map_err(|error| error.to_string())?;
            match answer.into_iter().next() {
                Some(Ok(true)) => return Ok(()),
                Some(Ok(false)) => {}
                Some(Err(unasked)) => return Err(format!("the task was asked in vain: {unasked}")),
                None => return Err("the task was not asked".to_owned()),
            }
            if *self.stop.borrow() != Stop::Run {
                return Err("the comparison was stopped".to_owned());
            }
            sleep(AGAIN).await;
        }
    }
}

fn is_extra(difference: &Difference) -> bool {
    difference.classes.contains(&Class::Extra)
}

fn doubted(difference: &Difference) -> Doubted {
    Doubted {
        db: difference.db,
        key: difference.key.clone(),
        extra: is_extra(difference),
    }
}
