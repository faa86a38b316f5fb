//! Which node a command is for, and what a node says that is not the right one.

use redis::{Arg, Cmd};

use crate::net::Endpoint;
use crate::target::slot::first_key_at;

/// A node's answer when it is another one's turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Redirect {
    /// The slot has another owner: whoever is asked from now on.
    Moved(Endpoint),
    /// The key is on the way to this node: only for this command.
    Ask(Endpoint),
    /// The same again, after a while: keys of the command are on both sides, the cluster is not ready, or this node.
    Later,
}

impl Redirect {
    /// Reads an error. `asked` is whom it came from: a node that does not know its own host names none.
    pub(super) fn of(error: &str, asked: &Endpoint) -> Option<Self> {
        let mut words = error.split(' ');
        let make = match words.next()? {
            "MOVED" => Self::Moved,
            "ASK" => Self::Ask,
            "TRYAGAIN" | "CLUSTERDOWN" => return Some(Self::Later),
            _ => return None,
        };
        let (_slot, to) = (words.next()?, words.next()?);
        let (host, port) = to.rsplit_once(':')?;
        let host = host.strip_prefix('[').unwrap_or(host);
        let host = host.strip_suffix(']').unwrap_or(host);
        let port = port.parse().ok().filter(|port| *port != 0)?;
        endpoint(host, port, asked).map(make)
    }
}

/// A node's address as another node tells it; without a host it is the one that was asked.
pub(super) fn endpoint(host: &str, port: u16, asked: &Endpoint) -> Option<Endpoint> {
    let host = match (host, asked) {
        ("" | "?", Endpoint::Tcp { host, .. }) => host.clone(),
        ("" | "?", Endpoint::Unix(_)) => return None,
        (host, _) => host.to_owned(),
    };
    Some(Endpoint::Tcp { host, port })
}

/// The first key of a command; `None` if it has none, and any node will do.
pub(in crate::target) fn first_key(command: &Cmd) -> Option<&[u8]> {
    let word = |n: usize| match command.args_iter().nth(n) {
        Some(Arg::Simple(word)) => Some(word),
        _ => None,
    };
    let name = word(0)?.to_ascii_uppercase();
    match &name[..] {
        b"PING" | b"INFO" | b"COMMAND" | b"CONFIG" | b"SCRIPT" | b"CLUSTER" | b"CLIENT"
        | b"SCAN" | b"UNWATCH" | b"TIME" | b"DBSIZE" => None,
        _ => word(first_key_at(&name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_read_and_a_missing_host_is_that_of_the_node_asked() {
        let asked: Endpoint = "a.example:7".parse().unwrap();
        let to = |text: &str| text.parse::<Endpoint>().unwrap();
        for (error, redirect) in [
            (
                "MOVED 3999 127.0.0.1:6381",
                Some(Redirect::Moved(to("127.0.0.1:6381"))),
            ),
            (
                "MOVED 3999 :6381",
                Some(Redirect::Moved(to("a.example:6381"))),
            ),
            ("ASK 1 ::1:6381", Some(Redirect::Ask(to("[::1]:6381")))),
            ("ASK 1 b:6381", Some(Redirect::Ask(to("b:6381")))),
            (
                "TRYAGAIN Multiple keys request during rehashing of slot",
                Some(Redirect::Later),
            ),
            ("CLUSTERDOWN The cluster is down", Some(Redirect::Later)),
            ("MOVED 3999", None),
            ("MOVED 3999 a:b", None),
            ("WRONGTYPE of MOVED", None),
            ("", None),
        ] {
            assert_eq!(Redirect::of(error, &asked), redirect, "{error}");
        }
    }

    #[test]
    fn a_command_is_for_the_node_of_its_first_key() {
        let key = |words: &[&str]| {
            let mut command = Cmd::new();
            words.iter().for_each(|word| {
                command.arg(*word);
            });
            first_key(&command).map(<[u8]>::to_vec)
        };
        assert_eq!(key(&["HSET", "k", "f", "v"]), Some(b"k".to_vec()));
        assert_eq!(key(&["eval", "return 1", "1", "k"]), Some(b"k".to_vec()));
        assert_eq!(key(&["XINFO", "GROUPS", "k"]), Some(b"k".to_vec()));
        assert_eq!(key(&["LMPOP", "1", "k", "LEFT"]), Some(b"k".to_vec()));
        assert_eq!(key(&["INFO", "server"]), None);
    }
}
