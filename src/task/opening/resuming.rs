//! Whether a session can ask to resume: what the target holds against what the source is now, and why not.

use std::fmt;

use crate::source::dragonfly::Master;
use crate::target::Stored;

/// Why everything is copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reason {
    First,
    Unfinished,
    Damaged(&'static str),
    NotKept,
    OtherMaster,
    OtherFlows { stored: usize, flows: u32 },
    OtherMapping,
    Release,
    Overwhelmed,
    Backlog { flows: Vec<u32> },
}

impl Reason {
    /// Whether an earlier full sync may have left values that it did not finish under their temporary names.
    pub(super) fn leaves_unfinished(&self) -> bool {
        match self {
            Self::Unfinished | Self::Damaged(_) | Self::NotKept => true,
            // A full sync that finished has removed each, and the journal builds nothing in steps.
            Self::First
            | Self::OtherMaster
            | Self::OtherFlows { .. }
            | Self::OtherMapping
            | Self::Release
            | Self::Overwhelmed
            | Self::Backlog { .. } => false,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::First => write!(f, "nothing was copied before"),
            Self::Unfinished => write!(f, "the last full sync did not finish"),
            Self::Damaged(what) => write!(f, "the positions on the target are damaged: {what}"),
            Self::NotKept => write!(f, "target.positions is \"none\""),
            Self::OtherMaster => {
                write!(f, "the source was started anew since, or is another one")
            }
            Self::OtherFlows { stored, flows } => {
                write!(f, "the source has {flows} shards now, and had {stored}")
            }
            Self::OtherMapping => {
                write!(f, "source, databases or filters of the task have changed")
            }
            Self::Release => write!(f, "this release of the source cannot resume"),
            Self::Overwhelmed => write!(f, "too many keys would have to be read again"),
            Self::Backlog { flows } => {
                let flows: Vec<_> = flows.iter().map(u32::to_string).collect();
                write!(
                    f,
                    "the source no longer has what was written since, on flow {}",
                    flows.join(", ")
                )
            }
        }
    }
}

/// Where a session is to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// By flow, the next LSN on the target.
    pub(super) lsns: Vec<u64>,
    /// The positions are those of this other master: the present one may have been its replica, and go on in its place.
    pub(super) of: Option<String>,
}

/// The positions to resume at, or why that cannot be asked for.
pub(super) fn resumable(
    stored: Option<&Stored>,
    same_mapping: bool,
    master: &Master,
) -> Result<Wanted, Reason> {
    match stored {
        None => Err(Reason::NotKept),
        Some(Stored::Nothing) => Err(Reason::First),
        Some(Stored::Snapshot | Stored::Copied { .. }) => Err(Reason::Unfinished),
        Some(Stored::Damaged { what }) => Err(Reason::Damaged(what)),
        Some(Stored::Stable { .. }) if !same_mapping => Err(Reason::OtherMapping),
        // A master does not tell whose replica it was.
        Some(Stored::Stable {
            replication_id,
            lsns,
        }) if *replication_id != master.id => {
            let may_succeed = lsns.len() as u64 == u64::from(master.flows) && master.resumes();
            may_succeed
                .then(|| Wanted {
                    lsns: lsns.clone(),
                    of: Some(replication_id.clone()),
                })
                .ok_or(Reason::OtherMaster)
        }
        Some(Stored::Stable { lsns, .. }) if lsns.len() as u64 != u64::from(master.flows) => {
            Err(Reason::OtherFlows {
                stored: lsns.len(),
                flows: master.flows,
            })
        }
        Some(Stored::Stable { .. }) if !master.resumes() => Err(Reason::Release),
        Some(Stored::Stable { lsns, .. }) => Ok(Wanted {
            lsns: lsns.clone(),
            of: None,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn master(release: Option<&str>) -> Master {
        Master {
            id: "a".repeat(40),
            sync_id: "SYNC1".to_owned(),
            flows: 2,
            version_number: Some(5),
            release: release.map(str::to_owned),
            lineage: None,
        }
    }

    fn stable(id: &str, lsns: &[u64]) -> Stored {
        Stored::Stable {
            replication_id: id.repeat(40),
            lsns: lsns.to_vec(),
        }
    }

    #[test]
    fn only_positions_of_this_process_these_flows_and_this_mapping_are_resumed() {
        let now = master(Some("df-v1.40.1"));
        let decide = |stored: &Stored| resumable(Some(stored), true, &now);
        let resumed = |of: Option<&str>| {
            Ok(Wanted {
                lsns: vec![7, 8],
                of: of.map(|of| of.repeat(40)),
            })
        };
        assert_eq!(decide(&stable("a", &[7, 8])), resumed(None));
        // It may have been that one's replica.
        assert_eq!(decide(&stable("b", &[7, 8])), resumed(Some("b")));
        assert_eq!(decide(&Stored::Nothing), Err(Reason::First));
        assert_eq!(decide(&Stored::Snapshot), Err(Reason::Unfinished));
        assert_eq!(decide(&stable("b", &[7])), Err(Reason::OtherMaster));
        let other = Reason::OtherFlows {
            stored: 3,
            flows: 2,
        };
        assert_eq!(decide(&stable("a", &[7, 8, 9])), Err(other));
        let remapped = resumable(Some(&stable("a", &[7, 8])), false, &now);
        assert_eq!(remapped, Err(Reason::OtherMapping));
        assert_eq!(resumable(None, true, &now), Err(Reason::NotKept));
        for release in [None, Some("df-v1.34.2")] {
            let decided = resumable(Some(&stable("a", &[7, 8])), true, &master(release));
            assert_eq!(decided, Err(Reason::Release));
            let decided = resumable(Some(&stable("b", &[7, 8])), true, &master(release));
            assert_eq!(decided, Err(Reason::OtherMaster));
        }
    }
}
