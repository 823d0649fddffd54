//! Where answers go, and whether colours may go with them.

use std::io::{IsTerminal, Write};

use anstream::{AutoStream, ColorChoice};

/// A writer of text.
pub(super) struct Output {
    writer: Box<dyn Write>,
    pub(super) style: Style,
}

impl Output {
    /// Standard output; colours on a terminal that knows them, and not where `NO_COLOR` is set.
    pub(super) fn stdout() -> Self {
        let stdout = std::io::stdout();
        let terminal = stdout.is_terminal();
        let colour = terminal && AutoStream::choice(&stdout) != ColorChoice::Never;
        let size = terminal.then(|| terminal_size::terminal_size_of(&stdout)).flatten();
        let (width, height) = match size {
            Some((width, height)) => (Some(usize::from(width.0)), Some(usize::from(height.0))),
            None => (None, None),
        };
        Self { writer: Box::new(stdout), style: Style { terminal, colour, width, height } }
    }

    /// Writes all of `bytes` now.
    pub(super) fn write_bytes(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.writer.write_all(bytes)?;
        self.writer.flush()
    }

    /// Writes all of `text` now.
    pub(super) fn write(&mut self, text: &str) -> std::io::Result<()> {
        self.writer.write_all(text.as_bytes())?;
        self.writer.flush()
    }
}

/// What may be used besides letters.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Style {
    /// A person looks on.
    pub(super) terminal: bool,
    /// Colours may be used.
    pub(super) colour: bool,
    /// Characters in a line; none where nobody counts.
    pub(super) width: Option<usize>,
    /// Lines that are seen at once; none where nobody counts.
    pub(super) height: Option<usize>,
}

/// The colours that say something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    Plain,
    Good,
    Warning,
    Bad,
}

impl Style {
    /// `text` in a colour.
    pub(super) fn paint(self, text: &str, colour: Colour) -> String {
        let code = match colour {
            Colour::Good => "32",
            Colour::Warning => "33",
            Colour::Bad => "1;31",
            Colour::Plain => return text.to_owned(),
        };
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// What came from elsewhere, without what could command a terminal.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect()
}

/// `text` in lines of at most `width` characters, those after the first indented. A longer word stays whole.
pub(super) fn wrap(text: &str, width: Option<usize>, indent: &str) -> String {
    let Some(width) = width else { return text.to_owned() };
    let start = &text[..text.len() - text.trim_start().len()];
    let (mut wrapped, mut column) = (start.to_owned(), start.len());
    for (number, word) in text.split_whitespace().enumerate() {
        let length = word.chars().count();
        if number > 0 && column + 1 + length > width {
            wrapped.push('\n');
            wrapped.push_str(indent);
            column = indent.len();
        } else if number > 0 {
            wrapped.push(' ');
            column += 1;
        }
        wrapped.push_str(word);
        column += length;
    }
    wrapped
}

#[cfg(test)]
mod tests {
    use super::wrap;

    #[test]
    fn lines_are_cut_between_words() {
        assert_eq!(wrap("a  b c", None, "  "), "a  b c");
        assert_eq!(wrap("aa bb cc", Some(5), "  "), "aa bb\n  cc");
        assert_eq!(wrap("  aa bb longest", Some(5), " "), "  aa\n bb\n longest");
        assert_eq!(wrap("", Some(5), " "), "");
    }
}
