//! One side's view of a dialog (RFC 3261 §12): what it takes to send the next request in it.

use crate::links::Transport;
use crate::sip::{self, Message};

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dialog {
    pub call_id: String,
    /// This side's From value, tag included.
    pub local: String,
    /// The other side's To value, tag included.
    pub remote: String,
    /// The remote target: the other side's Contact URI.
    pub target: String,
    /// Route values, in the order in which they are sent.
    pub routes: Vec<String>,
    /// Number of the last request that this side sent.
    pub cseq: u32,
    /// How this side sends its requests.
    pub transport: Transport,
}

impl Dialog {
    /// The dialog that `response` to `request` makes for the side that asked (§12.1.2).
    pub fn of_caller(request: &Message, response: &Message, transport: Transport) -> Dialog {
        let mut routes: Vec<String> = owned(response.elements("Record-Route"));
        routes.reverse();
        Dialog {
            call_id: request.text("Call-ID").to_owned(),
            local: request.text("From").to_owned(),
            remote: response.text("To").to_owned(),
            target: sip::uri(response.text("Contact")).to_owned(),
            routes,
            cseq: request.cseq().0,
            transport,
        }
    }

    /// The same for the side that answered (§12.1.1). Its own numbers start at 1.
    pub fn of_callee(request: &Message, response: &Message, transport: Transport) -> Dialog {
        Dialog {
            call_id: request.text("Call-ID").to_owned(),
            local: response.text("To").to_owned(),
            remote: request.text("From").to_owned(),
            target: sip::uri(request.text("Contact")).to_owned(),
            routes: owned(request.elements("Record-Route")),
            cseq: 0,
            transport,
        }
    }

    /// §12.2.1.2: a target refresh moves the remote target.
    pub fn refresh_target(&mut self, message: &Message) {
        if let Some(contact) = message.get("Contact") {
            self.target = sip::uri(contact).to_owned();
        }
    }
}

fn owned(values: Vec<&str>) -> Vec<String> {
    values.into_iter().map(str::to_owned).collect()
}
