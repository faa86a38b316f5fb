//! Text as roff(7) for the man macros: each sentence begins a line, and no line is longer than 80 bytes.

/// The longest line.
const WIDTH: usize = 80;

/// The text, with no byte that roff would take for its own.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\\' => escaped.push_str("\\e"),
            '-' => escaped.push_str("\\-"),
            '\'' => escaped.push_str("\\(aq"),
            '"' => escaped.push_str("\\(dq"),
            '~' => escaped.push_str("\\(ti"),
            '^' => escaped.push_str("\\(ha"),
            '`' => escaped.push_str("\\(ga"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// The text in bold.
pub fn bold(text: &str) -> String {
    format!("\\fB{}\\fR", escape(text))
}

/// The text in italics.
pub fn italic(text: &str) -> String {
    format!("\\fI{}\\fR", escape(text))
}

/// Filled lines of prose; sentences end with a full stop before a capital letter.
pub fn prose(text: &str) -> String {
    let mut lines = String::new();
    let mut column = 0;
    let mut ended = false;
    for word in text.split_whitespace() {
        let escaped = escape(word);
        let capital = word.starts_with(|first: char| first.is_ascii_uppercase());
        if column > 0 && ((ended && capital) || column + 1 + escaped.len() > WIDTH) {
            lines.push('\n');
            column = 0;
        }
        if column > 0 {
            lines.push(' ');
            column += 1;
        } else if escaped.starts_with('.') {
            lines.push_str("\\&");
            column += 2;
        }
        lines.push_str(&escaped);
        column += escaped.len();
        ended = word.ends_with('.');
    }
    if column > 0 {
        lines.push('\n');
    }
    lines
}
