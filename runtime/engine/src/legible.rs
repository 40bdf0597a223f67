//! What guests say, made fit for logs, status and terminals.

/// Longer text is cut: a line of a log, a panic, the reason of a failure, a name.
const MAX_BYTES: usize = 8 << 10;

/// What a guest says, cut to 8 KiB and without characters that could play tricks on a terminal.
pub fn legible(text: &str) -> String {
    let end = text.floor_char_boundary(MAX_BYTES);
    let clean = |c: char| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c };
    let mut legible: String = text[..end].chars().map(clean).collect();
    if end < text.len() {
        legible.push('…');
    }
    legible
}

/// The beginning of a text, on one line.
pub fn brief(text: &str, chars: usize) -> String {
    let mut brief: String = text.chars().take(chars).map(|c| if c == '\n' { ' ' } else { c }).collect();
    if brief.len() < text.len() {
        brief.push('…');
    }
    brief
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_and_cannot_steer_a_terminal() {
        assert_eq!(legible("a\u{1b}[2Jb\nc"), "a\u{fffd}[2Jb\nc");
        let long = legible(&"é".repeat(10_000));
        assert!(long.len() <= MAX_BYTES + 3 && long.ends_with('…'));
    }
}
