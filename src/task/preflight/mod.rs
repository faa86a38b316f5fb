//! The pre-flight list: what an operator should know of both servers before a task starts.
//!
//! Order: `source` and `target` ask and keep plain facts; what the facts mean for the task are [`Finding`]s,
//!   made without a socket. Nothing is written to either server, and the source is asked nothing but what
//!   its reference calls harmless.

mod finding;
mod forms;
mod recommended;
mod source;
mod target;

use std::sync::Arc;

use crate::config::Task;
use crate::process::Exit;

use super::error::TaskError;
use super::settings;

pub use finding::{Finding, Grade};
pub use forms::TypeForm;
use source::Source;
use target::Target;

/// What was found for one task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preflight {
    /// In the order in which they are to be read: source, target, both.
    pub findings: Vec<Finding>,
    /// The target, such as `Redis 7.0.15`, and how each type goes there; `None` without an answer.
    pub forms: Option<(String, Vec<TypeForm>)>,
}

impl Preflight {
    /// The exit code of the first error; `None` if there is none.
    pub fn exit(&self) -> Option<Exit> {
        self.findings
            .iter()
            .find_map(|finding| match finding.grade {
                Grade::Error(exit) => Some(exit),
                Grade::Ok | Grade::Note | Grade::Warning => None,
            })
    }

    /// How many findings are warnings and how many are errors.
    pub fn counts(&self) -> (usize, usize) {
        let count = |wanted: fn(&Grade) -> bool| {
            let grades = self.findings.iter().map(|finding| &finding.grade);
            grades.filter(|grade| wanted(grade)).count()
        };
        (
            count(|grade| *grade == Grade::Warning),
            count(|grade| matches!(grade, Grade::Error(_))),
        )
    }
}

/// Reaches both servers of a task and says what was found. A server that cannot be reached is a finding.
pub async fn preflight(task: &Arc<Task>) -> Preflight {
    let (to_source, to_target) = (settings::source(task), settings::target(task));
    let (source, target) = tokio::join!(Source::read(&to_source), Target::read(&to_target, task));
    let mut findings = Vec::new();
    let source = match source {
        Ok(source) => {
            findings.extend(source.findings(task));
            Some(source)
        }
        Err(error) => {
            let error = TaskError::from(error).of_source(&task.source.address);
            findings.push(Finding::failure(&error));
            None
        }
    };
    let forms = match target {
        Ok(target) => {
            findings.extend(target.findings(task));
            findings.extend(target.room(source.as_ref(), task));
            let features = &target.profile.features;
            Some((features.to_string(), forms::table(features, task)))
        }
        Err(error) => {
            findings.push(Finding::failure(&TaskError::from(error)));
            None
        }
    };
    Preflight { findings, forms }
}

/// A task of these further lines.
#[cfg(test)]
pub(super) fn task_with(lines: &str) -> Arc<Task> {
    let mut file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    let content = format!(
        "[source]\naddress = \"a:1\"\n[target]\naddress = \"b:1\"\n[task]\nname = \"t\"\n{lines}"
    );
    std::io::Write::write_all(&mut file, content.as_bytes()).unwrap();
    let mut tasks = crate::config::load(&[file.path().to_owned()], &[]).unwrap();
    Arc::new(tasks.remove(0))
}
