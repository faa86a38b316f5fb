//! Sizes and durations as written in a task file.

use std::time::Duration;

/// Bytes in a text such as `64MiB`: a whole number and `B`, `KiB`, `MiB`, `GiB` or `TiB`.
pub(crate) fn size(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let unit: u64 = match unit.trim_start_matches(' ') {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

/// A text such as `30s`, `1m 30s` or `200ms`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    humantime::parse_duration(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_need_a_whole_number_and_a_binary_unit() {
        assert_eq!(size("64MiB"), Some(64 << 20));
        assert_eq!(size("1 GiB"), Some(1 << 30));
        assert_eq!(size("512B"), Some(512));
        for wrong in [
            "",
            "64",
            "MiB",
            "64M",
            "64MB",
            "-1MiB",
            "1.5GiB",
            "99999999TiB",
            "ü",
        ] {
            assert_eq!(size(wrong), None, "{wrong:?}");
        }
    }
}
