//! What `df2redis status` and the log tell of a backlog.

use crate::df2redis::Task;
use crate::said::{said, status};
use crate::support::{RedisServer, SimulatedDragonfly, eventually};

#[test]
fn a_backlog_is_shown_with_how_long_the_source_and_the_spool_last() {
    let source = SimulatedDragonfly::start();
    let target = RedisServer::start();
    let task =
        Task::between(&source.address(), &target.address()).with("limits.memory = \"16MiB\"");
    let mut running = task.start_stable();
    let mut client = target.client();
    client.ok(&["CLIENT", "PAUSE", "600000", "WRITE"]);
    let value = "v".repeat(100_000);
    let spool = |field: &str| status(&task)["spool"][field].clone();
    // The source is asked once a second how far it is: writes go on until that shows.
    eventually("how long ring and spool last", || {
        for _ in 0..20 {
            source.journal(0, ["SET", "k", &value]);
        }
        spool("flows_behind") == 1
            && spool("ring_window_ms").is_u64()
            && spool("spool_window_ms").is_u64()
    });
    assert!(spool("oldest_ms").is_u64() && spool("bytes").as_u64() > Some(0));
    assert!(spool("empty_in_ms").is_null(), "the target takes nothing");
    let (ring, whole) = (spool("ring_window_ms"), spool("spool_window_ms"));
    assert!(
        ring.as_u64() > Some(0) && whole.as_u64() > Some(0),
        "{ring} {whole}"
    );
    let text = said(&mut task.asked("status")).stdout;
    assert!(text.contains("  spool     "), "{text}");
    assert!(
        text.contains(", the target is slower than the source\n"),
        "{text}"
    );
    assert!(text.contains("  resumes   after up to "), "{text}");
    assert!(text.contains(" without target, "), "{text}");
    let line = running.wait_logged("summary, ");
    for field in [
        "spool_bytes: ",
        "oldest_ms: ",
        "empty_in_ms: ",
        "ring_window_ms: ",
        "spool_window_ms: ",
    ] {
        assert!(line.contains(field), "{field:?} in {line}");
    }
    client.ok(&["CLIENT", "UNPAUSE"]);
    eventually("the backlog is gone", || spool("empty_in_ms") == 0);
    running.stop();
}
