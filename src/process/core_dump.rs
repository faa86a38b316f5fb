//! Core dumps would hold passwords: none are written.

use std::io;

use nix::sys::resource::{Resource, setrlimit};

/// From now on a crash of this process leaves no core dump.
pub fn forbid_core_dumps() -> io::Result<()> {
    Ok(setrlimit(Resource::RLIMIT_CORE, 0, 0)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::resource::getrlimit;

    #[test]
    fn afterwards_the_limit_is_zero_and_cannot_be_raised_by_a_mistake() {
        forbid_core_dumps().unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_CORE).unwrap(), (0, 0));
    }
}
