//! What a phone says to the server itself: REGISTER, SUBSCRIBE to `reg`, OPTIONS; and MESSAGE to another.

use std::rc::Rc;
use std::time::Duration;

use bench_harness::sip;

use crate::sim::packet::Packet;
use crate::sim::rng::Rng;
use crate::time::Instant;

use super::{Cx, DOMAIN, Due, Over, Phone, Purpose};

pub struct Registration {
    call_id: String,
    cseq: u32,
    /// Until when the server has said that it knows the phone.
    pub until: Option<Instant>,
    /// It is to be kept up; no longer at the end of a run.
    pub is_wanted: bool,
    /// The timer of the next REGISTER, where the phone has flows: a flow that ends has it come sooner.
    next: Option<u64>,
    pings: bool,
    subscription: Option<Subscription>,
}

/// RFC 6665: the dialog of a subscription, and what it was told last.
struct Subscription {
    call_id: String,
    local_tag: String,
    remote_tag: Option<String>,
    version: Option<u32>,
    is_over: bool,
}

/// How long a phone waits before it tries to register again.
const RETRY: Duration = Duration::from_secs(7);
/// For how long a phone that has unregistered in between stays away.
const AWAY: Duration = Duration::from_secs(5);
/// Between two keep-alives on a connection.
const PING: Duration = Duration::from_secs(25);

impl Registration {
    pub(super) fn new(rng: &mut Rng) -> Registration {
        Registration {
            call_id: format!("reg{:x}", rng.draw()),
            cseq: rng.between(1, 1_000) as u32,
            until: None,
            is_wanted: true,
            next: None,
            pings: false,
            subscription: None,
        }
    }
}

impl Phone {
    pub(super) fn register(&mut self, cx: &mut Cx<'_>) {
        if !self.registration.is_wanted {
            return;
        }
        if self.habits.has_flows && self.registration.until.is_some() {
            match self.rng.below(12) {
                // RFC 5627 §3.2: it wants its temporary GRUUs to end, as a phone that was switched off and on does by itself.
                0 => {
                    cx.book.totals.other_call_ids += 1;
                    self.registration.call_id = format!("reg{:x}", self.rng.draw());
                }
                // It goes away for a while.
                1 => {
                    self.send_register(0, cx);
                    self.register_after(AWAY, cx);
                    return;
                }
                _ => {}
            }
        }
        let expires = self.habits.expires_s;
        self.send_register(expires, cx);
    }

    pub(super) fn unregister(&mut self, cx: &mut Cx<'_>) {
        self.registration.is_wanted = false;
        if self.habits.is_tidy {
            self.send_register(0, cx);
        }
    }

    fn send_register(&mut self, expires: u64, cx: &mut Cx<'_>) {
        if !self.habits.has_flows {
            let over = self.over();
            self.send_register_over(over, None, expires, cx);
            return;
        }
        self.send_register_over(Over::Tcp, Some(1), expires, cx);
        let over = self.habits.edge.map_or(Over::Udp, Over::To);
        self.send_register_over(over, Some(2), expires, cx);
        if !self.registration.pings {
            self.registration.pings = true;
            self.after(PING, Due::Ping, cx);
        }
    }

    /// RFC 5626 §4.4.1: a connection that nothing is sent on may be forgotten on the way.
    pub(super) fn ping(&mut self, cx: &mut Cx<'_>) {
        if !self.registration.is_wanted {
            return;
        }
        if let Some(stream) = self.stream.filter(|stream| cx.net.is_open(*stream)) {
            cx.net.send_ping(stream);
        }
        self.after(PING, Due::Ping, cx);
    }

    /// RFC 5626 §4.5: a flow that ends is registered anew, not at once.
    pub(super) fn flow_is_gone(&mut self, cx: &mut Cx<'_>) {
        if self.habits.has_flows && self.registration.is_wanted {
            let after = self.rng.millis(500, 5_000);
            self.register_after(after, cx);
        }
    }

    /// The next REGISTER, in place of any other that was to come.
    fn register_after(&mut self, after: Duration, cx: &mut Cx<'_>) {
        if let Some(before) = self.registration.next.take().filter(|_| self.habits.has_flows) {
            self.timers.remove(&before);
        }
        self.after(after, Due::Register, cx);
        self.registration.next = Some(self.serial);
    }

    fn send_register_over(&mut self, over: Over, flow: Option<u32>, expires: u64, cx: &mut Cx<'_>) {
        self.registration.cseq += 1;
        let tag = self.word("r");
        let aor = self.aor();
        let q = match self.habits.q {
            None => String::new(),
            Some(1_000) => ";q=1.0".to_owned(),
            Some(q) => format!(";q=0.{q:03}"),
        };
        let (uri, reg_id) = match flow {
            None => (self.own_contact(), String::new()),
            Some(flow) => {
                let transport = if over == Over::Tcp { ";transport=tcp" } else { "" };
                let host = self.own_host();
                let uri = format!("<sip:{}@{host}{transport};flow={flow}>", self.user);
                (uri, format!(";reg-id={flow}"))
            }
        };
        let contact = format!(
            "{uri};+sip.instance=\"<urn:uuid:{}>\"{reg_id}{q};audio",
            self.index
        );
        let register = self
            .request("REGISTER", &format!("sip:{DOMAIN}"), over)
            .with("Max-Forwards", 70)
            .with("From", format!("<{aor}>;tag={tag}"))
            .with("To", format!("<{aor}>"))
            .with("Call-ID", &self.registration.call_id)
            .with("CSeq", format!("{} REGISTER", self.registration.cseq))
            .with("Contact", contact)
            .with("Expires", expires);
        let register = match flow {
            None => register,
            Some(_) => register.with("Supported", "path, outbound, gruu"),
        };
        self.ask(register, over, Purpose::Register, cx);
    }

    pub(super) fn on_registered(&mut self, request: &Rc<Packet>, packet: &Rc<Packet>, cx: &mut Cx<'_>) {
        let asked: u64 = request.message.text("Expires").parse().unwrap_or(0);
        if !packet.is_success() {
            cx.book.register_refused(self.index, packet, cx.net.now);
            self.registration_failed(cx);
            return;
        }
        // The flow that it was for, if for one.
        let flow = sip::param(sip::uri(request.message.text("Contact")), "flow").map(str::to_owned);
        let addr = match &flow {
            None => self.own_host(),
            Some(flow) => format!(
                "{}{};flow={flow}",
                self.own_host(),
                if flow == "1" { ";transport=tcp" } else { "" }
            ),
        };
        let own = packet
            .message
            .elements("Contact")
            .into_iter()
            .find(|contact| sip::uri(contact).contains(&addr));
        let granted = own.and_then(|contact| sip::param(contact, "expires")?.parse().ok());
        match (asked, granted) {
            (0, None) => {
                cx.book.totals.unregistrations += 1;
                self.registration.until = None;
            }
            (0, Some(_)) if self.registration.cseq == request.cseq => {
                cx.book.find(cx.net.now, &[&packet.from_tag, &packet.to_tag], || {
                    format!("phone {} has unregistered and is still listed", self.index)
                });
            }
            (0, Some(_)) => {}
            (_, Some(granted)) => {
                cx.book.totals.registrations += 1;
                cx.book.totals.flows += u64::from(flow.is_some());
                if let Some(gruu) = own.and_then(|contact| sip::param(contact, "pub-gruu")) {
                    cx.book.learns_gruu(self.index, gruu.trim_matches('"'));
                }
                if let Some(gruu) = own.and_then(|contact| sip::param(contact, "temp-gruu")) {
                    cx.book.learns_temporary_gruu(self.index, gruu.trim_matches('"'));
                }
                if granted > asked {
                    cx.book.find(cx.net.now, &[&packet.from_tag, &packet.to_tag], || {
                        format!(
                            "phone {} asked for {asked} s and was granted {granted} s",
                            self.index
                        )
                    });
                }
                let until = cx.net.now + Duration::from_secs(granted);
                self.registration.until = Some(until);
                let half = Duration::from_secs(granted) / 2;
                if flow.as_deref() != Some("2") {
                    self.register_after(half, cx);
                }
            }
            (_, None) if self.registration.is_wanted => {
                cx.book.find(cx.net.now, &[&packet.from_tag, &packet.to_tag], || {
                    format!(
                        "phone {} has registered and is not listed: RFC 3261 §10.3 step 8",
                        self.index
                    )
                });
            }
            (_, None) => {}
        }
    }

    pub(super) fn registration_failed(&mut self, cx: &mut Cx<'_>) {
        self.register_after(RETRY, cx);
    }

    pub(super) fn subscribe(&mut self, cx: &mut Cx<'_>) {
        let over = if self.habits.has_ob {
            self.over()
        } else {
            Over::Udp
        };
        cx.book.totals.ob_dialogs += u64::from(self.habits.has_ob);
        let tag = self.word("s");
        let call_id = self.word("sub");
        let aor = self.aor();
        let expires = self.rng.pick(&[0, 60, 90, 300]);
        let event = self.rng.pick(&["reg", "reg;id=7"]);
        let subscribe = self
            .request("SUBSCRIBE", &aor, over)
            .with("Max-Forwards", 70)
            .with("From", format!("<{aor}>;tag={tag}"))
            .with("To", format!("<{aor}>"))
            .with("Call-ID", &call_id)
            .with("CSeq", format!("{} SUBSCRIBE", self.rng.between(1, 900)))
            .with("Contact", self.own_contact())
            .with("Event", event)
            .with("Accept", "application/reginfo+xml")
            .with("Expires", expires);
        self.registration.subscription = Some(Subscription {
            call_id,
            local_tag: tag,
            remote_tag: None,
            version: None,
            is_over: false,
        });
        self.ask(subscribe, over, Purpose::Subscribe, cx);
    }

    pub(super) fn on_subscribed(&mut self, packet: &Rc<Packet>, cx: &mut Cx<'_>) {
        if let Some(subscription) = &mut self.registration.subscription
            && packet.is_success()
            && subscription.call_id == packet.call_id
        {
            // A server that has begun anew makes another dialog of a SUBSCRIBE that comes again.
            if subscription.remote_tag.as_ref() != Some(&packet.to_tag) {
                subscription.remote_tag = Some(packet.to_tag.clone());
                subscription.version = None;
            }
            cx.book.totals.subscriptions += 1;
        }
    }

    /// RFC 6665 §4.1.3: a NOTIFY may overtake the 2xx; one of another dialog is answered 481.
    pub(super) fn on_notify(&mut self, key: &str, packet: &Rc<Packet>, cx: &mut Cx<'_>) {
        let known = self.registration.subscription.as_mut().filter(|subscription| {
            subscription.call_id == packet.call_id
                && subscription.local_tag == packet.to_tag
                && !subscription.is_over
                && subscription
                    .remote_tag
                    .as_ref()
                    .is_none_or(|tag| *tag == packet.from_tag)
        });
        let Some(subscription) = known else {
            let response = self.answer(packet, 481, "Subscription Does Not Exist", "");
            self.respond(key, response, cx);
            return;
        };
        cx.book.totals.notifies += 1;
        // RFC 6665 §4.4.1: the NOTIFY makes the dialog where it comes first.
        if subscription.remote_tag.is_none() {
            subscription.remote_tag = Some(packet.from_tag.clone());
        }
        let message = &packet.message;
        subscription.is_over = message.text("Subscription-State").starts_with("terminated");
        let body = String::from_utf8_lossy(&message.body);
        let version = attribute(&body, "<reginfo", "version").and_then(|text| text.parse::<u32>().ok());
        if let (Some(before), Some(version)) = (subscription.version, version)
            && version <= before
        {
            cx.book.find(cx.net.now, &[&packet.from_tag, &packet.to_tag], || {
                format!(
                    "phone {} was told version {version} after {before}: RFC 3680 §5.1",
                    self.index
                )
            });
        }
        subscription.version = version.or(subscription.version);
        let response = self.answer(packet, 200, "OK", "");
        self.respond(key, response, cx);
    }

    pub(super) fn options(&mut self, cx: &mut Cx<'_>) {
        cx.book.totals.options += 1;
        let over = self.over();
        let (tag, call_id) = (self.word("o"), self.word("opt"));
        let uri = if self.rng.one_in(2) {
            format!("sip:{DOMAIN}")
        } else {
            format!("sip:{}@{DOMAIN}", cx.book.some_number(&mut self.rng))
        };
        let options = self
            .request("OPTIONS", &uri, over)
            .with("Max-Forwards", 70)
            .with("From", format!("<{}>;tag={tag}", self.aor()))
            .with("To", format!("<{uri}>"))
            .with("Call-ID", call_id)
            .with("CSeq", "1 OPTIONS");
        self.ask(options, over, Purpose::Options, cx);
    }

    pub(super) fn send_message(&mut self, cx: &mut Cx<'_>) {
        cx.book.totals.texts += 1;
        let over = self.over();
        let (tag, call_id) = (self.word("m"), self.word("msg"));
        let uri = format!("sip:{}@{DOMAIN}", cx.book.some_number(&mut self.rng));
        let message = self
            .request("MESSAGE", &uri, over)
            .with("Max-Forwards", 70)
            .with("From", format!("<{}>;tag={tag}", self.aor()))
            .with("To", format!("<{uri}>"))
            .with("Call-ID", call_id)
            .with("CSeq", format!("{} MESSAGE", self.rng.between(1, 9_999)))
            .with_body("text/plain;charset=UTF-8", "Watson, come here.");
        self.ask(message, over, Purpose::Message, cx);
    }
}

/// The value of an attribute of the first such element.
fn attribute<'a>(document: &'a str, element: &str, name: &str) -> Option<&'a str> {
    let (_, rest) = document.split_once(element)?;
    let (tag, _) = rest.split_once('>')?;
    let (_, value) = tag.split_once(&format!("{name}=\""))?;
    value.split_once('"').map(|(value, _)| value)
}
