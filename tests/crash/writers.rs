//! Clients that write all the time, and can be paused.

use crate::support::Client;
use crate::workload::Workload;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between two rounds of one client, so that it can be paused, and the machine does other things too.
const PACE: Duration = Duration::from_millis(1);

/// Some clients of one source. Dropping it ends them.
pub struct Writers {
    workloads: Vec<Arc<Mutex<Workload>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Writers {
    /// Starts a client for each workload.
    #[must_use]
    pub fn start(port: u16, workloads: Vec<Workload>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let workloads: Vec<_> = workloads
            .into_iter()
            .map(|one| Arc::new(Mutex::new(one)))
            .collect();
        let threads = workloads.iter().map(|workload| {
            let (workload, stop) = (Arc::clone(workload), Arc::clone(&stop));
            std::thread::spawn(move || {
                let mut client = Client::connect(port);
                while !stop.load(Ordering::SeqCst) {
                    lock(&workload).round(&mut client);
                    std::thread::sleep(PACE);
                }
            })
        });
        Self {
            threads: threads.collect(),
            workloads,
            stop,
        }
    }

    /// Nobody writes as long as what is returned lives.
    ///
    /// # Panics
    /// When a client has failed.
    #[must_use]
    #[track_caller]
    pub fn pause(&self) -> Vec<MutexGuard<'_, Workload>> {
        let failed = self.threads.iter().any(JoinHandle::is_finished);
        assert!(!failed, "a client has failed");
        self.workloads.iter().map(|one| lock(one)).collect()
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(
                ended.is_ok() || std::thread::panicking(),
                "a client has failed"
            );
        }
    }
}

fn lock(workload: &Mutex<Workload>) -> MutexGuard<'_, Workload> {
    workload.lock().unwrap_or_else(PoisonError::into_inner)
}
