//! How messages of ours name us on each listener: written once a configuration, in the pieces in which messages have them.

use crate::config::{Config, Listener};
use crate::token::BRANCH_COOKIE;

/// Our names on one listener.
pub struct Names {
    /// A Via value of ours as far as the token in its branch.
    pub via: Box<[u8]>,
    /// The URI of a Contact of ours: it names the transport that the phone's own Contact asks for.
    pub contact_uri: Box<[u8]>,
}

impl Names {
    /// Those of all listeners, in their order.
    pub fn of(cfg: &Config) -> Box<[Names]> {
        cfg.listeners.iter().map(Names::on).collect()
    }

    fn on(listener: &Listener) -> Names {
        let (host_port, transport) = (&listener.advertised, listener.transport.name());
        let cookie = BRANCH_COOKIE.escape_ascii();
        let via = format!("SIP/2.0/{transport} {host_port};branch={cookie}");
        let contact_uri = format!("sip:{host_port};transport={transport}");
        Names {
            via: via.into_bytes().into_boxed_slice(),
            contact_uri: contact_uri.into_bytes().into_boxed_slice(),
        }
    }
}
