//! The journal at full rate into a cluster of three, against one server.

use crate::Result;
use crate::program::{Program, Used};
use crate::source::{Source, replica_state};
use crate::stable::{Journal, follow};
use crate::support::cluster::Shape;
use crate::support::{Cluster, Dataset, Target};
use crate::table::{self, Goal, Row, median};
use std::time::{Duration, Instant};

const MASTERS: Shape<'_> = Shape {
    masters: 3,
    replicas: 0,
    node_timeout_ms: 5000,
    args: &[],
};

/// Measures and prints the table.
///
/// # Errors
/// When something fails; numbers that miss a goal are no failure.
pub fn measure(count: usize, runs: usize) -> Result<()> {
    let journal = Journal::new(count);
    let entries: usize = journal.lanes.iter().map(|lane| lane.ends.len()).sum();
    let (mut alone, mut together) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let run = follow(&journal, "transaction")?;
        alone.push((run.took, run.used));
        together.push(follow_into_cluster(&journal)?);
    }
    let rates = |runs: &[(Duration, Used)]| -> Vec<f64> {
        let rate = |(took, _): &(Duration, Used)| entries as f64 / took.as_secs_f64();
        runs.iter().map(rate).collect()
    };
    let costs = |runs: &[(Duration, Used)]| -> Vec<f64> {
        let cost = |(_, used): &(Duration, Used)| used.cpu.as_secs_f64() * 1e6 / entries as f64;
        runs.iter().map(cost).collect()
    };
    let (cost_alone, cost_together) = (costs(&alone), costs(&together));
    let more = median(&cost_together) / median(&cost_alone);
    table::print(
        &format!("stable sync into a cluster of three: {entries} journal entries"),
        &[
            Row::new("one server", "entries/s", rates(&alone)),
            Row::new(
                "the cluster, all nodes together",
                "entries/s",
                rates(&together),
            ),
            Row::new("processor time, one server", "us/entry", cost_alone),
            Row::new("processor time, the cluster", "us/entry", cost_together),
            Row::new("the cluster's part of that", "of 1", vec![more]).goal(Goal::AtMost(1.3)),
        ],
    );
    Ok(())
}

fn follow_into_cluster(journal: &Journal) -> Result<(Duration, Used)> {
    let cluster = Cluster::start_shaped(Target::Redis70, MASTERS);
    let source = Source::holding(&Dataset::new(), &[])?;
    let target = format!(
        "type = \"redis-cluster\"\naddresses = {:?}",
        cluster.addresses()
    );
    let mut program = Program::start_into(source.port(), &target, "transaction")?;
    let mut observer = source.client();
    program.wait("stable sync", Duration::from_millis(2), || {
        replica_state(&mut observer) == "online"
    })?;
    let started = Instant::now();
    match &source {
        Source::Simulated(simulated) => journal.script.play(simulated),
        Source::Real(real) => drop(crate::blast::blast(real.port(), &journal.lanes)?),
    }
    program.wait("the last entry", Duration::from_millis(5), || {
        let mut ends = journal.ends.iter();
        ends.all(|end| cluster.cmd(&["EXISTS", end]).int() == Some(1))
    })?;
    let took = started.elapsed();
    Ok((took, program.stop()?))
}
