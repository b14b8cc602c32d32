//! Numbers and names as people read them.

/// A size in bytes, to three digits.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    // 999.5 would be shown with four digits.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value < 99.95 {
        format!("{value:.1} {}", UNITS[unit])
    } else {
        format!("{value:.0} {}", UNITS[unit])
    }
}

/// A time span in nanoseconds, in its two largest units.
pub(crate) fn age(ns: u64) -> String {
    let ms = ns / 1_000_000;
    let s = ms / 1000;
    match s {
        0 => format!("{ms} ms"),
        1..60 => format!("{}.{} s", s, ms % 1000 / 100),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86_400 => format!("{}h{:02}m", s / 3600, s / 60 % 60),
        _ => format!("{}d{:02}h", s / 86_400, s / 3600 % 24),
    }
}

/// A text of somebody else's, made harmless for a terminal and not too long.
pub(crate) fn clean(text: &str) -> String {
    const LONGEST: usize = 48;
    let harmless = |c: char| {
        // Besides control characters: those that change the direction of what follows, or have no width at all.
        let hidden = matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
        if c.is_control() || hidden {
            '\u{fffd}'
        } else {
            c
        }
    };
    let mut shown: String = text.chars().take(LONGEST).map(harmless).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (n, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (102_348, "99.9 KiB"),
            (102_400, "100 KiB"),
            (1_022_976, "999 KiB"),
            (1_023_900, "1.0 MiB"),
            (1 << 20, "1.0 MiB"),
            (u64::MAX, "16384 PiB"),
        ] {
            assert_eq!(bytes(n), shown, "{n}");
        }
    }

    #[test]
    fn ages_have_two_units() {
        let s = 1_000_000_000;
        for (ns, shown) in [
            (0, "0 ms"),
            (999_999_999, "999 ms"),
            (s, "1.0 s"),
            (59_990_000_000, "59.9 s"),
            (60 * s, "1m00s"),
            (3_600 * s, "1h00m"),
            (90_000 * s, "1d01h"),
            (u64::MAX, "213503d23h"),
        ] {
            assert_eq!(age(ns), shown, "{ns}");
        }
    }

    #[test]
    fn names_cannot_command_a_terminal() {
        assert_eq!(
            clean("a\x1b[2Jb\n\u{202e}c"),
            "a\u{fffd}[2Jb\u{fffd}\u{fffd}c"
        );
        assert_eq!(clean(&"ä".repeat(60)).chars().count(), 49);
    }
}
