//! The table of a task's flows, at the end of its block.

use indicatif::{BinaryBytes, HumanCount};

use super::Lines;
use crate::task::Flow;

const HEADINGS: [&str; 9] = [
    "flow", "state", "keys", "bytes", "position", "source", "lag", "latency", "skipped",
];

/// Columns as wide as they need to be.
pub(super) fn table(lines: &mut Lines, flows: &[Flow]) {
    let mut table = vec![HEADINGS.map(str::to_owned)];
    table.extend(flows.iter().enumerate().map(|(number, flow)| {
        [
            number.to_string(),
            state(flow).to_owned(),
            HumanCount(flow.keys).to_string(),
            BinaryBytes(flow.bytes).to_string(),
            position(flow.applied),
            position(flow.source_next),
            position(flow.lag_entries),
            latency(flow.latency_us),
            HumanCount(flow.skipped).to_string(),
        ]
    }));
    let mut widths = [0; HEADINGS.len()];
    for row in &table {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    for row in table {
        let cells = row.iter().zip(widths).enumerate();
        let cells = cells.map(|(column, (cell, width))| match column {
            1 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        lines.line(&format!("  {}", cells.collect::<Vec<_>>().join("  ")));
    }
}

fn state(flow: &Flow) -> &'static str {
    match (flow.applied, flow.snapshot_ended) {
        (Some(_), _) => "stable",
        (None, true) => "copied",
        (None, false) => "snapshot",
    }
}

/// A position, as it is in logs.
fn position(position: Option<u64>) -> String {
    position.map_or_else(|| "-".to_owned(), |position| position.to_string())
}

fn latency(us: u64) -> String {
    match us {
        0 => "-".to_owned(),
        us => format!("{:.1} ms", us as f64 / 1_000.0),
    }
}
