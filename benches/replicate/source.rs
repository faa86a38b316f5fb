//! The benchmark's source: the simulated Dragonfly, or the real one that `$DRAGONFLY` names.

use crate::blast::{Lane, blast};
use crate::support::{Client, Dataset, RealDragonfly, SimulatedDragonfly};
use crate::{FLOWS, Result};

/// Where the data comes from.
pub enum Source {
    /// A process.
    Real(RealDragonfly),
    /// Threads of this process.
    Simulated(Box<SimulatedDragonfly>),
}

/// What sources there will be, in words.
///
/// # Errors
/// When the real one does not start.
pub fn about() -> Result<String> {
    Ok(match RealDragonfly::named() {
        Some(program) => {
            let release = RealDragonfly::start(&program, FLOWS)?.release().to_owned();
            format!("real, {release} ({}), {FLOWS} flows", program.display())
        }
        None => format!(
            "simulated Dragonfly v1.40.1, {FLOWS} flows, data encoded beforehand (DRAGONFLY=/path/to/dragonfly for a real one)"
        ),
    })
}

impl Source {
    /// One that holds this data set, whose commands are these.
    ///
    /// # Errors
    /// When the real one does not start, or does not take its data.
    pub fn holding(dataset: &Dataset, lanes: &[Lane]) -> Result<Self> {
        if let Some(program) = RealDragonfly::named() {
            let real = RealDragonfly::start(&program, FLOWS)?;
            blast(real.port(), lanes)?;
            return Ok(Self::Real(real));
        }
        let simulated = SimulatedDragonfly::options().flows(FLOWS).start();
        // Encoded here; the data set itself can go.
        simulated.set_dataset(dataset);
        Ok(Self::Simulated(Box::new(simulated)))
    }

    /// The same, which also answers questions about its keys.
    ///
    /// # Errors
    /// As [`Self::holding`].
    pub fn knowing(dataset: Dataset, lanes: &[Lane]) -> Result<Self> {
        if RealDragonfly::named().is_some() {
            return Self::holding(&dataset, lanes);
        }
        let options = SimulatedDragonfly::options().flows(FLOWS);
        Ok(Self::Simulated(Box::new(options.dataset(dataset).start())))
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        match self {
            Self::Real(real) => real.port(),
            Self::Simulated(simulated) => simulated.port(),
        }
    }

    /// An ordinary connection to it.
    pub fn client(&self) -> Client {
        Client::connect(self.port())
    }

    /// What the replica asked of it that would have harmed a real one.
    pub fn harm(&self) -> Vec<String> {
        match self {
            Self::Real(_) => Vec::new(),
            Self::Simulated(simulated) => simulated.take_violations(),
        }
    }
}

/// How far the only replica is, as `INFO replication` has it: `full_sync`, `online`, or nothing.
pub fn replica_state(client: &mut Client) -> String {
    let text = client.ok(&["INFO", "replication"]).text();
    let line = text.lines().find_map(|line| line.strip_prefix("slave0:"));
    let state = line.and_then(|line| {
        line.split(',')
            .find_map(|field| field.strip_prefix("state="))
    });
    match state.unwrap_or_default() {
        "stable_sync" => "online".to_owned(),
        other => other.trim().to_owned(),
    }
}
