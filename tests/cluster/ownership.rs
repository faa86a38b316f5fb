//! Claims, foreign keys, flushes, walks and `forget` over all nodes, while slots move and masters fail over.

use std::collections::BTreeSet;

use df2redis::target::{Conflict, Control, Passed, Profile, TargetError, Walk, forget, list};

use crate::server::{establish, settings, wanted};
use crate::support::cluster::{Move, Shape, slot_of};
use crate::support::{Cluster, Target};

/// Keys in one pipeline for each node.
fn fill(cluster: &Cluster, prefix: &str, keys: usize) {
    for master in cluster.masters() {
        let owned = cluster.slots_of(master);
        let has = |key: &String| {
            let slot = slot_of(key.as_bytes());
            owned.iter().any(|slots| slots.contains(&slot))
        };
        let keys = (0..keys).map(|n| format!("{prefix}{n}")).filter(has);
        let lines: Vec<_> = keys.map(|key| format!("SET {key} x")).collect();
        cluster.node(master).client().lines(&lines);
    }
}

#[tokio::test]
async fn keys_that_were_there_first_stay_and_ours_go_whatever_their_node() {
    let cluster = Cluster::start_shaped(Target::Redis70, Shape::MASTERS);
    fill(&cluster, "a:old", 500);
    fill(&cluster, "b:", 50);
    let skip = || wanted("a:", Conflict::Skip);
    let (mut control, ownership) = establish(&cluster, "one", skip()).await.unwrap();
    assert!(ownership.is_first() && !ownership.is_exclusive());
    assert_eq!(ownership.foreign_count(), 500);
    let keys: Vec<String> = (0..600).map(|n| format!("a:old{n}")).collect();
    let asked: Vec<_> = keys.iter().map(|key| (0, key.as_bytes())).collect();
    let foreign = ownership.foreign(&mut control, &asked).await.unwrap();
    let expected: Vec<_> = (0..600).map(|n| n < 500).collect();
    assert_eq!(foreign, expected);

    fill(&cluster, "a:new", 700);
    // Slots have moved since the nodes were asked who owns what.
    cluster.move_slots(0..=400, 2, Move::Keys);
    ownership
        .flush(&mut control, None, None, &Passed::default())
        .await
        .unwrap();
    assert_eq!(cluster.keys("a:").len(), 500);
    assert_eq!(cluster.keys("b:").len(), 50);

    let (_, again) = establish(&cluster, "one", skip()).await.unwrap();
    assert!(!again.is_first());
    assert_eq!(again.foreign_count(), 500);
    match establish(&cluster, "two", wanted("a:x", Conflict::Overwrite)).await {
        Err(TargetError::Overlap { other, .. }) => assert_eq!(other, "one"),
        other => panic!("{other:?}"),
    }
    establish(&cluster, "three", wanted("b:", Conflict::Skip))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_walk_meets_every_key_however_slots_move_meanwhile() {
    walk_while_slots_move(false).await;
}

#[tokio::test]
async fn a_walk_meets_every_key_when_it_begins_with_a_slot_half_moved() {
    walk_while_slots_move(true).await;
}

async fn walk_while_slots_move(begins_halved: bool) {
    let cluster = Cluster::start_shaped(Target::Redis70, Shape::MASTERS);
    const KEYS: usize = 9_000;
    fill(&cluster, "k", KEYS);
    let mut exclusive = wanted("k", Conflict::Overwrite);
    exclusive.exclusive = true;
    let (mut control, ownership) = establish(&cluster, "one", exclusive).await.unwrap();
    // From the last node to the first, which is walked before it.
    let mut slots = (0..KEYS).map(|n| slot_of(format!("k{n}").as_bytes()));
    let halved = slots.find(|slot| cluster.owner_of(*slot) == 2).unwrap();
    if begins_halved {
        cluster.begin_move(halved, 0);
        assert_eq!(cluster.move_keys(halved, 0, 1), 1);
    }

    let mut walk = Walk::of(&ownership);
    let (mut met, mut steps) = (BTreeSet::new(), 0);
    while let Some((db, keys)) = walk.next(&mut control).await.unwrap() {
        assert_eq!(db, 0);
        met.extend(keys);
        steps += 1;
        match steps {
            // From a node that has not been walked to one that has, and the other way round.
            4 => cluster.move_slots(16_000..=16_150, 0, Move::Keys),
            5 => cluster.move_slots(100..=150, 2, Move::Keys),
            // There and back.
            6 => {
                cluster.move_slots(10_000..=10_010, 0, Move::Keys);
                cluster.move_slots(10_000..=10_010, 1, Move::Keys);
            }
            7 if begins_halved => cluster.finish_move(halved, 0),
            _ => {}
        }
    }
    assert!(steps > 9, "slots that had moved were looked at again");
    let missing: Vec<_> = (0..KEYS)
        .map(|n| format!("k{n}"))
        .filter(|key| !met.contains(key.as_bytes()))
        .collect();
    assert_eq!(missing, Vec::<String>::new());
    assert_eq!(met.len(), KEYS);
}

#[tokio::test]
async fn forget_removes_what_is_in_slots_of_every_node_and_nothing_else() {
    let cluster = Cluster::start_shaped(Target::Valkey91, Shape::MASTERS);
    fill(&cluster, "a:", 300);
    let (mut control, _) = establish(&cluster, "one", wanted("a:", Conflict::Skip))
        .await
        .unwrap();
    establish(&cluster, "one-more", wanted("b:", Conflict::Skip))
        .await
        .unwrap();
    for n in 0..40 {
        cluster.ok(&[
            "HSET",
            &format!("df2redis:position:one:{{{n:x}}}"),
            "0",
            "7",
        ]);
        cluster.ok(&[
            "HSET",
            &format!("df2redis:stamp:one:{{{n:x}}}"),
            "0",
            "7",
            "1",
            "8",
        ]);
    }
    let settings = settings(&cluster, "one");
    let found = list(&mut control, &settings).await.unwrap();
    let count = |key: &str| {
        found
            .iter()
            .find(|found| found.key == key)
            .map(|found| found.count)
    };
    assert_eq!(count("df2redis:position:one:{*}"), Some(40));
    assert_eq!(count("df2redis:stamp:one:{*}"), Some(80));
    assert_eq!(count("df2redis:foreign:one:{*}"), Some(300));
    assert!(count("df2redis:position:one").is_some());
    assert_eq!(found.len(), 4, "{found:?}");

    cluster.move_slots(0..=1_000, 1, Move::Atomic);
    assert_eq!(forget(&mut control, &settings).await.unwrap(), found);
    assert_eq!(cluster.keys("df2redis:"), ["df2redis:position:one-more"]);
    assert_eq!(cluster.keys("a:").len(), 300);
}

#[tokio::test]
async fn a_control_connection_follows_a_failover() {
    let mut cluster = Cluster::start(Target::Redis70);
    fill(&cluster, "a:", 100);
    let settings = settings(&cluster, "one");
    let mut control = Control::connect(&settings).await.unwrap();
    let keys = |n: usize| format!("a:{n}");
    let all: Vec<String> = (0..100).map(keys).collect();
    let asked: Vec<_> = all.iter().map(|key| (0, key.as_bytes())).collect();
    assert_eq!(control.ttls(&asked).await.unwrap(), [-1; 100]);
    assert_eq!(Profile::read(&mut control).await.unwrap().keys, [(0, 100)]);

    cluster.promote(4);
    assert_eq!(control.ttls(&asked).await.unwrap(), [-1; 100], "MOVED");
    cluster.kill(4);
    // It was asked before, so the first thing it notices is a lost connection; then it waits for the election.
    assert!(control.ttls(&asked).await.is_err());
    assert_eq!(control.ttls(&asked).await.unwrap(), [-1; 100]);
    assert_eq!(control.load_script(b"return 1").await.unwrap(), None);
    for master in cluster.masters() {
        let sha = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db";
        let known = cluster.node(master).client().ok(&["SCRIPT", "EXISTS", sha]);
        assert_eq!(known.items()[0], "1", "node {master}");
    }
}

#[tokio::test]
async fn a_server_that_is_no_cluster_is_refused_by_name() {
    let server = Target::Redis70.start();
    let cluster = Cluster::start_shaped(
        Target::Redis70,
        Shape {
            masters: 1,
            ..Shape::MASTERS
        },
    );
    let mut settings = settings(&cluster, "one");
    if let Some(seeds) = &mut settings.cluster {
        seeds.endpoints = vec![server.address().parse().unwrap()];
    }
    match Control::connect(&settings).await {
        Err(TargetError::NotACluster { addr }) => assert_eq!(addr, server.address()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn announced_addresses_are_mapped_and_dead_seeds_passed_over() {
    let cluster = Cluster::start_shaped(Target::Redis70, Shape::MASTERS);
    fill(&cluster, "a:", 100);
    let mut settings = settings(&cluster, "one");
    // Nothing listens where the nodes say they are.
    let nowhere = crate::support::redis_server::free_port;
    let announced: Vec<u16> = (0..3).map(|_| nowhere()).collect();
    for (node, port) in announced.iter().enumerate() {
        cluster.announce(node, *port);
    }
    let seeds = settings.cluster.as_mut().unwrap();
    seeds.endpoints = vec![
        format!("127.0.0.1:{}", nowhere()).parse().unwrap(),
        cluster.node(1).address().parse().unwrap(),
    ];
    let place = |port: u16| format!("127.0.0.1:{port}").parse().unwrap();
    seeds.address_map = announced
        .iter()
        .enumerate()
        .map(|(node, port)| (place(*port), place(cluster.node(node).port())))
        .collect();
    let mut control = Control::connect(&settings).await.unwrap();
    let profile = Profile::read(&mut control).await.unwrap();
    assert_eq!(profile.keys, [(0, 100)]);
    assert_eq!(profile.databases, Some(1));
}
