//! Ordinary clients of the simulator, and the comparisons that tests rest on.

use crate::recordings::capture;
use crate::support::dragonfly::encode;
use crate::support::expected::Expected;
use crate::support::recorded::{Entry, Item};
use crate::support::replica::Replica;
use crate::support::tls::TlsProxy;
use crate::support::{Client, RedisServer, SimulatedDragonfly, compare, eventually};

#[test]
fn a_copy_made_of_snapshot_and_journal_equals_the_backing_store() {
    let source = SimulatedDragonfly::options()
        .flows(3)
        .backing_store()
        .start();
    let mut front = source.client();
    let mut run = |words: &str| drop(front.ok(&words.split(' ').collect::<Vec<_>>()));
    for words in [
        "SET a 1",
        "RPUSH l 1 2 3",
        "HSET h f v",
        "ZADD z 1.5 m",
        "XADD x 1-1 f v",
        "SADD s q w e r t",
        "SET t 1 EX 1000",
    ] {
        run(words);
    }
    let replica = Replica::synced(source.port());
    for words in [
        "SET b 2 PX 500000",
        "SETEX c 1000 v",
        "SET a 9 NX",
        "SET a 10 XX KEEPTTL",
        "GETEX a EX 999",
        "MSET k0 1 k1 2 k2 3 k3 4",
        "INCR n",
        "APPEND a x",
        "RENAME k0 r0",
        "RENAME k1 r1",
        "RENAME k2 r2",
        "DEL k3 nokey n",
        "EXPIRE r0 100",
        "PERSIST r0",
        "SPOP s 2",
        "SMOVE s s2 q",
        "SUNIONSTORE s3 s s2",
        "LMOVE l l2 LEFT RIGHT",
        "RPOPLPUSH l l2",
        "ZADD z 2.25 n 3 o",
        "ZUNIONSTORE z2 2 z z",
        "XADD x * f v",
        "XADD x MAXLEN 2 * f w",
        "XGROUP CREATE x g 0",
        "XTRIM x MAXLEN 1",
        "COPY l l9",
        "PFADD p1 a b",
        "PFADD p2 c",
        "PFMERGE p3 p1 p2",
        "BITOP NOT bits a",
        "SORT l2 STORE l3",
        "SELECT 1",
        "SET a 1",
        "MOVE a 2",
        "SELECT 0",
        "MULTI",
        "SET m1 1",
        "INCR m2",
        "EXEC",
        "HINCRBYFLOAT h n 1.5",
        "PEXPIRE h 100000",
        "EXPIRE z2 -1",
    ] {
        run(words);
    }
    let total: u64 = (0..3).map(|flow| source.next_lsn(flow) - 1).sum();
    let received = || {
        replica
            .flows
            .iter()
            .map(|flow| flow.commands().len() as u64)
            .sum::<u64>()
    };
    eventually("all entries", || received() == total);
    let target = RedisServer::start();
    let mut client = target.client();
    for flow in &replica.flows {
        apply_snapshot(&mut client, &flow.items());
    }
    // Independent keys move between flows only by entries that carry their values.
    for flow in &replica.flows {
        for entry in flow.journal() {
            if let Entry::Command { db, args, .. } = entry {
                client.ok(&["SELECT", &db.to_string()]);
                client.ok(&args);
            }
        }
    }
    assert_eq!(
        compare(source.oracle(), target.port()),
        Vec::<String>::new()
    );
    replica.leave();
}

/// Restores every record; all types that a backing store has are the target's too, but for its older streams.
fn apply_snapshot(client: &mut Client, items: &[Item]) {
    for item in items {
        let Item::Record(record) = item else { continue };
        client.ok(&["SELECT", &record.db.to_string()]);
        let expiring = record.bytes[0] == 0xFC;
        let at = if expiring {
            i64::from_le_bytes(record.bytes[1..9].try_into().expect("eight bytes"))
        } else {
            0
        };
        let mut name = Vec::new();
        encode::string(&record.key, &mut name);
        let value = &record.bytes[usize::from(expiring) * 9 + 1 + name.len()..];
        if record.kind == 21 {
            client.ok(&["XADD", "x", "1-1", "f", "v"]);
            continue;
        }
        let payload = encode::dump(record.kind, value);
        let at = at.to_string().into_bytes();
        client.ok(&[
            b"RESTORE".as_slice(),
            &record.key,
            &at,
            &payload,
            b"REPLACE",
            b"ABSTTL",
        ]);
    }
}

#[test]
fn a_difference_between_two_servers_is_found_whatever_it_is() {
    let (left, right) = (RedisServer::start(), RedisServer::start());
    let both = [
        "SET k v",
        "RPUSH l a b",
        "SADD s a b",
        "ZADD z 0.1 m",
        "HSET h f v",
        "XADD x 1-1 f v",
        "XGROUP CREATE x g 0",
    ];
    for words in both {
        for server in [&left, &right] {
            server.client().ok(&words.split(' ').collect::<Vec<_>>());
        }
    }
    right.client().ok(&["SET", "df2redis:position:t", "1"]);
    assert_eq!(compare(left.port(), right.port()), Vec::<String>::new());
    for (change, undo) in [
        ("SET k w", "SET k v"),
        ("PEXPIREAT k 9999999999999", "PERSIST k"),
        ("LSET l 0 x", "LSET l 0 a"),
        ("SADD s c", "SREM s c"),
        ("ZADD z 0.10000000000000002 m", "ZADD z 0.1 m"),
        ("HSET h f w", "HSET h f v"),
        ("XGROUP SETID x g 1-1", "XGROUP SETID x g 0"),
        ("SET more 1", "DEL more"),
        ("RENAME k k2", "RENAME k2 k"),
    ] {
        right.client().ok(&change.split(' ').collect::<Vec<_>>());
        assert!(!compare(left.port(), right.port()).is_empty(), "{change}");
        right.client().ok(&undo.split(' ').collect::<Vec<_>>());
        assert_eq!(
            compare(left.port(), right.port()),
            Vec::<String>::new(),
            "{undo}"
        );
    }
}

#[test]
fn the_state_of_a_capture_is_told_from_any_other() {
    let server = RedisServer::start();
    let expected = Expected::load(capture("v1.40.1/partial/expected.json"));
    assert_eq!(
        expected.differences(server.port()).len(),
        51,
        "fifty keys missing, and how many more"
    );
    let mut client = server.client();
    for n in 0..50 {
        client.ok(&["SET", &format!("c:{n}"), "3"]);
    }
    for n in 0..100 {
        client.ok(&[
            "SET",
            &format!("k:{n}"),
            if n < 20 { "v+missed" } else { "v" },
        ]);
    }
    assert_eq!(expected.differences(server.port()), Vec::<String>::new());
    client.ok(&["SET", "k:5", "v"]);
    assert_eq!(expected.differences(server.port()).len(), 1);
}

#[test]
fn a_server_behind_the_tls_proxy_answers_those_who_trust_it() {
    use std::io::{Read, Write};
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
    use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
    let source = SimulatedDragonfly::start();
    let proxy = TlsProxy::start(source.port());
    let ping = |trusted: bool| -> std::io::Result<Vec<u8>> {
        let mut roots = RootCertStore::empty();
        let own = CertificateDer::from_pem_file(proxy.ca()).expect("a certificate");
        roots.add(own).map_err(std::io::Error::other)?;
        let roots = if trusted {
            roots
        } else {
            RootCertStore::empty()
        };
        let config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").expect("a name");
        let session = ClientConnection::new(config.into(), name).map_err(std::io::Error::other)?;
        let mut stream = StreamOwned::new(
            session,
            std::net::TcpStream::connect(("127.0.0.1", proxy.port()))?,
        );
        stream.write_all(b"PING\r\n")?;
        let mut answer = vec![0; 7];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    };
    assert_eq!(ping(true).expect("an answer"), b"+PONG\r\n");
    assert!(ping(false).is_err(), "an unknown authority is not trusted");
}
