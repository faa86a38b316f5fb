//! A task file as written: TOML with the place of each key and value, and the complaints about it so far.
//!
//! Each reading function returns `None` both for a key that is absent and for one that was complained about:
//! the caller goes on, so that one look at a file finds everything that is wrong with it.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::{DeTable, DeValue};
use zeroize::Zeroizing;

use super::schema;
use super::units;
use super::{Complaint, Place};

/// No task file is larger; what is larger is something else, or has no end.
const LARGEST_FILE: u64 = 1 << 20;

/// A value with the byte it starts at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found<T> {
    pub value: T,
    pub at: usize,
}

/// One file and what was said about it.
pub(super) struct Document {
    /// As the user named it.
    shown: PathBuf,
    text: Zeroizing<String>,
    complaints: RefCell<Vec<Complaint>>,
    warnings: RefCell<Vec<Complaint>>,
}

impl Document {
    /// Reads a file; the complaint is about the whole of it.
    pub fn open(path: &Path) -> Result<Self, Complaint> {
        let whole = |what: String| Complaint {
            file: path.to_owned(),
            place: None,
            key: None,
            what,
        };
        let mut bytes = Zeroizing::new(Vec::new());
        let read = || -> io::Result<u64> {
            File::open(path)?
                .take(LARGEST_FILE + 1)
                .read_to_end(&mut bytes)
                .map(|n| n as u64)
        };
        match { read }() {
            Ok(n) if n > LARGEST_FILE => {
                return Err(whole("is larger than 1 MiB, expected a task file".into()));
            }
            Ok(_) => {}
            Err(error) => return Err(whole(format!("cannot be read: {error}"))),
        }
        let document = |text| Self {
            shown: path.to_owned(),
            text: Zeroizing::new(text),
            complaints: RefCell::default(),
            warnings: RefCell::default(),
        };
        match std::str::from_utf8(&bytes) {
            Ok(text) => Ok(document(text.to_owned())),
            Err(error) => {
                let good = bytes.get(..error.valid_up_to()).unwrap_or_default();
                let document = document(String::from_utf8_lossy(good).into_owned());
                Err(Complaint {
                    place: Some(document.place(error.valid_up_to())),
                    ..whole("is not UTF-8 here, expected TOML in UTF-8".into())
                })
            }
        }
    }

    /// The parsed file; `None` after complaints about its syntax, at most one for each line.
    pub fn parse(&self) -> Option<DeTable<'_>> {
        let (table, errors) = DeTable::parse_recoverable(&self.text);
        let mut lines = BTreeSet::new();
        for error in &errors {
            let at = error.span().map_or(0, |span| span.start);
            if lines.insert(self.place(at).line) {
                // Only the message: the error's own display quotes the line, which may hold a password.
                let what = format!("is not TOML: {}", error.message().replace('\n', ", "));
                self.complain(Some(at), None, what);
            }
        }
        let table = table.into_inner();
        if errors.is_empty() && table.is_empty() {
            let what = "is empty, expected at least [source] and [target] with an address each";
            self.complain(None, None, what.into());
            return None;
        }
        errors.is_empty().then_some(table)
    }

    /// Line and column of a byte.
    fn place(&self, at: usize) -> Place {
        let before = self.text.get(..at).unwrap_or(&self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Place {
            line: before.matches('\n').count() + 1,
            column: before
                .get(line_start..)
                .map_or(0, |line| line.chars().count())
                + 1,
        }
    }

    fn note(&self, at: Option<usize>, key: Option<String>, what: String) -> Complaint {
        Complaint {
            file: self.shown.clone(),
            place: at.map(|at| self.place(at)),
            key,
            what,
        }
    }

    /// Adds a complaint.
    pub fn complain(&self, at: Option<usize>, key: Option<String>, what: String) {
        let note = self.note(at, key, what);
        self.complaints.borrow_mut().push(note);
    }

    /// Adds a warning.
    pub fn warn(&self, at: usize, key: String, what: String) {
        let note = self.note(Some(at), Some(key), what);
        self.warnings.borrow_mut().push(note);
    }

    /// All complaints, then all warnings.
    pub fn into_notes(self) -> (Vec<Complaint>, Vec<Complaint>) {
        (self.complaints.into_inner(), self.warnings.into_inner())
    }
}

/// One table of a document; reading from it knows its name and the schema's defaults.
pub(super) struct Section<'d> {
    document: &'d Document,
    /// Empty for the file itself.
    name: String,
    /// `None` if the file does not have the table.
    entries: Option<&'d DeTable<'d>>,
    /// Where the table starts, for complaints about what is not in it.
    at: usize,
}

impl<'d> Section<'d> {
    /// The file itself.
    pub fn root(document: &'d Document, entries: &'d DeTable<'d>) -> Self {
        let root = Self {
            document,
            name: String::new(),
            entries: Some(entries),
            at: 0,
        };
        root.refuse_unknown();
        root
    }

    /// A table inside this one, present or not, its unknown keys complained about.
    pub fn table(&self, name: &str) -> Self {
        let path = self.path(name);
        let (entries, at) = match self.get(name) {
            Some((_, value, span)) => match value {
                DeValue::Table(table) => (Some(table), span.start),
                other => {
                    self.complain(name, Some(span.start), wrong_kind(other, "a table"));
                    (None, span.start)
                }
            },
            None => (None, self.at),
        };
        let section = Self {
            document: self.document,
            name: path,
            entries,
            at,
        };
        section.refuse_unknown();
        section
    }

    /// Whether the file has this table.
    pub fn is_present(&self) -> bool {
        self.entries.is_some()
    }

    /// Whether the key is a table.
    pub fn is_table(&self, key: &str) -> bool {
        matches!(self.get(key), Some((_, DeValue::Table(_), _)))
    }

    /// Whether the key is there, right or wrong.
    pub fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Where the key stands, or else the table.
    pub fn place_of(&self, key: &str) -> usize {
        self.get(key).map_or(self.at, |(at, _, _)| at)
    }

    /// Complains about a key of this table.
    pub fn complain(&self, key: &str, at: Option<usize>, what: String) {
        self.document.complain(at, Some(self.path(key)), what);
    }

    /// Warns about a key of this table.
    pub fn warn(&self, key: &str, what: String) {
        let at = self.place_of(key);
        self.document.warn(at, self.path(key), what);
    }

    /// Complains that a key must be there.
    pub fn require(&self, key: &str, expected: &str) {
        if !self.has(key) {
            let at = self.is_present().then_some(self.at);
            self.complain(key, at, format!("is missing, expected {expected}"));
        }
    }

    fn path(&self, key: &str) -> String {
        let key = key.escape_debug();
        match self.name.as_str() {
            "" => key.to_string(),
            name => format!("{name}.{key}"),
        }
    }

    fn get(&self, key: &str) -> Option<(usize, &'d DeValue<'d>, Range<usize>)> {
        let (found, value) = self.entries?.iter().find(|(k, _)| k.get_ref() == key)?;
        Some((found.span().start, value.get_ref(), value.span()))
    }

    /// Entries of a table that has no fixed keys.
    pub fn entries(&self) -> impl Iterator<Item = (Found<&'d str>, Found<&'d DeValue<'d>>)> {
        let entries = self.entries.into_iter().flatten();
        entries.map(|(key, value)| {
            let key = Found {
                at: key.span().start,
                value: key.get_ref().as_ref(),
            };
            let value = Found {
                at: value.span().start,
                value: value.get_ref(),
            };
            (key, value)
        })
    }

    fn refuse_unknown(&self) {
        let keys = match self.name.as_str() {
            "" => &[],
            name => match schema::table(name) {
                Some(table) => table.keys,
                // A table without fixed keys.
                None => return,
            },
        };
        let keys = keys.iter().map(|key| key.name);
        let known: Vec<&str> = keys.chain(schema::children(&self.name)).collect();
        for (key, value) in self.entries() {
            if !known.contains(&key.value) {
                let is_table = value.value.is_table();
                let what = self.unknown(key.value, is_table, &known);
                self.complain(key.value, Some(key.at), what);
            }
        }
    }

    fn unknown(&self, key: &str, is_table: bool, known: &[&str]) -> String {
        let kind = if is_table { "table" } else { "key" };
        if let Some(near) = nearest(key, known) {
            return format!("unknown {kind}, did you mean \"{near}\"?");
        }
        let elsewhere = schema::TABLES
            .iter()
            .find(|table| table.name != self.name && table.keys.iter().any(|own| own.name == key));
        match elsewhere {
            Some(table) => format!("unknown {kind} here, it belongs into [{}]", table.name),
            None if self.name.is_empty() => {
                format!(
                    "unknown {kind}, expected one of the tables {}",
                    known.join(", ")
                )
            }
            None => format!("unknown {kind}, expected one of {}", known.join(", ")),
        }
    }

    /// A string as written.
    pub fn string(&self, key: &str) -> Option<Found<&'d str>> {
        self.string_as(key, "a string")
    }

    fn string_as(&self, key: &str, expected: &str) -> Option<Found<&'d str>> {
        let (_, value, span) = self.get(key)?;
        match value {
            DeValue::String(text) => Some(Found {
                value: text.as_ref(),
                at: span.start,
            }),
            other => {
                self.complain(key, Some(span.start), wrong_kind(other, expected));
                None
            }
        }
    }

    /// A string that is not empty.
    pub fn filled(&self, key: &str) -> Option<Found<&'d str>> {
        let found = self.string(key)?;
        if found.value.is_empty() {
            self.complain(key, Some(found.at), "is empty, expected a string".into());
            return None;
        }
        Some(found)
    }

    /// A string made into something else, or the schema's default made into it. `parse` says what is wrong.
    pub fn parsed<T>(
        &self,
        key: &str,
        expected: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        if !self.has(key) {
            return parse(schema::default(&self.name, key)?).ok();
        }
        let found = self.string_as(key, expected)?;
        match parse(found.value) {
            Ok(value) => Some(value),
            Err(what) => {
                self.complain(
                    key,
                    Some(found.at),
                    format!("{} {what}", quoted(found.value)),
                );
                None
            }
        }
    }

    /// One of several words.
    pub fn choice<T: Copy>(&self, key: &str, choices: &[(&str, T)]) -> Option<T> {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let expected = match words.as_slice() {
            [only] => format!("\"{only}\""),
            _ => format!("one of \"{}\"", words.join("\", \"")),
        };
        self.parsed(key, &expected, |text| {
            let found = choices.iter().find(|(word, _)| *word == text);
            found
                .map(|(_, value)| *value)
                .ok_or_else(|| match nearest(text, &words) {
                    Some(near) => format!("is not {expected}, did you mean \"{near}\"?"),
                    None => format!("is not known here, expected {expected}"),
                })
        })
    }

    /// A length of time within bounds.
    pub fn duration(&self, key: &str, least: Duration, most: Duration) -> Option<Duration> {
        let expected = "a duration such as \"30s\" or \"200ms\"";
        self.parsed(key, expected, |text| match units::duration(text) {
            Some(value) if value < least || value > most => Err(format!(
                "is out of range, expected a duration from \"{}\" to \"{}\"",
                humantime::format_duration(least),
                humantime::format_duration(most)
            )),
            Some(value) => Ok(value),
            None => Err(format!("is not a duration, expected {expected}")),
        })
    }

    /// A number of bytes, at least `least`, which is a whole number of MiB.
    pub fn size(&self, key: &str, least: u64) -> Option<u64> {
        let expected = "a size such as \"64MiB\"";
        self.parsed(key, expected, |text| match units::size(text) {
            Some(value) if value < least => Err(format!(
                "is too small, expected at least \"{}MiB\"",
                least >> 20
            )),
            Some(value) => Ok(value),
            None => Err(format!("is not a size, expected {expected}")),
        })
    }

    /// A boolean; absent is the schema's default.
    pub fn boolean(&self, key: &str) -> Option<bool> {
        match self.get(key) {
            None => Some(schema::default(&self.name, key) == Some("true")),
            Some((_, DeValue::Boolean(value), _)) => Some(*value),
            Some((_, other, span)) => {
                self.complain(key, Some(span.start), wrong_kind(other, "true or false"));
                None
            }
        }
    }

    /// An integer within bounds, or the schema's default.
    pub fn integer(&self, key: &str, allowed: Range<u32>) -> Option<u32> {
        match self.get(key) {
            None => schema::default(&self.name, key)?.parse().ok(),
            Some((_, value, span)) => self.integer_in(key, value, span.start, &allowed),
        }
    }

    /// The integer a value is, within bounds.
    pub fn integer_in(
        &self,
        key: &str,
        value: &DeValue<'_>,
        at: usize,
        allowed: &Range<u32>,
    ) -> Option<u32> {
        let last = allowed.end.saturating_sub(1);
        let expected = format!("a number from {} to {last}", allowed.start);
        let DeValue::Integer(digits) = value else {
            self.complain(key, Some(at), wrong_kind(value, &expected));
            return None;
        };
        let number = i128::from_str_radix(digits.as_str(), digits.radix()).ok();
        let number = number.and_then(|number| u32::try_from(number).ok());
        let number = number.filter(|number| allowed.contains(number));
        if number.is_none() {
            let what = format!("{digits} is out of range, expected {expected}");
            self.complain(key, Some(at), what);
        }
        number
    }

    /// The values of an array, `None` if the key is absent.
    pub fn array(&self, key: &str, expected: &str) -> Option<Vec<Found<&'d DeValue<'d>>>> {
        let (_, value, span) = self.get(key)?;
        let DeValue::Array(values) = value else {
            self.complain(key, Some(span.start), wrong_kind(value, expected));
            return None;
        };
        if values.is_empty() {
            let what = format!("is empty, expected {expected} (or no such key)");
            self.complain(key, Some(span.start), what);
            return None;
        }
        let found = values.iter().map(|value| Found {
            at: value.span().start,
            value: value.get_ref(),
        });
        Some(found.collect())
    }
}

/// "is an integer, expected ...". The value itself is not shown: it may be a password without quotes.
pub(super) fn wrong_kind(value: &DeValue<'_>, expected: &str) -> String {
    let kind = match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    };
    format!("is {kind}, expected {expected}")
}

/// A value for a complaint: in quotes, escaped, cut when it is long.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{:?}...", text.get(..end).unwrap_or_default()),
        None => format!("{text:?}"),
    }
}

/// The known word that was probably meant.
pub(super) fn nearest<'w>(word: &str, known: &[&'w str]) -> Option<&'w str> {
    // Longer words are nobody's typing error, and comparing takes the product of the lengths.
    let word: String = word.chars().take(64).flat_map(char::to_lowercase).collect();
    let word = word.replace('-', "_");
    // The beginning of a word is no typing error, but says which is meant.
    let begun = |known: &&&str| word.len() >= 3 && known.starts_with(&word);
    if let Some(known) = known.iter().find(begun) {
        return Some(known);
    }
    let distance = |other: &str| strsim::damerau_levenshtein(&word, other);
    let (near, steps) = known
        .iter()
        .map(|known| (*known, distance(known)))
        .min_by_key(|(_, n)| *n)?;
    let allowed = (near.chars().count() / 3).max(1);
    (steps <= allowed).then_some(near)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_word_is_recognised_and_a_strange_one_is_not() {
        let known = ["address", "username", "type", "tls"];
        assert_eq!(nearest("adress", &known), Some("address"));
        assert_eq!(nearest("user-name", &known), Some("username"));
        assert_eq!(nearest("Tpye", &known), Some("type"));
        assert_eq!(nearest("tsl", &known), Some("tls"));
        assert_eq!(nearest("addr", &known), Some("address"));
        assert_eq!(nearest("bananas", &known), None);
        assert_eq!(nearest("", &known), None);
    }

    #[test]
    fn a_long_value_is_cut_in_a_complaint() {
        assert_eq!(quoted("a\nb"), r#""a\nb""#);
        assert_eq!(
            quoted(&"ü".repeat(100)),
            format!("\"{}\"...", "ü".repeat(60))
        );
    }
}
