//! Reads the keys of one section by their types; what is of another type, or asked for by nobody, is a mistake.
//!
//! Every reader returns the default after a mistake, so that reading goes on and all mistakes are found.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ignore::gitignore::GitignoreBuilder;

use crate::daemon::config::mistakes::Mistakes;
use crate::daemon::config::source::{self, Item, Origin, Table, Value};

/// One section while it is read.
pub(super) struct Section<'m> {
    key: String,
    table: Table,
    pub(super) mistakes: &'m mut Mistakes,
}

impl<'m> Section<'m> {
    /// The file itself.
    pub(super) fn top(mistakes: &'m mut Mistakes, table: Table) -> Self {
        Self { key: String::new(), table, mistakes }
    }

    /// The full name of a key in this section.
    pub(super) fn full(&self, name: &str) -> String {
        if self.key.is_empty() { name.to_owned() } else { format!("{}.{name}", self.key) }
    }

    /// This section's own key, such as `root[0]`.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// Reads the section `name`, an empty one when it is not given.
    pub(super) fn within<T>(&mut self, name: &str, read: impl FnOnce(&mut Section<'_>) -> T) -> T {
        let table = match self.take(name) {
            None => Table::new(),
            Some((Item { value: Value::Table(table), .. }, _)) => table,
            Some((_, key)) => {
                self.mistakes.at(
                    &key,
                    "this is a section",
                    format!("write it as [{key}] with its keys below"),
                );
                Table::new()
            }
        };
        let mut section = Section { key: self.full(name), table, mistakes: self.mistakes };
        let result = read(&mut section);
        section.finish();
        result
    }

    /// Reads each of the sections `[[name]]`.
    pub(super) fn each<T>(&mut self, name: &str, mut read: impl FnMut(&mut Section<'_>) -> T) -> Vec<T> {
        let items = match self.take(name) {
            None => Vec::new(),
            Some((Item { value: Value::List(items), .. }, _)) => items,
            Some((_, key)) => {
                let remedy = format!("write each as [[{key}]] with its keys below");
                self.mistakes.at(&key, "this is a list of sections", remedy);
                Vec::new()
            }
        };
        let mut results = Vec::new();
        for (number, item) in items.into_iter().enumerate() {
            let key = format!("{}[{number}]", self.full(name));
            self.mistakes.stands(&key, item.origin);
            let Value::Table(table) = item.value else {
                let remedy = format!("write it as [[{}]] with its keys below", self.full(name));
                self.mistakes.at(&key, "this is a section", remedy);
                continue;
            };
            let mut section = Section { key, table, mistakes: self.mistakes };
            results.push(read(&mut section));
            section.finish();
        }
        results
    }

    /// The text `name`.
    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        let (item, key) = self.take(name)?;
        self.as_text(item, &key)
    }

    /// The text `name`, which must be given.
    pub(super) fn needed(&mut self, name: &str, remedy: &str) -> Option<String> {
        let text = self.text(name);
        let key = self.full(name);
        match &text {
            None if !self.mistakes.given(&key) => self.mistakes.at(&key, "it is missing", remedy),
            Some(text) if text.is_empty() => self.mistakes.at(&key, "it is empty", remedy),
            _ => {}
        }
        text
    }

    /// The absolute path `name`.
    pub(super) fn path(&mut self, name: &str) -> Option<PathBuf> {
        let path = PathBuf::from(self.text(name)?);
        if !path.is_absolute() {
            let key = self.full(name);
            let cause = format!("`{}` is not an absolute path", path.display());
            self.mistakes.at(&key, cause, "begin it with /");
        }
        Some(path)
    }

    /// The value `name` in the shape that `what` describes, `default` when it is not given.
    pub(super) fn parsed<T: FromStr>(&mut self, name: &str, default: T, what: &str) -> T {
        let Some(text) = self.text(name) else { return default };
        text.parse().unwrap_or_else(|_| {
            let key = self.full(name);
            self.mistakes.at(&key, format!("`{text}` is not {what}"), format!("give {what}"));
            default
        })
    }

    /// One of the words, `default` when it is not given.
    pub(super) fn word<T: Copy>(&mut self, name: &str, words: &[(&str, T)], default: T) -> T {
        let Some(text) = self.text(name) else { return default };
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return *value;
        }
        let known: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let key = self.full(name);
        self.mistakes.at(&key, format!("there is no {name} `{text}`"), format!("use {}", known.join(" or ")));
        default
    }

    /// The duration `name`.
    pub(super) fn duration(&mut self, name: &str, default: Duration) -> Duration {
        let Some((item, key)) = self.take(name) else { return default };
        let text = match item.value {
            Value::Text(text) | Value::Raw(text) => unquoted(text),
            _ => {
                return self.wrong(
                    &key,
                    "a duration",
                    "write it in quotes with its unit, such as \"200ms\"",
                    default,
                );
            }
        };
        match humantime::parse_duration(&text) {
            Ok(duration) => duration,
            Err(error) => {
                let cause = format!("`{text}` is not a duration: {error}");
                self.mistakes.at(
                    &key,
                    cause,
                    "write a number with its unit, such as \"200ms\", \"10s\" or \"5m\"",
                );
                default
            }
        }
    }

    /// The number of bytes `name`.
    pub(super) fn size(&mut self, name: &str, default: u64) -> u64 {
        let Some((item, key)) = self.take(name) else { return default };
        let text = match item.value {
            Value::Text(text) | Value::Raw(text) => unquoted(text),
            Value::Whole(whole) => whole.to_string(),
            _ => return self.wrong(&key, "a size", "write it such as \"20MiB\", or \"0\" for none", default),
        };
        parse_size(&text).unwrap_or_else(|| {
            let remedy = "write a whole number with B, KiB, MiB, GiB, KB, MB or GB, such as \"20MiB\", or \"0\" for none";
            self.mistakes.at(&key, format!("`{text}` is not a size"), remedy);
            default
        })
    }

    /// The whole number `name`, at least `least`.
    pub(super) fn whole(&mut self, name: &str, least: i64, default: i64) -> i64 {
        let Some((item, key)) = self.take(name) else { return default };
        let whole = match item.value {
            Value::Whole(whole) => Some(whole),
            Value::Raw(text) => text.trim().parse().ok(),
            _ => None,
        };
        match whole {
            None => self.wrong(&key, "a whole number", "write it without quotes, such as 50", default),
            Some(whole) if whole < least => {
                let cause = format!("{whole} is below {least}");
                self.mistakes.at(&key, cause, format!("give {least} or more; the default is {default}"));
                default
            }
            Some(whole) => whole,
        }
    }

    /// True or false.
    pub(super) fn truth(&mut self, name: &str, default: bool) -> bool {
        let Some((item, key)) = self.take(name) else { return default };
        let truth = match item.value {
            Value::Truth(truth) => Some(truth),
            Value::Raw(text) => text.trim().parse().ok(),
            _ => None,
        };
        truth.unwrap_or_else(|| {
            self.wrong(&key, "true or false", "write true or false without quotes", default)
        })
    }

    /// A list of texts, empty when it is not given.
    pub(super) fn texts(&mut self, name: &str) -> Vec<String> {
        self.texts_with_keys(name).into_iter().map(|(_, text)| text).collect()
    }

    /// A list of patterns in the syntax of gitignore.
    pub(super) fn patterns(&mut self, name: &str) -> Vec<String> {
        let patterns = self.texts_with_keys(name);
        for (key, pattern) in &patterns {
            if let Err(error) = GitignoreBuilder::new("/").add_line(None, pattern) {
                let cause = format!("`{pattern}` is not a pattern: {error}");
                let remedy = "correct it; the syntax is that of gitignore, with * ? [..] and **";
                self.mistakes.at(key, cause, remedy);
            }
        }
        patterns.into_iter().map(|(_, pattern)| pattern).collect()
    }

    fn texts_with_keys(&mut self, name: &str) -> Vec<(String, String)> {
        let Some((item, key)) = self.take(name) else { return Vec::new() };
        let remedy = "write it as a list, such as [\"a\", \"b\"]";
        let value = match (item.value, &item.origin) {
            (Value::Raw(raw), Origin::Variable(variable)) => source::parse_raw(&raw, variable),
            (value, _) => Some(value),
        };
        let Some(Value::List(items)) = value else {
            return self.wrong(&key, "a list of texts", remedy, Vec::new());
        };
        let mut texts = Vec::new();
        for (number, item) in items.into_iter().enumerate() {
            let key = format!("{key}[{number}]");
            self.mistakes.stands(&key, item.origin.clone());
            if let Some(text) = self.as_text(item, &key) {
                texts.push((key, text));
            }
        }
        texts
    }

    /// Tells what was given and never asked for.
    pub(super) fn finish(&mut self) {
        for (name, item) in std::mem::take(&mut self.table) {
            let key = self.full(&name);
            self.mistakes.unknown(key, item.origin);
        }
    }

    fn take(&mut self, name: &str) -> Option<(Item, String)> {
        let key = self.full(name);
        self.mistakes.knows(&key);
        let item = self.table.remove(name)?;
        self.mistakes.stands(&key, item.origin.clone());
        Some((item, key))
    }

    fn as_text(&mut self, item: Item, key: &str) -> Option<String> {
        match item.value {
            Value::Text(text) => Some(text),
            Value::Raw(text) => Some(unquoted(text)),
            _ => self.wrong(key, "a text", "write it in quotes", None),
        }
    }

    fn wrong<T>(&mut self, key: &str, wanted: &str, remedy: &str, default: T) -> T {
        self.mistakes.at(key, format!("it must be {wanted}"), remedy);
        default
    }
}

/// A variable's text without the quotes that TOML would ask for.
fn unquoted(text: String) -> String {
    if !text.starts_with(['"', '\'']) {
        return text;
    }
    match source::parse_raw(&text, "") {
        Some(Value::Text(inner)) => inner,
        _ => text,
    }
}

fn parse_size(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 8] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("B", 1),
        ("", 1),
    ];
    let text = text.trim();
    let (number, factor) =
        UNITS.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    number.trim().parse::<u64>().ok()?.checked_mul(*factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("512", Some(512)),
            ("512B", Some(512)),
            ("20MiB", Some(20 << 20)),
            ("1 GiB", Some(1 << 30)),
            ("3KB", Some(3000)),
            ("-1", None),
            ("1.5MiB", None),
            ("MiB", None),
            ("99999999999GiB", None),
            ("7 apples", None),
        ] {
            assert_eq!(parse_size(text), bytes, "{text}");
        }
    }
}
