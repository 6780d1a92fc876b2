//! The slow twin of `scan`: the same rules, written down as plainly as possible, a byte and a line at a time.

use ringway::msg::Span;
use ringway::msg::error::ErrorKind;
use ringway::msg::method::Method;
use ringway::msg::name::Name;
use ringway::msg::scan::{LINES_MAX, Message, Start, Table, scan};

#[derive(PartialEq, Debug)]
enum FirstLine {
    Request(Method, Vec<u8>, Vec<u8>),
    Response(u16, Vec<u8>),
    Unreadable,
}

#[derive(PartialEq, Debug)]
struct Field {
    name: Name,
    name_text: Vec<u8>,
    value: Vec<u8>,
    /// First byte, and one past the last, of the line with its folds and line end.
    place: (usize, usize),
}

struct Twin {
    first_line: FirstLine,
    fields: Vec<Field>,
    body: (usize, usize),
    /// The place counts only behind the first line: within it `scan` may point where it likes.
    error: Option<(ErrorKind, usize)>,
}

/// A line on the wire: where it begins, where its content ends, where the next begins.
struct Physical {
    start: usize,
    content_end: usize,
    next: usize,
}

fn next_physical(bytes: &[u8], start: usize) -> Option<Physical> {
    for at in start..bytes.len() {
        if bytes[at] == b'\n' {
            let crlf = at > start && bytes[at - 1] == b'\r';
            return Some(Physical {
                start,
                content_end: if crlf { at - 1 } else { at },
                next: at + 1,
            });
        }
    }
    None
}

fn first_bare_cr(bytes: &[u8], line: &Physical) -> Option<usize> {
    (line.start..line.content_end).find(|&at| bytes[at] == b'\r')
}

fn is_token(text: &[u8]) -> bool {
    let of_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(byte);
    !text.is_empty() && text.iter().all(of_token)
}

fn trimmed(mut text: &[u8], blanks: &[u8]) -> Vec<u8> {
    while text.first().is_some_and(|byte| blanks.contains(byte)) {
        text = &text[1..];
    }
    while text.last().is_some_and(|byte| blanks.contains(byte)) {
        text = &text[..text.len() - 1];
    }
    text.to_vec()
}

fn slow_name(text: &[u8]) -> Name {
    for name in Name::ALL {
        if name == Name::Other {
            continue;
        }
        let is_letter = text.len() == 1 && name.compact() == Some(text[0].to_ascii_lowercase());
        if is_letter || name.text().as_bytes().eq_ignore_ascii_case(text) {
            return name;
        }
    }
    Name::Other
}

fn is_sip_word(word: &[u8]) -> bool {
    word.len() >= 4 && word[..4].eq_ignore_ascii_case(b"SIP/")
}

/// `Some(true)` for 2.0, `Some(false)` for another version.
fn version(word: &[u8]) -> Option<bool> {
    if !is_sip_word(word) {
        return None;
    }
    let text = String::from_utf8_lossy(&word[4..]).into_owned();
    let (major, minor) = text.split_once('.')?;
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    (digits(major) && digits(minor)).then_some(text == "2.0")
}

fn first_line(line: &[u8]) -> (FirstLine, Option<ErrorKind>) {
    let words: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
    let unreadable = |kind| (FirstLine::Unreadable, Some(kind));
    if is_sip_word(line) {
        match version(words[0]) {
            Some(true) => {}
            Some(false) => return unreadable(ErrorKind::Version),
            None => return unreadable(ErrorKind::StartLine),
        }
        let code = words.get(1).copied().unwrap_or_default();
        if code.len() != 3 || !code.iter().all(u8::is_ascii_digit) || !(b'1'..=b'6').contains(&code[0]) {
            return unreadable(ErrorKind::StartLine);
        }
        let status = code
            .iter()
            .fold(0, |status, digit| status * 10 + u16::from(digit - b'0'));
        let reason = words[2..].join(&b' ');
        if reason.contains(&b'\r') {
            return (FirstLine::Response(status, reason), Some(ErrorKind::StartLine));
        }
        return (FirstLine::Response(status, reason), None);
    }
    let malformed = || {
        if words[1..].iter().any(|word| is_sip_word(word)) {
            unreadable(ErrorKind::StartLine)
        } else {
            unreadable(ErrorKind::NotSip)
        }
    };
    let [method, uri, last] = words[..] else {
        return malformed();
    };
    if !is_token(method) || uri.is_empty() || !uri.iter().all(u8::is_ascii_graphic) {
        return malformed();
    }
    let known = Method::KNOWN
        .into_iter()
        .find(|known| known.text().as_bytes() == method);
    let request = FirstLine::Request(known.unwrap_or(Method::Other), method.to_vec(), uri.to_vec());
    match version(last) {
        Some(true) => (request, None),
        Some(false) => (request, Some(ErrorKind::Version)),
        None => malformed(),
    }
}

fn read(bytes: &[u8]) -> Twin {
    let mut twin = Twin {
        first_line: FirstLine::Unreadable,
        fields: Vec::new(),
        body: (0, 0),
        error: None,
    };
    let mut errors: Vec<(usize, ErrorKind)> = Vec::new();
    let mut at = 0;
    while at < bytes.len() && (bytes[at] == b'\r' || bytes[at] == b'\n') {
        at += 1;
    }
    let Some(line) = next_physical(bytes, at) else {
        twin.error = Some((ErrorKind::NotSip, at));
        return twin;
    };
    let (read, first_error) = first_line(&bytes[line.start..line.content_end]);
    twin.first_line = read;
    at = line.next;

    // Header fields: each is its line and those that begin with a blank behind it.
    // Nothing is there yet that the first of them could continue, whole or not.
    if at < bytes.len() && b" \t".contains(&bytes[at]) {
        errors.push((at, ErrorKind::HeaderLine));
    }
    let mut head_end = None;
    'fields: while let Some(line) = next_physical(bytes, at) {
        if line.content_end == line.start {
            head_end = Some(line.next);
            break;
        }
        let mut content_end = line.content_end;
        let mut next = line.next;
        if let Some(cr) = first_bare_cr(bytes, &line) {
            errors.push((cr, ErrorKind::HeaderLine));
        }
        while next < bytes.len() && b" \t".contains(&bytes[next]) {
            let Some(fold) = next_physical(bytes, next) else {
                break 'fields;
            };
            if let Some(cr) = first_bare_cr(bytes, &fold) {
                errors.push((cr, ErrorKind::HeaderLine));
            }
            content_end = fold.content_end;
            next = fold.next;
        }
        let colon = (line.start..line.content_end).find(|&at| bytes[at] == b':');
        let field = colon.and_then(|colon| {
            let mut name_end = colon;
            while name_end > line.start && b" \t".contains(&bytes[name_end - 1]) {
                name_end -= 1;
            }
            let name_text = bytes[line.start..name_end].to_vec();
            is_token(&name_text).then(|| Field {
                name: slow_name(&name_text),
                name_text,
                value: trimmed(&bytes[colon + 1..content_end], b" \t\r\n"),
                place: (line.start, next),
            })
        });
        match field {
            Some(field) if twin.fields.len() < LINES_MAX => twin.fields.push(field),
            Some(_) => errors.push((at, ErrorKind::TooManyHeaders)),
            None => errors.push((at, ErrorKind::HeaderLine)),
        }
        at = next;
    }
    if head_end.is_none() {
        errors.push((bytes.len(), ErrorKind::HeadUnterminated));
        // What is left of the last line may hold a CR that already is wrong: one that something other than LF follows.
        for cr in at..bytes.len() {
            if bytes[cr] == b'\r' && cr + 1 < bytes.len() && bytes[cr + 1] != b'\n' {
                errors.push((cr, ErrorKind::HeaderLine));
                break;
            }
        }
    }
    let head_end = head_end.unwrap_or(bytes.len());
    twin.body = (head_end, bytes.len());

    let mut lengths = Vec::new();
    for field in &twin.fields {
        if field.name != Name::ContentLength {
            continue;
        }
        let value_start = field_value_start(bytes, field);
        let text = String::from_utf8_lossy(&field.value).into_owned();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            errors.push((value_start, ErrorKind::BadContentLength));
            lengths.clear();
            break;
        }
        let significant = text.trim_start_matches('0');
        let length = match significant {
            "" => 0,
            digits if digits.len() > 10 => u64::from(u32::MAX),
            digits => digits.parse::<u64>().expect("digits").min(u64::from(u32::MAX)),
        };
        if lengths.first().is_some_and(|first| *first != length) {
            errors.push((value_start, ErrorKind::ContentLengthMismatch));
            lengths.clear();
            break;
        }
        lengths.push(length);
    }
    if let Some(length) = lengths.first() {
        if *length > (bytes.len() - head_end) as u64 {
            errors.push((head_end, ErrorKind::BodyTruncated));
        } else {
            twin.body.1 = head_end + *length as usize;
        }
    }
    errors.sort_by_key(|(at, _)| *at);
    twin.error = match first_error {
        Some(kind) => Some((kind, 0)),
        None => errors.first().map(|(at, kind)| (*kind, *at)),
    };
    twin
}

/// Where the value begins: behind the colon and the blanks. An empty one begins where its line's content ends.
fn field_value_start(bytes: &[u8], field: &Field) -> usize {
    let (start, end) = field.place;
    let colon = (start..end)
        .find(|&at| bytes[at] == b':')
        .expect("a field has a colon");
    let mut content_end = end - 1;
    if bytes[content_end - 1] == b'\r' {
        content_end -= 1;
    }
    (colon + 1..content_end)
        .find(|&at| !b" \t\r\n".contains(&bytes[at]))
        .unwrap_or(content_end)
}

pub fn check(bytes: &[u8], table: &mut Table) {
    let twin = read(bytes);
    let result = scan(bytes, table);
    let msg = Message::new(bytes, table);
    let of = |span: Span| span.of(bytes).to_vec();
    let first_line = match msg.start() {
        Start::Request {
            method,
            method_span,
            uri,
        } => FirstLine::Request(method, of(method_span), of(uri)),
        Start::Response { status, reason } => FirstLine::Response(status, of(reason)),
        Start::Unreadable => FirstLine::Unreadable,
    };
    assert_eq!(first_line, twin.first_line);
    let fields: Vec<Field> = msg
        .lines()
        .iter()
        .map(|line| Field {
            name: line.name,
            name_text: msg.name_bytes(line).to_vec(),
            value: msg.value_of(line).to_vec(),
            place: (line.start as usize, line.end as usize),
        })
        .collect();
    assert_eq!(fields, twin.fields);
    assert_eq!((msg.head_end() as usize, msg.len()), twin.body);
    match (result, twin.error) {
        (Ok(()), None) => {}
        (Err(error), Some((kind, at))) => {
            assert_eq!(error.kind, kind, "{error}");
            let in_first_line = matches!(
                kind,
                ErrorKind::NotSip | ErrorKind::StartLine | ErrorKind::Version
            );
            assert!(in_first_line || error.at as usize == at, "{error}, not {at}");
        }
        (result, error) => panic!("{result:?}, not {error:?}"),
    }
    for name in Name::ALL {
        let places: Vec<usize> = msg.lines_of(name).map(|line| line.start as usize).collect();
        let slow: Vec<usize> = twin
            .fields
            .iter()
            .filter(|field| field.name == name)
            .map(|field| field.place.0)
            .collect();
        assert_eq!(places, slow, "{}", name.text());
        assert_eq!(
            msg.line(name).map(|line| line.start as usize),
            slow.first().copied()
        );
    }
}
