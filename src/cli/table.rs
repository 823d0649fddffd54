//! Aligned columns.

use crate::cli::output::{Colour, Style, plain};

/// A table under construction. Numbers stand right, words left.
pub(super) struct Table {
    heads: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
    dispensable: Vec<&'static str>,
}

/// One field.
pub(super) struct Cell {
    text: String,
    colour: Colour,
    right: bool,
}

impl Cell {
    /// A word.
    pub(super) fn word(text: impl AsRef<str>) -> Self {
        Self { text: plain(text.as_ref()), colour: Colour::Plain, right: false }
    }

    /// A number, `-` where it is not known.
    pub(super) fn number(number: Option<impl ToString>) -> Self {
        let text = number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        Self { text, colour: Colour::Plain, right: true }
    }

    pub(super) fn coloured(self, colour: Colour) -> Self {
        Self { colour, ..self }
    }
}

impl Table {
    pub(super) fn new(heads: &[&'static str]) -> Self {
        Self { heads: heads.to_vec(), rows: Vec::new(), dispensable: Vec::new() }
    }

    /// Columns that are left out where lines are short, the first of them first.
    pub(super) fn dispensable(self, heads: &[&'static str]) -> Self {
        Self { dispensable: heads.to_vec(), ..self }
    }

    pub(super) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// The table as lines; a column's head stands as its fields do.
    pub(super) fn render(&self, style: Style) -> String {
        let width = |column: usize| {
            let fields =
                self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.text.chars().count());
            fields.chain([self.heads[column].len()]).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..self.heads.len()).map(width).collect();
        let mut shown: Vec<usize> = (0..self.heads.len()).collect();
        for head in &self.dispensable {
            let total = shown.iter().map(|column| widths[*column] + 2).sum::<usize>();
            if style.width.is_some_and(|width| total > width + 2) {
                shown.retain(|column| self.heads[*column] != *head);
            }
        }
        let right =
            |column: usize| self.rows.first().and_then(|row| row.get(column)).is_some_and(|cell| cell.right);
        let pad = |text: &str, column: usize, right: bool| {
            let space = " ".repeat(widths[column].saturating_sub(text.chars().count()));
            if right { format!("{space}{text}") } else { format!("{text}{space}") }
        };
        let head = shown.iter().map(|column| pad(self.heads[*column], *column, right(*column)));
        let mut lines = vec![head.collect::<Vec<_>>().join("  ").trim_end().to_owned()];
        for row in &self.rows {
            let fields =
                shown.iter().filter_map(|column| Some((*column, row.get(*column)?))).map(|(column, cell)| {
                    let padded = pad(&cell.text, column, cell.right);
                    style.paint(&padded, cell.colour)
                });
            lines.push(fields.collect::<Vec<_>>().join("  ").trim_end().to_owned());
        }
        lines.join("\n") + "\n"
    }
}
