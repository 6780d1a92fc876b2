//! Globally routable URIs of one phone among those of a subscriber: RFC 5627.
//!
//! A public GRUU is the address-of-record with the device in `gr`. It needs no memory: it leads to the contacts that have this
//! `+sip.instance`. A temporary one is a sealed text that says whose it is and for which device, in which epoch it was made and by which
//! request, so that each REGISTER gets another one, two of them tell nobody that they are of one phone, and all become invalid
//! together when the device's epoch passes. No table of them is kept.

use crate::config::Config;
use crate::msg::build::Writer;
use crate::msg::params::unquoted;
use crate::msg::uri::{Scheme, Uri, unescaped};
use crate::pool::Pool;
use crate::token::{Purpose, SEALED_LEN_MAX, TokenKey};

use super::aor::{Aor, AorError, AorHasher, AorKey, served_domain};
use super::{Fresh, Location};

/// What the user part of a temporary GRUU begins with.
const TEMPORARY: &[u8] = b"tgruu.";
/// Longest `+sip.instance` that gets GRUUs; RFC 4122 has 45 for a UUID.
const INSTANCE_MAX: usize = 200;
/// What is sealed in a temporary GRUU: subscriber, device, epoch, and of the REGISTER that it was given to CSeq and `reg-id`.
const SEALED_BYTES: usize = 16 + 8 + 4 + 4 + 4;

/// Which contacts of a subscriber a GRUU leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Device {
    /// Of its `+sip.instance`.
    digest: u64,
    /// Those that were registered since then; `None`: a public GRUU, which is always valid.
    epoch: Option<u32>,
}

/// Whom the URI of a request names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Named {
    Subscriber(AorKey),
    /// One device of a subscriber.
    Device(AorKey, Device),
}

impl Named {
    /// §6.1: a URI with `gr` is a GRUU or nothing.
    pub fn from_uri(
        uri: &Uri<'_>,
        cfg: &Config,
        aors: &AorHasher,
        key: &TokenKey,
    ) -> Result<Named, AorError> {
        match uri.scheme {
            Scheme::Sip | Scheme::Sips if !uri.params.is_empty() => match uri.param(b"gr") {
                Some(b"") => temporary(uri, cfg, key),
                Some(instance) => {
                    let aor = aors.key_of_uri(uri, cfg)?;
                    let digest = digest(unescaped(instance), key).ok_or(AorError::BadGruu)?;
                    Ok(Named::Device(aor, Device { digest, epoch: None }))
                }
                None => Ok(Named::Subscriber(aors.key_of_uri(uri, cfg)?)),
            },
            Scheme::Sip | Scheme::Sips | Scheme::Tel | Scheme::Other => {
                Ok(Named::Subscriber(aors.key_of_uri(uri, cfg)?))
            }
        }
    }

    pub fn aor(self) -> AorKey {
        match self {
            Named::Subscriber(aor) | Named::Device(aor, _) => aor,
        }
    }
}

/// Whether a URI is a GRUU of one of our domains: then what it leads to is known here, and it is no place to send to.
pub fn is_ours(uri: &[u8], cfg: &Config) -> bool {
    // Nearly all contacts have no parameter, or one; they need not be read.
    memchr::memchr(b';', uri).is_some()
        && Uri::parse(uri)
            .is_ok_and(|uri| uri.param(b"gr").is_some() && served_domain(uri.host, cfg).is_some())
}

fn temporary(uri: &Uri<'_>, cfg: &Config, key: &TokenKey) -> Result<Named, AorError> {
    served_domain(uri.host, cfg).ok_or(AorError::ForeignDomain)?;
    let sealed = uri
        .user
        .and_then(|user| user.strip_prefix(TEMPORARY))
        .and_then(|text| key.open::<SEALED_BYTES>(Purpose::Gruu, text));
    let sealed = sealed.ok_or(AorError::BadGruu)?;
    let part = |at: usize| u32::from_be_bytes(std::array::from_fn(|i| sealed[at + i]));
    Ok(Named::Device(
        AorKey::from_bytes(std::array::from_fn(|i| sealed[i])),
        Device {
            digest: u64::from(part(16)) << 32 | u64::from(part(20)),
            epoch: Some(part(24)),
        },
    ))
}

/// What stands for an instance, which compares without case; `None` for one that is too long.
fn digest(instance: impl Iterator<Item = u8>, key: &TokenKey) -> Option<u64> {
    let mut text = [0; INSTANCE_MAX];
    let mut len = 0;
    for byte in instance {
        *text.get_mut(len)? = byte.to_ascii_lowercase();
        len += 1;
    }
    Some(key.digest(&[b"instance", &text[..len]]))
}

/// The instance in the value of `+sip.instance`: `"<urn:uuid:...>"` without quotes and brackets.
fn bare(instance: &[u8]) -> &[u8] {
    let text = unquoted(instance);
    let text = text.strip_prefix(b"<").unwrap_or(text);
    text.strip_suffix(b">").unwrap_or(text)
}

impl Device {
    /// Whether a GRUU of this device leads to a contact.
    pub(super) fn has(&self, said: &Fresh, pool: &Pool, key: &TokenKey) -> bool {
        self.epoch.is_none_or(|epoch| epoch == said.epoch)
            && said
                .text
                .instance(pool)
                .and_then(|instance| digest(bare(instance).iter().copied(), key))
                == Some(self.digest)
    }

    /// §5.3: a public GRUU stays valid without a contact, a temporary one does not.
    pub(super) fn is_public(&self) -> bool {
        self.epoch.is_none()
    }
}

/// What the GRUUs of a subscriber are written from.
pub struct Gruus<'a> {
    pub key: &'a TokenKey,
    pub aor_key: AorKey,
    pub aor: &'a Aor,
    /// Of the domain.
    pub host: &'a [u8],
    /// Of the REGISTER that is answered.
    pub cseq: u32,
}

impl Gruus<'_> {
    /// Bytes that [`Gruus::put`] writes at most, beside three times the host and the instance.
    pub const SIZE: usize = 3 * 128 + SEALED_LEN_MAX + 64;

    /// Writes the parameters that a contact gets in the 200: §5.2. Those without a device, or whose phone never asked, get none.
    pub fn put(&self, location: &Location, said: &Fresh, pool: &Pool, w: &mut Writer<'_>) {
        let Some(instance) = said.text.instance(pool).filter(|_| said.epoch > 0) else {
            return;
        };
        let instance = bare(instance);
        let Some(digest) = digest(instance.iter().copied(), self.key) else {
            return;
        };
        w.put(b";pub-gruu=\"");
        self.aor.put_uri(self.host, w);
        put_gr(instance, w);
        // §5.2: the one that was made last, by whatever flow of the device; of several in one turn the one that is answered now.
        let last = location
            .bindings_of(self.aor_key)
            .filter(|(_, other)| other.said.epoch == said.epoch)
            .max_by_key(|(_, other)| (other.updated_at, other.said.cseq == self.cseq))
            .map_or(said, |(_, other)| &other.said);
        let mut plain = [0; SEALED_BYTES];
        plain[..16].copy_from_slice(&self.aor_key.to_bytes());
        plain[16..24].copy_from_slice(&digest.to_be_bytes());
        plain[24..28].copy_from_slice(&last.epoch.to_be_bytes());
        plain[28..32].copy_from_slice(&last.cseq.to_be_bytes());
        plain[32..].copy_from_slice(&last.reg_id.map_or(0, |id| id.get()).to_be_bytes());
        let mut text = [0; SEALED_LEN_MAX];
        let len = self.key.seal(Purpose::Gruu, plain, &mut text);
        w.put(b"\";temp-gruu=\"sip:")
            .put(TEMPORARY)
            .put(&text[..len])
            .put(b"@")
            .put(self.host)
            .put(b";gr\"");
    }
}

/// Writes `;gr=` with the device of a contact that has GRUUs: behind the address-of-record it is the public one.
pub fn put_public(said: &Fresh, pool: &Pool, aor: &[u8], w: &mut Writer<'_>) -> bool {
    match said.text.instance(pool).map(bare) {
        Some(instance) if said.epoch > 0 && instance.len() <= INSTANCE_MAX => {
            w.put(aor);
            put_gr(instance, w);
            true
        }
        Some(_) | None => false,
    }
}

fn put_gr(instance: &[u8], w: &mut Writer<'_>) {
    w.put(b";gr=");
    for &byte in instance {
        // RFC 3261 §25.1: `paramchar`.
        if byte.is_ascii_alphanumeric() || b"-_.!~*'()[]/:&+$".contains(&byte) {
            w.put(&[byte]);
        } else {
            let hex = |digit: u8| b"0123456789ABCDEF"[usize::from(digit & 15)];
            w.put(&[b'%', hex(byte >> 4), hex(byte)]);
        }
    }
}
