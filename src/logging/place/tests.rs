use super::*;
use crate::config::Console::{Always, Auto, Never};

/// Where lines go on a terminal or not, with standard error being file 7 of device 3.
fn place(terminal: bool, setting: config::Console, variables: &[(&str, &str)]) -> Place {
    let variable = |name: &str| {
        let found = variables.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| OsString::from(value))
    };
    let streams = Streams {
        stdout_is_terminal: terminal,
        stderr: Some((3, 7)),
        variable: &variable,
    };
    streams.place(setting)
}

#[test]
fn lines_go_where_somebody_reads_them() {
    let terminal = Place::Terminal {
        drawn: true,
        coloured: true,
    };
    for (stdout_is_terminal, setting, journal, expected) in [
        (true, Auto, "", terminal),
        (true, Always, "", terminal),
        (true, Never, "", Place::Nowhere),
        (true, Auto, "3:7", terminal),
        (false, Auto, "", Place::Nowhere),
        (false, Auto, "3:7", Place::Syslog),
        (false, Never, "3:7", Place::Nowhere),
        (false, Always, "", Place::Syslog),
        // Inherited from a service, by a process whose standard error leads elsewhere.
        (false, Auto, "3:8", Place::Nowhere),
        (false, Auto, "13:7", Place::Nowhere),
        (false, Auto, "3", Place::Nowhere),
    ] {
        let found = place(
            stdout_is_terminal,
            setting,
            &[("TERM", "xterm"), ("JOURNAL_STREAM", journal)],
        );
        assert_eq!(
            found, expected,
            "{stdout_is_terminal} {setting:?} {journal}"
        );
    }
}

#[test]
fn colours_are_for_terminals_that_have_them_and_people_who_want_them() {
    for (variables, drawn, coloured) in [
        (&[("TERM", "xterm-256color")][..], true, true),
        (&[("TERM", "xterm"), ("NO_COLOR", "1")], true, false),
        (&[("TERM", "xterm"), ("NO_COLOR", "0")], true, false),
        (&[("TERM", "xterm"), ("NO_COLOR", "")], true, true),
        (&[("TERM", "dumb")], false, false),
        (&[], false, false),
    ] {
        assert_eq!(
            place(true, Auto, variables),
            Place::Terminal { drawn, coloured },
            "{variables:?}"
        );
    }
}

#[test]
fn the_journal_is_recognised_by_what_standard_error_is() {
    let ours = Streams::of_process().stderr.unwrap();
    let captured = format!("{}:{}", ours.0, ours.1);
    let streams = Streams {
        stdout_is_terminal: false,
        stderr: Some(ours),
        variable: &|name| (name == "JOURNAL_STREAM").then(|| OsString::from(&captured)),
    };
    assert_eq!(streams.place(Auto), Place::Syslog);
}
