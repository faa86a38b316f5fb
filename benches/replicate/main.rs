//! How fast df2redis copies and follows, what it costs, and how that compares with the target's own limit.
//!
//! `make bench`, or `cargo bench --bench replicate`. The source is the simulated Dragonfly, or the real one that
//! `$DRAGONFLY` names. Each measure is a pair, run in turns: (a) the cheapest commands that have the same effect on
//! the target, encoded beforehand, over as many connections as there are flows; (b) df2redis. Of `check`, (a) is the
//! rate at which each server gives out its values.
//!
//! ```text
//! BENCH_RUNS=1     runs of each pair (5)
//! BENCH_SCALE=0.1  part of each data set (1)
//! BENCH_OUTAGE_S=600  how long a target stands still (10)
//! BENCH_ONLY=...   some of: strings, collections, huge, resync, stable, cluster, outage,
//!                  check (all)
//! ```

mod blast;
mod check;
mod cluster;
mod full;
mod machine;
mod outage;
mod program;
mod resync;
mod source;
mod stable;
#[path = "../../tests/support/mod.rs"]
mod support;
mod table;
mod workload;

use std::process::ExitCode;
use std::time::Duration;
use workload::Workload;

/// Flows of the source, and connections of (a).
const FLOWS: usize = 2;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// What the environment says.
struct Settings {
    runs: usize,
    scale: f64,
    outage: Option<Duration>,
    only: Option<String>,
}

impl Settings {
    fn read() -> Result<Self> {
        let var = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let number = |name: &str, default: f64| match var(name).map(|text| text.parse::<f64>()) {
            None => Ok(default),
            Some(Ok(number)) if number > 0.0 => Ok(number),
            Some(_) => Err(format!("{name} must be a number above 0")),
        };
        Ok(Self {
            runs: (number("BENCH_RUNS", 5.0)? as usize).max(1),
            scale: number("BENCH_SCALE", 1.0)?,
            outage: match var("BENCH_OUTAGE_S") {
                None => None,
                Some(_) => Some(Duration::try_from_secs_f64(number(
                    "BENCH_OUTAGE_S",
                    10.0,
                )?)?),
            },
            only: var("BENCH_ONLY"),
        })
    }

    fn wants(&self, name: &str) -> bool {
        self.only
            .as_ref()
            .is_none_or(|only| only.split(',').any(|wanted| wanted.trim() == name))
    }

    fn scaled(&self, count: usize) -> usize {
        ((count as f64 * self.scale) as usize).max(10)
    }
}

fn main() -> ExitCode {
    // Test runners start every target and ask it for its tests: there are none here.
    if !std::env::args().any(|argument| argument == "--bench") {
        eprintln!("benchmarks are run by `make bench`");
        return ExitCode::SUCCESS;
    }
    match Settings::read().and_then(|settings| run(&settings)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("benchmark failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(settings: &Settings) -> Result<()> {
    println!("machine: {}", machine::about());
    println!("source:  {}", source::about()?);
    println!(
        "medians of {} runs; data sets times {}\n",
        settings.runs, settings.scale
    );
    let full: [(&str, &dyn Fn() -> Workload); 3] = [
        ("strings", &|| Workload::strings(settings.scaled(300_000))),
        ("collections", &|| {
            Workload::collections(settings.scaled(100_000))
        }),
        ("huge", &|| Workload::huge(settings.scaled(1 << 30))),
    ];
    for (name, workload) in full {
        if settings.wants(name) {
            full::measure(workload(), settings.runs)?;
        }
    }
    if settings.wants("resync") {
        resync::measure(Workload::strings(settings.scaled(1_000_000)), settings.runs)?;
    }
    if settings.wants("check") {
        let strings = Workload::strings(settings.scaled(300_000));
        check::measure(&strings, settings.runs)?;
        let collections = Workload::collections(settings.scaled(100_000));
        check::measure(&collections, settings.runs)?;
    }
    if settings.wants("stable") {
        stable::measure(settings.scaled(600_000), settings.scale, settings.runs)?;
    }
    if settings.wants("cluster") {
        let (entries, keys) = (settings.scaled(600_000), settings.scaled(300_000));
        cluster::measure(entries, keys, settings.runs)?;
    }
    if settings.wants("outage") {
        outage::measure(settings.outage, settings.scale, settings.runs)?;
    }
    Ok(())
}
