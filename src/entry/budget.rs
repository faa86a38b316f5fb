//! One task's memory, counted in bytes. Whoever holds bytes holds a share of it.
//!
//! Invariant: the sum of all shares never exceeds the budget; a request larger than the whole
//! budget takes all of it, so that it can be met at all.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A number of bytes that may be in memory at once.
#[derive(Debug, Clone)]
pub struct Budget {
    free: Arc<Semaphore>,
    total: u32,
}

/// Part of a budget; given back when dropped.
#[derive(Debug)]
pub struct Share {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Share {
    /// A share of nothing, for bytes that no budget counts.
    pub fn none() -> Self {
        Self { _permit: None }
    }
}

impl Budget {
    /// A budget of `total` bytes; over 4 GiB it counts as 4 GiB.
    pub fn new(total: u64) -> Self {
        let total = u32::try_from(total).unwrap_or(u32::MAX);
        Self {
            free: Arc::new(Semaphore::new(total as usize)),
            total,
        }
    }

    /// Bytes in use now.
    pub fn used(&self) -> u64 {
        u64::from(self.total).saturating_sub(self.free.available_permits() as u64)
    }

    /// Waits until `bytes` are free and takes them. Cancel safe.
    pub async fn take(&self, bytes: usize) -> Share {
        let wanted = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.total);
        // The semaphore is never closed, so this cannot fail.
        let permit = self.free.clone().acquire_many_owned(wanted).await.ok();
        Share { _permit: permit }
    }

    /// Takes `bytes` if they are free.
    pub fn try_take(&self, bytes: usize) -> Option<Share> {
        let wanted = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.total);
        let permit = self.free.clone().try_acquire_many_owned(wanted).ok()?;
        Some(Share {
            _permit: Some(permit),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_over_the_whole_budget_takes_all_of_it_and_gives_it_back() {
        let budget = Budget::new(100);
        let share = budget.take(1_000).await;
        assert_eq!(budget.used(), 100);
        assert!(budget.try_take(1).is_none());
        drop(share);
        assert_eq!(budget.used(), 0);
        let share = budget.try_take(60);
        assert!(share.is_some() && budget.try_take(41).is_none());
        drop(share);
        assert_eq!(budget.used(), 0);
    }
}
