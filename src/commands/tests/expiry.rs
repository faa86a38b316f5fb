//! Members that expire: fields of hashes and members of sets, where the target keeps their times and where it does not.

use super::super::*;
use super::{planned_in, row};

#[test]
fn members_live_for_whole_seconds_from_a_whole_second_on() {
    let at = |line: &str, received| {
        let planned = planned_in(line, "8.2", |context| context.received_at_ms = received);
        let words: Vec<_> = planned.split(' ').collect();
        words
            .iter()
            .find_map(|word| word.parse::<i64>().ok().filter(|at| *at > 1_000_000_000))
    };
    for (line, received, expected) in [
        (
            "HEXPIRE k 2 FIELDS 1 f",
            1_795_647_590_641,
            1_795_647_592_000,
        ),
        ("HSETEX k 100 x 1", 1_795_647_523_900, 1_795_647_623_000),
        (
            "HSETEX k PX 1500 FIELDS 1 y 1",
            1_795_647_588_383,
            1_795_647_590_000,
        ),
        (
            "HSETEX k PX 1999 FIELDS 1 y 1",
            1_795_647_588_835,
            1_795_647_590_000,
        ),
        (
            "HSETEX k PXAT 1895647524999 FIELDS 1 z 1",
            1_795_647_588_990,
            1_895_647_525_000,
        ),
        (
            "HSETEX k EXAT 1895647524 FIELDS 1 z 1",
            1_795_647_588_990,
            1_895_647_524_000,
        ),
    ] {
        assert_eq!(at(line, received), Some(expected), "{line}");
    }
}

#[test]
fn hash_fields_expire_at_an_absolute_time_where_they_can() {
    let dropped = "nothing: MemberExpiryDropped";
    let hset = "HSET k f v g w [MemberExpiryDropped]";
    let pair = "HSET k f v g w; HPEXPIREAT k 1000000100000 FIELDS 2 f g";
    let native = "HSETEX k PXAT 1000000100000 FIELDS 2 f v g w";
    row(
        "HSETEX k 100 f v g w",
        &[("6.2 7.0", hset), ("7.4", pair), ("*", native)],
    );
    row(
        "HSETEX k EX 100 FIELDS 2 f v g w",
        &[("6.2 7.0", hset), ("7.4", pair), ("*", native)],
    );
    row(
        "HSETEX k FNX PX 100 FIELDS 1 f v",
        &[
            ("6.2 7.0", "EVAL … 1 k FNX 0  f v [MemberExpiryDropped]"),
            ("7.4", "EVAL … 1 k FNX 0 1000000001000 f v"),
            ("*", "HSETEX k FNX PXAT 1000000001000 FIELDS 1 f v"),
        ],
    );
    row(
        "HSETEX k NX 100 f v",
        &[
            ("6.2 7.0", "EVAL … 1 k NX 0  f v [MemberExpiryDropped]"),
            ("*", "EVAL … 1 k NX 0 1000000100000 f v"),
        ],
    );
    row(
        "HSETEX k KEEPTTL 100 f v",
        &[
            ("6.2 7.0", "HSET k f v [MemberExpiryDropped]"),
            ("*", "EVAL … 1 k  1 1000000100000 f v"),
        ],
    );
    row(
        "HSETEX k KEEPTTL FIELDS 1 f v",
        &[("6.2 7.0", "HSET k f v"), ("*", "EVAL … 1 k  1  f v")],
    );
    row("HSETEX k FIELDS 1 f v", &[("*", "HSET k f v")]);
    row(
        "HSETEX k EXAT 5 FIELDS 1 f v",
        &[
            ("6.2 7.0", "HSET k f v [MemberExpiryDropped]"),
            ("7.4", "HSET k f v; HPEXPIREAT k 5000 FIELDS 1 f"),
            ("*", "HSETEX k PXAT 5000 FIELDS 1 f v"),
        ],
    );
    row(
        "HGETEX k EX 100 FIELDS 2 f g",
        &[
            ("6.2 7.0", dropped),
            ("*", "HPEXPIREAT k 1000000100000 FIELDS 2 f g"),
        ],
    );
    row(
        "HGETEX k PERSIST FIELDS 1 f",
        &[
            ("6.2 7.0", "nothing: NoEffect"),
            ("*", "HPERSIST k FIELDS 1 f"),
        ],
    );
    row(
        "HEXPIRE k 100 FIELDS 1 f",
        &[
            ("6.2 7.0", dropped),
            ("*", "HPEXPIREAT k 1000000100000 FIELDS 1 f"),
        ],
    );
    row(
        "HEXPIRE k 100 GT FIELDS 1 f",
        &[
            ("6.2 7.0", dropped),
            ("*", "HPEXPIREAT k 1000000100000 GT FIELDS 1 f"),
        ],
    );
    row("HEXPIRE k 0 FIELDS 2 f g", &[("*", "HDEL k f g")]);
    row(
        "FIELDEXPIRE k 100 f g",
        &[("6.2 7.0", dropped), ("*", "EVAL … 1 k 1000000100000 f g")],
    );
    row(
        "SADDEX k 100 a b",
        &[("*", "SADD k a b [MemberExpiryDropped]")],
    );
    row(
        "SADDEX k KEEPTTL 100 a",
        &[("*", "SADD k a [MemberExpiryDropped]")],
    );
}

#[test]
fn expiry_that_somebody_else_sees_to_is_told_with_its_time() {
    let emulated = |line: &str, on| {
        planned_in(line, on, |context| {
            context.on_member_expiry = MemberExpiry::Emulate;
        })
    };
    let (due, set) = (
        "nothing: MemberExpiryDue(1000000100000)",
        "HSET k f v [MemberExpiryDue(1000000100000)]",
    );
    for (line, old, new) in [
        (
            "SADDEX k 100 a b",
            "SADD k a b [MemberExpiryDue(1000000100000)]",
            "SADD k a b [MemberExpiryDue(1000000100000)]",
        ),
        (
            "HSETEX k 100 f v",
            set,
            "HSETEX k PXAT 1000000100000 FIELDS 1 f v",
        ),
        (
            "HGETEX k EX 100 FIELDS 1 f",
            due,
            "HPEXPIREAT k 1000000100000 FIELDS 1 f",
        ),
        (
            "HEXPIRE k 100 FIELDS 1 f",
            due,
            "HPEXPIREAT k 1000000100000 FIELDS 1 f",
        ),
        (
            "FIELDEXPIRE k 100 f",
            due,
            "EVAL … 1 k 1000000100000 f [MemberExpiryDue(1000000100000)]",
        ),
    ] {
        assert_eq!(emulated(line, "7.0"), old, "{line}");
        assert_eq!(emulated(line, "8.2"), new, "{line}");
    }
}

#[test]
fn expiry_that_cannot_be_kept_stops_where_the_policy_says_so() {
    let stop = |line: &str, on| {
        planned_in(line, on, |context| {
            context.on_member_expiry = MemberExpiry::Stop;
        })
    };
    let stopped = "member_expiry: the target cannot let single members of this key expire";
    for line in [
        "SADDEX k 100 a",
        "HSETEX k 100 f v",
        "HGETEX k EX 100 FIELDS 1 f",
        "HEXPIRE k 100 FIELDS 1 f",
        "FIELDEXPIRE k 100 f",
    ] {
        assert_eq!(stop(line, "7.0"), stopped, "{line}");
    }
    assert_eq!(stop("SADDEX k 100 a", "8.2"), stopped);
    assert_eq!(
        stop("FIELDEXPIRE k 100 f", "8.2"),
        "HPEXPIREAT k 1000000100000 FIELDS 1 f"
    );
    assert_eq!(stop("HSETEX k FIELDS 1 f v", "7.0"), "HSET k f v");
    assert_eq!(stop("HEXPIRE k 0 FIELDS 1 f", "7.0"), "HDEL k f");
}
