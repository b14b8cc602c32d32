//! Every environment variable and descriptor number that the library uses.

use std::env::{VarError, var};

/// Bytes that a session's objects may take: a number, with `K`, `M` or `G` behind it or not.
pub const MEMORY: &str = "PROCESSION_MEMORY";

/// What a program that was started by its own parent finds about itself (see [`crate::launch`]).
pub const BOOTSTRAP: &str = "PROCESSION_BOOTSTRAP";

/// Under which number such a program finds the session's memory. High enough not to be among the first few that shells and
/// build tools hand out by number, low enough for the smallest usual limit.
pub const SESSION_FD: i32 = 63;

/// Where such a program finds its real standard output, if what it prints before it arrives is nobody's business.
pub const STDOUT_FD: i32 = 62;

/// The byte budget that the user asked for. What cannot be read as a size is ignored, since a session is made where nobody
/// expects an error about the environment.
pub fn memory() -> Option<u64> {
    match var(MEMORY) {
        Ok(text) => parse_size(&text),
        Err(VarError::NotPresent | VarError::NotUnicode(_)) => None,
    }
}

fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let (digits, shift) = match text.chars().last()?.to_ascii_uppercase() {
        'K' => (&text[..text.len() - 1], 10),
        'M' => (&text[..text.len() - 1], 20),
        'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    digits.trim().parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::parse_size;

    #[test]
    fn sizes() {
        assert_eq!(parse_size("4096"), Some(4096));
        assert_eq!(parse_size(" 2 G "), Some(2 << 30));
        assert_eq!(parse_size("512m"), Some(512 << 20));
        assert_eq!(parse_size("much"), None);
        assert_eq!(parse_size(""), None);
        assert_eq!(parse_size("99999999999999G"), None);
    }
}
