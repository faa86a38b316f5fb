//! The host with tasks that panic, fail and end as they are told, in paused time.

use super::*;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use slog::{Discard, o};

use crate::task::Stage;

/// What one start of a task does.
#[derive(Clone, Copy)]
enum Act {
    Panic,
    Fail,
    /// Another process takes the task over.
    Displaced,
    /// Ends well when told to drain.
    Run,
    /// Heeds no drain, and ends undrained when told to end at once.
    Linger,
    /// Heeds nothing.
    Hang,
}

struct Scene {
    dir: tempfile::TempDir,
    hosted: Vec<Hosted>,
    acts: Arc<Vec<Vec<Act>>>,
    starts: Arc<Vec<AtomicUsize>>,
    stop: watch::Sender<Stop>,
}

impl Scene {
    /// A task for each list; what comes after the end of a list is its last act again.
    fn of(acts: &[&[Act]]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let hosted = (0..acts.len()).map(|n| hosted(dir.path(), n)).collect();
        Self {
            dir,
            hosted,
            starts: Arc::new(acts.iter().map(|_| AtomicUsize::new(0)).collect()),
            acts: Arc::new(acts.iter().map(|acts| acts.to_vec()).collect()),
            stop: watch::Sender::new(Stop::Run),
        }
    }

    fn run(&self) -> impl Future<Output = Result<(), Vec<(String, TaskError)>>> + use<> {
        let (acts, starts) = (self.acts.clone(), self.starts.clone());
        let stop = self.stop.subscribe();
        let hosted = self.hosted.clone();
        async move {
            host_with(hosted, stop, |hosted, stop| {
                let number: usize = hosted.task.name.trim_start_matches('t').parse().unwrap();
                let start = starts[number].fetch_add(1, Ordering::Relaxed);
                let acts = &acts[number];
                act(acts[start.min(acts.len() - 1)], hosted.reporter, stop)
            })
            .await
        }
    }

    fn starts(&self, task: usize) -> usize {
        self.starts[task].load(Ordering::Relaxed)
    }

    /// Lets the host run until `done`, for at most a day.
    async fn until(&self, mut done: impl FnMut(&Self) -> bool) {
        for _ in 0..86_400 {
            if done(self) {
                return;
            }
            sleep(Duration::from_secs(1)).await;
        }
        panic!("not within a day");
    }
}

fn hosted(dir: &std::path::Path, number: usize) -> Hosted {
    let file = dir.join(format!("t{number}.toml"));
    let text = "source.address = \"a:1\"\ntarget.address = \"b:2\"\n\
                task.state_dir = \".\"\ntask.shutdown_timeout = \"30s\"\n";
    std::fs::write(&file, text).unwrap();
    let task = crate::config::load(&[file], &[]).unwrap().remove(0);
    Hosted {
        reporter: Reporter::new(&task, "log".into()),
        task: Arc::new(task),
        log: Logger::root(Discard, o!()),
        terminal: Terminal::off(),
    }
}

async fn act(
    act: Act,
    reporter: Reporter,
    mut stop: watch::Receiver<Stop>,
) -> Result<(), TaskError> {
    match act {
        Act::Panic => panic!("as told"),
        Act::Fail => Err(TaskError::Damaged {
            key: "k".to_owned(),
            db: 0,
            cause: "as told".to_owned(),
        }),
        Act::Displaced => Err(TaskError::Target(crate::target::TargetError::TakenOver {
            addr: "b:2".to_owned(),
            holder: "PID 7 on another host".to_owned(),
        })),
        Act::Run => {
            reporter.enter(Phase::Stable);
            let _ = stop.wait_for(|stop| *stop >= Stop::Drain).await;
            Ok(())
        }
        Act::Linger => {
            let _ = stop.wait_for(|stop| *stop >= Stop::Now).await;
            Err(TaskError::Undrained)
        }
        Act::Hang => pending().await,
    }
}

fn names(failures: &[(String, TaskError)]) -> Vec<&str> {
    failures.iter().map(|(name, _)| name.as_str()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_lone_task_that_fails_for_good_ends_the_process_at_once_with_its_error() {
    let scene = Scene::of(&[&[Act::Fail]]);
    let failures = scene.run().await.unwrap_err();
    assert_eq!(names(&failures), ["t0"]);
    assert!(matches!(failures[0].1, TaskError::Damaged { .. }));
    assert_eq!(scene.starts(0), 1);
    let left = crate::task::Report::load(scene.dir.path(), "t0").unwrap();
    let left = left.expect("the last status is saved");
    assert_eq!(left.phase, Phase::Failed);
    assert!(left.last_error.unwrap().text.contains("as told"));
}

#[tokio::test(start_paused = true)]
async fn a_task_that_panics_is_started_again_and_the_others_do_not_notice() {
    let scene = Scene::of(&[&[Act::Panic, Act::Panic, Act::Run], &[Act::Run]]);
    let running = tokio::spawn(scene.run());
    scene.until(|scene| scene.starts(0) == 3).await;
    assert_eq!(scene.starts(1), 1);
    let mut stage = scene.hosted[0].reporter.stage();
    stage
        .wait_for(|stage| *stage == Stage::Stable)
        .await
        .unwrap();
    let report = scene.hosted[0].reporter.report();
    assert_eq!(report.restarts, 2);
    assert!(report.last_error.unwrap().text.contains("as told"));
    scene.stop.send_replace(Stop::Drain);
    running.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lone_task_that_panics_is_started_again_for_ever() {
    let scene = Scene::of(&[&[Act::Panic]]);
    let running = tokio::spawn(scene.run());
    scene.until(|scene| scene.starts(0) == 12).await;
    scene.stop.send_replace(Stop::Drain);
    running.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_task_that_fails_for_good_is_tried_again_while_another_runs() {
    let scene = Scene::of(&[&[Act::Fail, Act::Fail, Act::Run], &[Act::Run]]);
    let running = tokio::spawn(scene.run());
    scene.until(|scene| scene.starts(0) == 3).await;
    scene.stop.send_replace(Stop::Drain);
    running.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_task_that_another_process_has_taken_over_is_not_taken_back() {
    let scene = Scene::of(&[&[Act::Displaced], &[Act::Run]]);
    let running = tokio::spawn(scene.run());
    scene.until(|scene| scene.starts(0) == 1).await;
    sleep(RESTARTS.max * 100).await;
    assert_eq!(scene.starts(0), 1);
    scene.stop.send_replace(Stop::Drain);
    running.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn when_the_last_task_fails_for_good_all_end_with_their_errors() {
    let scene = Scene::of(&[&[Act::Fail], &[Act::Panic, Act::Panic, Act::Fail]]);
    let failures = scene.run().await.unwrap_err();
    assert_eq!(names(&failures), ["t0", "t1"]);
    assert!(scene.starts(0) >= 1);
}

#[tokio::test(start_paused = true)]
async fn waits_between_starts_grow_and_stay_bounded() {
    let scene = Scene::of(&[&[Act::Fail], &[Act::Run]]);
    let running = tokio::spawn(scene.run());
    let began = tokio::time::Instant::now();
    let times = Mutex::new(Vec::new());
    for start in 1..=14 {
        scene.until(|scene| scene.starts(0) >= start).await;
        times.lock().unwrap().push(began.elapsed());
    }
    let times = times.into_inner().unwrap();
    let longest = times
        .windows(2)
        .map(|pair| pair[1] - pair[0])
        .max()
        .unwrap();
    assert!(
        longest <= RESTARTS.max + Duration::from_secs(2),
        "{longest:?}"
    );
    assert!(longest > RESTARTS.initial * 8, "{longest:?}");
    scene.stop.send_replace(Stop::Drain);
    running.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn draining_is_cut_short_after_the_tasks_own_time() {
    let scene = Scene::of(&[&[Act::Linger], &[Act::Run]]);
    let running = tokio::spawn(scene.run());
    scene.until(|scene| scene.starts(1) == 1).await;
    let told = tokio::time::Instant::now();
    scene.stop.send_replace(Stop::Drain);
    let failures = running.await.unwrap().unwrap_err();
    assert_eq!(names(&failures), ["t0"]);
    assert!(matches!(failures[0].1, TaskError::Undrained));
    assert_eq!(told.elapsed(), Duration::from_secs(30));
}

#[tokio::test(start_paused = true)]
async fn a_task_that_does_not_end_when_told_to_is_abandoned() {
    let scene = Scene::of(&[&[Act::Hang]]);
    let running = tokio::spawn(scene.run());
    scene.until(|scene| scene.starts(0) == 1).await;
    scene.stop.send_replace(Stop::Now);
    let failures = running.await.unwrap().unwrap_err();
    assert!(matches!(failures[0].1, TaskError::Stuck));
}
