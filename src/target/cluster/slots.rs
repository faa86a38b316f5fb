//! Who owns which slots, as nodes say.

use std::ops::RangeInclusive;

use redis::Value;

use super::redirect::endpoint;
use crate::net::Endpoint;
use crate::target::slot::{SLOTS, slot_of};

/// The masters and their slots, from the answer to CLUSTER SLOTS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owners(Vec<(RangeInclusive<u16>, Endpoint)>);

impl Owners {
    /// Reads it; `None` if it is something else. `reached` says where an announced address is reached from here.
    pub(super) fn read(
        answer: &Value,
        asked: &Endpoint,
        reached: impl Fn(Endpoint) -> Endpoint,
    ) -> Option<Self> {
        let Value::Array(rows) = answer else {
            return None;
        };
        let row = |row: &Value| {
            let Value::Array(row) = row else { return None };
            let [
                Value::Int(first),
                Value::Int(last),
                Value::Array(master),
                ..,
            ] = &row[..]
            else {
                return None;
            };
            let [host, Value::Int(port), ..] = &master[..] else {
                return None;
            };
            let slot = |n: &i64| u16::try_from(*n).ok().filter(|slot| *slot < SLOTS);
            let host = match host {
                Value::BulkString(host) => std::str::from_utf8(host).ok()?,
                Value::SimpleString(host) => host,
                Value::Nil => "",
                _ => return None,
            };
            let port = u16::try_from(*port).ok().filter(|port| *port != 0)?;
            let place = reached(endpoint(host, port, asked)?);
            Some((slot(first)?..=slot(last)?, place))
        };
        let mut owners: Vec<_> = rows.iter().map(row).collect::<Option<_>>()?;
        owners.sort_by_key(|(slots, _)| *slots.start());
        Some(Self(owners))
    }

    /// The owner of a key's slot.
    pub fn of_key(&self, key: &[u8]) -> Option<&Endpoint> {
        self.of(slot_of(key))
    }

    /// The owner of a slot.
    pub fn of(&self, slot: u16) -> Option<&Endpoint> {
        let at = self.0.partition_point(|(slots, _)| *slots.end() < slot);
        let (slots, owner) = self.0.get(at)?;
        slots.contains(&slot).then_some(owner)
    }

    /// Every owner with the first of its slots.
    pub fn first_slots(&self) -> Vec<(Endpoint, u16)> {
        let mut firsts: Vec<(Endpoint, u16)> = Vec::new();
        for (slots, owner) in &self.0 {
            if !firsts.iter().any(|(known, _)| known == owner) {
                firsts.push((owner.clone(), *slots.start()));
            }
        }
        firsts
    }

    /// A slot that nobody owns.
    pub(super) fn gap(&self) -> Option<u16> {
        let mut next = 0;
        for (slots, _) in &self.0 {
            if *slots.start() > next {
                break;
            }
            next = next.max(slots.end() + 1);
        }
        (next < SLOTS).then_some(next)
    }

    /// Every owner, once.
    pub fn masters(&self) -> Vec<Endpoint> {
        let firsts = self.first_slots().into_iter();
        firsts.map(|(owner, _)| owner).collect()
    }
}

/// What a node says of itself in its answer to CLUSTER NODES.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Itself {
    /// Its name.
    pub(super) id: String,
    /// Grows whenever it takes over slots, from a master that failed or in a move.
    pub(super) epoch: u64,
    /// What it owns.
    pub(super) slots: Vec<RangeInclusive<u16>>,
    /// Slots that are being moved from it or to it, with the other node's name behind the direction.
    pub(super) open: Vec<(u16, String)>,
    /// Whether it takes a master with slots for dead, and so may be about to vote for a replica of it.
    pub(super) condemns: bool,
}

impl Itself {
    /// Reads its line; `None` if there is none.
    pub(super) fn read(answer: &str) -> Option<Self> {
        let mut lines = answer.lines();
        let line = lines.find(|line| {
            let flags = line.split(' ').nth(2).unwrap_or_default();
            flags.split(',').any(|flag| flag == "myself")
        })?;
        let words: Vec<&str> = line.split(' ').collect();
        let [id, _, _, _, _, _, epoch, _, slots @ ..] = &words[..] else {
            return None;
        };
        let mut itself = Self {
            id: (*id).to_owned(),
            epoch: epoch.parse().ok()?,
            slots: Vec::new(),
            open: Vec::new(),
            condemns: answer.lines().any(is_dead_owner),
        };
        for word in slots {
            match word.strip_prefix('[') {
                Some(open) => {
                    let (slot, to) = open.trim_end_matches(']').split_once('-')?;
                    itself.open.push((slot.parse().ok()?, to.to_owned()));
                }
                None => {
                    let (first, last) = word.split_once('-').unwrap_or((word, word));
                    itself.slots.push(first.parse().ok()?..=last.parse().ok()?);
                }
            }
        }
        Some(itself)
    }
}

/// Whether a line is about a master that is taken for dead, and has slots.
fn is_dead_owner(line: &str) -> bool {
    let mut words = line.split(' ').skip(2);
    let flags: Vec<&str> = words.next().unwrap_or_default().split(',').collect();
    flags.contains(&"master") && flags.contains(&"fail") && words.nth(5).is_some()
}

/// How many elections of a replica a node has voted in, from the answer to CLUSTER INFO.
pub(super) fn votes(answer: &str) -> Option<u64> {
    const SENT: &str = "cluster_stats_messages_auth-ack_sent:";
    let there = answer.lines().find_map(|line| line.strip_prefix(SENT));
    // Messages of a kind that was never sent are left out.
    there.map_or(Some(0), |count| count.trim_end().parse().ok())
}

/// A node in the answer to CLUSTER NODES, as it announces itself.
#[derive(Debug)]
pub(super) struct Announced {
    pub id: String,
    /// By its IP address.
    pub place: Endpoint,
    /// By its host name, if it has one.
    pub named: Option<Endpoint>,
}

/// Masters in the answer to CLUSTER NODES, those without slots too.
pub(super) fn masters(answer: &str, asked: &Endpoint) -> Vec<Announced> {
    with_flag("master", answer, asked)
}

/// Replicas in that answer.
pub(super) fn replicas(answer: &str, asked: &Endpoint) -> Vec<Announced> {
    with_flag("slave", answer, asked)
}

/// Nodes that are there and have this flag.
fn with_flag(flag: &str, answer: &str, asked: &Endpoint) -> Vec<Announced> {
    let of_line = |line: &str| {
        let mut words = line.split(' ');
        let (id, address, flags) = (words.next()?, words.next()?, words.next()?);
        let flags: Vec<&str> = flags.split(',').collect();
        let is_there = !["fail", "handshake", "noaddr"]
            .iter()
            .any(|flag| flags.contains(flag));
        let (host, rest) = address.split_once('@')?.0.rsplit_once(':')?;
        let port = rest.parse().ok().filter(|port| *port != 0)?;
        let name = address.split(',').nth(1).filter(|name| !name.is_empty());
        let place = endpoint(host, port, asked);
        let place = place.filter(|_| flags.contains(&flag) && is_there)?;
        Some(Announced {
            id: id.to_owned(),
            place,
            named: name.and_then(|name| endpoint(name, port, asked)),
        })
    };
    answer.lines().filter_map(of_line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn asked() -> Endpoint {
        "seed:1".parse().unwrap()
    }

    fn row(first: i64, last: i64, host: Value, port: i64) -> Value {
        let node = Value::Array(vec![host, Value::Int(port), Value::Nil]);
        Value::Array(vec![Value::Int(first), Value::Int(last), node])
    }

    #[test]
    fn owners_are_found_by_slot_and_mapped() {
        let host = |name: &str| Value::BulkString(name.as_bytes().to_vec());
        let answer = Value::Array(vec![
            row(8000, 16383, host("b"), 2),
            row(0, 99, host("a"), 1),
            row(101, 7999, Value::Nil, 3),
        ]);
        let reached = |place: Endpoint| match place.to_string().as_str() {
            "b:2" => "nat:9".parse().unwrap(),
            _ => place,
        };
        let owners = Owners::read(&answer, &asked(), reached).unwrap();
        let of = |slot| owners.of(slot).map(ToString::to_string);
        assert_eq!(of(0).as_deref(), Some("a:1"));
        assert_eq!(of(99).as_deref(), Some("a:1"));
        assert_eq!(of(100), None);
        assert_eq!(of(101).as_deref(), Some("seed:3"));
        assert_eq!(of(16383).as_deref(), Some("nat:9"));
        assert_eq!(owners.gap(), Some(100));
        assert_eq!(owners.masters().len(), 3);
        assert_eq!(Owners::default().gap(), Some(0));
    }

    #[test]
    fn a_node_says_what_it_owns_and_what_is_on_the_move() {
        let answer = "aa 127.0.0.1:1@2,h master - 0 1 3 connected 5-9\n\
             bb 127.0.0.1:2@3 myself,master - 0 1 7 connected 0-4 10 [77->-aa] [93-<-cc]\n\
             cc :3@4 master,fail - 0 1 7 connected\n\
             dd 127.0.0.1:5@6 slave aa 0 1 7 connected\n";
        let itself = Itself::read(answer).unwrap();
        assert_eq!((itself.id.as_str(), itself.epoch), ("bb", 7));
        assert_eq!(itself.slots, [0..=4, 10..=10]);
        let open = [(77, ">-aa".to_owned()), (93, "<-cc".to_owned())];
        assert_eq!(itself.open, open);
        assert!(!itself.condemns, "the dead one has no slots");
        let with_slots = answer.replace("fail - 0 1 7 connected", "fail - 0 1 7 connected 11");
        assert!(Itself::read(&with_slots).unwrap().condemns);
        let announced = masters(answer, &asked());
        let places = announced.iter().map(|node| node.place.to_string());
        assert!(places.eq(["127.0.0.1:1", "127.0.0.1:2"]));
        let named = announced.iter().filter_map(|node| node.named.as_ref());
        assert!(named.map(ToString::to_string).eq(["h:1"]));
        let replicas = replicas(answer, &asked());
        let places = replicas.iter().map(|node| node.place.to_string());
        assert!(places.eq(["127.0.0.1:5"]));
    }

    #[test]
    fn votes_are_counted_by_the_messages_that_gave_them() {
        let with = "cluster_state:ok\r\ncluster_stats_messages_auth-ack_sent:3\r\n";
        assert_eq!(votes(with), Some(3));
        assert_eq!(votes("cluster_state:ok\r\n"), Some(0));
        assert_eq!(votes("cluster_stats_messages_auth-ack_sent:x\r\n"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_harm(text in "([a-z]{2} 1?:?[0-9]{0,6}@?[0-9]? (myself|master|,){1,3}( [0-9\\[\\]<>-]{0,6}){0,9}\n){0,4}") {
            let _ = Itself::read(&text);
            let _ = masters(&text, &asked());
        }

        #[test]
        fn every_slot_has_the_owner_of_its_range(
            rows in prop::collection::vec((0_i64..16384, 0_i64..200, 1_i64..9), 0..9),
            slot in 0_u16..16384,
        ) {
            let made = rows.iter().map(|(first, length, port)| {
                row(*first, (first + length).min(16383), Value::Nil, *port)
            });
            let owners = Owners::read(&Value::Array(made.collect()), &asked(), |place| place).unwrap();
            if let Some(Endpoint::Tcp { port, .. }) = owners.of(slot) {
                let is_one = |(first, length, of): &(i64, i64, i64)| {
                    (*first..=first + length).contains(&i64::from(slot)) && *of == i64::from(*port)
                };
                prop_assert!(rows.iter().any(is_one));
            }
        }
    }
}
