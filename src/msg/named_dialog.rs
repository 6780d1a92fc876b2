//! A dialog that a request speaks of without belonging to it: Replaces (RFC 3891), Join (RFC 3911), Target-Dialog (RFC 4538).

use super::name::Name;
use super::params;
use super::scan::Message;

/// The names of a dialog, as whoever the request is for knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NamedDialog<'a> {
    pub call_id: &'a [u8],
    /// The tag of whoever the request is for.
    pub local_tag: &'a [u8],
    pub remote_tag: &'a [u8],
}

/// The headers that name a dialog, each with its parameters for the local and the remote tag.
const HEADERS: [(Name, &[u8], &[u8]); 3] = [
    (Name::Replaces, b"to-tag", b"from-tag"),
    (Name::Join, b"to-tag", b"from-tag"),
    (Name::TargetDialog, b"local-tag", b"remote-tag"),
];

impl<'a> NamedDialog<'a> {
    /// The value of a header called `name`. `None`: it is no such header, or it breaks the grammar.
    pub fn parse(name: Name, value: &'a [u8]) -> Option<NamedDialog<'a>> {
        let (_, local, remote) = HEADERS.iter().find(|(header, _, _)| *header == name)?;
        let (call_id, list) = params::split(value);
        let mut params = params::Params::new(list);
        let (mut local_tag, mut remote_tag) = (None, None);
        while !list.is_empty()
            && let Some(param) = params.step().ok()?
        {
            let tag = if param.is(local) {
                &mut local_tag
            } else if param.is(remote) {
                &mut remote_tag
            } else {
                continue;
            };
            // RFC 3891 §6.1: exactly one of each.
            if tag.replace(param.value?).is_some() {
                return None;
            }
        }
        let is_word = |text: &[u8]| !text.is_empty() && !text.iter().any(|byte| byte.is_ascii_whitespace());
        let names = NamedDialog {
            call_id,
            local_tag: local_tag?,
            remote_tag: remote_tag?,
        };
        [names.call_id, names.local_tag, names.remote_tag]
            .into_iter()
            .all(is_word)
            .then_some(names)
    }

    /// Bytes of [`NamedDialog::put_text`].
    pub fn text_len(&self) -> usize {
        self.call_id.len() + self.local_tag.len() + self.remote_tag.len() + 2
    }

    /// Writes the names as one text, for another shard, into `dst`, which is as long as it.
    pub fn put_text(&self, dst: &mut [u8]) {
        let text = [self.call_id, b" ", self.local_tag, b" ", self.remote_tag];
        for (byte, from) in dst.iter_mut().zip(text.into_iter().flatten()) {
            *byte = *from;
        }
    }

    /// Reads what [`NamedDialog::put_text`] wrote.
    pub fn from_text(text: &'a [u8]) -> Option<NamedDialog<'a>> {
        let mut words = text.split(|byte| *byte == b' ');
        Some(NamedDialog {
            call_id: words.next()?,
            local_tag: words.next()?,
            remote_tag: words.next()?,
        })
    }

    /// The dialog that the first Replaces or Join of a message names. `Err`: the header, where it breaks the grammar, or where
    /// there are several (RFC 3891 §3, RFC 3911 §4: 400).
    pub fn to_act_on(msg: &Message<'a>) -> Result<Option<NamedDialog<'a>>, Name> {
        let mut lines = msg.lines_of(Name::Replaces).chain(msg.lines_of(Name::Join));
        let Some(line) = lines.next() else { return Ok(None) };
        if let Some(second) = lines.next() {
            return Err(second.name);
        }
        match NamedDialog::parse(line.name, line.value.of(msg.bytes)) {
            Some(names) => Ok(Some(names)),
            None => Err(line.name),
        }
    }

    /// The dialog that a Target-Dialog names. One that can't be read is ignored (RFC 4538 §4).
    pub fn to_prove(msg: &Message<'a>) -> Option<NamedDialog<'a>> {
        let line = msg.line(Name::TargetDialog)?;
        NamedDialog::parse(line.name, line.value.of(msg.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_found_in_any_order_and_other_parameters_do_no_harm() {
        let names = NamedDialog {
            call_id: b"12adf2f34456gs5@x",
            local_tag: b"12345",
            remote_tag: b"54321",
        };
        for (name, value) in [
            (
                Name::Replaces,
                &b"12adf2f34456gs5@x;to-tag=12345;from-tag=54321;early-only"[..],
            ),
            (
                Name::Replaces,
                b"12adf2f34456gs5@x ; From-Tag = 54321;x=\"a;to-tag=1\"; TO-TAG=12345",
            ),
            (Name::Join, b"12adf2f34456gs5@x;to-tag=12345;from-tag=54321"),
            (
                Name::TargetDialog,
                b"12adf2f34456gs5@x;local-tag=12345\r\n ;remote-tag=54321",
            ),
        ] {
            assert_eq!(
                NamedDialog::parse(name, value),
                Some(names),
                "{}",
                value.escape_ascii()
            );
        }
    }

    #[test]
    fn what_lacks_a_tag_or_has_one_twice_names_no_dialog() {
        for value in [
            &b""[..],
            b"x",
            b"x;to-tag=1",
            b"x;from-tag=1",
            b";to-tag=1;from-tag=2",
            b"x;to-tag;from-tag=2",
            b"x;to-tag=;from-tag=2",
            b"x;to-tag=1;from-tag=2;to-tag=3",
            b"x y;to-tag=1;from-tag=2",
            b"x;to-tag=1;;from-tag=2",
            b"x;local-tag=1;remote-tag=2",
        ] {
            assert_eq!(
                NamedDialog::parse(Name::Replaces, value),
                None,
                "{}",
                value.escape_ascii()
            );
        }
        assert_eq!(NamedDialog::parse(Name::To, b"x;to-tag=1;from-tag=2"), None);
    }
}
