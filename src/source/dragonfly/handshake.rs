//! The requests of the handshake, and what their answers mean.
//! Facts: Dragonfly v1.14 to v1.40. `capa dragonfly` must be alone in its request. The number
//!   announced is 4: it brings LSN markers on every release and no search opcodes on any.
//!   Announcing it on a connection without a session ends the master's process: [`create_session`] is
//!   the only code that sends it, right behind the reply that proved the session.

use super::error::{Link, Phase, SourceError};
use super::reply::{Reply, shorten};
use super::settings::Settings;
use super::wire::Conn;

/// Dragonfly itself refuses more.
const FLOWS_MAX: u64 = 1024;

/// What a master said of itself and of the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Master {
    /// New at each start of its process; 40 hexadecimal digits.
    pub id: String,
    /// The session's name, such as `SYNC7`.
    pub sync_id: String,
    /// Number of shards, and so of flows.
    pub flows: u32,
    /// Ordinal of its protocol version; ambiguous between releases. None before v1.4.
    pub version_number: Option<u64>,
    /// Such as `df-v1.40.1`, if the user may ask for it.
    pub release: Option<String>,
    /// Differs from `id` on a cascaded replica only. v1.40 and later.
    pub lineage: Option<String>,
}

impl Master {
    /// Whether flows that were granted a position go on in the journal at once: from v1.35 on. Earlier releases deliver
    /// what was missed inside snapshots, where entries cannot be counted.
    pub fn resumes(&self) -> bool {
        let number = self.release.as_deref().and_then(release_number);
        number.is_some_and(|number| number >= (1, 35))
    }
}

impl Master {
    /// Whether it leaves deletions out of the journal during a snapshot that it takes for redundant: from v1.40 on,
    /// unless it was started with `--journal_omit_redundant_writes=false`, which cannot be asked for.
    pub fn omits_deletions(&self) -> bool {
        let number = self.release.as_deref().and_then(release_number);
        number.is_none_or(|number| number >= (1, 40))
    }
}

impl Master {
    /// Whether it journals a `GETEX` that only reads as an end of the key at that moment: before v1.40.
    pub fn reads_end_keys(&self) -> bool {
        let number = self.release.as_deref().and_then(release_number);
        number.is_none_or(|number| number < (1, 40))
    }
}

/// The major and minor number of a release such as `df-v1.40.1`.
pub fn release_number(release: &str) -> Option<(u16, u16)> {
    let numbers = release.strip_prefix("df-")?.strip_prefix('v')?;
    let mut numbers = numbers.split(['.', '-']).map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// Connects and authenticates.
pub(super) async fn connect(
    settings: &Settings,
    link: Link,
    phase: Phase,
) -> Result<Conn, SourceError> {
    let within = settings.connect_timeout;
    let stream = crate::net::connect(&settings.endpoint, settings.tls.as_ref(), within).await?;
    let mut conn = Conn::new(stream, link, phase);
    let Some(password) = &settings.password else {
        return Ok(conn);
    };
    let password = password.expose();
    let reply = match &settings.username {
        Some(user) => {
            let words = [&b"AUTH"[..], user.as_bytes(), password];
            conn.ask("AUTH", &words, within).await?
        }
        None => conn.ask("AUTH", &[b"AUTH", password], within).await?,
    };
    match accepted("AUTH", reply) {
        Ok(_) => Ok(conn),
        Err(SourceError::Refused { answer, .. }) => Err(SourceError::PasswordWrong { answer }),
        Err(error) => Err(error),
    }
}

/// Everything up to a session that knows which version it speaks.
pub(super) async fn create_session(
    conn: &mut Conn,
    settings: &Settings,
) -> Result<Master, SourceError> {
    let within = settings.connect_timeout;
    let reply = conn.ask("PING", &[b"PING"], within).await?;
    accepted("PING", reply)?;
    let master = introduce(conn, settings).await?;
    let words: [&[u8]; 3] = [b"REPLCONF", b"CLIENT-VERSION", b"4"];
    let reply = conn.ask("REPLCONF CLIENT-VERSION", &words, within).await?;
    accepted("REPLCONF CLIENT-VERSION", reply)?;
    Ok(master)
}

/// Up to a session that does not know yet which version it speaks.
pub(super) async fn introduce(conn: &mut Conn, settings: &Settings) -> Result<Master, SourceError> {
    let within = settings.connect_timeout;
    let port = settings.announce_port.to_string();
    let mut introduction = vec![vec![&b"listening-port"[..], port.as_bytes()]];
    if let Some(ip) = &settings.announce_ip {
        introduction.push(vec![b"ip-address", ip.as_bytes()]);
    }
    introduction.push(vec![b"capa", b"eof", b"capa", b"psync2"]);
    for options in introduction {
        let words = [&[&b"REPLCONF"[..]], &options[..]].concat();
        let reply = conn.ask("REPLCONF", &words, within).await?;
        accepted("REPLCONF", reply)?;
    }
    let words: [&[u8]; 3] = [b"REPLCONF", b"capa", b"dragonfly"];
    let reply = conn.ask(CAPA, &words, within).await?;
    master(accepted(CAPA, reply)?)
}

const CAPA: &str = "REPLCONF capa dragonfly";

/// Reads the reply that creates a session. Elements beyond the known ones are ignored.
fn master(reply: Reply) -> Result<Master, SourceError> {
    let answer = reply.describe();
    let elements = match reply {
        Reply::Array(elements) => elements,
        _ => {
            let request = CAPA;
            return Err(SourceError::NotDragonfly { request, answer });
        }
    };
    let text = |at: usize| {
        let bytes = elements.get(at)?.text()?;
        String::from_utf8(bytes.to_vec()).ok()
    };
    let number = |at: usize| elements.get(at).and_then(Reply::number);
    let hex = |id: &String| id.len() == 40 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let named = |id: &String| {
        id.strip_prefix("SYNC")
            .is_some_and(|number| number.parse::<u64>().is_ok())
    };
    let found = (
        text(0).filter(hex),
        text(1).filter(named),
        number(2)
            .filter(|flows| (1..=FLOWS_MAX).contains(flows))
            .and_then(|flows| u32::try_from(flows).ok()),
    );
    let (Some(id), Some(sync_id), Some(flows)) = found else {
        let request = CAPA;
        return Err(SourceError::Unexpected { request, answer });
    };
    Ok(Master {
        id,
        sync_id,
        flows,
        version_number: number(3),
        release: None,
        lineage: text(4),
    })
}

/// The reply, unless it is an error.
pub(super) fn accepted(request: &'static str, reply: Reply) -> Result<Reply, SourceError> {
    match reply {
        Reply::Error(text) => Err(refusal(request, &text)),
        reply => Ok(reply),
    }
}

/// `+OK`, or an error.
pub(super) fn confirmed(request: &'static str, reply: Reply) -> Result<(), SourceError> {
    match accepted(request, reply)? {
        Reply::Simple(text) if text == "OK" => Ok(()),
        other => Err(SourceError::Unexpected {
            request,
            answer: other.describe(),
        }),
    }
}

/// What an error reply means.
pub(super) fn refusal(request: &'static str, text: &str) -> SourceError {
    let answer = shorten(text.as_bytes());
    let lower = answer.to_ascii_lowercase();
    let has = |part: &str| lower.contains(part);
    match lower.split(' ').next().unwrap_or_default() {
        "noauth" => return SourceError::PasswordMissing,
        "wrongpass" => return SourceError::PasswordWrong { answer },
        "noperm" => {
            let missing = permission(request);
            return SourceError::NoPermission { missing, answer };
        }
        "loading" => return SourceError::Loading,
        _ => {}
    }
    if has("restricted command") {
        SourceError::Restricted { request }
    } else if has("replicating a replica") {
        SourceError::IsReplica
    } else if has("bad tls header") {
        SourceError::NeedsTls
    } else if has("unknown command") {
        SourceError::NotDragonfly { request, answer }
    } else if has("bad master id") {
        SourceError::MasterChanged
    } else if has("bad sync id")
        || has("syncid not found")
        || has("invalid state")
        // What was granted has fallen out of the ring meanwhile: another session gets a snapshot.
        || has("partial sync failed")
    {
        SourceError::SessionLost { request, answer }
    } else {
        SourceError::Refused { request, answer }
    }
}

/// What `ACL SETUSER` must add for a request.
fn permission(request: &'static str) -> &'static str {
    match request.split(' ').next().unwrap_or_default() {
        "REPLCONF" => "+replconf",
        "DFLY" => "+dfly",
        "PING" => "+ping",
        "INFO" => "+info",
        "TIME" => "+time",
        "SELECT" => "+select",
        "EXISTS" => "+exists",
        "DUMP" => "+dump",
        "PEXPIRETIME" => "+pexpiretime",
        _ => "for the command",
    }
}
