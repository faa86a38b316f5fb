//! Walking over keys of the target, some at a time, whatever their number.
//!
//! Facts: a key that is there all the time comes at least once, and may come twice; one that is made or deleted
//!   meanwhile may or may not come (SCAN).

use super::cluster::Sweep;
use super::control::Control;
use super::error::TargetError;
use super::ownership::Ownership;

/// Keys listed at a time.
const CHUNK: usize = 1000;

/// A walk over the keys that a task owns, those left out that were there first and are somebody else's.
#[derive(Debug)]
pub struct Walk<'a> {
    ownership: &'a Ownership,
    databases: std::slice::Iter<'a, u32>,
    scan: Option<Scan<'a>>,
}

impl<'a> Walk<'a> {
    /// From the first key of the first database on.
    pub fn of(ownership: &'a Ownership) -> Self {
        Self {
            ownership,
            databases: ownership.owned().databases.iter(),
            scan: None,
        }
    }

    /// The next keys and their database on the target; none at the end. A key may come twice, and one that is made or
    /// deleted meanwhile may or may not come.
    pub async fn next(
        &mut self,
        control: &mut Control,
    ) -> Result<Option<(u32, Vec<Vec<u8>>)>, TargetError> {
        loop {
            let Some(scan) = &mut self.scan else {
                let Some(db) = self.databases.next() else {
                    return Ok(None);
                };
                self.scan = Some(Scan::of(*db, None));
                continue;
            };
            let db = scan.db;
            let Some(mut keys) = scan.next(control).await? else {
                self.scan = None;
                continue;
            };
            keys.retain(|key| self.ownership.owned().has(key));
            let asked: Vec<_> = keys.iter().map(|key| (db, key.as_slice())).collect();
            let foreign = self.ownership.foreign(control, &asked).await?;
            let mine = keys.into_iter().zip(foreign);
            let mine = mine.filter_map(|(key, foreign)| (!foreign).then_some(key));
            return Ok(Some((db, mine.collect())));
        }
    }
}

/// All keys of a database, of all masters of a cluster, some at a time; a key may come twice.
#[derive(Debug)]
pub struct Scan<'a> {
    db: u32,
    pattern: Option<&'a str>,
    cursor: Option<u64>,
    sweep: Option<Sweep>,
}

impl<'a> Scan<'a> {
    /// Of the keys that match a glob pattern, if there is one.
    pub fn of(db: u32, pattern: Option<&'a str>) -> Self {
        Self {
            db,
            pattern,
            cursor: Some(0),
            sweep: None,
        }
    }

    /// The next keys, perhaps none of them; nothing at the end.
    pub async fn next(
        &mut self,
        control: &mut Control,
    ) -> Result<Option<Vec<Vec<u8>>>, TargetError> {
        control.select(self.db).await?;
        if let Some(nodes) = control.nodes() {
            let sweep = self.sweep.get_or_insert_with(|| Sweep::new(self.pattern));
            return sweep.next(nodes).await;
        }
        let Some(cursor) = self.cursor else {
            return Ok(None);
        };
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("COUNT").arg(CHUNK);
        if let Some(pattern) = self.pattern {
            scan.arg("MATCH").arg(pattern);
        }
        let (next, keys): (u64, Vec<Vec<u8>>) = control.ask("listing keys", &scan).await?;
        self.cursor = Some(next).filter(|next| *next != 0);
        Ok(Some(keys))
    }
}
