//! What is said over the control socket: one request and one answer per connection, each one JSON object on one line.
//!
//! Both begin with `"version": 1`. Within a version fields are only added, and fields that are not known are ignored;
//! the version changes when somebody who does not know of a change would misunderstand.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::config::Severity;
use crate::task::{Doubted, Report};

/// The version of what is said here.
const VERSION: u32 = 1;

/// The longest request, in bytes, its line break included: enough for the names of 900 tasks.
pub(super) const LONGEST_REQUEST: usize = 64 * 1024;

/// Bytes of keys, and how many, that fit into one request to repair them.
pub const LONGEST_REPAIR: usize = 32 * 1024;
/// See there.
pub const MOST_REPAIRED: usize = 64;

/// The longest answer, in bytes: a task with 1,024 flows needs 256 KiB.
pub(super) const LONGEST_ANSWER: usize = 64 * 1024 * 1024;

/// What a client wants. No names of tasks means all tasks of the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub(super) enum Request {
    /// To know how all tasks are; answered by [`Answer::Tasks`].
    Status,
    /// To have the sources asked for their positions at once; answered by [`Answer::Done`], before they have answered.
    Refresh {
        /// Of these tasks.
        #[serde(default)]
        tasks: Vec<String>,
    },
    /// To approve what waits for it; answered by [`Answer::Approved`].
    Approve {
        /// By these tasks.
        #[serde(default)]
        tasks: Vec<String>,
    },
    /// To have keys that differ read again from the source; answered by [`Answer::Taken`] or [`Answer::Busy`].
    Repair {
        /// By this task.
        task: String,
        /// Not so many that the request becomes too long.
        keys: Vec<DoubtedKey>,
    },
    /// To change what is logged; answered by [`Answer::Levels`].
    LogLevel {
        /// By these tasks.
        #[serde(default)]
        tasks: Vec<String>,
        /// In this module and those below it; none: everywhere.
        module: Option<String>,
        /// The least severe lines; none: as the task started.
        level: Option<Severity>,
    },
}

/// What a client is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub(super) enum Answer {
    /// How all tasks are.
    Tasks {
        /// In the order in which the process took them up.
        tasks: Vec<TaskReport>,
    },
    /// It is done.
    Done,
    /// What was approved.
    Approved {
        /// The tasks that waited for it, and for nothing any more.
        tasks: Vec<String>,
    },
    /// It will be done.
    Taken,
    /// Not now, but it can be asked for again in a moment.
    Busy,
    /// What is logged from now on.
    Levels {
        /// By task, in words.
        levels: BTreeMap<String, String>,
    },
    /// Nothing was done.
    Refused {
        /// Why.
        reason: String,
    },
}

/// A key that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DoubtedKey {
    /// Database of the source.
    pub(super) db: u32,
    /// The key in base64, since it may hold any bytes.
    pub(super) key_base64: String,
    /// Only the target has it.
    #[serde(default)]
    pub(super) extra: bool,
}

impl DoubtedKey {
    pub(super) fn of(doubted: &Doubted) -> Self {
        Self {
            db: doubted.db,
            key_base64: STANDARD.encode(&doubted.key),
            extra: doubted.extra,
        }
    }

    /// None if it is no base64.
    pub(super) fn decoded(&self) -> Option<Doubted> {
        Some(Doubted {
            db: self.db,
            key: STANDARD.decode(&self.key_base64).ok()?,
            extra: self.extra,
        })
    }
}

/// A task as its process sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskReport {
    /// What it tells of itself.
    #[serde(flatten)]
    pub report: Report,
    /// What it logs, if that was changed since it started.
    #[serde(default)]
    pub log_levels: Option<String>,
}

/// Why a line is no request or no answer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Invalid {
    /// Another release, which might mean something else.
    #[error(
        "version {0} of the control protocol, and not {VERSION}, is spoken there: use the df2redis of that process"
    )]
    Version(u32),
    /// Anything else.
    #[error("not understood: {0}")]
    Malformed(String),
}

#[derive(Serialize)]
struct Versioned<'a, Body> {
    version: u32,
    #[serde(flatten)]
    body: &'a Body,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// A line, with its end. Fails for what JSON cannot hold: a path that is not UTF-8.
pub(super) fn encode<Body: Serialize>(body: &Body) -> Result<Vec<u8>, serde_json::Error> {
    let version = VERSION;
    let mut line = serde_json::to_vec(&Versioned { version, body })?;
    line.push(b'\n');
    Ok(line)
}

/// What a line says, its end left out.
pub(super) fn decode<Body: for<'a> Deserialize<'a>>(line: &[u8]) -> Result<Body, Invalid> {
    let malformed = |error: serde_json::Error| Invalid::Malformed(error.to_string());
    let Version { version } = serde_json::from_slice(line).map_err(malformed)?;
    match version {
        VERSION => serde_json::from_slice(line).map_err(malformed),
        other => Err(Invalid::Version(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decoded(line: &str) -> Result<Request, Invalid> {
        decode(line.as_bytes())
    }

    #[test]
    fn requests_stay_what_they_were_in_earlier_releases() {
        let log_level = Request::LogLevel {
            tasks: vec!["orders".to_owned()],
            module: Some("target".to_owned()),
            level: Some(Severity::Warning),
        };
        for (line, request) in [
            (r#"{"version":1,"request":"status"}"#, Request::Status),
            (
                r#"{"version":1,"request":"refresh","tasks":[]}"#,
                Request::Refresh { tasks: Vec::new() },
            ),
            (
                r#"{"version":1,"request":"approve","tasks":[]}"#,
                Request::Approve { tasks: Vec::new() },
            ),
            (
                r#"{"version":1,"request":"repair","task":"orders","keys":[{"db":3,"key_base64":"AP8=","extra":true}]}"#,
                Request::Repair {
                    task: "orders".to_owned(),
                    keys: vec![DoubtedKey::of(&Doubted {
                        db: 3,
                        key: vec![0, 255],
                        extra: true,
                    })],
                },
            ),
            (
                r#"{"version":1,"request":"log-level","tasks":["orders"],"module":"target","level":"warning"}"#,
                log_level,
            ),
        ] {
            assert_eq!(decoded(line).as_ref(), Ok(&request));
            let mut encoded = encode(&request).unwrap();
            assert_eq!(encoded.pop(), Some(b'\n'));
            assert_eq!(String::from_utf8(encoded).unwrap(), line);
        }
    }

    #[test]
    fn later_fields_are_ignored_and_later_versions_refused() {
        assert_eq!(
            decoded(r#"{"request":"status","version":1,"colour":"blue"}"#),
            Ok(Request::Status)
        );
        let later = decoded(r#"{"version":2,"request":"status"}"#);
        assert_eq!(later, Err(Invalid::Version(2)));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        for line in [
            "",
            "null",
            "[]",
            "{}",
            r#"{"request":"status"}"#,
            r#"{"version":"1","request":"status"}"#,
            r#"{"version":1}"#,
            r#"{"version":1,"request":"shutdown"}"#,
            r#"{"version":1,"request":"log-level","level":"loud"}"#,
            r#"{"version":1,"request":"status"} more"#,
            &deep,
        ] {
            let refused = matches!(decoded(line), Err(Invalid::Malformed(_)));
            assert!(refused, "{line:.40}");
        }
    }

    #[test]
    fn an_answer_is_read_back_whole() {
        let report = Report {
            task: "orders".to_owned(),
            at_ms: -1,
            keys: u64::MAX,
            lag: Some(crate::task::Lag::default()),
            flows: vec![crate::task::Flow::default()],
            ..Report::default()
        };
        let log_levels = Some("debug".to_owned());
        let answer = Answer::Tasks {
            tasks: vec![TaskReport { report, log_levels }],
        };
        let line = encode(&answer).unwrap();
        assert_eq!(decode::<Answer>(&line), Ok(answer));
    }

    fn doubted() -> impl Strategy<Value = Doubted> {
        let key = prop::collection::vec(any::<u8>(), 0..20);
        (any::<u32>(), key, any::<bool>()).prop_map(|(db, key, extra)| Doubted { db, key, extra })
    }

    fn request() -> impl Strategy<Value = Request> {
        let level = prop::sample::select(vec![Severity::Trace, Severity::Critical]);
        let tasks = || prop::collection::vec(".*", 0..4);
        prop_oneof![
            Just(Request::Status),
            tasks().prop_map(|tasks| Request::Refresh { tasks }),
            tasks().prop_map(|tasks| Request::Approve { tasks }),
            (".*", prop::collection::vec(doubted(), 0..4)).prop_map(|(task, keys)| {
                let keys = keys.iter().map(DoubtedKey::of).collect();
                Request::Repair { task, keys }
            }),
            (tasks(), prop::option::of(".*"), prop::option::of(level)).prop_map(
                |(tasks, module, level)| Request::LogLevel {
                    tasks,
                    module,
                    level
                }
            ),
        ]
    }

    proptest! {
        #[test]
        fn a_key_of_any_bytes_is_read_back(doubted in doubted()) {
            prop_assert_eq!(DoubtedKey::of(&doubted).decoded(), Some(doubted));
        }

        #[test]
        fn any_request_is_one_line_and_read_back(request in request()) {
            let mut line = encode(&request).unwrap();
            prop_assert_eq!(line.pop(), Some(b'\n'));
            prop_assert!(!line.contains(&b'\n'));
            prop_assert_eq!(decode::<Request>(&line), Ok(request));
        }

        #[test]
        fn whatever_is_accepted_is_a_request_that_means_the_same_when_sent_on(
            line in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..200),
                (request(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(request, at, byte)| {
                    let mut line = encode(&request).unwrap();
                    let at = at.index(line.len());
                    line[at] = byte;
                    line
                }),
                (request(), any::<prop::sample::Index>()).prop_map(|(request, at)| {
                    let mut line = encode(&request).unwrap();
                    line.truncate(at.index(line.len()));
                    line
                }),
            ]
        ) {
            if let Ok(request) = decode::<Request>(&line) {
                let again = encode(&request).unwrap();
                prop_assert_eq!(decode::<Request>(&again), Ok(request));
            }
        }
    }
}
