//! How counts by kind, spans and times are written in a task's block.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use humantime::{format_duration, format_rfc3339_seconds};
use indicatif::HumanCount;

/// ` (2 bloom, 1 json)`, or nothing.
pub(super) fn kinds(counts: &BTreeMap<String, u64>) -> String {
    let each = counts
        .iter()
        .map(|(kind, count)| format!("{} {kind}", HumanCount(*count)));
    match each.collect::<Vec<_>>() {
        each if each.is_empty() => String::new(),
        each => format!(" ({})", each.join(", ")),
    }
}

/// A span, down to milliseconds where it is short.
pub(super) fn span_of(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        _ => span(i64::try_from(ms).unwrap_or(i64::MAX)),
    }
}

/// A span in its two largest units, down to seconds.
pub(super) fn span(ms: i64) -> String {
    let seconds = u64::try_from(ms).unwrap_or(0) / 1_000;
    let text = format_duration(Duration::from_secs(seconds)).to_string();
    let parts: Vec<_> = text.split(' ').take(2).collect();
    parts.join(" ")
}

/// How long ago something was, and when.
pub(super) fn ago(at_ms: i64, now_ms: i64) -> String {
    let since_epoch = Duration::from_millis(u64::try_from(at_ms).unwrap_or(0));
    // Beyond the year 9999 there is no such text.
    let at = SystemTime::UNIX_EPOCH + since_epoch.min(Duration::from_secs(253_402_300_799));
    let when = format_rfc3339_seconds(at);
    format!("{} ago ({when})", span(now_ms.saturating_sub(at_ms)))
}
