//! The canonical name of a subscriber: RFC 3261 §10.3 step 5 for `sip:` and `sips:`, RFC 3966 for numbers.
//!
//! What differs in spelling only is one subscriber: `tel:13800011103;phone-context=one.att.net`,
//! `sip:13800011103@one.att.net`, `sip:1380-001-1103;phone-context=one.att.net@ONE.att.net.;user=phone` and
//! `sips:%31%33800011103@one.att.net:5061` all give `13800011103` at `one.att.net`. A name lives on the stack.

use std::fmt;
use std::net::IpAddr;

use ahash::RandomState;

use crate::config::Config;
use crate::key_index::Key;
use crate::msg::build::Writer;
use crate::msg::lex;
use crate::msg::params;
use crate::msg::uri::{Scheme, Uri, same_host, tel_digits, unescaped};
use crate::wire::ShardId;

/// Longest canonical name: user part and domain together, bytes.
pub const AOR_BYTES_MAX: usize = 128;

/// An address-of-record in canonical form: the user part without escapes, visual separators or parameters, and the domain
/// as configured. The domain is empty when every domain is taken for ours, and the user part alone then names the
/// subscriber.
#[derive(Clone, Copy)]
pub struct Aor {
    bytes: [u8; AOR_BYTES_MAX],
    user_len: u8,
    len: u8,
}

/// Why a URI names no subscriber of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AorError {
    /// The domain is neither configured nor an address that we listen on.
    ForeignDomain,
    /// Neither `sip:`, `sips:` nor `tel:`.
    UnsupportedScheme,
    /// A `sip:` URI of a host alone.
    NoUser,
    /// More than [`AOR_BYTES_MAX`] bytes.
    TooLong,
    /// A `tel:` URI whose number is none (RFC 3966 §3).
    BadNumber,
    /// A GRUU that we did not make, or for nobody (RFC 5627 §6.1).
    BadGruu,
}

impl AorError {
    /// What answers a request that is addressed so.
    pub const fn status(self) -> u16 {
        match self {
            AorError::ForeignDomain | AorError::NoUser | AorError::BadGruu => 404,
            AorError::UnsupportedScheme => 416,
            AorError::TooLong => 414,
            AorError::BadNumber => 400,
        }
    }

    pub const fn reason(self) -> &'static str {
        match self {
            AorError::ForeignDomain => "Domain Not Served Here",
            AorError::UnsupportedScheme => "Unsupported URI Scheme",
            AorError::NoUser => "No User In URI",
            AorError::TooLong => "User And Domain Too Long",
            AorError::BadNumber => "Malformed Telephone Number",
            AorError::BadGruu => "No Such GRUU",
        }
    }
}

/// The canonical name that a URI gives.
enum Name<'a> {
    /// User part and domain as they stand in the URI and in the configuration: nearly all do.
    AsTheyStand(&'a [u8], &'a [u8]),
    Written(Aor),
}

impl<'a> Name<'a> {
    fn of(uri: &Uri<'a>, cfg: &'a Config) -> Result<Name<'a>, AorError> {
        match uri.scheme {
            Scheme::Sip | Scheme::Sips => Name::of_sip(uri, cfg),
            Scheme::Tel => Name::of_tel(uri, cfg),
            Scheme::Other => Err(AorError::UnsupportedScheme),
        }
    }

    fn of_sip(uri: &Uri<'a>, cfg: &'a Config) -> Result<Name<'a>, AorError> {
        let domain = served_domain(uri.host, cfg).ok_or(AorError::ForeignDomain)?;
        // Digits alone are a number however they are looked at, without escapes and parameters.
        if let Some(number) = uri.user
            && !number.is_empty()
            && lex::digits_len(number) == number.len()
        {
            return Name::as_they_stand(number, domain);
        }
        // §10.3 step 5: escaped characters are converted to their unescaped form.
        let mut user = Bounded::default();
        user.extend(unescaped(uri.user.unwrap_or_default()))?;
        if user.bytes().is_empty() {
            return Err(AorError::NoUser);
        }
        let (number, number_params) = params::split(user.bytes());
        let context = params::find(number_params, b"phone-context");
        // RFC 3261 §19.1.1: `user=phone` tells a telephone number from a name that looks like one. Phones leave it out, so
        // what reads as a number is one; parameters belong to a number only where something says so.
        let says_phone = uri
            .param(b"user")
            .is_some_and(|user| user.eq_ignore_ascii_case(b"phone"));
        if !is_number(number, false) || !(number_params.is_empty() || context.is_some() || says_phone) {
            return Aor::join(user.bytes().iter().copied(), domain).map(Name::Written);
        }
        let named = match context {
            Some(prefix) if prefix.first() == Some(&b'+') => Aor::from_number(number, prefix, domain),
            // A context that is another domain of ours says whose numbering plan the number is of (RFC 3966 §5.1.5).
            Some(context) => Aor::from_number(number, b"", configured_domain(context, cfg).unwrap_or(domain)),
            None => Aor::from_number(number, b"", domain),
        };
        named.map(Name::Written)
    }

    fn of_tel(uri: &Uri<'a>, cfg: &'a Config) -> Result<Name<'a>, AorError> {
        let number = uri.user.unwrap_or_default();
        let is_digits = !number.is_empty() && lex::digits_len(number) == number.len();
        if !is_digits && !is_number(number, true) {
            return Err(AorError::BadNumber);
        }
        let first_domain = cfg.domains.first().map_or(&b""[..], |domain| domain.as_bytes());
        let (prefix, domain): (&[u8], _) = match uri.param(b"phone-context") {
            // RFC 3966 §5.1.4: a global number is whole by itself.
            _ if number.first() == Some(&b'+') => (b"", first_domain),
            Some(prefix) if prefix.first() == Some(&b'+') => (prefix, first_domain),
            Some(context) => (b"", served_domain(context, cfg).ok_or(AorError::ForeignDomain)?),
            // RFC 3966 §3 wants a context with every local number; who leaves it out means our own plan.
            None => (b"", first_domain),
        };
        if is_digits && prefix.is_empty() {
            return Name::as_they_stand(number, domain);
        }
        Aor::from_number(number, prefix, domain).map(Name::Written)
    }

    fn as_they_stand(user: &'a [u8], domain: &'a [u8]) -> Result<Name<'a>, AorError> {
        if user.len() + domain.len() > AOR_BYTES_MAX {
            return Err(AorError::TooLong);
        }
        Ok(Name::AsTheyStand(user, domain))
    }
}

impl Aor {
    /// The subscriber that `uri` names.
    pub fn from_uri(uri: &Uri<'_>, cfg: &Config) -> Result<Aor, AorError> {
        match Name::of(uri, cfg)? {
            Name::AsTheyStand(user, domain) => Ok(Aor::of_slices(user, domain)),
            Name::Written(aor) => Ok(aor),
        }
    }

    /// `prefix` is the global number that a local number's context is, or empty.
    fn from_number(number: &[u8], prefix: &[u8], domain: &[u8]) -> Result<Aor, AorError> {
        let prefix = match number.first() {
            Some(b'+') => b"",
            Some(_) | None => prefix,
        };
        if !prefix.is_empty() && !is_number(prefix, true) {
            return Err(AorError::BadNumber);
        }
        Aor::join(tel_digits(prefix).chain(tel_digits(number)), domain)
    }

    /// Of [`Name::as_they_stand`].
    fn of_slices(user: &[u8], domain: &[u8]) -> Aor {
        let len = user.len() + domain.len();
        let mut bytes = [0; AOR_BYTES_MAX];
        bytes[..user.len()].copy_from_slice(user);
        bytes[user.len()..len].copy_from_slice(domain);
        Aor {
            bytes,
            user_len: user.len() as u8,
            len: len as u8,
        }
    }

    fn join(user: impl Iterator<Item = u8>, domain: &[u8]) -> Result<Aor, AorError> {
        let mut name = Bounded::default();
        name.extend(user)?;
        let user_len = name.len;
        name.extend(domain.iter().copied())?;
        Ok(Aor {
            bytes: name.bytes,
            user_len: user_len as u8,
            len: name.len as u8,
        })
    }

    pub fn user(&self) -> &[u8] {
        &self.bytes[..usize::from(self.user_len)]
    }

    /// In lower case as configured; empty when every domain is ours.
    pub fn domain(&self) -> &[u8] {
        &self.bytes[usize::from(self.user_len)..usize::from(self.len)]
    }

    /// Writes `sip:user@host`, the user part escaped as RFC 3261 §25.1 wants it.
    pub fn put_uri(&self, host: &[u8], w: &mut Writer<'_>) {
        w.put(b"sip:");
        for &byte in self.user() {
            if byte.is_ascii_alphanumeric() || USER_UNESCAPED.contains(&byte) {
                w.put(&[byte]);
            } else {
                let hex = |digit: u8| b"0123456789ABCDEF"[usize::from(digit & 15)];
                w.put(&[b'%', hex(byte >> 4), hex(byte)]);
            }
        }
        w.put(b"@").put(host);
    }
}

impl PartialEq for Aor {
    fn eq(&self, other: &Aor) -> bool {
        (self.user(), self.domain()) == (other.user(), other.domain())
    }
}

impl Eq for Aor {}

impl fmt::Debug for Aor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}@{}",
            self.user().escape_ascii(),
            self.domain().escape_ascii()
        )
    }
}

/// RFC 3966 §3.
const VISUAL_SEPARATORS: &[u8] = b"-.()";
/// RFC 3261 §25.1: `mark` of `unreserved`, and `user-unreserved`.
const USER_UNESCAPED: &[u8] = b"-_.!~*'()&=+$,;?/";

/// Whether `text` reads as a telephone number: `+` and digits, or a local one of phone digits; separators anywhere. Letters
/// are hexadecimal digits in a `tel:` URI (RFC 3966 §3 `phonedigit-hex`) and part of a name elsewhere.
fn is_number(text: &[u8], is_tel: bool) -> bool {
    let (digits, is_global) = match text {
        [b'+', digits @ ..] => (digits, true),
        _ => (text, false),
    };
    if !digits.is_empty() && lex::digits_len(digits) == digits.len() {
        return true;
    }
    let is_digit = |byte: u8| {
        byte.is_ascii_digit()
            || !is_global && (matches!(byte, b'*' | b'#') || is_tel && byte.is_ascii_hexdigit())
    };
    digits.iter().any(|&byte| is_digit(byte))
        && digits
            .iter()
            .all(|&byte| is_digit(byte) || VISUAL_SEPARATORS.contains(&byte))
}

/// The domain of ours that `host` stands for, as configured: by its name, or by an address that we listen on, which stands
/// for the first domain. Empty when every domain is ours, `None` when it is another's.
pub fn served_domain<'c>(host: &[u8], cfg: &'c Config) -> Option<&'c [u8]> {
    let Some(first) = cfg.domains.first() else {
        return Some(b"");
    };
    configured_domain(host, cfg).or_else(|| is_listener(host, cfg).then_some(first.as_bytes()))
}

fn configured_domain<'c>(host: &[u8], cfg: &'c Config) -> Option<&'c [u8]> {
    let host = host.strip_suffix(b".").unwrap_or(host);
    cfg.domains
        .iter()
        .map(|domain| domain.as_bytes())
        .find(|domain| *domain == host || same_host(domain, host))
}

fn is_listener(host: &[u8], cfg: &Config) -> bool {
    let ip: Option<IpAddr> = lex::host_ip(host);
    cfg.listeners.iter().filter(|own| own.is_ours()).any(|listener| {
        let advertised = listener.advertised.as_bytes();
        let advertised_host = &advertised[..lex::host_len(advertised)];
        host.eq_ignore_ascii_case(advertised_host)
            || ip.is_some_and(|ip| {
                cfg.is_address_of(listener, ip) || lex::host_ip(advertised_host) == Some(ip)
            })
    })
}

/// At most [`AOR_BYTES_MAX`] bytes.
struct Bounded {
    bytes: [u8; AOR_BYTES_MAX],
    len: usize,
}

impl Default for Bounded {
    fn default() -> Bounded {
        Bounded {
            bytes: [0; AOR_BYTES_MAX],
            len: 0,
        }
    }
}

impl Bounded {
    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn extend(&mut self, bytes: impl Iterator<Item = u8>) -> Result<(), AorError> {
        for byte in bytes {
            *self.bytes.get_mut(self.len).ok_or(AorError::TooLong)? = byte;
            self.len += 1;
        }
        Ok(())
    }
}

/// Stands for an [`Aor`] in tables: 128 bits of ahash under keys of this process. Two subscribers of one system share a key
/// with a chance below 2^-64, and who doesn't know the keys can't make two that do, so a table need not keep the names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AorKey {
    low: u64,
    high: u64,
}

impl AorKey {
    /// The shard that the subscriber lives in. It uses the half of the key that tables don't, so that the subscribers of
    /// one shard still spread over its tables.
    pub fn shard(self, shards: usize) -> ShardId {
        let scaled = (u128::from(self.high) * shards as u128) >> 64;
        ShardId(scaled as u8)
    }
}

impl AorKey {
    pub fn to_bytes(self) -> [u8; 16] {
        (u128::from(self.low) << 64 | u128::from(self.high)).to_be_bytes()
    }

    pub fn from_bytes(bytes: [u8; 16]) -> AorKey {
        let key = u128::from_be_bytes(bytes);
        AorKey {
            low: (key >> 64) as u64,
            high: key as u64,
        }
    }
}

/// A subscriber's key in a [`KeyIndex`](crate::key_index::KeyIndex).
impl From<AorKey> for Key {
    fn from(AorKey { low, high }: AorKey) -> Key {
        Key(low, high)
    }
}

/// Makes [`AorKey`]s. All shards of a process share one, for they must agree on where a subscriber lives.
#[derive(Clone)]
pub struct AorHasher {
    low: RandomState,
    high: RandomState,
}

impl AorHasher {
    /// `seed` must come from the system's random source.
    pub fn new(seed: [u64; 8]) -> AorHasher {
        let [a, b, c, d, e, f, g, h] = seed;
        AorHasher {
            low: RandomState::with_seeds(a, b, c, d),
            high: RandomState::with_seeds(e, f, g, h),
        }
    }

    pub fn key(&self, aor: &Aor) -> AorKey {
        self.key_of(aor.user(), aor.domain())
    }

    /// The key of the subscriber that `uri` names.
    pub fn key_of_uri(&self, uri: &Uri<'_>, cfg: &Config) -> Result<AorKey, AorError> {
        Ok(match Name::of(uri, cfg)? {
            Name::AsTheyStand(user, domain) => self.key_of(user, domain),
            Name::Written(aor) => self.key(&aor),
        })
    }

    fn key_of(&self, user: &[u8], domain: &[u8]) -> AorKey {
        AorKey {
            low: self.low.hash_one((user, domain)),
            high: self.high.hash_one((user, domain)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cfg(domains: &[&str]) -> Config {
        Config {
            domains: domains.iter().map(|&domain| domain.to_owned()).collect(),
            ..Config::default()
        }
    }

    fn aor(text: &str, cfg: &Config) -> Result<Aor, AorError> {
        Aor::from_uri(&Uri::parse(text.as_bytes()).expect("a URI"), cfg)
    }

    fn name(text: &str, domains: &[&str]) -> Result<String, AorError> {
        aor(text, &cfg(domains)).map(|aor| format!("{aor:?}"))
    }

    #[test]
    fn every_spelling_of_a_number_names_the_same_subscriber() {
        for text in [
            "tel:13800011103;phone-context=one.att.net",
            "tel:138-0001-1103;phone-context=One.Att.Net",
            "tel:(138)0001.1103;isub=7;phone-context=one.att.net",
            "sip:13800011103@one.att.net",
            "sip:138.0001-1103@one.att.net",
            "sip:13800011103@ONE.ATT.NET.:5060;transport=tcp",
            "sip:%31%33800011103@one.att.net",
            "sips:13800011103@one.att.net",
            "sip:13800011103;phone-context=one.att.net@one.att.net;user=phone",
            "sip:138-0001-1103;phone-context=one.att.net@one.att.net;user=phone",
            "sip:13800011103;npdi@one.att.net;user=phone",
            "sip:13800011103@127.0.0.1:5060",
            "tel:13800011103",
        ] {
            assert_eq!(
                name(text, &["one.att.net"]),
                Ok("13800011103@one.att.net".into()),
                "{text}"
            );
            assert_eq!(name(text, &[]), Ok("13800011103@".into()), "{text}");
        }
    }

    #[test]
    fn a_prefix_as_context_makes_a_local_number_global() {
        let domains = ["one.att.net", "two.att.net"];
        for text in [
            "tel:+86-138-0001-1103",
            "tel:+8613800011103;phone-context=elsewhere.example",
            "tel:138-0001-1103;phone-context=+86",
            "sip:+86(138)00011103@one.att.net;user=phone",
            "sip:%2B8613800011103@one.att.net",
            "sip:13800011103;phone-context=+86@one.att.net;user=phone",
        ] {
            assert_eq!(
                name(text, &domains),
                Ok("+8613800011103@one.att.net".into()),
                "{text}"
            );
        }
        assert_eq!(
            name("tel:911;phone-context=two.att.net", &domains),
            Ok("911@two.att.net".into())
        );
        assert_eq!(
            name("sip:911;phone-context=two.att.net@one.att.net", &domains),
            Ok("911@two.att.net".into())
        );
    }

    #[test]
    fn names_keep_their_case_and_what_is_no_separator_in_them() {
        let domains = ["example.com"];
        assert_eq!(
            name("sip:Alice@Example.com", &domains),
            Ok("Alice@example.com".into())
        );
        assert_eq!(
            name("sip:%61lice@example.com", &domains),
            Ok("alice@example.com".into())
        );
        assert_eq!(
            name("sip:a.b-c@example.com", &domains),
            Ok("a.b-c@example.com".into())
        );
        assert_eq!(
            name("sip:alice@example.com;user=phone", &domains),
            Ok("alice@example.com".into())
        );
        assert_eq!(
            name("sip:alice;day=tuesday@example.com", &domains),
            Ok("alice;day=tuesday@example.com".into())
        );
        assert_eq!(
            name("sip:12;day=tuesday@example.com", &domains),
            Ok("12;day=tuesday@example.com".into())
        );
        assert_eq!(
            name("sip:*21#@example.com", &domains),
            Ok("*21#@example.com".into())
        );
        assert_ne!(
            aor("sip:ab%40c@example.com", &cfg(&domains)),
            aor("sip:ab@example.com", &cfg(&domains))
        );
    }

    #[test]
    fn what_names_nobody_of_ours_says_why() {
        let domains = ["one.att.net"];
        let long = "x".repeat(AOR_BYTES_MAX);
        for (text, error) in [
            ("sip:a@two.att.net", AorError::ForeignDomain),
            ("sip:a@192.0.2.7", AorError::ForeignDomain),
            ("tel:911;phone-context=two.att.net", AorError::ForeignDomain),
            ("sip:one.att.net", AorError::NoUser),
            ("mailto:a@one.att.net", AorError::UnsupportedScheme),
            ("tel:+12ab", AorError::BadNumber),
            ("tel:1;phone-context=+x", AorError::BadNumber),
            (&format!("sip:{long}@one.att.net"), AorError::TooLong),
        ] {
            assert_eq!(name(text, &domains), Err(error), "{text}");
        }
        assert_eq!(name("sip:one.att.net", &[]), Err(AorError::NoUser));
        assert!(
            name(&format!("sip:{long}@x"), &[]).is_ok(),
            "the longest there is"
        );
    }

    /// RFC 5954 §4.2.
    #[test]
    fn an_address_as_a_domain_may_be_spelled_otherwise() {
        let domains = ["[2001:db8:0::1]"];
        assert_eq!(
            name("sip:a@[2001:DB8::0:1]", &domains),
            name("sip:a@[2001:db8:0::1]", &domains)
        );
        assert!(name("sip:a@[2001:db8::2]", &domains).is_err());
    }

    #[test]
    fn an_address_that_is_advertised_stands_for_the_first_domain() {
        let mut cfg = cfg(&["one.att.net", "two.att.net"]);
        cfg.listeners[0].addr = ([0, 0, 0, 0], 5060).into();
        cfg.listeners[0].advertised = "10.88.120.110:5060".into();
        cfg.listeners[1].advertised = "[2001:DB8::1]:5060".into();
        for text in [
            "sip:a@10.88.120.110",
            "sip:a@[2001:db8:0::1]",
            "sip:a@127.0.0.1:7",
        ] {
            assert_eq!(
                aor(text, &cfg).map(|aor| format!("{aor:?}")),
                Ok("a@one.att.net".into()),
                "{text}"
            );
        }
        assert_eq!(aor("sip:a@10.88.120.111", &cfg), Err(AorError::ForeignDomain));
    }

    #[test]
    fn keys_agree_with_names_and_spread_over_shards() {
        let hasher = AorHasher::new([1, 2, 3, 4, 5, 6, 7, 8]);
        let cfg = cfg(&["example.com"]);
        let key = |text: &str| hasher.key(&aor(text, &cfg).expect("a subscriber"));
        assert_eq!(key("tel:1-2"), key("sip:12@EXAMPLE.com"));
        assert_ne!(key("tel:12"), key("tel:13"));
        let mut subscribers = [0; 3];
        for number in 0..3_000 {
            subscribers[usize::from(key(&format!("tel:{number}")).shard(3).0)] += 1;
        }
        assert!(subscribers.iter().all(|&n| n > 800), "{subscribers:?}");
    }

    proptest! {
        #[test]
        fn a_name_written_as_a_uri_names_the_same_subscriber(user in "[ -~]{1,20}") {
            let cfg = cfg(&["example.com"]);
            let escaped: String = user.bytes().map(|byte| format!("%{byte:02x}")).collect();
            let name = aor(&format!("sip:{escaped}@example.com"), &cfg).expect("short enough");
            let mut buf = [0; 256];
            let mut w = Writer::new(&mut buf);
            name.put_uri(b"example.com", &mut w);
            let len = w.finish().expect("room");
            let again = Uri::parse(&buf[..len]).expect("a URI");
            prop_assert_eq!(Aor::from_uri(&again, &cfg), Ok(name));
        }
    }
}
