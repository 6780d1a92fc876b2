//! Where a rule sends requests, or points to: `to`.

use super::super::value::Wrong;
use super::did_you_mean;
use crate::msg::lex;
use crate::msg::name_addr::NameAddr;
use crate::msg::uri::{Scheme, Uri};

/// Most URIs that one rule may name.
pub const URIS_MAX: usize = 64;

/// Where a rule sends, or points, to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum To {
    /// The file names nothing.
    #[default]
    Nowhere,
    /// The contacts that the request's subscriber has registered.
    Registered,
    /// What the request URI says.
    RequestUri,
    /// A trunk of the file, by its name.
    Trunk(String),
    /// Each a URI, or one in angle brackets with a `q` behind it.
    Uris(Vec<Place>),
}

/// One URI that a rule names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// As the file has it.
    pub text: String,
    pub uri: String,
    /// Preference in thousandths.
    pub q: u16,
    /// Whether the URI has a user part: then it takes the place of the request URI. Without one it only says where the
    /// request is sent.
    pub is_whole: bool,
}

/// What is taken for `to`.
pub const TO: &str = r#""registered", "request-uri", "trunk:NAME", or a URI such as "sip:10.0.0.1:5060" or "<sip:b@10.0.0.1>;q=0.5""#;

impl To {
    pub fn texts(&self) -> Vec<String> {
        match self {
            To::Nowhere => Vec::new(),
            To::Registered => vec!["registered".to_owned()],
            To::RequestUri => vec!["request-uri".to_owned()],
            To::Trunk(name) => vec![format!("trunk:{name}")],
            To::Uris(places) => places.iter().map(|place| place.text.clone()).collect(),
        }
    }

    pub fn push(&mut self, text: &str) -> Result<(), Wrong> {
        let alone = match text {
            "registered" => Some(To::Registered),
            "request-uri" => Some(To::RequestUri),
            _ => text.strip_prefix("trunk:").map(|name| To::Trunk(name.to_owned())),
        };
        match (alone, &mut *self) {
            (Some(to), To::Nowhere) => *self = to,
            (None, To::Nowhere) => *self = To::Uris(vec![Place::parse(text)?]),
            (None, To::Uris(places)) if places.len() < URIS_MAX => places.push(Place::parse(text)?),
            (None, To::Uris(_)) => return Err(Some(format!("{URIS_MAX} URIs are the most"))),
            (Some(_), To::Registered | To::RequestUri | To::Trunk(_) | To::Uris(_))
            | (None, To::Registered | To::RequestUri | To::Trunk(_)) => {
                return Err(Some("only URIs may stand beside one another".to_owned()));
            }
        }
        Ok(())
    }
}

impl Place {
    fn parse(text: &str) -> Result<Place, Wrong> {
        let hint = || did_you_mean(text, &["registered", "request-uri"]);
        // Without brackets what follows a semicolon is the URI's own here, as nowhere else is there a header to belong to.
        let (uri, q) = if text.contains('<') {
            let address = NameAddr::parse(text.as_bytes()).map_err(|_| hint())?;
            let q = match address.param(b"q") {
                None => 1_000,
                Some(q) => lex::qvalue(q).ok_or(Some("q is a number from 0 to 1".to_owned()))?,
            };
            (String::from_utf8_lossy(address.uri).into_owned(), q)
        } else {
            (text.to_owned(), 1_000)
        };
        let parsed = Uri::parse(uri.as_bytes()).map_err(|_| hint())?;
        match parsed.scheme {
            Scheme::Sip => {}
            Scheme::Sips | Scheme::Tel | Scheme::Other => {
                return Err(Some("it must be a sip: URI".to_owned()));
            }
        }
        if !parsed.headers.is_empty() {
            return Err(Some("headers of a URI are not sent on".to_owned()));
        }
        let is_whole = parsed.user.is_some();
        Ok(Place {
            text: text.to_owned(),
            uri,
            q,
            is_whole,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_uris_alone_or_together() {
        let mut to = To::default();
        for text in ["sip:10.0.0.1:5060;transport=tcp", "<sip:b@10.0.0.2>;q=0.3"] {
            to.push(text).expect(text);
        }
        let To::Uris(places) = &to else { panic!("{to:?}") };
        let flat: Vec<_> = places.iter().map(|p| (p.uri.as_str(), p.q, p.is_whole)).collect();
        assert_eq!(
            flat,
            [
                ("sip:10.0.0.1:5060;transport=tcp", 1_000, false),
                ("sip:b@10.0.0.2", 300, true)
            ]
        );
        assert!(to.push("registered").is_err());
        for (text, hint) in [
            ("tel:+49", Some("it must be a sip: URI")),
            ("registred", Some("did you mean \"registered\"?")),
            ("<sip:a@b>;q=2", Some("q is a number from 0 to 1")),
            ("sip:a@b?subject=x", Some("headers of a URI are not sent on")),
        ] {
            assert_eq!(To::default().push(text), Err(hint.map(str::to_owned)), "{text}");
        }
    }
}
