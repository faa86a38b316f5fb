//! What a task writes to: one server, or a cluster. The same tests are run against both.

use crate::df2redis::Task;
use crate::support::{Client, Cluster, RedisServer, Reply, compare};
use std::collections::BTreeMap;

/// The task's record.
const RECORD: &str = "df2redis:position:copy";
/// What begins the names of a flow's positions, in the record and in stamps.
const LSN: &str = "lsn:";

/// A target, as far as these tests look at it.
pub trait Sink {
    /// Where its servers listen.
    fn addresses(&self) -> Vec<String>;

    /// A task from the source at this address, which reaches the servers over these.
    fn task_over(&self, source: &str, ways: &[String]) -> Task;

    /// The task's record, and as `lsn:<flow>` where each flow goes on.
    fn record(&self) -> BTreeMap<String, String>;

    /// Changes a field of it.
    fn set(&self, field: &str, text: &str);

    /// Whether keys are listed that are to be read again.
    fn has_withheld(&self) -> bool;

    /// The number in a key.
    fn number(&self, db: u32, key: &str) -> Option<i64>;

    /// What is not as in the server at this port.
    fn differences_from(&self, port: u16) -> Vec<String>;
}

fn fields(reply: &Reply) -> BTreeMap<String, String> {
    let pairs = reply.items().chunks(2);
    pairs.map(|pair| (pair[0].text(), pair[1].text())).collect()
}

impl Sink for RedisServer {
    fn addresses(&self) -> Vec<String> {
        vec![self.address()]
    }

    fn task_over(&self, source: &str, ways: &[String]) -> Task {
        Task::between(source, &ways[0])
    }

    fn record(&self) -> BTreeMap<String, String> {
        fields(&self.client().ok(&["HGETALL", RECORD]))
    }

    fn set(&self, field: &str, text: &str) {
        self.client().ok(&["HSET", RECORD, field, text]);
    }

    fn has_withheld(&self) -> bool {
        self.client().ok(&["EXISTS", "df2redis:reread:copy"]) != "0"
    }

    fn number(&self, db: u32, key: &str) -> Option<i64> {
        let mut client = self.client();
        client.ok(&["SELECT", &db.to_string()]);
        client.ok(&["GET", key]).int()
    }

    fn differences_from(&self, port: u16) -> Vec<String> {
        compare(port, self.port())
    }
}

impl Sink for Cluster {
    fn addresses(&self) -> Vec<String> {
        self.addresses()
    }

    fn task_over(&self, source: &str, ways: &[String]) -> Task {
        let pairs = self.addresses();
        let pairs = pairs.iter().zip(ways);
        let map: Vec<_> = pairs
            .map(|(there, way)| format!("{there:?} = {way:?}"))
            .collect();
        Task::into_cluster(source, ways)
            .with(format!("target.address_map = {{ {} }}", map.join(", ")))
    }

    fn record(&self) -> BTreeMap<String, String> {
        let mut record = fields(&self.ok(&["HGETALL", RECORD]));
        let epoch = record.get("epoch").cloned().unwrap_or_default();
        let mut least: BTreeMap<String, u64> = BTreeMap::new();
        for stamp in self.keys("df2redis:stamp:copy") {
            for (field, text) in fields(&self.ok(&["HGETALL", &stamp])) {
                let of_epoch = field.split_once(&format!(":{epoch}:"));
                let flow = of_epoch.map(|(flow, _)| flow);
                let Some(flow) = flow.filter(|flow| flow.starts_with(LSN)) else {
                    continue;
                };
                let lsn: u64 = text.parse().expect("a position");
                let known = least.entry(flow.to_owned()).or_insert(lsn);
                *known = lsn.min(*known);
            }
        }
        let least = least.into_iter();
        record.extend(least.map(|(flow, lsn)| (flow, lsn.to_string())));
        record
    }

    fn set(&self, field: &str, text: &str) {
        self.ok(&["HSET", RECORD, field, text]);
    }

    fn has_withheld(&self) -> bool {
        !self.keys("df2redis:reread:copy").is_empty()
    }

    fn number(&self, db: u32, key: &str) -> Option<i64> {
        assert_eq!(db, 0, "a cluster has no other");
        self.ok(&["GET", key]).int()
    }

    fn differences_from(&self, port: u16) -> Vec<String> {
        let mut others = Client::connect(port);
        let of_others = others.ok(&["INFO", "keyspace"]).text();
        let others = of_others
            .lines()
            .filter(|line| line.starts_with("db") && !line.starts_with("db0:"));
        let mut differences = self.differences_from(port);
        differences.extend(others.map(|line| format!("not in the cluster: {line}")));
        differences
    }
}
