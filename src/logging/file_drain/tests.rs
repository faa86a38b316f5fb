use super::*;
use crate::logging::format::Form;
use slog::{Level, o, record_static};
use std::fs;

fn drain(path: &std::path::Path) -> FileDrain {
    FileDrain {
        lines: Lines::new(Form::Json),
        file: RefCell::new(LogFile::open(path.to_owned(), None).unwrap()),
        reopen: Arc::default(),
        overflow: Overflow::default(),
    }
}

fn log(drain: &FileDrain, n: u32) {
    let place = record_static!(Level::Info, "");
    let message = format_args!("line");
    let Ok(()) = drain.log(&Record::new(&place, &message, b!("n" => n)), &o!().into());
}

#[test]
fn a_full_disk_costs_lines_and_the_log_goes_on_with_their_number() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("orders.log");
    // Every write to /dev/full fails with "no space left on device".
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    let drain = drain(&path);
    log(&drain, 1);
    log(&drain, 2);
    fs::remove_file(&path).unwrap();
    log(&drain, 3);
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert_eq!(
        lines[0]["msg"],
        "log lines lost, the file could not be written"
    );
    assert_eq!(lines[0]["level"], "warning");
    assert_eq!(lines[0]["lost"], 2);
    assert_eq!(lines[0]["error"], "No space left on device (os error 28)");
    assert_eq!(lines[1]["n"], 3);
}

#[test]
fn every_notice_is_a_line_of_its_format() {
    let lines = Lines::new(Form::Json);
    let error = "x".to_owned();
    for notice in [
        Notice::Lost {
            lines: 1,
            error: error.clone(),
        },
        Notice::Overflowed { lines: 1 },
        Notice::NotReopened {
            error: error.clone(),
        },
        Notice::NotRotated {
            error: error.clone(),
        },
        Notice::NotCompressed { error },
    ] {
        let line = String::from_utf8(notice_line(&lines, &notice)).unwrap();
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(object["level"], "warning", "{line}");
        assert!(object["error"] == "x" || object["lost"] == 1, "{line}");
        assert!(
            line.ends_with("}\n") && line.matches('\n').count() == 1,
            "{line}"
        );
    }
}
