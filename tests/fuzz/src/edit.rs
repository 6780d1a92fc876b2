//! Edits against a model that marks every byte of the source.

use ringway::msg::Span;
use ringway::msg::edit::Edits;

struct Change {
    span: Span,
    text: Vec<u8>,
}

/// What the edits should give: `None` where they contradict each other or the source.
fn model(source: &[u8], changes: &[Change]) -> Option<Vec<u8>> {
    let mut removed_by: Vec<Option<usize>> = vec![None; source.len()];
    for (index, change) in changes.iter().enumerate() {
        let (start, end) = (change.span.start as usize, change.span.end as usize);
        if start > end || end > source.len() {
            return None;
        }
        for mark in &mut removed_by[start..end] {
            if mark.replace(index).is_some() {
                return None;
            }
        }
    }
    let mut out = Vec::new();
    for at in 0..=source.len() {
        let remover = removed_by.get(at).copied().flatten();
        let inside = remover.is_some() && at > 0 && removed_by[at - 1] == remover;
        for change in changes {
            if change.span.is_empty() && change.span.start as usize == at {
                if inside {
                    return None;
                }
                out.extend_from_slice(&change.text);
            }
        }
        match remover {
            Some(index) if !inside => out.extend_from_slice(&changes[index].text),
            Some(_) => {}
            None => out.extend(source.get(at)),
        }
    }
    Some(out)
}

/// The first byte says how many edits follow, each of four bytes: kind and start, length, and two for its text.
pub fn check(data: &[u8], edits: &mut Edits, out: &mut [u8]) {
    let Some((&count, rest)) = data.split_first() else {
        return;
    };
    let count = usize::from(count % 24);
    let Some((codes, source)) = rest.split_at_checked(count * 4) else {
        return;
    };
    let mut changes = Vec::new();
    edits.clear();
    for code in codes.as_chunks::<4>().0 {
        let [start, len, text_len, letter] = *code;
        // Some lie beyond the source.
        let start = u32::from(start & 0x7f) * (source.len() as u32 + 2) / 128;
        let span = Span::new(start, start + u32::from(len & 0x1f));
        let text = vec![letter; usize::from(text_len & 0x0f)];
        if start & 1 == 0 && text.is_empty() {
            edits.delete(span);
            if span.is_empty() {
                continue;
            }
        } else if span.is_empty() {
            edits.insert(start).put(&text);
        } else {
            edits
                .replace(span)
                .put(&text[..text.len() / 2])
                .put(&text[text.len() / 2..]);
        }
        changes.push(Change { span, text });
    }
    let expected = model(source, &changes);
    let len = edits.apply(source, out);
    assert_eq!(len.ok().map(|len| out[..len].to_vec()), expected);
    if let Some(expected) = expected {
        let mut exact = vec![0; expected.len()];
        assert_eq!(edits.apply(source, &mut exact), Ok(expected.len()));
        if let Some((_, short)) = exact.split_last_mut() {
            assert!(edits.apply(source, short).is_err());
        }
    }
}
