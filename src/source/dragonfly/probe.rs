//! What a master would say to a replica, without becoming one.
//!
//! Facts: `DFLY THREAD`, then `REPLCONF capa dragonfly` and an orderly close are harmless on every
//!   release; the master shows a session in preparation meanwhile. Nothing else is sent but PING and
//!   the introduction: no version, no flow.

use super::error::{Link, Phase, SourceError};
use super::handshake::{Master, accepted, connect, introduce};
use super::settings::Settings;

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// What `ACL SETUSER` must add before the user can replicate, such as `+dfly`.
    pub missing: Vec<&'static str>,
    /// What the master said of itself; `None` without the permission for `REPLCONF`. The release is
    /// not asked for.
    pub master: Option<Master>,
}

impl Probe {
    /// Connects, asks and closes in order. A missing permission is no error: all are found at once.
    pub async fn run(settings: &Settings) -> Result<Self, SourceError> {
        let mut conn = connect(settings, Link::Control, Phase::Handshake).await?;
        let mut missing = Vec::new();
        let within = settings.connect_timeout;
        for (request, words) in [
            ("PING", &[&b"PING"[..]][..]),
            ("DFLY THREAD", &[b"DFLY", b"THREAD"]),
        ] {
            let reply = conn.ask(request, words, within).await?;
            permitted(accepted(request, reply), &mut missing)?;
        }
        let master = permitted(introduce(&mut conn, settings).await, &mut missing)?;
        conn.close().await;
        Ok(Self { missing, master })
    }
}

/// The answer, or what the user lacks.
fn permitted<T>(
    answer: Result<T, SourceError>,
    missing: &mut Vec<&'static str>,
) -> Result<Option<T>, SourceError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(SourceError::NoPermission { missing: what, .. }) => {
            missing.push(what);
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
