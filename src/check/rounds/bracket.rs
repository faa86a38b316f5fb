//! The two ends of a look: what is watched, where the source is by then, and whether nothing was done meanwhile.

use tokio::time::{Instant, sleep};

use super::{LONGEST_PAUSE, Rounds, SHORTEST_PAUSE};
use crate::check::access::Reached;
use crate::check::error::CheckError;
use crate::check::link::Head;
use crate::check::sweep::Suspect;

impl Rounds {
    pub(super) async fn replication_id(&mut self) -> Result<Option<String>, CheckError> {
        let info = self.source.info("replication").await?;
        let found = info
            .lines()
            .find_map(|line| line.strip_prefix("master_replid:"));
        Ok(found.map(|id| id.trim_end().to_owned()))
    }

    pub(super) async fn watch(&mut self, db: u32, group: &[Suspect]) -> Result<(), CheckError> {
        let mut words: Vec<&[u8]> = vec![b"WATCH"];
        words.extend(group.iter().map(|suspect| suspect.key.as_slice()));
        self.source.begin(db);
        self.source.link.queue(&words);
        self.source.send().await?;
        self.simple("WATCH").await
    }

    async fn simple(&mut self, command: &str) -> Result<(), CheckError> {
        match self.source.link.head().await? {
            Head::Simple(_) => Ok(()),
            other => Err(self.source.link.unexpected(command, &other)),
        }
    }

    pub(super) async fn unwatch(&mut self) -> Result<(), CheckError> {
        self.source.begin(self.source.link.db);
        self.source.link.queue(&[b"UNWATCH"]);
        self.source.send().await?;
        self.simple("UNWATCH").await
    }

    /// Whether no key was written to since [`Self::watch`].
    pub(super) async fn is_unchanged(
        &mut self,
        db: u32,
        group: &[Suspect],
    ) -> Result<bool, CheckError> {
        let key = group.first().map(|first| first.key.clone());
        self.source.begin(db);
        self.source.link.queue(&[b"MULTI"]);
        self.source
            .link
            .queue(&[b"EXISTS", &key.unwrap_or_default()]);
        self.source.link.queue(&[b"EXEC"]);
        self.source.send().await?;
        self.simple("MULTI").await?;
        self.simple("EXISTS").await?;
        match self.source.link.head().await? {
            Head::Null => Ok(false),
            executed @ Head::Array(_) => {
                self.source.link.skip(executed).await?;
                Ok(true)
            }
            other => Err(self.source.link.unexpected("EXEC", &other)),
        }
    }

    /// Where the source is now; none if it keeps no journal any more.
    pub(super) async fn reached(&mut self) -> Result<Option<Reached>, CheckError> {
        let lsns = self.source.offsets().await?;
        let replication_id = self.replication_id().await?;
        let lsns = lsns.filter(|lsns| lsns.iter().all(|lsn| *lsn > 0));
        Ok(lsns
            .zip(replication_id)
            .map(|(lsns, replication_id)| Reached {
                replication_id,
                lsns,
            }))
    }

    /// Waits until the target has got there.
    pub(super) async fn wait_for(
        &mut self,
        reached: &Reached,
        until: Instant,
    ) -> Result<bool, CheckError> {
        let mut pause = SHORTEST_PAUSE;
        loop {
            let stored = self.target.stored().await?;
            if stored.is_some_and(|stored| reached.holds(&stored)) {
                return Ok(true);
            }
            if Instant::now() >= until || self.is_stopped() {
                return Ok(false);
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}
