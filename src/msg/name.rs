//! Header field names: a number for each that we know, found by length and a perfect match (RFC 3261 §7.3.3, §20).
//!
//! A name is read as four 64-bit words with its letters in lower case and zeros behind it. The first two, multiplied by a
//! constant that was searched for once, give the only place where the name can be in a table of 512 bytes; comparing all four
//! then says whether it is that name. A `const` assertion keeps the constant right when a name is added.

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
    pub fn lookup(text: &[u8]) -> Name {
        let mut window = [0; WINDOW];
        match window.get_mut(..text.len()) {
            Some(room) if text.len() < WINDOW => {
                room.copy_from_slice(text);
                Name::at_start(&window, text.len())
            }
            Some(_) | None => Name::Other,
        }
    }

    /// The same for the first `len` bytes of `window`; what lies behind them does not matter. `len` is less than [`WINDOW`].
    #[inline(always)]
    pub fn at_start(window: &[u8; WINDOW], len: usize) -> Name {
        if len == 1 {
            return COMPACT[usize::from(window[0])];
        }
        let key = Key::of(window, len);
        let name = PLACES[key.place()];
        if KEYS[name as usize].same(&key) {
            name
        } else {
            Name::Other
        }
    }
}

/// Bytes that a name is read from: it is shorter.
pub const WINDOW: usize = 32;

const _: () = assert!(Name::COUNT <= 128);

/// A name as words, with its length in the last byte, which no name reaches.
#[derive(Clone, Copy)]
struct Key([u64; 4]);

/// Searched for by trial: the names fall into different places.
const MULTIPLIER: u64 = 0xDA18_48DA_75E2_7FCF;
const PLACES_LOG2: u32 = 9;

impl Key {
    /// The key of no name.
    const NONE: Key = Key([0; 4]);

    #[inline(always)]
    const fn of(window: &[u8; WINDOW], len: usize) -> Key {
        const HALF: usize = WINDOW / 2;
        let [first, second, third, fourth] = words(window);
        let masks = &MASKS[if len < HALF { len } else { HALF }];
        let mut key = [
            lower(first) & masks[0],
            lower(second) & masks[1],
            0,
            (len as u64) << 56,
        ];
        if len > HALF {
            let masks = &MASKS[len - HALF];
            key[2] = lower(third) & masks[0];
            key[3] |= lower(fourth) & masks[1];
        }
        Key(key)
    }

    #[inline(always)]
    const fn place(&self) -> usize {
        let mixed = self.0[0] ^ self.0[1].rotate_left(29);
        (mixed.wrapping_mul(MULTIPLIER) >> (64 - PLACES_LOG2)) as usize
    }

    #[inline(always)]
    const fn same(&self, other: &Key) -> bool {
        let ([a, b, c, d], [e, f, g, h]) = (self.0, other.0);
        ((a ^ e) | (b ^ f) | (c ^ g) | (d ^ h)) == 0
    }
}

/// For 0 to 16 bytes, the bits of so many.
static MASKS: [[u64; 2]; WINDOW / 2 + 1] = {
    let mut masks = [[0; 2]; WINDOW / 2 + 1];
    let mut len = 0;
    while len < masks.len() {
        let bits = if len < 16 {
            (1u128 << (8 * len)) - 1
        } else {
            u128::MAX
        };
        masks[len] = [bits as u64, (bits >> 64) as u64];
        len += 1;
    }
    masks
};

#[inline(always)]
const fn words(window: &[u8; WINDOW]) -> [u64; 4] {
    let (chunks, _) = window.as_chunks::<8>();
    [
        u64::from_le_bytes(chunks[0]),
        u64::from_le_bytes(chunks[1]),
        u64::from_le_bytes(chunks[2]),
        u64::from_le_bytes(chunks[3]),
    ]
}

/// Sets bit 5 of every byte that has bit 6: letters become lower case, the hyphen stays itself alone. Other bytes fall
/// together too (`@` and the grave accent, say), but no name has them.
#[inline(always)]
const fn lower(word: u64) -> u64 {
    word | (word & 0x4040_4040_4040_4040) >> 1
}

static KEYS: [Key; Name::COUNT] = {
    let mut keys = [Key::NONE; Name::COUNT];
    let mut i = 0;
    while i + 1 < Name::COUNT {
        let text = Name::ALL[i].text().as_bytes();
        assert!(text.len() > 1 && text.len() < WINDOW, "a name has 2 to 31 bytes");
        let mut window = [0; WINDOW];
        let (name, _) = window.split_at_mut(text.len());
        name.copy_from_slice(text);
        keys[i] = Key::of(&window, text.len());
        i += 1;
    }
    keys
};

static PLACES: [Name; 1 << PLACES_LOG2] = {
    let mut places = [Name::Other; 1 << PLACES_LOG2];
    let mut i = 0;
    while i + 1 < Name::COUNT {
        let place = KEYS[i].place();
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
            b"Via\0",
            b"P-Preferred-Serv",
            b"P-Charging-Function-Addresses\0",
            b"Other",
        ] {
            assert_eq!(Name::lookup(other), Name::Other);
        }
    }
}
