//! Names that we give away and recognise again: what is accepted is what we wrote, and what we wrote comes back whole.

use ringway::config::Config;
use ringway::location::{AorHasher, Named};
use ringway::msg::uri::{Scheme, Uri};
use ringway::token::{BRANCH_COOKIE, Purpose, SEALED_LEN_MAX, TOKEN_LEN, Token, TokenKey, TokenKind};
use ringway::wire::ShardId;

const KEY: TokenKey = TokenKey::new([7; 16]);
const KINDS: [TokenKind; 8] = [
    TokenKind::Transaction,
    TokenKind::Leg,
    TokenKind::Subscription,
    TokenKind::Stateless,
    TokenKind::RecordRoute,
    TokenKind::RelayTcp,
    TokenKind::RelayUdp,
    TokenKind::RecordRouteTcp,
];
/// Bytes of a sealed flow, and of a temporary GRUU.
const FLOW: usize = 32;
const GRUU: usize = 36;

pub fn check(data: &[u8]) {
    accepted_is_ours(data);
    // The other half: names made of the data, with one byte of them changed.
    let [at, with, rest @ ..] = data else { return };
    let mut made = [0; GRUU];
    for (byte, &said) in made.iter_mut().zip(rest) {
        *byte = said;
    }
    comes_back(made, usize::from(*at), *with);
}

fn accepted_is_ours(text: &[u8]) {
    if let Some(token) = KEY.parse(text) {
        assert!(KEY.text(token).eq_ignore_ascii_case(text));
    }
    if let Some(token) = KEY.parse_branch(text) {
        assert!(
            KEY.branch(token)
                .eq_ignore_ascii_case(&text[..BRANCH_COOKIE.len() + TOKEN_LEN])
        );
    }
    sealed_is_ours::<FLOW>(Purpose::Flow, text);
    sealed_is_ours::<GRUU>(Purpose::Gruu, text);
    if let Ok(uri) = Uri::parse(text) {
        named(&uri);
    }
}

fn sealed_is_ours<const N: usize>(purpose: Purpose, text: &[u8]) {
    if let Some(plain) = KEY.open::<N>(purpose, text) {
        assert!(sealed(purpose, plain).eq_ignore_ascii_case(text));
    }
}

fn sealed<const N: usize>(purpose: Purpose, plain: [u8; N]) -> Vec<u8> {
    let mut text = [0; SEALED_LEN_MAX];
    let len = KEY.seal(purpose, plain, &mut text);
    text[..len].to_vec()
}

/// Whom a URI names, if it names one of ours; a device that is valid for a time only under our seal.
fn named(uri: &Uri<'_>) -> Option<Named> {
    let cfg = Config {
        domains: vec!["one.att.net".to_owned()],
        ..Config::default()
    };
    let named = Named::from_uri(uri, &cfg, &AorHasher::new([3; 8]), &KEY).ok()?;
    // RFC 5627 §5: `gr` is a parameter of SIP URIs; in another it says nothing to us.
    if matches!(uri.scheme, Scheme::Sip | Scheme::Sips) && uri.param(b"gr") == Some(b"") {
        let sealed = uri.user.and_then(|user| user.strip_prefix(b"tgruu."));
        assert!(sealed.is_some_and(|text| KEY.open::<GRUU>(Purpose::Gruu, text).is_some()));
    }
    Some(named)
}

fn comes_back(made: [u8; GRUU], at: usize, with: u8) {
    let four = |at: usize| u32::from_be_bytes(std::array::from_fn(|i| made[at + i]));
    let token = Token {
        kind: KINDS[usize::from(made[0]) % KINDS.len()],
        shard: ShardId(made[1]),
        slot: four(2),
        generation: four(6),
    };
    let text = KEY.text(token);
    assert_eq!(KEY.parse(&text), Some(token));
    let other = changed(&text, at, with);
    let same = other.eq_ignore_ascii_case(&text);
    assert_eq!(KEY.parse(&other), same.then_some(token));

    let flow: [u8; FLOW] = std::array::from_fn(|i| made[i]);
    let text = sealed(Purpose::Flow, flow);
    assert_eq!(KEY.open(Purpose::Flow, &text), Some(flow));
    let other = changed(&text, at, with);
    let same = other.eq_ignore_ascii_case(&text);
    assert_eq!(KEY.open(Purpose::Flow, &other), same.then_some(flow));

    let text = sealed(Purpose::Gruu, made);
    assert_eq!(KEY.open(Purpose::Gruu, &text), Some(made));
    let uri = |sealed: &[u8]| [b"sip:tgruu.", sealed, b"@one.att.net;gr"].concat();
    let whole = uri(&text);
    let whom = named(&Uri::parse(&whole).expect("a URI"));
    assert!(whom.is_some());
    let other = changed(&text, at, with);
    let same = other.eq_ignore_ascii_case(&text);
    if let Ok(uri) = Uri::parse(&uri(&other)) {
        // An `@` or an escape may make another user or host of it.
        let whom_now = named(&uri);
        assert!(
            whom_now.is_none() || same && whom_now == whom || !uri.host.eq_ignore_ascii_case(b"one.att.net")
        );
    }
}

fn changed(text: &[u8], at: usize, with: u8) -> Vec<u8> {
    let mut other = text.to_vec();
    let len = other.len();
    other[at % len] = with;
    other
}
