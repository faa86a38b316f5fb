//! What the audit found, and what it does now: the rows of it in a task's block.

use std::collections::BTreeMap;
use std::fmt::Write;

use indicatif::HumanCount;

use super::values::{ago, kinds, span, span_of};
use crate::task::{Audit, AuditPass};

/// What the audit found, and how far it is now if it `lives`.
pub(super) fn audited(audit: &Audit, lives: bool, now_ms: i64) -> String {
    let mut text = match &audit.last {
        None => "no full pass yet".to_owned(),
        Some(pass) => passed(pass, now_ms),
    };
    let sum = |counts: &BTreeMap<String, u64>| counts.values().sum::<u64>();
    // Writing to a string does not fail.
    if sum(&audit.found) > 0 {
        let _ = write!(
            text,
            "\n{} different{} since the start, {} repaired",
            HumanCount(sum(&audit.found)),
            kinds(&audit.found),
            HumanCount(sum(&audit.repaired))
        );
    }
    if !lives {
        return text;
    }
    if let Some(began) = audit.pass_began_ms {
        let (keys, of) = (HumanCount(audit.pass_keys), HumanCount(audit.pass_of));
        let since = span(now_ms.saturating_sub(began));
        let _ = write!(text, "\npresent pass: {keys} of {of} looks in {since}");
    }
    if let Some(why) = &audit.waits {
        let _ = write!(text, "\nstands still: {why}");
    }
    if let Some(error) = &audit.error {
        let _ = write!(text, "\nthe pass before ended early: {error}");
    }
    text
}

fn passed(pass: &AuditPass, now_ms: i64) -> String {
    let sum = |counts: &BTreeMap<String, u64>| HumanCount(counts.values().sum());
    let mut text = format!(
        "last full pass {}: {} keys in {}, {} different{}",
        ago(pass.ended_ms, now_ms),
        HumanCount(pass.keys),
        span_of(pass.took_ms),
        sum(&pass.found),
        kinds(&pass.found),
    );
    // Writing to a string does not fail.
    if !pass.found.is_empty() {
        let _ = write!(text, ", {} repaired", sum(&pass.repaired));
    }
    if pass.unsettled > 0 {
        let _ = write!(text, ", {} unsettled", HumanCount(pass.unsettled));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::running::Unasked;
    use crate::cli::status::known::Origin;
    use crate::cli::status::text::block;
    use crate::cli::status::text::tests::{NOW, report, state};
    use crate::task::Report;

    #[test]
    fn the_audit_is_shown_with_what_it_found_and_what_it_does() {
        let rows = |audit: Audit, silence: Option<Unasked>| {
            let with_audit = Report {
                audit: Some(audit),
                ..report()
            };
            let shown = block(&state(with_audit, Origin::Process, silence), NOW);
            let rows = shown.lines().map(str::to_owned);
            let rows = rows.skip_while(|row| !row.starts_with("  audit "));
            let rows = rows.take_while(|row| !row.starts_with("  copied "));
            rows.collect::<Vec<_>>()
        };
        let waits = Audit {
            waits: Some("the target is behind".to_owned()),
            ..Audit::default()
        };
        let expected = [
            "  audit     no full pass yet",
            "            stands still: the target is behind",
        ];
        assert_eq!(rows(waits.clone(), None), expected);
        let counts = |counts: &[(&str, u64)]| {
            let counts = counts.iter().map(|(class, n)| ((*class).to_owned(), *n));
            counts.collect::<BTreeMap<_, _>>()
        };
        let found = counts(&[("extra", 1), ("value", 1_001)]);
        let audit = Audit {
            pass_began_ms: Some(NOW - 61_000),
            pass_keys: 12_000,
            pass_of: 240_000,
            found: found.clone(),
            repaired: counts(&[("value", 1_001)]),
            last: Some(AuditPass {
                ended_ms: NOW - 61_000,
                took_ms: 1_200_000,
                keys: 120_000,
                unsettled: 3,
                found,
                repaired: counts(&[("value", 1_001)]),
            }),
            ..Audit::default()
        };
        let expected = [
            "  audit     last full pass 1m 1s ago (2001-09-09T01:45:39Z): 120,000 keys in 20m, \
             1,002 different (1 extra, 1,001 value), 1,001 repaired, 3 unsettled",
            "            1,002 different (1 extra, 1,001 value) since the start, 1,001 repaired",
            "            present pass: 12,000 of 240,000 looks in 1m 1s",
        ];
        assert_eq!(rows(audit.clone(), None), expected);
        let gone = rows(audit, Some(Unasked::NotRunning));
        assert_eq!(gone, expected.get(..2).unwrap_or_default());
    }
}
