//! The file's syntax: a TOML document walked along the schema. A document that is broken in places is read as far as it
//! goes, so that all mistakes are told at once.

use std::collections::BTreeSet;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::dns::{HOSTS, HOSTS_MAX, HostEntry};
use super::key::{Key, number};
use super::load::{Item, Settings, Value};
use super::route::{ROUTE_KEYS, ROUTES_MAX, TABLE};
use super::rows::Row;
use super::schema::{self, KEYS, SECTIONS};
use super::trunk::{TRUNK_KEYS, TRUNK_TABLE, TRUNKS_MAX};
use super::value::{Wrong, near_miss};
use super::{ConfigError, Origin};

/// Lays the keys of `text` over `settings`; what is wrong joins `errors`.
pub fn read(text: &str, settings: &mut Settings, errors: &mut Vec<ConfigError>) {
    let (document, broken) = DeTable::parse_recoverable(text);
    let lines = Lines::of(text);
    let mut reader = Reader {
        headers: if broken.is_empty() {
            Vec::new()
        } else {
            lines.headers()
        },
        lines,
        broken_lines: BTreeSet::new(),
        settings,
        errors,
    };
    for error in &broken {
        reader.syntax_error(error);
    }
    for (name, value) in document.get_ref() {
        match value.get_ref() {
            DeValue::Table(table) if is_section(name.get_ref()) => reader.section(name.get_ref(), table),
            _ if name.get_ref() == TABLE.0 => {
                let rows = reader.tables(ROUTE_KEYS, name, value, (ROUTES_MAX, "rules"));
                reader.settings.routes.extend(rows);
            }
            _ if name.get_ref() == TRUNK_TABLE.0 => {
                let rows = reader.tables(TRUNK_KEYS, name, value, (TRUNKS_MAX, "trunks"));
                reader.settings.trunks.extend(rows);
            }
            DeValue::Table(table) if name.get_ref() == HOSTS.0 => reader.hosts(table),
            _ => reader.entry("", name, value),
        }
    }
}

/// A text with where each of its lines begins: whoever asks for many places looks at each line once.
pub struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub fn of(text: &'a str) -> Lines<'a> {
        let after_ends = text.match_indices('\n').map(|(at, _)| at + 1);
        let starts = std::iter::once(0).chain(after_ends).collect();
        Lines { text, starts }
    }

    /// The line and column of the byte at `offset`.
    pub fn place(&self, offset: usize) -> Origin {
        let at = (0..=offset.min(self.text.len()))
            .rev()
            .find(|&at| self.text.is_char_boundary(at))
            .unwrap_or(0);
        let line = self.starts.partition_point(|start| *start <= at);
        let start = line.checked_sub(1).and_then(|index| self.starts.get(index));
        let before = &self.text[start.copied().unwrap_or(0)..at];
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Origin::File {
            line: count(line),
            column: count(1 + before.chars().count()),
        }
    }

    /// The lines that begin a section or a table, by their numbers.
    fn headers(&self) -> Vec<(usize, &'a str)> {
        let header = |number: usize| {
            let line = self.line(number).strip_prefix('[')?;
            let name = line.strip_prefix('[').unwrap_or(line).split(']').next()?.trim();
            let is_table = is_section(name) || [TABLE.0, TRUNK_TABLE.0, HOSTS.0].contains(&name);
            is_table.then_some((number, name))
        };
        (1..=self.starts.len()).filter_map(header).collect()
    }

    /// The line with this number, counted from 1, without white space around it.
    fn line(&self, number: usize) -> &'a str {
        let start = number.checked_sub(1).and_then(|index| self.starts.get(index));
        let Some(&start) = start else { return "" };
        let end = self.starts.get(number).copied().unwrap_or(self.text.len());
        self.text.get(start..end).unwrap_or_default().trim()
    }
}

fn is_section(name: &str) -> bool {
    !name.is_empty() && SECTIONS.iter().any(|&(section, _)| section == name)
}

struct Reader<'a> {
    lines: Lines<'a>,
    /// For errors of syntax.
    headers: Vec<(usize, &'a str)>,
    /// Lines with an error of syntax: what recovery made of them is not worth another error.
    broken_lines: BTreeSet<u32>,
    settings: &'a mut Settings,
    errors: &'a mut Vec<ConfigError>,
}

impl Reader<'_> {
    fn place(&self, offset: usize) -> Origin {
        self.lines.place(offset)
    }

    fn syntax_error(&mut self, error: &toml::de::Error) {
        let span = error.span().unwrap_or(0..0);
        // At the end of a line the parser points at the line end or past it: the mistake is before.
        let at = span.start.min(self.lines.text.trim_end().len());
        let origin = self.place(at);
        let Origin::File { line, .. } = origin else {
            return;
        };
        // One error a line: what follows on it is mostly the same mistake seen again.
        if !self.broken_lines.insert(line) {
            return;
        }
        let source = self.lines.line(line as usize);
        let (expected, found, hint) = if error.message() == "duplicate key" {
            let name = self.lines.text.get(span).unwrap_or(source);
            (
                "each key and section once".to_owned(),
                format!("{name:?} again"),
                None,
            )
        } else {
            (
                "TOML: key = value".to_owned(),
                format!("{:?}", shortened(source)),
                Some(if source.ends_with('=') {
                    "the value is missing".to_owned()
                } else {
                    error.message().to_owned()
                }),
            )
        };
        self.errors.push(ConfigError {
            origin,
            key: self.key_on(line as usize),
            expected,
            found,
            hint,
        });
    }

    /// The path of the key that the line sets, as far as its text tells.
    fn key_on(&self, line: usize) -> String {
        let before = self.headers.partition_point(|(at, _)| *at <= line);
        let section = before.checked_sub(1).map_or("", |index| self.headers[index].1);
        let name = self.lines.line(line).split('=').next().unwrap_or_default();
        let name = name.trim();
        let is_name = !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        match (section, is_name) {
            (section, false) => section.to_owned(),
            ("", true) => name.to_owned(),
            (section, true) => format!("{section}.{name}"),
        }
    }

    fn section(&mut self, section: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            self.entry(section, name, value);
        }
    }

    /// `[hosts]`: each key is a name.
    fn hosts(&mut self, table: &DeTable<'_>) {
        for (index, (name, value)) in table.iter().enumerate() {
            let key = name.get_ref().as_ref();
            let origin = self.place(name.span().start);
            if let Origin::File { line, .. } = origin
                && self.broken_lines.contains(&line)
            {
                continue;
            }
            let item = self.item(value);
            let mut wrong = |origin, expected: &str, found: String| {
                self.errors.push(ConfigError {
                    origin,
                    key: format!("{}.{key}", HOSTS.0),
                    expected: expected.to_owned(),
                    found,
                    hint: None,
                });
            };
            if index == HOSTS_MAX {
                let found = table.len().to_string();
                wrong(origin, &format!("at most {HOSTS_MAX} names"), found);
                return;
            }
            match HostEntry::parse(key, &item) {
                Ok(entry) => self.settings.config.hosts.push(entry),
                Err(bad) => match (&item.value, bad.item) {
                    (Value::List(items), Some(index)) => {
                        wrong(items[index].origin, bad.expected, items[index].shown.clone());
                    }
                    (
                        Value::List(_) | Value::Switch(_) | Value::Integer(_) | Value::Text(_) | Value::Other,
                        _,
                    ) => wrong(item.origin, bad.expected, item.shown.clone()),
                },
            }
        }
    }

    fn entry(&mut self, section: &str, name: &Spanned<impl AsRef<str>>, value: &Spanned<DeValue<'_>>) {
        let key = name.get_ref().as_ref();
        let origin = self.place(name.span().start);
        if let Origin::File { line, .. } = origin
            && self.broken_lines.contains(&line)
        {
            return;
        }
        if let Some(index) = schema::index_of(section, key) {
            let item = self.item(value);
            self.settings.give(index, &item, self.errors);
            return;
        }
        let path = if section.is_empty() {
            key.to_owned()
        } else {
            format!("{section}.{key}")
        };
        let (expected, found) = if is_section(key) && section.is_empty() {
            (format!("a section, [{key}]"), self.shown(value.span()))
        } else if section.is_empty() {
            ("a key or section of ringway".to_owned(), format!("{key:?}"))
        } else {
            (format!("a key of [{section}]"), format!("{key:?}"))
        };
        self.errors.push(ConfigError {
            origin,
            key: path,
            expected,
            found,
            hint: unknown(section, key, value.get_ref()),
        });
    }

    /// `[[route]]` or `[[trunk]]`: each table is a row. What is beyond `rows_max` of `what` is told of and not read.
    fn tables<S: Default>(
        &mut self,
        keys: &[Key<S>],
        name: &Spanned<impl AsRef<str>>,
        value: &Spanned<DeValue<'_>>,
        (rows_max, what): (usize, &str),
    ) -> Vec<Row<S>> {
        let mut list = Vec::new();
        let path = name.get_ref().as_ref();
        let rows = match value.get_ref() {
            DeValue::Array(rows) => &rows[..],
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Table(_) => std::slice::from_ref(value),
        };
        let is_array = matches!(value.get_ref(), DeValue::Array(_));
        if let Some(row) = rows.get(rows_max) {
            self.errors.push(ConfigError {
                origin: self.place(row.span().start),
                key: path.to_owned(),
                expected: format!("at most {} {what}", number(rows_max as u64)),
                found: number(rows.len() as u64),
                hint: None,
            });
        }
        for row in rows.iter().take(rows_max) {
            match row.get_ref() {
                DeValue::Table(table) if is_array => {
                    let origin = self.place(row.span().start);
                    list.push(self.row(keys, path, table, origin));
                }
                DeValue::Table(_)
                | DeValue::Array(_)
                | DeValue::String(_)
                | DeValue::Integer(_)
                | DeValue::Float(_)
                | DeValue::Boolean(_)
                | DeValue::Datetime(_) => {
                    let found = self.shown(row.span());
                    self.errors.push(ConfigError {
                        origin: self.place(name.span().start),
                        key: path.to_owned(),
                        expected: format!("tables, each beginning with [[{path}]]"),
                        found,
                        hint: Some(format!("did you mean [[{path}]]?")),
                    });
                }
            }
        }
        list
    }

    /// One table of several, by the keys that it may have.
    fn row<S: Default>(
        &mut self,
        keys: &[Key<S>],
        path: &str,
        table: &DeTable<'_>,
        origin: Origin,
    ) -> Row<S> {
        let mut row = Row::new(keys, origin);
        for (name, value) in table {
            let key = name.get_ref().as_ref();
            let origin = self.place(name.span().start);
            if let Origin::File { line, .. } = origin
                && self.broken_lines.contains(&line)
            {
                continue;
            }
            let item = self.item(value);
            if row.give(keys, key, &item, self.errors) {
                continue;
            }
            let near = near_miss(key, keys.iter().map(|key| key.name));
            self.errors.push(ConfigError {
                origin,
                key: format!("{path}.{key}"),
                expected: format!("a key of [[{path}]]"),
                found: format!("{key:?}"),
                hint: near.map(|near| format!("did you mean {near:?}?")),
            });
        }
        row
    }

    fn item(&self, value: &Spanned<DeValue<'_>>) -> Item {
        let kind = match value.get_ref() {
            DeValue::Boolean(on) => Value::Switch(*on),
            DeValue::Integer(n) => Value::Integer(u64::from_str_radix(n.as_str(), n.radix()).ok()),
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Array(items) => Value::List(items.iter().map(|item| self.item(item)).collect()),
            DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Table(_) => Value::Other,
        };
        Item {
            value: kind,
            shown: self.shown(value.span()),
            origin: self.place(value.span().start),
        }
    }

    fn shown(&self, span: std::ops::Range<usize>) -> String {
        shortened(self.lines.text.get(span).unwrap_or_default())
    }
}

/// Enough of a value to recognise it by, on one line.
fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 60;
    let line = text.lines().next().unwrap_or_default();
    if line.len() == text.len() && line.chars().count() <= CHARS_MAX {
        return line.to_owned();
    }
    let start: String = line.chars().take(CHARS_MAX).collect();
    format!("{start} ...")
}

/// What an unknown key was likely meant to be: the same name elsewhere, or a name that is much like it.
fn unknown(section: &str, name: &str, value: &DeValue<'_>) -> Wrong {
    if matches!(value, DeValue::Table(_)) {
        let sections = SECTIONS
            .iter()
            .map(|&(section, _)| section)
            .filter(|name| !name.is_empty());
        return near_miss(name, sections).map(|section| format!("did you mean [{section}]?"));
    }
    if let Some(key) = KEYS.iter().find(|key| key.name == name) {
        return Some(match key.section {
            "" => format!("{name:?} belongs to the top of the file, before the first section"),
            section => format!("{name:?} belongs to [{section}]"),
        });
    }
    let own = KEYS
        .iter()
        .filter(|key| key.section == section)
        .map(|key| key.name);
    if let Some(near) = near_miss(name, own) {
        return Some(format!("did you mean {near:?}?"));
    }
    let near = near_miss(name, KEYS.iter().map(|key| key.name))?;
    let key = KEYS.iter().find(|key| key.name == near)?;
    Some(match key.section {
        "" => format!("did you mean {near:?}, at the top of the file?"),
        section => format!("did you mean {near:?} of [{section}]?"),
    })
}
