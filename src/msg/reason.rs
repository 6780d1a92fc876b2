//! Why something ended, as the Reason header says it (RFC 3326).

use super::lex;
use super::name::Name;
use super::params;
use super::scan::Message;

/// The Q.850 cause in a message, if it names one. RFC 3326 §2: `Reason: Q.850;cause=16`.
pub fn q850_cause(msg: &Message<'_>) -> Option<u8> {
    msg.elements(Name::Reason).find_map(|element| {
        let (protocol, values) = params::split(element);
        if !protocol.eq_ignore_ascii_case(b"Q.850") {
            return None;
        }
        u8::try_from(lex::number(params::find(values, b"cause")?)?).ok()
    })
}
