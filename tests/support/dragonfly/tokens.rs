//! Random identifiers as masters give them out.

/// 40 lower-case hexadecimal characters.
#[must_use]
pub fn token() -> String {
    use std::fmt::Write as _;
    let bytes: [u8; 20] = rand::random();
    bytes
        .iter()
        .fold(String::with_capacity(40), |mut out, byte| {
            let _ = write!(out, "{byte:02x}");
            out
        })
}
