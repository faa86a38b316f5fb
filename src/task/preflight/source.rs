//! What the source says of itself.

use std::path::Path;

use crate::config::Task;
use crate::process::Exit;
use crate::source::dragonfly::{Monitor, Probe, Settings, SourceError, release_number};

use super::super::audit;
use super::finding::{Finding, bytes, counted};
use super::recommended;

/// The releases whose protocol is known, as minor numbers of v1.
const KNOWN: std::ops::RangeInclusive<u16> = 14..=40;

/// What could be learnt. Whatever the source does not tell is `None`.
#[derive(Debug, Default)]
pub(super) struct Source {
    /// Such as `df-v1.40.1`.
    release: Option<String>,
    /// What the user lacks for replication.
    missing: Vec<&'static str>,
    flows: Option<u32>,
    /// `master`, or something else.
    role: Option<String>,
    is_cluster: bool,
    knows_time: bool,
    /// Whether keys can be read again.
    can_read: bool,
    /// What the user lacks for comparing, as `ACL SETUSER` wants it.
    cannot_compare: Vec<String>,
    /// Keys per database.
    pub(super) keyspace: Option<Vec<(u32, u64)>>,
    /// Bytes in use.
    pub(super) used_memory: Option<u64>,
    settings: Vec<(&'static str, String)>,
}

impl Source {
    /// Asks. Nothing here writes, blocks, or starts a full sync.
    pub(super) async fn read(settings: &Settings) -> Result<Self, SourceError> {
        let Probe { missing, master } = Probe::run(settings).await?;
        let mut monitor = Monitor::open(settings).await?;
        let replication = monitor.info("replication").await?.unwrap_or_default();
        let server = monitor.info("server").await?.unwrap_or_default();
        let memory = monitor.info("memory").await?.unwrap_or_default();
        let mut source = Self {
            release: monitor.release().await?,
            missing,
            flows: master.map(|master| master.flows),
            role: field(&replication, "role").map(str::to_owned),
            is_cluster: field(&server, "redis_mode") == Some("cluster"),
            knows_time: monitor.time_ms().await?.is_some(),
            can_read: can_read(settings).await?,
            cannot_compare: cannot_compare(&mut monitor).await?,
            keyspace: monitor.keyspace().await?,
            used_memory: field(&memory, "used_memory").and_then(|bytes| bytes.parse().ok()),
            settings: Vec::new(),
        };
        for name in recommended::names() {
            if let Some(value) = monitor.setting(name).await? {
                source.settings.push((name, value));
            }
        }
        // INFO shows this one where CONFIG GET does not.
        if !source
            .settings
            .iter()
            .any(|(name, _)| *name == "cache_mode")
            && let Some(mode) = field(&memory, "cache_mode")
        {
            let value = (mode == "cache").to_string();
            source.settings.push(("cache_mode", value));
        }
        monitor.close().await;
        Ok(source)
    }

    /// What that means for the task.
    pub(super) fn findings(&self, task: &Task) -> Vec<Finding> {
        let mut findings = vec![self.itself()];
        let release = self.release.as_deref().and_then(release_number);
        if let Some((major, minor)) = release
            && (major != 1 || !KNOWN.contains(&minor))
        {
            let what =
                format!("source: release v{major}.{minor} is not one that df2redis was made for");
            let advice = "try it with a copy first; v1.14 to v1.40 are known";
            findings.push(Finding::warning(what).advise(advice));
        }
        if self.is_cluster {
            let what = "source: a node of a cluster, which is a master of its own";
            findings.push(
                Finding::note(what)
                    .advise("run one task for each node, and move no slots meanwhile"),
            );
        }
        findings.extend(self.permissions(task));
        findings.push(self.data());
        findings.extend(recommended::findings(release, &self.settings));
        findings.push(
            Finding::note("source: commands that no replica can follow during the full sync")
                .advise("run no FLUSHALL, FLUSHDB, DFLY LOAD or DEBUG POPULATE there before the task is stable"),
        );
        findings
    }

    fn itself(&self) -> Finding {
        let release = self.release.as_deref().unwrap_or("of an unknown release");
        let flows = match self.flows {
            Some(flows) => counted(flows.into(), "flow"),
            None => "number of flows not visible".to_owned(),
        };
        match self.role.as_deref() {
            // It accepts replicas all the same, or it would have said so.
            Some(role) if role != "master" => Finding::warning(format!(
                "source: Dragonfly {release}, {flows}, a replica itself (role {role})"
            ))
            .advise("name its master as source.address"),
            Some(_) => Finding::ok(format!("source: Dragonfly {release}, a master, {flows}")),
            None => Finding::ok(format!("source: Dragonfly {release}, {flows}")),
        }
    }

    fn permissions(&self, task: &Task) -> Vec<Finding> {
        let user = user(task.source.credentials.as_ref());
        let mut findings = Vec::new();
        match self.missing.is_empty() {
            true => findings.push(Finding::ok(
                "source: the user may do what replication needs (PING, REPLCONF, DFLY)",
            )),
            false => {
                let what = format!(
                    "source: the user lacks {}, which replication needs",
                    self.missing.join(" ")
                );
                let advice = format!(
                    "on the source: ACL SETUSER {user} {}",
                    self.missing.join(" ")
                );
                findings.push(Finding::error(Exit::Permission, what).advise(advice));
            }
        }
        let optional = [
            (
                self.keyspace.is_some(),
                "+info",
                "without it release, number of keys and memory are unknown, and progress has no total",
            ),
            (
                self.knows_time,
                "+time",
                "without it expiry times count by the clock of this machine",
            ),
            (
                self.can_read,
                "+select +exists +dump +pexpiretime ~*",
                "without it the task ends when a key has to be read again, which is when entries come late and after a \
                 full sync that did not start on an empty target",
            ),
        ];
        for (_, permission, risk) in optional.into_iter().filter(|(has, _, _)| !has) {
            let what = format!("source: the user lacks {permission}: {risk}");
            let advice = format!("on the source: ACL SETUSER {user} {permission}");
            findings.push(Finding::note(what).advise(advice));
        }
        findings.extend(self.comparing(task, user));
        findings
    }

    /// Whether the user may do what finds out that the target differs.
    fn comparing(&self, task: &Task, user: &str) -> Option<Finding> {
        if self.cannot_compare.is_empty() {
            return None;
        }
        let lacking = self.cannot_compare.join(" ");
        let advice = format!("on the source: ACL SETUSER {user} {lacking}");
        let what = format!("source: the user lacks {lacking}: without it");
        let finding = match audit::is_on(task) {
            true => Finding::warning(format!(
                "{what} the audit cannot compare, so that it repairs nothing, and neither can df2redis check"
            )),
            false => Finding::note(format!("{what} df2redis check cannot compare")),
        };
        Some(finding.advise(advice))
    }

    fn data(&self) -> Finding {
        let memory = match self.used_memory {
            Some(used) => format!("{} of memory in use", bytes(used)),
            None => "memory not visible".to_owned(),
        };
        match &self.keyspace {
            None => Finding::note(format!("source: number of keys not visible, {memory}")),
            Some(keyspace) => {
                let keys = keyspace.iter().map(|(_, keys)| *keys).sum();
                let databases: Vec<String> = keyspace
                    .iter()
                    .map(|(db, keys)| format!("{keys} in database {db}"))
                    .collect();
                let databases = match databases.is_empty() {
                    true => String::new(),
                    false => format!(" ({})", databases.join(", ")),
                };
                Finding::ok(format!(
                    "source: about {}{databases}, {memory}",
                    counted(keys, "key")
                ))
            }
        }
    }
}

/// What is read of the source to compare it with the target, whatever the size of its values. Of keys that are not
/// there, and no transaction holds anything.
const COMPARING: [&str; 22] = [
    "TIME",
    "SCAN 0 COUNT 1",
    "EXISTS K",
    "TYPE K",
    "DUMP K",
    "PEXPIRETIME K",
    "GET K",
    "STRLEN K",
    "GETRANGE K 0 0",
    "LRANGE K 0 0",
    "SSCAN K 0",
    "HSCAN K 0",
    "ZRANGE K 0 0",
    "XRANGE K - + COUNT 1",
    "XINFO STREAM K",
    "SELECT 0",
    "WATCH K",
    "UNWATCH",
    "MULTI",
    "EXEC",
    "DFLY REPLICAOFFSET",
    "INFO keyspace",
];

/// A key that the source does not have.
const NO_KEY: &[u8] = b"df2redis:preflight";

/// What the user lacks of that.
async fn cannot_compare(monitor: &mut Monitor) -> Result<Vec<String>, SourceError> {
    let mut lacking = Vec::new();
    for line in COMPARING {
        let words = line.split(' ').map(|word| match word {
            "K" => NO_KEY,
            word => word.as_bytes(),
        });
        let words: Vec<&[u8]> = words.collect();
        if !monitor.may(&words).await? {
            let name = line.split(' ').next().unwrap_or(line);
            lacking.push(format!("+{}", name.to_ascii_lowercase()));
        }
    }
    Ok(lacking)
}

/// Whether the user may read keys again: tried with one that is not there.
async fn can_read(settings: &Settings) -> Result<bool, SourceError> {
    let key = NO_KEY.to_vec();
    // An answer that is an error leaves the rest unread, so each gets a connection of its own.
    let mut reading = Monitor::open(settings).await?;
    let read = reading.read(&[(0, &key)], Path::new("/")).await;
    let mut looking = Monitor::open(settings).await?;
    let found = looking.exist(0, &[key]).await;
    for error in [read.err(), found.err()].into_iter().flatten() {
        match error {
            SourceError::NoPermission { .. } => return Ok(false),
            error if error.is_temporary() => return Err(error),
            // What that is shows elsewhere.
            _ => {}
        }
    }
    Ok(true)
}

/// A field of an INFO answer.
fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim_end)
}

/// The ACL user, as ACL SETUSER wants it.
pub(super) fn user(credentials: Option<&crate::config::Credentials>) -> &str {
    credentials
        .and_then(|credentials| credentials.username.as_deref())
        .unwrap_or("default")
}

#[cfg(test)]
mod tests {
    use super::super::finding::Grade;
    use super::super::task_with;
    use super::*;

    #[track_caller]
    fn assert_found(source: &Source, grade: Grade, text: &str) {
        let findings = source.findings(&task_with(""));
        let found = findings
            .iter()
            .any(|finding| finding.grade == grade && finding.what.contains(text));
        assert!(found, "{text} in {findings:?}");
    }

    #[test]
    fn strange_sources_are_told_apart() {
        let of = |release: &str| Source {
            release: Some(release.to_owned()),
            ..Source::default()
        };
        let unknown = "is not one that df2redis was made for";
        assert_found(&of("df-v1.13.0"), Grade::Warning, unknown);
        assert_found(&of("df-v2.20.0"), Grade::Warning, unknown);
        let known = of("df-v1.14.0").findings(&task_with(""));
        assert!(known.iter().all(|finding| !finding.what.contains(unknown)));
        let cluster = Source {
            is_cluster: true,
            ..Source::default()
        };
        assert_found(&cluster, Grade::Note, "a node of a cluster");
        let cascaded = Source {
            role: Some("replica".to_owned()),
            flows: Some(1),
            ..Source::default()
        };
        assert_found(
            &cascaded,
            Grade::Warning,
            "1 flow, a replica itself (role replica)",
        );
    }

    #[test]
    fn fields_of_info_are_found_by_their_whole_name() {
        let info = "# Memory\r\nused_memory_human:5M\r\nused_memory:5242880\r\n";
        assert_eq!(field(info, "used_memory"), Some("5242880"));
        assert_eq!(field(info, "used"), None);
    }
}
