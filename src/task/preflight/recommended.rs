//! The settings of a Dragonfly that a replica's copy depends on.
//!
//! Facts: the reference's recommended settings; which of them `CONFIG GET` shows on v1.40.1 and v1.27.4, and
//!   that few are shown at all. Flags by release are from the public sources of v1.14 to v1.40.1.

use super::finding::Finding;

/// A flag, and what it should be.
struct Recommended {
    name: &'static str,
    /// The first minor release of v1 that has it.
    since: u16,
    is_met: fn(&str) -> bool,
    /// Whether missing it endangers the copy, and not only its speed.
    endangers: bool,
    risk: &'static str,
    advice: &'static str,
}

/// Entries per shard that are worth some seconds of a busy source.
const RING: u64 = 65_536;

/// What a master from v1.23 on waits by itself.
const TIMEOUT_MS: u64 = 30_000;

const RECOMMENDED: &[Recommended] = &[
    Recommended {
        name: "journal_omit_redundant_writes",
        since: 39,
        is_met: is_off,
        endangers: true,
        risk: "otherwise writes during the full sync can be lost without a trace",
        advice: "start the source with --journal_omit_redundant_writes=false",
    },
    Recommended {
        name: "shard_repl_backlog_len",
        since: 11,
        is_met: |value| at_least(value, RING),
        endangers: false,
        risk: "the source forgets entries sooner, and then an interruption costs a full sync",
        advice: "start the source with --shard_repl_backlog_len=65536 or more",
    },
    Recommended {
        name: "replication_timeout",
        since: 22,
        is_met: |value| at_least(value, TIMEOUT_MS),
        endangers: true,
        risk: "a short stall ends the session, and a full sync may follow",
        advice: "on the source: CONFIG SET replication_timeout 30000, or more",
    },
    Recommended {
        name: "cache_mode",
        since: 0,
        is_met: is_off,
        endangers: true,
        risk: "keys that are evicted during the full sync can stay on the target",
        advice: "start the source with --cache_mode=false and enough memory",
    },
    Recommended {
        name: "serialization_tagged_chunks",
        since: 39,
        is_met: is_off,
        endangers: false,
        risk: "optional: without it the full sync is simpler, and large values hold up their writers longer",
        advice: "--serialization_tagged_chunks=false, if large values are rare",
    },
    Recommended {
        name: "compression_mode",
        since: 0,
        is_met: |value| at_least(value, 0) && !at_least(value, 1),
        endangers: false,
        risk: "optional: in a fast network compression costs CPU on both sides and gains nothing",
        advice: "--compression_mode=0, if the network is fast",
    },
];

/// The names of all flags to ask for.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    RECOMMENDED.iter().map(|flag| flag.name)
}

/// What the values mean; `visible` has those that the source showed.
pub(super) fn findings(
    release: Option<(u16, u16)>,
    visible: &[(&'static str, String)],
) -> Vec<Finding> {
    let exists =
        |flag: &&Recommended| release.is_none_or(|(major, minor)| major > 1 || minor >= flag.since);
    let judged = RECOMMENDED.iter().filter(exists).map(|flag| {
        let Recommended {
            name, risk, advice, ..
        } = flag;
        match visible.iter().find(|(found, _)| found == name) {
            None => Finding::note(format!(
                "source: {name} is not visible, check by hand ({risk})"
            ))
            .advise(*advice),
            Some((_, value)) if (flag.is_met)(value) => {
                Finding::ok(format!("source: {name} is {value}"))
            }
            Some((_, value)) => {
                let what = format!("source: {name} is {value} ({risk})");
                let finding = match flag.endangers {
                    true => Finding::warning(what),
                    false => Finding::note(what),
                };
                finding.advise(*advice)
            }
        }
    });
    judged.collect()
}

fn is_off(value: &str) -> bool {
    ["false", "no", "0", "off"].contains(&value)
}

fn at_least(value: &str, least: u64) -> bool {
    value.parse().is_ok_and(|value: u64| value >= least)
}

#[cfg(test)]
mod tests {
    use super::super::finding::Grade;
    use super::*;
    use crate::source::dragonfly::release_number;

    fn graded(release: &str, visible: &[(&'static str, &str)]) -> Vec<(Grade, String)> {
        let visible: Vec<_> = visible
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()))
            .collect();
        let findings = findings(release_number(release), &visible).into_iter();
        findings
            .map(|finding| (finding.grade, finding.what))
            .collect()
    }

    #[track_caller]
    fn assert_grade(found: &[(Grade, String)], name: &str, expected: Grade, text: &str) {
        let wanted = format!("source: {name} ");
        let (grade, what) = found
            .iter()
            .find(|(_, what)| what.starts_with(&wanted))
            .unwrap();
        assert_eq!(*grade, expected, "{what}");
        assert!(what.contains(text), "{what}");
    }

    #[test]
    fn what_the_source_does_not_show_is_listed_to_be_checked_by_hand() {
        let found = graded("df-v1.40.1", &[]);
        assert_eq!(found.len(), RECOMMENDED.len());
        for name in names() {
            assert_grade(&found, name, Grade::Note, "is not visible, check by hand");
        }
    }

    #[test]
    fn met_settings_are_ok_and_others_name_their_risk() {
        let good = [
            ("journal_omit_redundant_writes", "false"),
            ("shard_repl_backlog_len", "1000000"),
            ("replication_timeout", "30000"),
            ("cache_mode", "false"),
            ("serialization_tagged_chunks", "false"),
            ("compression_mode", "0"),
        ];
        let found = graded("df-v1.40.1", &good);
        assert!(
            found.iter().all(|(grade, _)| *grade == Grade::Ok),
            "{found:?}"
        );
        assert_eq!(found.len(), RECOMMENDED.len());
        let bad = [
            ("journal_omit_redundant_writes", "true"),
            ("shard_repl_backlog_len", "8192"),
            ("replication_timeout", "29999"),
            ("cache_mode", "true"),
            ("serialization_tagged_chunks", "true"),
            ("compression_mode", "3"),
        ];
        let found = graded("df-v1.40.1", &bad);
        for (name, value) in bad {
            let grade = match name {
                "journal_omit_redundant_writes" | "replication_timeout" | "cache_mode" => {
                    Grade::Warning
                }
                _ => Grade::Note,
            };
            assert_grade(&found, name, grade, &format!("is {value} ("));
        }
    }

    #[test]
    fn a_release_is_not_asked_for_flags_it_does_not_have() {
        let names = |release| {
            let found = graded(release, &[]).into_iter();
            let names = found.map(|(_, what)| what.split(' ').nth(1).map(str::to_owned));
            names.collect::<Option<Vec<_>>>().unwrap()
        };
        assert_eq!(
            names("df-v1.27.4"),
            [
                "shard_repl_backlog_len",
                "replication_timeout",
                "cache_mode",
                "compression_mode"
            ]
        );
        assert_eq!(names("df-v1.39.0").len(), RECOMMENDED.len());
        assert_eq!(names("unknown").len(), RECOMMENDED.len());
    }
}
