//! How much the long tests do: little in `make check`, much in `make torture`, which sets these variables.

use std::time::Duration;

/// Kills of each kind of ring.
#[must_use]
pub fn kills() -> usize {
    number("TORTURE_KILLS", 40)
}

/// Whether this is `make torture`.
#[must_use]
pub fn is_long() -> bool {
    std::env::var_os("TORTURE_KILLS").is_some()
}

/// Kills of each kind of ring where the target is a cluster, whose processes share the machine.
#[must_use]
pub fn kills_of_clusters() -> usize {
    number("TORTURE_KILLS", 12)
}

/// What random numbers start with.
#[must_use]
pub fn seed() -> u64 {
    number("TORTURE_SEED", 1)
}

/// How long a target is unreachable.
#[must_use]
pub fn outage() -> Duration {
    Duration::from_secs(number("TORTURE_OUTAGE_S", 12))
}

/// Writes in each second of it.
#[must_use]
pub fn writes_per_second() -> u64 {
    number("TORTURE_WRITES_PER_S", 6_000)
}

/// A number that the variable sets.
///
/// # Panics
/// When the variable holds no number: a run that does less than it was told proves less.
#[track_caller]
pub fn number<T: std::str::FromStr>(variable: &str, default: T) -> T {
    match std::env::var(variable) {
        Err(_) => default,
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{variable} is {text:?}, which is no number")),
    }
}
