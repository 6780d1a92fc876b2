//! The layers of ARCHITECTURE.md, checked on the sources: who may import whom, and where `unsafe` may stand.
//!
//! A module is a file or directory right below `src`. What a file imports is every path of it that begins at the crate's
//! root: by `crate`, by enough `super`s, or by the library's name in `main.rs`; in test code too.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// What the modules of one line may import beside the lines above theirs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rule {
    /// One another.
    Together,
    /// Nothing: siblings do not import each other.
    Apart,
    /// These modules and no others, whatever stands above.
    Only(&'static [&'static str]),
}

/// Top to bottom: a file imports from the lines above its own.
const LAYERS: &[(&[&str], Rule)] = &[
    (
        &[
            "time",
            "room",
            "key_index",
            "channel",
            "json",
            "port",
            "domain",
            "wire",
            "pool",
            "slots",
            "token",
            "owner",
            "record",
            "capture",
            "stun",
        ],
        Rule::Together,
    ),
    (&["msg"], Rule::Apart),
    (
        &[
            "timer",
            "transaction",
            "dialog",
            "location",
            "dns",
            "trunk",
            "routing",
            "tap",
        ],
        Rule::Together,
    ),
    (&["registrar", "proxy", "b2bua"], Rule::Apart),
    (&["ims"], Rule::Apart),
    (&["shard"], Rule::Apart),
    (
        &["io"],
        Rule::Only(&["time", "wire", "pool", "token", "owner", "config", "metrics"]),
    ),
    (&["control"], Rule::Apart),
    (
        &["run", "demo", "cli", "ask", "help", "logging", "lib", "main"],
        Rule::Together,
    ),
];

/// All may import these, and they import nothing but what stands here.
const LEAVES: &[(&str, &[&str])] = &[("config", &["wire", "msg"]), ("metrics", &["wire"])];

/// It may import all, and nothing imports it.
const SIMULATOR: &str = "sim";

/// The one module with `unsafe` in it.
const UNSAFE_MODULE: &str = "io";

fn line_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|(modules, _)| modules.contains(&module))
}

/// Why `from` may not import `to`, if it may not.
fn objection(from: &str, to: &str) -> Option<String> {
    let known = |module| {
        line_of(module).is_some() || LEAVES.iter().any(|&(leaf, _)| leaf == module) || module == SIMULATOR
    };
    if let Some(stranger) = [from, to].into_iter().find(|&module| !known(module)) {
        return Some(format!("`{stranger}` has no line in the table of layers"));
    }
    if from == to || from == SIMULATOR {
        return None;
    }
    if to == SIMULATOR {
        return Some("nothing imports the simulator".to_owned());
    }
    if let Some((_, allowed)) = LEAVES.iter().find(|&&(leaf, _)| leaf == from) {
        return (!allowed.contains(&to))
            .then(|| format!("`{from}` is a leaf and may import {allowed:?} only"));
    }
    let from_line = line_of(from)?;
    if let Rule::Only(allowed) = LAYERS[from_line].1 {
        return (!allowed.contains(&to)).then(|| format!("`{from}` may import {allowed:?} only"));
    }
    // A leaf has no line: all may import it.
    let to_line = line_of(to)?;
    if to_line == from_line {
        return (LAYERS[from_line].1 == Rule::Apart)
            .then(|| format!("siblings of `{from}` do not import each other"));
    }
    (to_line > from_line).then(|| format!("`{to}` stands below `{from}`"))
}

/// A token of a source, as much as paths need; comments and literals are gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Token<'a> {
    Word(&'a str),
    /// `::`
    Path,
    Sign(u8),
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    line: usize,
}

impl<'a> Lexer<'a> {
    /// Every token with its line.
    fn tokens(text: &'a str) -> Vec<(Token<'a>, usize)> {
        let mut lexer = Lexer { text, at: 0, line: 1 };
        std::iter::from_fn(|| lexer.next()).collect()
    }

    fn rest(&self) -> &'a [u8] {
        &self.text.as_bytes()[self.at..]
    }

    fn skip(&mut self, n: usize) {
        let passed = &self.rest()[..n.min(self.rest().len())];
        self.line += passed.iter().filter(|&&b| b == b'\n').count();
        self.at += passed.len();
    }

    fn skip_past(&mut self, end: &[u8]) {
        let found = self.rest().windows(end.len()).position(|window| window == end);
        self.skip(found.map_or(self.rest().len(), |at| at + end.len()));
    }

    fn next(&mut self) -> Option<(Token<'a>, usize)> {
        loop {
            let rest = self.rest();
            let first = *rest.first()?;
            if first.is_ascii_whitespace() {
                self.skip(1);
            } else if rest.starts_with(b"//") {
                self.skip_past(b"\n");
            } else if rest.starts_with(b"/*") {
                self.block_comment();
            } else if first == b'"' {
                self.string();
            } else if first == b'\'' {
                self.character_or_lifetime();
            } else if first.is_ascii_alphabetic() || first == b'_' || !first.is_ascii() {
                let word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_' || !b.is_ascii();
                let len = rest.iter().take_while(|b| word(b)).count();
                let text = &self.text[self.at..self.at + len];
                let after = &rest[len..];
                // r"..", r#".."#, br".." end at their own mark; r#name is a name.
                let hashes = after.iter().take_while(|&&b| b == b'#').count();
                if matches!(text, "r" | "br" | "cr") && after.get(hashes) == Some(&b'"') {
                    let end = [&b"\""[..], &after[..hashes]].concat();
                    self.skip(len + hashes + 1);
                    self.skip_past(&end);
                    continue;
                }
                self.skip(len);
                // What stands between quotes after b or c is met next, as any literal.
                return Some((Token::Word(text), self.line));
            } else if rest.starts_with(b"::") {
                self.skip(2);
                return Some((Token::Path, self.line));
            } else {
                self.skip(1);
                return Some((Token::Sign(first), self.line));
            }
        }
    }

    fn block_comment(&mut self) {
        let mut depth = 0;
        loop {
            let rest = self.rest();
            if rest.starts_with(b"/*") {
                depth += 1;
                self.skip(2);
            } else if rest.starts_with(b"*/") {
                depth -= 1;
                self.skip(2);
            } else {
                self.skip(1);
            }
            if depth == 0 || self.rest().is_empty() {
                return;
            }
        }
    }

    fn string(&mut self) {
        self.skip(1);
        while let Some(&b) = self.rest().first() {
            self.skip(if b == b'\\' { 2 } else { 1 });
            if b == b'"' {
                return;
            }
        }
    }

    fn character_or_lifetime(&mut self) {
        let mut chars = self.text[self.at + 1..].chars();
        let (first, second) = (chars.next(), chars.next());
        match (first, second) {
            (Some('\\'), Some(escaped)) => {
                // The escaped character may be a quote itself.
                self.skip(2 + escaped.len_utf8());
                self.skip_past(b"'");
            }
            (Some(c), Some('\'')) => self.skip(2 + c.len_utf8()),
            // A lifetime: its name is met next, as a word.
            _ => self.skip(1),
        }
    }
}

/// What is wrong in one file.
#[derive(PartialEq, Eq, Debug)]
struct Violation {
    line: usize,
    what: String,
}

/// Checks one source. `path` is relative to `src`.
fn check(path: &Path, text: &str) -> Vec<Violation> {
    let mut modules: Vec<&str> = path.iter().filter_map(|part| part.to_str()).collect();
    let last = modules
        .pop()
        .and_then(|file| file.strip_suffix(".rs"))
        .expect("a Rust file");
    if last != "mod" {
        modules.push(last);
    }
    let own = modules[0];
    // `crate` and `super` in these two start at the root already.
    let depth = if matches!(own, "lib" | "main") {
        0
    } else {
        modules.len()
    };
    let tokens = Lexer::tokens(text);
    let word = |at: usize, expected: &str| tokens.get(at).is_some_and(|t| t.0 == Token::Word(expected));
    let mut violations = Vec::new();
    // Depths of braces at which an inline module was opened.
    let mut inline = Vec::new();
    let mut braces = 0;
    for (at, &(token, line)) in tokens.iter().enumerate() {
        let starts_path = at == 0 || tokens[at - 1].0 != Token::Path;
        let mut heads = BTreeSet::new();
        match token {
            Token::Sign(b'{') => {
                braces += 1;
                if at >= 2 && word(at - 2, "mod") {
                    inline.push(braces);
                }
            }
            Token::Sign(b'}') => {
                if inline.last() == Some(&braces) {
                    inline.pop();
                }
                braces -= 1;
            }
            Token::Word("unsafe") if own != UNSAFE_MODULE => {
                let what = format!("`unsafe` stands only in src/{UNSAFE_MODULE}");
                violations.push(Violation { line, what });
            }
            Token::Word("crate") if starts_path => roots(&tokens, at + 1, &mut heads),
            Token::Word("ringway") if starts_path && own == "main" => roots(&tokens, at + 1, &mut heads),
            Token::Word("super") if starts_path => {
                let mut end = at;
                let mut supers = 1;
                while tokens.get(end + 1).is_some_and(|t| t.0 == Token::Path) && word(end + 2, "super") {
                    end += 2;
                    supers += 1;
                }
                if supers >= depth + inline.len() {
                    roots(&tokens, end + 1, &mut heads);
                }
            }
            Token::Word(_) | Token::Path | Token::Sign(_) => {}
        }
        for head in heads {
            if let Some(what) = objection(own, head) {
                violations.push(Violation { line, what });
            }
        }
    }
    violations
}

/// The first names after the crate's root: one, or each of a braced list. `at` is the token after `crate`.
fn roots<'a>(tokens: &[(Token<'a>, usize)], at: usize, heads: &mut BTreeSet<&'a str>) {
    // `pub(crate)` and the like are no path.
    if tokens.get(at).map(|t| t.0) != Some(Token::Path) {
        return;
    }
    match tokens.get(at + 1).map(|t| t.0) {
        // A macro is exported to the root from wherever it stands.
        Some(Token::Word(_)) if tokens.get(at + 2).map(|t| t.0) == Some(Token::Sign(b'!')) => {}
        Some(Token::Word(head)) => _ = heads.insert(head),
        Some(Token::Sign(b'{')) => {
            let mut depth = 0;
            for (i, &(token, _)) in tokens.iter().enumerate().skip(at + 1) {
                match token {
                    Token::Sign(b'{') => depth += 1,
                    Token::Sign(b'}') => depth -= 1,
                    Token::Word(head)
                        if depth == 1 && matches!(tokens[i - 1].0, Token::Sign(b'{') | Token::Sign(b',')) =>
                    {
                        heads.insert(head);
                    }
                    Token::Sign(b'*') if depth == 1 && tokens[i - 1].0 != Token::Path => {
                        _ = heads.insert("*")
                    }
                    Token::Word(_) | Token::Path | Token::Sign(_) => {}
                }
                if depth == 0 {
                    break;
                }
            }
        }
        // Everything of the root at once hides what is meant.
        Some(Token::Sign(b'*')) => _ = heads.insert("*"),
        Some(Token::Path | Token::Sign(_)) | None => {}
    }
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(dir)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_file_imports_only_what_its_layer_may() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 10, "the sources are found");
    let mut told = String::new();
    for file in &files {
        let text = std::fs::read_to_string(file).expect("a source");
        let path = file.strip_prefix(&root).expect("below the root");
        for violation in check(path, &text) {
            writeln!(
                told,
                "src/{}:{}: {}",
                path.display(),
                violation.line,
                violation.what
            )
            .expect("a String takes everything");
        }
    }
    assert!(told.is_empty(), "\n{told}");
}

/// The table as people read it: a row for each line, and the leaves below it.
#[test]
fn the_architecture_has_the_same_table() {
    let text = include_str!("../ARCHITECTURE.md");
    let (_, rest) = text
        .split_once("| layer | what it is |")
        .expect("the table is there");
    let rows = rest.lines().skip(2).take_while(|row| row.starts_with('|'));
    let names = |row: &'static str| -> BTreeSet<&'static str> {
        let cell = row.split('|').nth(1).unwrap_or_default();
        cell.split('`').skip(1).step_by(2).collect()
    };
    let written: Vec<BTreeSet<&str>> = rows.map(names).collect();
    // A crate's root is no module to be told of.
    let checked: Vec<BTreeSet<&str>> = LAYERS
        .iter()
        .map(|(modules, _)| {
            modules
                .iter()
                .copied()
                .filter(|module| *module != "lib")
                .collect()
        })
        .collect();
    assert_eq!(written, checked);
    for (leaf, _) in LEAVES {
        assert!(
            rest.contains(&format!("`{leaf}`")),
            "{leaf} is told of below the table"
        );
    }
}

/// A line for what there is no more would let something else of that name in unseen.
#[test]
fn every_module_of_the_table_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let leaves = LEAVES.iter().map(|(leaf, _)| leaf);
    for module in LAYERS
        .iter()
        .flat_map(|(modules, _)| *modules)
        .chain(leaves)
        .chain([&SIMULATOR])
    {
        let is_there =
            root.join(format!("{module}.rs")).exists() || root.join(module).join("mod.rs").exists();
        assert!(is_there, "there is no module {module}");
    }
}

fn told(path: &str, text: &str) -> Vec<String> {
    check(Path::new(path), text)
        .into_iter()
        .map(|v| format!("{}: {}", v.line, v.what))
        .collect()
}

#[test]
fn a_planted_violation_is_found_however_it_is_written() {
    let below = ["2: `shard` stands below `msg`"];
    for text in [
        "\nuse crate::shard::Shard;",
        "\nuse crate::{pool::Pool, shard};",
        "\nuse crate::{time::{self, Instant}, shard::{Mail}};",
        "\nuse super::super::shard::Shard;",
        "\nfn f(x: crate::shard::Shard) {}",
        "\npub(in crate::shard) fn f() {}",
        "mod a {\nuse super::super::super::shard::Shard; }",
        "mod a { mod b {} }\nuse super::super::shard::Shard;",
        "fn f<'a>(x: &'a str) -> char { '\"' }\nuse crate::shard;",
        "fn f() -> char { '\\'' }\nuse crate::shard;",
        "const A: &str = r#\"\"\"#;\nuse crate::shard;",
        "/* a /* nested */ comment */\nuse crate::shard;",
        "macro_rules! m { () =>\n{ $crate::shard::f() } }",
    ] {
        assert_eq!(told("msg/scan.rs", text), below, "{text}");
    }
    assert_eq!(told("msg/mod.rs", "\nuse super::shard;"), below);
    assert_eq!(told("msg.rs", "\nuse super::shard;"), below);
}

#[test]
fn what_only_looks_like_an_import_is_none() {
    for text in [
        "// use crate::shard::Shard;",
        "/* use crate::shard; */",
        "const A: &str = \"use crate::shard;\";",
        "const A: &str = \"\\\"crate::shard\";",
        "const A: &[u8] = br##\"crate::shard\"# \"##;",
        "pub(crate) fn shard() {}",
        "use super::shard::Shard;",
        "mod tests { use super::super::shard; }",
        "use other::crate::shard;",
        "crate::shard!();",
        "use crate::{pool::{shard, Pool}, msg::shard};",
    ] {
        assert_eq!(told("msg/scan.rs", text), [""; 0], "{text}");
    }
}

#[test]
fn every_rule_of_the_table_objects_to_what_it_forbids() {
    for (from, to) in [
        ("time", "msg"),
        ("msg", "timer"),
        ("proxy", "b2bua"),
        ("b2bua", "registrar"),
        ("registrar", "ims"),
        ("ims", "shard"),
        ("shard", "io"),
        ("io", "shard"),
        ("io", "msg"),
        ("io", "slots"),
        ("io", "run"),
        ("control", "run"),
        ("config", "pool"),
        ("config", "metrics"),
        ("metrics", "pool"),
        ("run", "sim"),
        ("shard", "sim"),
        ("msg", "novel"),
        ("novel", "msg"),
        ("msg", "*"),
    ] {
        assert!(objection(from, to).is_some(), "{from} may not import {to}");
    }
    for (from, to) in [
        ("wire", "pool"),
        ("transaction", "timer"),
        ("ims", "b2bua"),
        ("b2bua", "msg"),
        ("io", "metrics"),
        ("io", "owner"),
        ("config", "wire"),
        ("token", "config"),
        ("main", "cli"),
        ("demo", "run"),
        ("run", "io"),
        ("sim", "run"),
        ("io", "io"),
    ] {
        assert_eq!(objection(from, to), None, "{from} may import {to}");
    }
}

#[test]
fn unsafe_stands_in_one_module() {
    let text =
        "fn f() {\n    unsafe { g() }\n}\n#![forbid(unsafe_code)]\n// unsafe\nconst A: &str = \"unsafe\";";
    assert_eq!(told("pool.rs", text), ["2: `unsafe` stands only in src/io"]);
    assert_eq!(told("io/uring.rs", text), [""; 0]);
}
