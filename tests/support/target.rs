//! The servers that values and commands are tested against, by release.
//!
//! `packaging/target-servers` fetches them; Redis 7.0 is the `redis-server` on PATH, from Debian's package.

use super::redis_server::RedisServer;
use std::env;
use std::path::PathBuf;

/// A release of Redis or Valkey.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Redis 6.2.5.
    Redis62,
    /// Redis 7.0.
    Redis70,
    /// Redis 8.2.3.
    Redis82,
    /// Valkey 8.1.8.
    Valkey81,
    /// Valkey 9.1.2.
    Valkey91,
}

impl Target {
    /// Its program.
    ///
    /// # Panics
    /// When it is not there, with the command that gets it.
    #[must_use]
    #[track_caller]
    pub fn program(self) -> PathBuf {
        match self {
            Self::Redis62 => fetched("redis-6.2.5/redis-server"),
            Self::Redis70 => PathBuf::from("redis-server"),
            Self::Redis82 => fetched("redis-8.2.3/redis-server"),
            Self::Valkey81 => fetched("valkey-8.1.8/valkey-server"),
            Self::Valkey91 => fetched("valkey-9.1.2/valkey-server"),
        }
    }

    /// Starts it without persistence.
    #[must_use]
    #[track_caller]
    pub fn start(self) -> RedisServer {
        self.start_with(&[])
    }

    /// Starts it with further arguments.
    #[must_use]
    #[track_caller]
    pub fn start_with(self, args: &[&str]) -> RedisServer {
        RedisServer::start_program(&self.program(), args)
    }

    /// Starts it with the JSON and the Bloom filter module.
    #[must_use]
    #[track_caller]
    pub fn start_with_modules(self) -> RedisServer {
        let modules = ["modules/rejson.so", "modules/redisbloom.so"]
            .map(|name| fetched(name).display().to_string());
        let [json, bloom] = &modules;
        self.start_with(&["--loadmodule", json, "--loadmodule", bloom])
    }

    /// Whether single fields of its hashes can expire.
    #[must_use]
    pub fn lets_fields_expire(self) -> bool {
        matches!(self, Self::Redis82 | Self::Valkey91)
    }

    /// Whether its streams hold what came with Redis 7.0: how many entries were added and read, and the greatest id
    /// that was deleted.
    #[must_use]
    pub fn counts_stream_entries(self) -> bool {
        self != Self::Redis62
    }
}

/// The place of a fetched file: the same folder that `packaging/target-servers` writes to.
#[track_caller]
fn fetched(name: &str) -> PathBuf {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty());
    let cache = set("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| set("HOME").map(|home| PathBuf::from(home).join(".cache")));
    let path = cache
        .expect("HOME or XDG_CACHE_HOME, where the servers are kept")
        .join("df2redis/servers")
        .join(name);
    assert!(
        path.is_file(),
        "there is no {}; `packaging/target-servers` (or `make tools`) fetches it",
        path.display()
    );
    path
}

/// One test for each target server: `on_every_target!(f)` makes `f::redis_6_2_5` and so on of `fn f(target: Target)`,
/// and `on_every_target!(f: a = x, b = y)` makes `f::a::redis_6_2_5` and so on of `fn f(target: Target, of: X)`.
#[allow(unused_macros, reason = "not every program tests with every server")]
macro_rules! on_every_target {
    ($test:ident) => {
        mod $test {
            $crate::support::on_every_target!(@tests (super::$test));
        }
    };
    ($test:ident: $($case:ident = $of:expr),+ $(,)?) => {
        mod $test {
            $(
                mod $case {
                    $crate::support::on_every_target!(@tests (super::super::$test) $of);
                }
            )+
        }
    };
    (@tests ($test:path) $($of:expr)?) => {
        use $crate::support::Target;

        #[test]
        fn redis_6_2_5() {
            $test(Target::Redis62, $($of)?)
        }

        #[test]
        fn redis_7_0() {
            $test(Target::Redis70, $($of)?)
        }

        #[test]
        fn redis_8_2_3() {
            $test(Target::Redis82, $($of)?)
        }

        #[test]
        fn valkey_8_1_8() {
            $test(Target::Valkey81, $($of)?)
        }

        #[test]
        fn valkey_9_1_2() {
            $test(Target::Valkey91, $($of)?)
        }
    };
}
pub(crate) use on_every_target;
