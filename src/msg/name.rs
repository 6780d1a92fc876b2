//! Header field names: a number for each that we know, found by length and a perfect match (RFC 3261 §7.3.3, §20).
//!
//! A name is read as up to four 64-bit words with its letters in lower case. Two of the words and the length, multiplied by
//! a constant that was searched for once, give the only place where the name can be in a table of 512 bytes; comparing the
//! words then says whether it is that name. A `const` assertion keeps the constant right when a name is added.

macro_rules! names {
    ($($variant:ident $text:literal $($compact:literal)?,)*) => {
        /// The header fields that ringway knows by name. Whatever is not among them is `Other` and passes through untouched.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Name {
            $($variant,)*
            Other,
        }

        impl Name {
            /// Every name in the order of their numbers, `Other` last.
            pub const ALL: [Name; Name::COUNT] = [$(Name::$variant,)* Name::Other];

            /// The name as the RFC that defines it spells it; `"Other"` for [`Name::Other`].
            pub const fn text(self) -> &'static str {
                match self {
                    $(Name::$variant => $text,)*
                    Name::Other => "Other",
                }
            }

            /// The one-letter form, where there is one.
            pub const fn compact(self) -> Option<u8> {
                match self {
                    $(Name::$variant => compact!($($compact)?),)*
                    Name::Other => None,
                }
            }
        }

        const COUNT: usize = [$($text,)*].len() + 1;
    };
}

macro_rules! compact {
    () => {
        None
    };
    ($letter:literal) => {
        Some($letter)
    };
}

names! {
    Via "Via" b'v',
    From "From" b'f',
    To "To" b't',
    CallId "Call-ID" b'i',
    CSeq "CSeq",
    Contact "Contact" b'm',
    MaxForwards "Max-Forwards",
    ContentLength "Content-Length" b'l',
    ContentType "Content-Type" b'c',
    ContentEncoding "Content-Encoding" b'e',
    ContentDisposition "Content-Disposition",
    ContentLanguage "Content-Language",
    Expires "Expires",
    Route "Route",
    RecordRoute "Record-Route",
    Require "Require",
    ProxyRequire "Proxy-Require",
    Supported "Supported" b'k',
    Unsupported "Unsupported",
    Allow "Allow",
    Accept "Accept",
    AcceptEncoding "Accept-Encoding",
    AcceptLanguage "Accept-Language",
    Event "Event" b'o',
    SubscriptionState "Subscription-State",
    AllowEvents "Allow-Events" b'u',
    MinExpires "Min-Expires",
    Path "Path",
    ServiceRoute "Service-Route",
    Authorization "Authorization",
    ProxyAuthorization "Proxy-Authorization",
    WwwAuthenticate "WWW-Authenticate",
    ProxyAuthenticate "Proxy-Authenticate",
    AuthenticationInfo "Authentication-Info",
    RAck "RAck",
    RSeq "RSeq",
    Reason "Reason",
    Date "Date",
    Timestamp "Timestamp",
    ReferTo "Refer-To" b'r',
    ReferredBy "Referred-By" b'b',
    ReferSub "Refer-Sub",
    Replaces "Replaces",
    Join "Join",
    TargetDialog "Target-Dialog",
    SessionExpires "Session-Expires" b'x',
    MinSE "Min-SE",
    PAssertedIdentity "P-Asserted-Identity",
    PPreferredIdentity "P-Preferred-Identity",
    PAccessNetworkInfo "P-Access-Network-Info",
    PAssociatedUri "P-Associated-URI",
    PCalledPartyId "P-Called-Party-ID",
    PVisitedNetworkId "P-Visited-Network-ID",
    PChargingVector "P-Charging-Vector",
    PChargingFunctionAddresses "P-Charging-Function-Addresses",
    PEarlyMedia "P-Early-Media",
    PPreferredService "P-Preferred-Service",
    PAssertedService "P-Asserted-Service",
    Privacy "Privacy",
    RetryAfter "Retry-After",
    Warning "Warning",
    UserAgent "User-Agent",
    Server "Server",
    AcceptContact "Accept-Contact" b'a',
    RejectContact "Reject-Contact" b'j',
    RequestDisposition "Request-Disposition" b'd',
    SipEtag "SIP-ETag",
    SipIfMatch "SIP-If-Match",
    HistoryInfo "History-Info",
    Diversion "Diversion",
    Identity "Identity" b'y',
    SecurityClient "Security-Client",
    SecurityServer "Security-Server",
    SecurityVerify "Security-Verify",
    FlowTimer "Flow-Timer",
    FeatureCaps "Feature-Caps",
    Geolocation "Geolocation",
    RecvInfo "Recv-Info",
    InfoPackage "Info-Package",
    ResourcePriority "Resource-Priority",
    AcceptResourcePriority "Accept-Resource-Priority",
    MaxBreadth "Max-Breadth",
    SuppressIfMatch "Suppress-If-Match",
    SessionId "Session-ID",
    UserToUser "User-to-User",
    AlertInfo "Alert-Info",
    CallInfo "Call-Info",
    ErrorInfo "Error-Info",
    InReplyTo "In-Reply-To",
    ReplyTo "Reply-To",
    MimeVersion "MIME-Version",
    Organization "Organization",
    Priority "Priority",
    Subject "Subject" b's',
}

impl Name {
    /// How many there are, `Other` included. They fit the bits of a `u128`.
    pub const COUNT: usize = COUNT;

    /// The name that `text` is, in any case (RFC 3261 §7.3.1), its compact form included (§7.3.3).
    #[inline]
    pub fn lookup(text: &[u8]) -> Name {
        if let [letter] = text {
            return COMPACT[usize::from(*letter)];
        }
        let Some(key) = Key::of(text) else {
            return Name::Other;
        };
        let name = PLACES[key.place()];
        if KEYS[name as usize].same(&key) {
            name
        } else {
            Name::Other
        }
    }
}

const _: () = assert!(Name::COUNT <= 128);

/// A name of 2 to 32 bytes as words that overlap to cover it all.
#[derive(Clone, Copy)]
struct Key {
    len: usize,
    first: u64,
    last: u64,
    second: u64,
    third: u64,
}

/// Searched for by trial: the names fall into different places.
const MULTIPLIER: u64 = 0x8BF1_7146_A98D_2F23;
const PLACES_LOG2: u32 = 9;

impl Key {
    const NONE: Key = Key {
        len: 0,
        first: 0,
        last: 0,
        second: 0,
        third: 0,
    };

    #[inline]
    const fn of(text: &[u8]) -> Option<Key> {
        let len = text.len();
        let mut key = Key { len, ..Key::NONE };
        if len >= 8 {
            if len > 32 {
                return None;
            }
            key.first = word(text, 0);
            key.last = word(text, len - 8);
            if len > 16 {
                key.second = word(text, 8);
                if len > 24 {
                    key.third = word(text, 16);
                }
            }
        } else if len >= 4 {
            key.first = half_word(text, 0);
            key.last = half_word(text, len - 4);
        } else if len >= 2 {
            key.first = lower(text[0] as u64 | (text[1] as u64) << 8 | (text[len - 1] as u64) << 16);
        } else {
            return None;
        }
        Some(key)
    }

    #[inline]
    const fn place(&self) -> usize {
        let mixed = self.first ^ self.last.rotate_left(29) ^ self.len as u64;
        (mixed.wrapping_mul(MULTIPLIER) >> (64 - PLACES_LOG2)) as usize
    }

    #[inline]
    const fn same(&self, other: &Key) -> bool {
        self.len == other.len
            && ((self.first ^ other.first)
                | (self.last ^ other.last)
                | (self.second ^ other.second)
                | (self.third ^ other.third))
                == 0
    }
}

#[inline]
const fn word(text: &[u8], at: usize) -> u64 {
    match text.split_at(at).1.first_chunk::<8>() {
        Some(bytes) => lower(u64::from_le_bytes(*bytes)),
        None => 0,
    }
}

#[inline]
const fn half_word(text: &[u8], at: usize) -> u64 {
    match text.split_at(at).1.first_chunk::<4>() {
        Some(bytes) => lower(u32::from_le_bytes(*bytes) as u64),
        None => 0,
    }
}

/// Sets bit 5 of every byte that has bit 6: letters become lower case, the hyphen stays itself alone. Other bytes fall
/// together too (`@` and the grave accent, say), but no name has them.
#[inline]
const fn lower(word: u64) -> u64 {
    word | (word & 0x4040_4040_4040_4040) >> 1
}

static KEYS: [Key; Name::COUNT] = {
    let mut keys = [Key::NONE; Name::COUNT];
    let mut i = 0;
    while i + 1 < Name::COUNT {
        if let Some(key) = Key::of(Name::ALL[i].text().as_bytes()) {
            keys[i] = key;
        }
        i += 1;
    }
    keys
};

static PLACES: [Name; 1 << PLACES_LOG2] = {
    let mut places = [Name::Other; 1 << PLACES_LOG2];
    let mut i = 0;
    while i + 1 < Name::COUNT {
        let Some(key) = Key::of(Name::ALL[i].text().as_bytes()) else {
            panic!("a name has 2 to 32 bytes");
        };
        let place = key.place();
        assert!(
            matches!(places[place], Name::Other),
            "two names fall into one place: search another multiplier"
        );
        places[place] = Name::ALL[i];
        i += 1;
    }
    places
};

static COMPACT: [Name; 256] = {
    let mut letters = [Name::Other; 256];
    let mut i = 0;
    while i < Name::COUNT {
        if let Some(letter) = Name::ALL[i].compact() {
            letters[letter as usize] = Name::ALL[i];
            letters[letter.to_ascii_uppercase() as usize] = Name::ALL[i];
        }
        i += 1;
    }
    letters
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_in_any_case_and_by_its_letter() {
        for name in Name::ALL {
            if name == Name::Other {
                continue;
            }
            let text = name.text();
            assert_eq!(Name::lookup(text.as_bytes()), name);
            assert_eq!(Name::lookup(text.to_uppercase().as_bytes()), name);
            assert_eq!(Name::lookup(text.to_lowercase().as_bytes()), name);
            if let Some(letter) = name.compact() {
                assert_eq!(Name::lookup(&[letter]), name);
                assert_eq!(Name::lookup(&[letter.to_ascii_uppercase()]), name);
            }
        }
    }

    #[test]
    fn a_name_that_differs_in_one_bit_is_another() {
        for name in Name::ALL {
            if name == Name::Other {
                continue;
            }
            let text = name.text().as_bytes();
            for at in 0..text.len() {
                for bit in 0..8 {
                    let mut changed = text.to_vec();
                    changed[at] ^= 1 << bit;
                    if changed.eq_ignore_ascii_case(text) {
                        continue;
                    }
                    let slow = Name::ALL
                        .into_iter()
                        .find(|other| other.text().as_bytes().eq_ignore_ascii_case(&changed));
                    assert_eq!(Name::lookup(&changed), slow.unwrap_or(Name::Other));
                }
            }
        }
        for other in [
            &b""[..],
            b"z",
            b"Vi",
            b"Viaa",
            b"X-Very-Long-Header-Name-Of-Somebody-Else",
            b"Other",
        ] {
            assert_eq!(Name::lookup(other), Name::Other);
        }
    }
}
