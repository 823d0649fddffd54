//! Where answers go, and whether colours may go with them.

use std::io::{IsTerminal, Write};

/// A writer of text.
pub(super) struct Output {
    writer: Box<dyn Write>,
    pub(super) style: Style,
}

impl Output {
    /// Standard output; colours on a terminal only, and not where `NO_COLOR` is set.
    pub(super) fn stdout() -> Self {
        let terminal = std::io::stdout().is_terminal();
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { writer: Box::new(std::io::stdout()), style: Style { terminal, colour } }
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
