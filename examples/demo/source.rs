//! The demo's source: a real Dragonfly where there is one, else the simulated one with a real Redis behind it.

use crate::Result;
use crate::support::{Client, RealDragonfly, SimulatedDragonfly};

/// Where the data comes from. Dropping it ends it.
pub enum Source {
    /// A process.
    Real(RealDragonfly),
    /// Threads of this process.
    Simulated(Box<SimulatedDragonfly>),
}

impl Source {
    /// Starts the best there is.
    ///
    /// # Errors
    /// When `$DRAGONFLY` or the `dragonfly` on PATH does not come up.
    pub fn start() -> Result<Self> {
        Ok(match RealDragonfly::find() {
            Some(program) => Self::Real(RealDragonfly::start(&program, 2)?),
            None => {
                let simulated = SimulatedDragonfly::options().backing_store().start();
                Self::Simulated(Box::new(simulated))
            }
        })
    }

    /// What it is, in words.
    pub fn about(&self) -> String {
        match self {
            Self::Real(real) => format!(
                "a real Dragonfly ({}) on {}",
                real.release(),
                self.address()
            ),
            Self::Simulated(_) => format!(
                "a simulated Dragonfly v1.40.1 on {}, because no dragonfly is on PATH\n   \
                 (`DRAGONFLY=/path/to/dragonfly make demo` uses a real one)",
                self.address()
            ),
        }
    }

    /// `127.0.0.1:<port>`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port())
    }

    /// An ordinary connection to it.
    pub fn client(&self) -> Client {
        Client::connect(self.port())
    }

    /// What the replica asked of it that would have harmed a real master; only the simulated one can tell.
    pub fn harm(&self) -> Vec<String> {
        match self {
            Self::Real(_) => Vec::new(),
            Self::Simulated(simulated) => simulated.take_violations(),
        }
    }

    fn port(&self) -> u16 {
        match self {
            Self::Real(real) => real.port(),
            Self::Simulated(simulated) => simulated.port(),
        }
    }
}
