//! The file and the environment as one tree of values, each with the place where it stands.
//!
//! A variable `SYNCD_SECTION__KEY` lies over the file: its parts between double underscores are the key's, in lower
//! case, and a number counts tables from 0. Its text is a TOML value where the key wants one, else plain text.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use crate::daemon::config::mistakes::Mistakes;

/// Where a value stands.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    /// In this line of the file, from 1.
    Line(usize),
    /// In this variable.
    Variable(String),
}

/// Where each given key stands.
pub(super) type Origins = BTreeMap<String, Origin>;

/// The keys of one section.
pub(super) type Table = BTreeMap<String, Item>;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// What was written.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    Whole(i64),
    Truth(bool),
    List(Vec<Item>),
    Table(Table),
    /// A variable's text, whose type only its reader knows.
    Raw(String),
    /// Something that no key takes.
    Other,
}

/// Variables that name no key.
const NOT_KEYS: [&str; 4] = ["SYNCD_CONFIG", "SYNCD_CRASH", "SYNCD_LOG", "SYNCD_SCAN"];

/// Reads the file and lays the environment over it.
pub(super) fn read(
    mistakes: &mut Mistakes,
    file: &Path,
    env: impl Iterator<Item = (OsString, OsString)>,
) -> Table {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => {
            mistakes.file(
                format!("cannot be read: {error}"),
                "make it readable for this user, or name another with --config FILE or SYNCD_CONFIG",
            );
            return Table::new();
        }
    };
    let mut table = parse(mistakes, &text);
    let mut variables: Vec<_> = env.collect();
    variables.sort();
    for (name, value) in variables {
        lay_over(mistakes, &mut table, &name.to_string_lossy(), value);
    }
    table
}

fn parse(mistakes: &mut Mistakes, text: &str) -> Table {
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let line = Origin::Line(line_of(text, error.span().map_or(0, |span| span.start)));
        let cause = format!("this is not TOML: {}", error.message().replace('\n', ", "));
        mistakes.origin(&line, "", cause, "correct the line; see https://toml.io for the syntax");
    }
    convert_table(text, table.get_ref())
}

fn convert_table(text: &str, table: &DeTable<'_>) -> Table {
    table
        .iter()
        .map(|(key, value)| {
            let origin = Origin::Line(line_of(text, key.span().start));
            (key.get_ref().to_string(), Item { value: convert(text, value.get_ref()), origin })
        })
        .collect()
}

fn convert(text: &str, value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(string) => Value::Text(string.to_string()),
        DeValue::Integer(whole) => match i64::from_str_radix(whole.as_str(), whole.radix()) {
            Ok(whole) => Value::Whole(whole),
            Err(_) => Value::Other,
        },
        DeValue::Boolean(truth) => Value::Truth(*truth),
        DeValue::Array(items) => Value::List(
            items
                .iter()
                .map(|item| Item {
                    value: convert(text, item.get_ref()),
                    origin: Origin::Line(line_of(text, item.span().start)),
                })
                .collect(),
        ),
        DeValue::Table(table) => Value::Table(convert_table(text, table)),
        DeValue::Float(_) => Value::Other,
        DeValue::Datetime(_) => Value::Other,
    }
}

/// The value that a variable's text is when it is TOML.
pub(super) fn parse_raw(raw: &str, variable: &str) -> Option<Value> {
    let value = DeValue::parse(raw).ok()?;
    let mut value = convert(raw, value.get_ref());
    if let Value::List(items) = &mut value {
        items.iter_mut().for_each(|item| item.origin = Origin::Variable(variable.to_owned()));
    }
    Some(value)
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

fn lay_over(mistakes: &mut Mistakes, table: &mut Table, name: &str, value: OsString) {
    let Some(rest) = name.strip_prefix("SYNCD_").filter(|rest| rest.contains("__")) else { return };
    if NOT_KEYS.contains(&name) {
        return;
    }
    let origin = Origin::Variable(name.to_owned());
    let parts: Vec<String> = rest.split("__").map(str::to_ascii_lowercase).collect();
    let Ok(text) = value.into_string() else {
        mistakes.origin(&origin, &parts.join("."), "its value is not UTF-8", "correct or unset the variable");
        return;
    };
    if let Err(cause) = put(table, &parts, &origin, text) {
        mistakes.origin(&origin, &parts.join("."), cause, "correct the variable's name or unset it");
    }
}

/// Puts a variable's text where its name says; sections that are not there yet are made.
fn put(table: &mut Table, parts: &[String], origin: &Origin, text: String) -> Result<(), String> {
    let Some((first, rest)) = parts.split_first() else { return Err("it names a section, not a key".into()) };
    if rest.is_empty() {
        table.insert(first.clone(), Item { value: Value::Raw(text), origin: origin.clone() });
        return Ok(());
    }
    let index = rest.first().and_then(|part| part.parse::<usize>().ok());
    let empty = if index.is_some() { Value::List(Vec::new()) } else { Value::Table(Table::new()) };
    let fresh = || Item { value: empty, origin: origin.clone() };
    match (&mut table.entry(first.clone()).or_insert_with(fresh).value, index) {
        (Value::Table(inner), None) => put(inner, rest, origin, text),
        (Value::List(items), Some(index)) => {
            if index > items.len() {
                return Err(format!("`{first}` has {} entries, so the next number is that", items.len()));
            }
            if index == items.len() {
                items.push(Item { value: Value::Table(Table::new()), origin: origin.clone() });
            }
            match &mut items[index].value {
                Value::Table(inner) => put(inner, &rest[1..], origin, text),
                _ => Err(format!("`{first}` is a list of plain values: give the list as a whole")),
            }
        }
        _ => Err(format!("`{first}` is no section of that shape")),
    }
}
