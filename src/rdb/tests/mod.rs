//! Tests of this room as a whole: real values, generated values, damaged values.

mod captures;
mod properties;
mod values;
mod walk;

use super::value::{Value, empty};
use super::{Elements, Halt, Walker};

/// Decodes through a window that grows by `step` bytes when it must, and keeps only what it must.
/// The value and its length.
fn decode_sliding(kind: u8, bytes: &[u8], step: usize) -> Result<(Value, usize), Halt> {
    let mut elements = Elements::new(kind).expect("a type with elements");
    let mut value = empty(kind);
    let (mut window, mut dropped, mut fed) = (Vec::new(), 0, 0);
    loop {
        let halt = match elements.next(&window) {
            Ok(Some(element)) => {
                value.add(element);
                continue;
            }
            Ok(None) => break,
            Err(halt) => halt,
        };
        let Halt::Incomplete { missing } = halt else {
            return Err(halt);
        };
        assert!(missing > 0, "nothing missing is no reason to halt");
        let done = elements.shift();
        window.drain(..done);
        dropped += done;
        let more = bytes.get(fed..).unwrap_or_default();
        if more.is_empty() {
            return Err(halt);
        }
        let more = &more[..step.min(more.len())];
        window.extend_from_slice(more);
        fed += more.len();
    }
    Ok((value, dropped + elements.shift()))
}

/// Where a walker finds the end, fed in pieces of `step` bytes. `None` when it needs more.
fn find_end(kind: u8, bytes: &[u8], step: usize) -> Result<Option<usize>, Halt> {
    let mut walker = Walker::new(kind).expect("a known type");
    let mut total = 0;
    for piece in bytes.chunks(step.max(1)) {
        let walked = walker.walk(piece)?;
        total += walked.consumed;
        if walked.done {
            return Ok(Some(total));
        }
    }
    Ok(None)
}
