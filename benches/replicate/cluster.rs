//! A cluster of three against one server: full sync, the journal at full rate, and what both cost.
//!
//! The limit of a node is what it takes of the same commands, those of its slots, when they are sent by the cheapest
//! client there is: once by itself, and once while the two others take theirs on the same machine.

use crate::Result;
use crate::blast::{Lane, blast};
use crate::program::Program;
use crate::source::{Source, replica_state};
use crate::stable::Journal;
use crate::support::cluster::{Shape, slot_of};
use crate::support::{Client, Cluster, Dataset, RedisServer, Target};
use crate::table::{self, Goal, Row, median};
use crate::workload::Workload;
use std::time::{Duration, Instant};

/// What df2redis may cost for each entry, where one server's is 1.
const MOST: f64 = 1.3;

/// What a run took, and what df2redis used meanwhile.
#[derive(Debug, Clone, Copy)]
struct Run {
    took: Duration,
    cpu: Duration,
}

/// One server, or a cluster.
enum Sink {
    Server(RedisServer),
    Cluster(Cluster),
}

impl Sink {
    fn server() -> Self {
        Self::Server(RedisServer::start())
    }

    fn cluster() -> Self {
        Self::Cluster(Cluster::start_shaped(Target::Redis70, Shape::MASTERS))
    }

    /// What stands in `[target]`.
    fn lines(&self) -> String {
        match self {
            Self::Server(server) => format!("address = {:?}", server.address()),
            Self::Cluster(cluster) => format!(
                "type = \"redis-cluster\"\naddresses = {:?}",
                cluster.addresses()
            ),
        }
    }

    fn clients(&self) -> Vec<Client> {
        match self {
            Self::Server(server) => vec![server.client()],
            Self::Cluster(cluster) => {
                let masters = cluster.masters().into_iter();
                masters.map(|node| cluster.node(node).client()).collect()
            }
        }
    }

    fn has(&self, key: &str) -> bool {
        match self {
            Self::Server(server) => server.client().ok(&["EXISTS", key]) == "1",
            Self::Cluster(cluster) => cluster.ok(&["EXISTS", key]) == "1",
        }
    }
}

/// Measures and prints the tables.
///
/// # Errors
/// When something fails; numbers that miss a goal are no failure.
pub fn measure(entries: usize, keys: usize, runs: usize) -> Result<()> {
    let journal = Journal::new(entries);
    let all: Vec<Lane> = journal.lanes.clone();
    let entries = all.iter().map(|lane| lane.ends.len()).sum();
    let mut measured = Measured::default();
    for _ in 0..runs {
        measured.limit(&all)?;
        measured.alone.push(follow(&journal, &Sink::server())?);
        measured.together.push(follow(&journal, &Sink::cluster())?);
    }
    let kinds = "SET, INCR, HSET, LPUSH, ZADD, PEXPIREAT";
    measured.print(
        &format!("stable sync into a cluster of three: {entries} journal entries ({kinds})"),
        entries,
    );

    let workload = Workload::strings(keys);
    let lanes = workload.lanes("7.0")?;
    let source = Source::holding(&workload.dataset, &lanes)?;
    let mut measured = Measured::default();
    for _ in 0..runs {
        measured.limit(&lanes)?;
        measured.alone.push(copy(&source, keys, &Sink::server())?);
        measured
            .together
            .push(copy(&source, keys, &Sink::cluster())?);
    }
    let about = &workload.about;
    measured.print(&format!("full sync into a cluster of three: {about}"), keys);
    Ok(())
}

/// All runs of one kind.
#[derive(Default)]
struct Measured {
    /// Entries per second of each node by itself.
    one_node: Vec<f64>,
    /// Entries per second of each node, all at once.
    all_nodes: Vec<f64>,
    alone: Vec<Run>,
    together: Vec<Run>,
}

impl Measured {
    /// What nodes take by themselves.
    fn limit(&mut self, lanes: &[Lane]) -> Result<()> {
        let entries: usize = lanes.iter().map(|lane| lane.ends.len()).sum();
        let cluster = Cluster::start_shaped(Target::Redis70, Shape::MASTERS);
        let masters = cluster.masters();
        let nodes = masters.len();
        let shares = shares(&cluster, &masters, lanes);
        let share = shares.first().ok_or("a cluster without masters")?;
        let of_one: usize = share.iter().map(|lane| lane.ends.len()).sum();
        let took = blast(cluster.node(masters[0]).port(), share)?;
        self.one_node.push(of_one as f64 / took.as_secs_f64());
        let cluster = Cluster::start_shaped(Target::Redis70, Shape::MASTERS);
        let started = Instant::now();
        std::thread::scope(|scope| {
            let blasts: Vec<_> = masters
                .iter()
                .zip(&shares)
                .map(|(node, share)| {
                    let port = cluster.node(*node).port();
                    scope.spawn(move || blast(port, share))
                })
                .collect();
            blasts.into_iter().try_for_each(|blast| {
                let ended = blast.join();
                ended.map_err(|_| std::io::Error::other("a client panicked"))??;
                Ok::<_, std::io::Error>(())
            })
        })?;
        let each = entries as f64 / nodes as f64;
        self.all_nodes.push(each / started.elapsed().as_secs_f64());
        Ok(())
    }

    fn print(&self, title: &str, entries: usize) {
        let rates = |runs: &[Run], nodes: f64| -> Vec<f64> {
            let rate = |run: &Run| entries as f64 / nodes / run.took.as_secs_f64();
            runs.iter().map(rate).collect()
        };
        let costs = |runs: &[Run]| -> Vec<f64> {
            let cost = |run: &Run| run.cpu.as_secs_f64() * 1e6 / entries as f64;
            runs.iter().map(cost).collect()
        };
        let (cost_alone, cost_together) = (costs(&self.alone), costs(&self.together));
        let more = median(&cost_together) / median(&cost_alone);
        let each = rates(&self.together, 3.0);
        let part = median(&each) / median(&self.all_nodes);
        table::print(
            title,
            &[
                Row::new(
                    "(a) a node's own limit, by itself",
                    "entries/s",
                    self.one_node.clone(),
                ),
                Row::new(
                    "(b) a node's own limit, all at once",
                    "entries/s",
                    self.all_nodes.clone(),
                ),
                Row::new("(c) df2redis, each node", "entries/s", each),
                Row::new("(c) / (b): part of the limit's rate", "of 1", vec![part]),
                Row::new(
                    "df2redis, all nodes together",
                    "entries/s",
                    rates(&self.together, 1.0),
                ),
                Row::new("df2redis, one server", "entries/s", rates(&self.alone, 1.0)),
                Row::new(
                    "processor time of df2redis, one server",
                    "us/entry",
                    cost_alone,
                ),
                Row::new(
                    "processor time of df2redis, the cluster",
                    "us/entry",
                    cost_together,
                ),
                Row::new(
                    "  the cluster's, where one server's is 1",
                    "of 1",
                    vec![more],
                )
                .goal(Goal::AtMost(MOST)),
            ],
        );
    }
}

/// For each master, the commands for its slots, lane by lane.
fn shares(cluster: &Cluster, masters: &[usize], lanes: &[Lane]) -> Vec<Vec<Lane>> {
    let slots: Vec<_> = masters.iter().map(|node| cluster.slots_of(*node)).collect();
    let mut shares = vec![vec![Lane::default(); lanes.len()]; masters.len()];
    for (number, lane) in lanes.iter().enumerate() {
        let mut start = 0;
        for end in &lane.ends {
            let command = &lane.bytes[start..*end];
            start = *end;
            let slot = slot_of(key_of(command));
            let owner = slots
                .iter()
                .position(|slots| slots.iter().any(|range| range.contains(&slot)));
            let into = &mut shares[owner.unwrap_or_default()][number];
            into.bytes.extend_from_slice(command);
            into.ends.push(into.bytes.len());
        }
    }
    shares
}

/// The second word of an encoded command: `*3`, `$3`, `SET`, `$5`, and then it.
fn key_of(command: &[u8]) -> &[u8] {
    let mut lines = command.split(|byte| *byte == b'\n').skip(3);
    let len = lines.next().unwrap_or_default();
    let len = std::str::from_utf8(len)
        .ok()
        .and_then(|len| len.trim_start_matches('$').trim_end().parse().ok());
    let rest = lines.next().unwrap_or_default();
    rest.get(..len.unwrap_or(0)).unwrap_or_default()
}

/// Follows the journal from stable sync to its last entry.
fn follow(journal: &Journal, sink: &Sink) -> Result<Run> {
    let source = Source::holding(&Dataset::new(), &[])?;
    let mut program = Program::start_into(source.port(), &sink.lines(), "transaction")?;
    online(&mut program, &source)?;
    let (started, before) = (Instant::now(), program.cpu()?);
    match &source {
        Source::Simulated(simulated) => journal.script.play(simulated),
        Source::Real(real) => drop(blast(real.port(), &journal.lanes)?),
    }
    program.wait("the last entry", Duration::from_millis(5), || {
        journal.ends.iter().all(|end| sink.has(end))
    })?;
    let (took, cpu) = (started.elapsed(), program.cpu()?.saturating_sub(before));
    program.stop()?;
    Ok(Run { took, cpu })
}

/// Copies what the source holds, from its start to the last key.
fn copy(source: &Source, keys: usize, sink: &Sink) -> Result<Run> {
    let mut clients = sink.clients();
    let mut observer = source.client();
    let mut program = Program::start_into(source.port(), &sink.lines(), "transaction")?;
    program.wait("DFLY SYNC", Duration::from_micros(500), || {
        matches!(
            replica_state(&mut observer).as_str(),
            "full_sync" | "online"
        )
    })?;
    let (started, before) = (Instant::now(), program.cpu()?);
    // A few keys are its own.
    program.wait("the last key", Duration::from_millis(2), || {
        let size = |client: &mut Client| client.ok(&["DBSIZE"]).int().unwrap_or(0);
        clients.iter_mut().map(size).sum::<i64>().unsigned_abs() >= keys as u64
    })?;
    let took = started.elapsed();
    online(&mut program, source)?;
    let cpu = program.cpu()?.saturating_sub(before);
    program.stop()?;
    Ok(Run { took, cpu })
}

fn online(program: &mut Program, source: &Source) -> Result<()> {
    let mut observer = source.client();
    program.wait("stable sync", Duration::from_millis(2), || {
        replica_state(&mut observer) == "online"
    })
}
