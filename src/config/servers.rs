//! `[source]` and `[target]`: addresses, logins, TLS.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeValue;
use zeroize::Zeroizing;

use super::checks::{DATABASES, Surroundings};
use super::document::{Found, Section, quoted, wrong_kind};
use super::task::{ClusterNodes, Credentials, Positions, Source, Target, TlsFiles};
use super::{Address, Secret};

/// No password file is larger.
const LARGEST_PASSWORD: u64 = 64 << 10;

const NODE: &str = "\"host:port\" or \"[ipv6]:port\"";
const ADDRESSES: &str = "an array of some nodes of the cluster such as [\"host:port\"]";
const ADDRESS: &str = "\"host:port\", \"[ipv6]:port\" or \"unix:/path\"";
const LEAST_TIMEOUT: Duration = Duration::from_millis(1);
const MOST_TIMEOUT: Duration = Duration::from_secs(600);

pub(super) fn source(section: &Section<'_>, around: &Surroundings<'_>) -> Option<Source> {
    let kind = section.choice("type", &[("dragonfly", ())]);
    let address = address(section);
    let credentials = credentials(section, around);
    let connect_timeout = section.duration("connect_timeout", LEAST_TIMEOUT, MOST_TIMEOUT);
    let announce_ip = optional(section, "announce_ip", || {
        section.parsed("announce_ip", "an IP address", |text| {
            let ip: Result<IpAddr, _> = text.parse();
            ip.map_err(|_| "is not an IP address, expected one such as \"10.0.0.1\"".into())
        })
    });
    let announce_port = optional(section, "announce_port", || {
        let port = section.integer("announce_port", 1..65_536)?;
        u16::try_from(port).ok()
    });
    let tls = tls(section, address.as_ref(), around);
    kind?;
    Some(Source {
        address: address?,
        credentials: credentials?,
        connect_timeout: connect_timeout?,
        announce_ip: announce_ip?,
        announce_port: announce_port?,
        tls: tls?,
    })
}

pub(super) fn target(section: &Section<'_>, around: &Surroundings<'_>) -> Option<Target> {
    let kinds = [("redis", Kind::Server), ("redis-cluster", Kind::Cluster)];
    let kind = section.choice("type", &kinds);
    let place = match kind {
        Some(Kind::Server) => server(section),
        Some(Kind::Cluster) => cluster(section),
        // Which keys belong to it is unknown.
        None => None,
    };
    let credentials = credentials(section, around);
    let connect_timeout = section.duration("connect_timeout", LEAST_TIMEOUT, MOST_TIMEOUT);
    let db_map = db_map(&section.table("db_map"));
    let exclusive = section.boolean("exclusive");
    let positions = section.choice(
        "positions",
        &[
            ("transaction", Positions::Transaction),
            ("none", Positions::None),
        ],
    );
    let position_db = section.integer("position_db", DATABASES);
    if kind == Some(Kind::Cluster) {
        only_database_0(section, db_map.as_ref(), position_db);
    }
    let tls = tls(section, place.as_ref().map(|(address, _)| address), around);
    let (address, cluster) = place?;
    Some(Target {
        address,
        cluster,
        credentials: credentials?,
        connect_timeout: connect_timeout?,
        db_map: db_map?,
        exclusive: exclusive?,
        positions: positions?,
        position_db: position_db?,
        tls: tls?,
    })
}

/// Outside: `None` after a complaint. Inside: `None` if the key is absent.
#[expect(clippy::option_option, reason = "absent and wrong are two things")]
fn optional<T>(
    section: &Section<'_>,
    key: &str,
    read: impl Fn() -> Option<T>,
) -> Option<Option<T>> {
    match section.has(key) {
        true => read().map(Some),
        false => Some(None),
    }
}

fn address(section: &Section<'_>) -> Option<Address> {
    section.require("address", ADDRESS);
    section.parsed("address", ADDRESS, |text| {
        text.parse()
            .map_err(|error: super::AddressError| error.to_string())
    })
}

/// What a target is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Server,
    Cluster,
}

/// Where a target is.
type Place = (Address, Option<ClusterNodes>);

fn server(section: &Section<'_>) -> Option<Place> {
    for key in ["addresses", "address_map"] {
        if section.has(key) {
            let what = "is for target.type = \"redis-cluster\", expected only target.address";
            section.complain(key, Some(section.place_of(key)), what.into());
        }
    }
    address(section).map(|address| (address, None))
}

fn cluster(section: &Section<'_>) -> Option<Place> {
    if section.has("address") {
        let what =
            "is for one server, expected target.addresses, an array of some nodes of the cluster";
        section.complain("address", Some(section.place_of("address")), what.into());
    }
    section.require("addresses", ADDRESSES);
    let mut addresses = Some(Vec::new());
    for found in section.array("addresses", ADDRESSES).unwrap_or_default() {
        let address = node(section, "addresses", found.value, found.at);
        addresses = addresses.zip(address).map(|(mut addresses, address)| {
            addresses.push(address);
            addresses
        });
    }
    let address_map = address_map(section, &section.table("address_map"));
    let addresses = addresses?;
    let first = addresses.first()?.clone();
    let nodes = ClusterNodes {
        addresses,
        address_map: address_map?,
    };
    Some((first, Some(nodes)))
}

fn address_map(section: &Section<'_>, map: &Section<'_>) -> Option<HashMap<Address, Address>> {
    if section.has("address_map") && !map.is_present() {
        return None;
    }
    let mut read = Some(HashMap::new());
    for (key, value) in map.entries() {
        let text = DeValue::String(key.value.into());
        let from = node(map, key.value, &text, key.at);
        let to = node(map, key.value, value.value, value.at);
        read = read.zip(from.zip(to)).map(|(mut read, (from, to))| {
            read.insert(from, to);
            read
        });
    }
    read
}

/// The address of a node of a cluster.
fn node(section: &Section<'_>, key: &str, value: &DeValue<'_>, at: usize) -> Option<Address> {
    let what = match value {
        DeValue::String(text) => match text.parse() {
            Ok(Address::Unix(_)) => format!(
                "{} is a socket, expected \"host:port\" as for every node of a cluster",
                quoted(text)
            ),
            Ok(address) => return Some(address),
            Err(error) => {
                let error: super::AddressError = error;
                format!("{} {error}", quoted(text))
            }
        },
        other => wrong_kind(other, NODE),
    };
    section.complain(key, Some(at), what);
    None
}

fn only_database_0(
    section: &Section<'_>,
    db_map: Option<&BTreeMap<u32, u32>>,
    position_db: Option<u32>,
) {
    let complain = |key, what: String| section.complain(key, Some(section.place_of(key)), what);
    for (from, to) in db_map.into_iter().flatten().filter(|(_, to)| **to != 0) {
        complain(
            "db_map",
            format!("sends database {from} to {to}, expected 0, the only database of a cluster"),
        );
    }
    if let Some(db) = position_db.filter(|db| *db != 0) {
        let what = format!("is {db}, expected 0, the only database of a cluster");
        complain("position_db", what);
    }
}

fn db_map(section: &Section<'_>) -> Option<BTreeMap<u32, u32>> {
    let mut map = Some(BTreeMap::new());
    for (key, value) in section.entries() {
        let from = key.value.parse().ok().filter(|db| DATABASES.contains(db));
        if from.is_none() {
            let what = "is not a database number, expected \"source\" = target, such as \"0\" = 1";
            section.complain(key.value, Some(key.at), what.into());
        }
        let to = section.integer_in(key.value, value.value, value.at, &DATABASES);
        map = map.zip(from.zip(to)).map(|(mut map, (from, to))| {
            map.insert(from, to);
            map
        });
    }
    map
}

/// Outside: `None` after a complaint. Inside: `None` for a server without a password.
#[expect(clippy::option_option, reason = "absent and wrong are two things")]
fn credentials(section: &Section<'_>, around: &Surroundings<'_>) -> Option<Option<Credentials>> {
    let keys = ["password", "password_file", "password_env"];
    let given: Vec<&str> = keys.into_iter().filter(|key| section.has(key)).collect();
    let username = optional(section, "username", || section.filled("username"));
    let [key] = given.as_slice() else {
        return match given.get(1) {
            Some(second) => {
                let what = "is one password too many, expected only one of password, password_file \
                            and password_env";
                section.complain(second, Some(section.place_of(second)), what.into());
                None
            }
            None if section.has("username") => {
                let what =
                    "has no password, expected one of password, password_file and password_env";
                section.complain("username", Some(section.place_of("username")), what.into());
                None
            }
            None => Some(None),
        };
    };
    let found = section.filled(key)?;
    let password = match *key {
        "password" => {
            warn_if_public(section, key, around.file(), "the password stands in a file");
            Some(Secret::new(found.value.as_bytes().to_vec()))
        }
        "password_file" => password_file(section, found, around),
        _ => password_env(section, found, around),
    };
    Some(Some(Credentials {
        username: username?.map(|found| found.value.to_owned()),
        password: password?,
    }))
}

fn password_file(
    section: &Section<'_>,
    found: Found<&str>,
    around: &Surroundings<'_>,
) -> Option<Secret> {
    let key = "password_file";
    let path = around.path(found.value);
    let mut bytes = Zeroizing::new(Vec::new());
    let read =
        File::open(&path).and_then(|file| file.take(LARGEST_PASSWORD + 1).read_to_end(&mut bytes));
    let what = match read {
        Err(error) => format!("{} cannot be read: {error}", quoted(found.value)),
        Ok(n) if n as u64 > LARGEST_PASSWORD => {
            format!(
                "{} is larger than 64 KiB, expected a password",
                quoted(found.value)
            )
        }
        Ok(_) => {
            warn_if_public(section, key, &path, "names a file");
            let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() {
                format!("{} is empty, expected a password", quoted(found.value))
            } else if line.contains(&b'\n') {
                format!(
                    "{} has several lines, expected one password",
                    quoted(found.value)
                )
            } else {
                return Some(Secret::new(line.to_vec()));
            }
        }
    };
    section.complain(key, Some(found.at), what);
    None
}

fn password_env(
    section: &Section<'_>,
    found: Found<&str>,
    around: &Surroundings<'_>,
) -> Option<Secret> {
    let what = match around.variable(found.value) {
        None => "is not set in the environment, expected the password in it",
        Some(value) if value.is_empty() => {
            "is empty in the environment, expected the password in it"
        }
        Some(value) => return Some(Secret::new(value.into_vec())),
    };
    let what = format!("variable {} {what}", quoted(found.value));
    section.complain("password_env", Some(found.at), what);
    None
}

/// Outside: `None` after a complaint. Inside: `None` without TLS.
#[expect(clippy::option_option, reason = "absent and wrong are two things")]
fn tls(
    parent: &Section<'_>,
    address: Option<&Address>,
    around: &Surroundings<'_>,
) -> Option<Option<TlsFiles>> {
    let section = parent.table("tls");
    if !section.is_present() {
        return (!parent.has("tls")).then_some(None);
    }
    if let Some(Address::Unix(_)) = address {
        let what = "cannot be used over a Unix socket, expected no such table";
        parent.complain("tls", Some(parent.place_of("tls")), what.into());
        return None;
    }
    let file = |key| optional(&section, key, || pem(&section, key, around));
    let (ca, cert, key) = (file("ca"), file("cert"), file("key"));
    for (one, other) in [("cert", "key"), ("key", "cert")] {
        if section.has(one) && !section.has(other) {
            let what = format!("is missing, expected a path, because there is tls.{one}");
            section.complain(other, Some(section.place_of(one)), what);
        }
    }
    let server_name = optional(&section, "server_name", || section.filled("server_name"));
    let insecure = section.boolean("insecure_skip_verify");
    if insecure == Some(true) {
        let what =
            "any certificate is accepted: whoever is in between can read and change everything";
        section.warn("insecure_skip_verify", what.into());
    }
    if let Some(Some(key)) = &key {
        warn_if_public(&section, "key", key, "names a file");
    }
    Some(Some(TlsFiles {
        ca: ca?,
        identity: cert?.zip(key?),
        server_name: server_name?.map(|found| found.value.to_owned()),
        insecure_skip_verify: insecure?,
    }))
}

/// A file of certificates or a key, which can be opened; its content is looked at when connecting.
fn pem(section: &Section<'_>, key: &str, around: &Surroundings<'_>) -> Option<PathBuf> {
    let found = section.filled(key)?;
    let path = around.path(found.value);
    let opened = File::open(&path).and_then(|file| match file.metadata()?.is_dir() {
        true => Err(io::ErrorKind::IsADirectory.into()),
        false => Ok(()),
    });
    match opened {
        Ok(()) => Some(path),
        Err(error) => {
            let what = format!("{} cannot be read: {error}", quoted(found.value));
            section.complain(key, Some(found.at), what);
            None
        }
    }
}

/// Warns if everybody on the machine can read the file.
fn warn_if_public(section: &Section<'_>, key: &str, path: &Path, what: &str) {
    let Ok(metadata) = path.metadata() else {
        return;
    };
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o004 != 0 {
        section.warn(
            key,
            format!("{what} that everybody can read (mode {mode:04o}), expected mode 0600 or 0640"),
        );
    }
}
