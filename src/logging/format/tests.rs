use super::*;
use proptest::prelude::*;
use slog::b;

/// A line of a record with that tag, message and one value.
fn line_of(form: Form, level: Level, tag: &'static str, message: &str, value: &str) -> String {
    let mut place = record_static!(Level::Warning, "");
    place.level = level;
    place.tag = tag;
    let message = format_args!("{message}");
    let pairs = b!("addr" => "a:1", "error" => value);
    let record = Record::new(&place, &message, pairs);
    String::from_utf8(Lines::new(form).line(&record, &o!("task" => "orders").into())).unwrap()
}

fn line(form: Form) -> String {
    line_of(
        form,
        Level::Warning,
        "",
        "target lost",
        "x\n2026 INFO forged\x1b[2J\u{9b}2J\x7f",
    )
}

#[test]
fn a_text_line_has_time_level_message_and_fields_and_cannot_be_forged() {
    let line = line(Form::Text);
    let (time, rest) = line.split_once(' ').unwrap();
    assert_eq!(time.len(), "2026-01-02T03:04:05.678Z".len(), "{time}");
    humantime::parse_rfc3339(time).unwrap();
    assert_eq!(
        rest,
        "WARN target lost, task: orders, addr: a:1, \
         error: x\\n2026 INFO forged\\x1b[2J\\u009b2J\\x7f\n"
    );
}

#[test]
fn a_json_line_is_one_object() {
    let line = line(Form::Json);
    assert_eq!(line.matches('\n').count(), 1);
    let object: serde_json::Value = serde_json::from_str(&line).unwrap();
    humantime::parse_rfc3339(object["ts"].as_str().unwrap()).unwrap();
    assert_eq!(object["level"], "warning");
    assert_eq!(object["msg"], "target lost");
    assert_eq!(
        object["error"],
        "x\n2026 INFO forged\u{1b}[2J\u{9b}2J\u{7f}"
    );
    assert_eq!(object["task"], "orders");
    assert!(!line.trim_end().contains(char::is_control), "{line:?}");
}

#[test]
fn a_line_for_a_service_manager_has_a_priority_and_no_time() {
    for (level, start) in [
        (Level::Critical, "<2>CRIT"),
        (Level::Error, "<3>ERRO"),
        (Level::Warning, "<4>WARN"),
        (Level::Info, "<6>INFO"),
        (Level::Debug, "<7>DEBG"),
        (Level::Trace, "<7>TRCE"),
    ] {
        let line = line_of(Form::Syslog, level, "", "hello", "x");
        assert_eq!(
            line,
            format!("{start} hello, task: orders, addr: a:1, error: x\n")
        );
    }
}

#[test]
fn a_line_on_the_console_shows_the_task_and_colours_only_where_they_are_wanted() {
    let plain = line_of(
        Form::Terminal { coloured: false },
        Level::Info,
        "orders",
        "hello",
        "\x1b[31m",
    );
    let (_, rest) = plain.split_once(' ').unwrap();
    assert_eq!(
        rest,
        "INFO orders: hello, task: orders, addr: a:1, error: \\x1b[31m\n"
    );
    let coloured = line_of(
        Form::Terminal { coloured: true },
        Level::Error,
        "orders",
        "hello",
        "\x1b[31m",
    );
    let (_, rest) = coloured.split_once(' ').unwrap();
    assert_eq!(
        rest,
        "\x1b[1;31mERRO\x1b[0m orders: \x1b[1mhello\x1b[0m, task: orders, addr: a:1, error: \\x1b[31m\n"
    );
    let captured = line_of(Form::Syslog, Level::Info, "orders", "hello", "x");
    assert!(
        captured.starts_with("<6>INFO orders: hello, "),
        "{captured}"
    );
}

#[test]
fn a_value_that_cannot_be_shown_costs_the_values_and_not_the_line() {
    struct Broken;
    impl slog::Value for Broken {
        fn serialize(
            &self,
            _: &Record<'_>,
            _: slog::Key,
            _: &mut dyn slog::Serializer,
        ) -> slog::Result {
            Err(slog::Error::Other)
        }
    }
    let place = record_static!(Level::Error, "");
    let message = format_args!("said");
    for form in [Form::Text, Form::Json] {
        let lines = Lines::new(form);
        let line = lines.line(
            &Record::new(&place, &message, b!("x" => Broken)),
            &o!().into(),
        );
        let line = String::from_utf8(line).unwrap();
        assert!(line.contains("said ("), "{line}");
        assert_eq!(line.matches('\n').count(), 1);
        if form == Form::Json {
            let object: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!(object["level"], "error");
        }
    }
}

proptest! {
    /// Whatever is logged: one line, without control characters, and JSON gives back what was logged.
    #[test]
    fn a_line_is_one_line(message in "\\PC{0,20}|[\\x00-\\u{a0}\\u{2028}]{0,20}", value in any::<String>()) {
        let object: serde_json::Value =
            serde_json::from_str(&line_of(Form::Json, Level::Info, "", &message, &value)).unwrap();
        prop_assert_eq!(object["msg"].as_str(), Some(&*message));
        prop_assert_eq!(object["error"].as_str(), Some(&*value));
        for form in [Form::Text, Form::Json, Form::Syslog, Form::Terminal { coloured: false }] {
            let line = line_of(form, Level::Info, "", &message, &value);
            let body = line.strip_suffix('\n').unwrap();
            prop_assert!(!body.contains(char::is_control), "{:?}", body);
        }
    }
}
