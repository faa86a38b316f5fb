//! Reaching a target: TLS, Unix sockets, logins, permissions, and what it says about itself.

use df2redis::net::{Secret, TlsSettings, Verification};
use df2redis::target::{Conflict, Control, ErrorPolicy, Ownership, Profile, TargetError, Writer};

use crate::ownership::{owned, wanted};
use crate::server::{Server, quick, record, settings, settled};
use crate::support::redis_server::free_port;

#[tokio::test]
async fn tls_unix_sockets_and_acl_users_work_for_both_kinds_of_connection() {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let tls_port = free_port().to_string();
    let (cert_file, key_file) = (cert.to_str().unwrap(), key.to_str().unwrap());
    let server = Server::start_with(&[
        "--tls-port",
        &tls_port,
        "--tls-auth-clients",
        "no",
        "--tls-cert-file",
        cert_file,
        "--tls-key-file",
        key_file,
        "--tls-ca-cert-file",
        cert_file,
    ]);
    let () = server.ask(&[
        "ACL",
        "SETUSER",
        "copier",
        "on",
        ">pass word",
        "~*",
        "+@all",
        "-flushall",
    ]);
    let mut secure = settings(&format!("127.0.0.1:{tls_port}"));
    secure.tls = Some(TlsSettings {
        verification: Verification::Ca(cert),
        identity: None,
        server_name: Some("localhost".to_owned()),
    });
    let socket = server.redis.dir().join("redis.sock");
    let local = settings(&format!("unix:{}", socket.display()));
    for mut settings in [secure, local] {
        settings.username = Some("copier".to_owned());
        settings.password = Some(Secret::new(b"pass word".to_vec()));
        assert!(!format!("{settings:?}").contains("pass word"));
        let mut writer = Writer::connect(&settings, quick(), ErrorPolicy::Stop, None)
            .await
            .unwrap();
        for n in 0..5_000 {
            record(&mut writer, &format!("k{n}"), &"v".repeat(200));
        }
        settled(&mut writer).await;
        writer.close().await.unwrap();
        let mut control = Control::connect(&settings).await.unwrap();
        let profile = Profile::read(&mut control).await.unwrap();
        assert_eq!(profile.keys, [(0, 5_000)]);
        assert_eq!(profile.databases, Some(16));
        settings.password = Some(Secret::new(b"wrong".to_vec()));
        for error in [
            Control::connect(&settings).await.unwrap_err(),
            Writer::connect(&settings, quick(), ErrorPolicy::Stop, None)
                .await
                .unwrap_err(),
        ] {
            let TargetError::Login { answer, .. } = &error else {
                panic!("{error}");
            };
            assert!(
                answer.starts_with("WRONGPASS "),
                "the server's own words: {answer}"
            );
            assert!(!error.to_string().contains("\"wrong\""));
        }
        let () = server.ask(&["FLUSHDB"]);
    }
    let error = Control::connect(&settings(&format!("127.0.0.1:{tls_port}")))
        .await
        .unwrap_err();
    assert!(
        error.is_temporary() || matches!(error, TargetError::Protocol { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_missing_permission_is_named() {
    let server = Server::start();
    let () = server.ask(&[
        "ACL", "SETUSER", "copier", "on", ">p", "~*", "+@all", "-set", "-scan",
    ]);
    let mut settings = server.settings();
    settings.username = Some("copier".to_owned());
    settings.password = Some(Secret::new(b"p".to_vec()));
    let mut writer = Writer::connect(&settings, quick(), ErrorPolicy::Stop, None)
        .await
        .unwrap();
    record(&mut writer, "k", "v");
    let error = writer.settle().await.unwrap_err();
    assert!(
        matches!(&error, TargetError::Permission { command, .. } if command == "SET"),
        "{error}"
    );
    let mut control = Control::connect(&settings).await.unwrap();
    let wanted = wanted(owned(&[0], "*"), Conflict::Panic);
    let error = Ownership::establish(&mut control, &settings, wanted, 1)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, TargetError::Permission { command, .. } if command == "SCAN"),
        "{error}"
    );
}

#[tokio::test]
async fn a_real_target_tells_its_release_limits_and_role() {
    let server = Server::start();
    let () = server.ask(&["CONFIG", "SET", "maxmemory", "100mb"]);
    let mut control = Control::connect(&server.settings()).await.unwrap();
    let profile = Profile::read(&mut control).await.unwrap();
    assert!(profile.features.version >= (5, 0, 0));
    assert_eq!(profile.max_memory, Some(100 << 20));
    assert_eq!(profile.eviction.as_deref(), Some("noeviction"));
    assert_eq!(profile.max_bulk, Some(512 << 20));
    assert!(!profile.is_replica && !profile.is_loading);
    assert_eq!(
        (profile.run_id.len(), profile.replication_id.len()),
        (40, 40)
    );
    let cluster = Server::start_with(&["--cluster-enabled", "yes"]);
    let mut control = Control::connect(&cluster.settings()).await.unwrap();
    let error = Profile::read(&mut control).await.unwrap_err();
    assert!(error.hint().contains("redis-cluster"));
}

#[tokio::test]
async fn a_killed_target_is_reported_as_lost_with_what_is_unanswered() {
    let mut server = Server::start();
    let mut writer = server.writer(ErrorPolicy::Stop).await;
    record(&mut writer, "k", "v");
    settled(&mut writer).await;
    server.redis.kill();
    record(&mut writer, "k", "v");
    let error = writer.settle().await.unwrap_err();
    assert!(matches!(error, TargetError::Lost { .. }), "{error}");
    assert!(error.is_temporary());
    let error = Writer::connect(&server.settings(), quick(), ErrorPolicy::Stop, None)
        .await
        .unwrap_err();
    assert!(matches!(error, TargetError::Connect { .. }) && error.is_temporary());
}
