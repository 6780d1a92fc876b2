//! A user agent with sockets of its own, driven by blocking calls.
//!
//! It does what a phone's transaction layer does by itself (RFC 3261 §17): a retransmitted request is answered again and
//! not shown, a retransmitted response is not shown, and one that an ACK belongs to is acknowledged again. Everything else
//! is the caller's: what to send, what to expect, how to answer. Requests and unanswered 200s are repeated on UDP only if
//! [`Phone::retransmit`] is set, so that a test sees exactly what it sent.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::dialog::Dialog;
use crate::failure::{Failure, Outcome};
use crate::ids::Ids;
use crate::ladder::Trace;
use crate::links::{ConnId, Event, Links, Received, Transport};
use crate::memory::{Memory, Unanswered, Until, ack_key, request_key, transaction_key};
use crate::sip::{self, Message};

/// Who a phone is, and whom it talks to.
#[derive(Clone, Debug)]
pub struct Account {
    /// How it is called in traces and failures: `UE1`.
    pub name: String,
    /// User part of the address of record.
    pub user: String,
    pub domain: String,
    /// Its own address; the port is chosen by the kernel.
    pub ip: IpAddr,
    /// Where ringway takes datagrams.
    pub server_udp: SocketAddr,
    /// Where ringway takes connections.
    pub server_tcp: SocketAddr,
    /// Equal seeds give equal tags, branches and Call-IDs.
    pub seed: u64,
}

impl Account {
    pub fn new(name: &str, user: &str, domain: &str, ip: IpAddr, server: SocketAddr, seed: u64) -> Account {
        Account {
            name: name.to_owned(),
            user: user.to_owned(),
            domain: domain.to_owned(),
            ip,
            server_udp: server,
            server_tcp: server,
            seed,
        }
    }
}

pub struct Phone {
    account: Account,
    links: Links,
    ids: Ids,
    /// The connection to ringway, once one was needed.
    server_conn: Option<ConnId>,
    /// What came and nobody has asked for yet.
    inbox: VecDeque<Received>,
    crlfs: usize,
    /// Requests seen, with the last response to each.
    requests: Memory<Option<Vec<u8>>>,
    /// Responses seen.
    responses: Memory<()>,
    /// ACKs sent, by what they acknowledge.
    acks: Memory<(Vec<u8>, Transport)>,
    tags: Memory<String>,
    unanswered: Vec<Unanswered>,
    duplicates: Vec<String>,
    unreadable: Vec<String>,
    /// How long a wait may take before it fails.
    pub patience: Duration,
    /// First interval (T1) of this phone's own retransmissions on UDP; `None`: it sends everything once.
    pub retransmit: Option<Duration>,
    /// Hands out retransmissions like everything else, and answers nothing by itself.
    pub keeps_duplicates: bool,
}

impl Phone {
    /// Takes a port and starts to listen. `trace` gets all that is sent and received, as that phone's number.
    pub fn start(account: Account, trace: Option<(Trace, usize)>) -> io::Result<Phone> {
        Ok(Phone {
            links: Links::bind(account.ip, trace)?,
            ids: Ids::new(account.seed),
            account,
            server_conn: None,
            inbox: VecDeque::new(),
            crlfs: 0,
            requests: Memory::new(),
            responses: Memory::new(),
            acks: Memory::new(),
            tags: Memory::new(),
            unanswered: Vec::new(),
            duplicates: Vec::new(),
            unreadable: Vec::new(),
            patience: Duration::from_secs(10),
            retransmit: None,
            keeps_duplicates: false,
        })
    }

    // Who it is -------------------------------------------------------------------------------------------------------

    pub fn name(&self) -> &str {
        &self.account.name
    }

    pub fn user(&self) -> &str {
        &self.account.user
    }

    /// Address of its UDP socket and of its TCP listener.
    pub fn addr(&self) -> SocketAddr {
        self.links.local()
    }

    pub fn server(&self, transport: Transport) -> SocketAddr {
        match transport {
            Transport::Udp => self.account.server_udp,
            Transport::Tcp => self.account.server_tcp,
        }
    }

    /// `sip:13800011101@one.att.net`
    pub fn aor(&self) -> String {
        format!("sip:{}@{}", self.account.user, self.account.domain)
    }

    /// `sip:one.att.net`
    pub fn registrar(&self) -> String {
        format!("sip:{}", self.account.domain)
    }

    /// `sip:13800011101@127.0.0.1:40000`: no transport parameter, as the captured phones have it.
    pub fn contact(&self) -> String {
        format!("sip:{}@{}", self.account.user, self.addr())
    }

    /// The same with `;transport=tcp`.
    pub fn contact_tcp(&self) -> String {
        format!("{};transport=tcp", self.contact())
    }

    /// `tel:13800011101;phone-context=one.att.net`
    pub fn tel(&self) -> String {
        format!("tel:{};phone-context={}", self.account.user, self.account.domain)
    }

    pub fn ids(&mut self) -> &mut Ids {
        &mut self.ids
    }

    // Requests --------------------------------------------------------------------------------------------------------

    /// A Via of this phone with a fresh branch.
    pub fn via(&mut self, transport: Transport) -> String {
        let branch = self.ids.branch();
        format!("SIP/2.0/{transport} {};branch={branch}", self.addr())
    }

    /// A fresh Call-ID of this phone.
    pub fn call_id(&mut self) -> String {
        format!("{}@{}", self.ids.text(20), self.addr().ip())
    }

    /// A request outside any dialog, complete but for what its method adds: Contact, Event, a body.
    pub fn request(&mut self, method: &str, uri: &str, transport: Transport) -> Message {
        let (via, tag, call_id) = (self.via(transport), self.ids.tag(), self.call_id());
        let cseq = 1 + self.ids.number() % 30_000;
        Message::request(method, uri)
            .with("Via", via)
            .with("Max-Forwards", 70)
            .with("From", format!("<{}>;tag={tag}", self.aor()))
            .with("To", format!("<{uri}>"))
            .with("Call-ID", call_id)
            .with("CSeq", format!("{cseq} {method}"))
            .with("Content-Length", 0)
    }

    /// The next request in a dialog, ACK and CANCEL excepted.
    pub fn request_in(&mut self, dialog: &mut Dialog, method: &str) -> Message {
        dialog.cseq += 1;
        self.message_in(dialog, method, dialog.cseq)
    }

    /// RFC 3261 §13.2.2.4: the ACK for a 2xx is a request of its own, with the INVITE's CSeq number.
    pub fn ack_in(&mut self, dialog: &Dialog, invite: &Message) -> Message {
        self.message_in(dialog, "ACK", invite.cseq().0)
    }

    fn message_in(&mut self, dialog: &Dialog, method: &str, cseq: u32) -> Message {
        let mut message = Message::request(method, &dialog.target)
            .with("Via", self.via(dialog.transport))
            .with("Max-Forwards", 70);
        for route in &dialog.routes {
            message = message.with("Route", route);
        }
        message
            .with("From", &dialog.local)
            .with("To", &dialog.remote)
            .with("Call-ID", &dialog.call_id)
            .with("CSeq", format!("{cseq} {method}"))
            .with("Content-Length", 0)
    }

    /// §9.1: a CANCEL repeats the request's URI, Call-ID, To, From, CSeq number, top Via and Route.
    pub fn cancel_of(request: &Message) -> Message {
        Phone::beside(request, "CANCEL", request.text("To"))
    }

    /// §17.1.1.3: the ACK for a final response above 299 belongs to the INVITE's transaction.
    pub fn ack_of(invite: &Message, response: &Message) -> Message {
        Phone::beside(invite, "ACK", response.text("To"))
    }

    fn beside(request: &Message, method: &str, to: &str) -> Message {
        let mut message = Message::request(method, request.uri().unwrap_or_default())
            .with("Via", request.top_via())
            .with("Max-Forwards", 70);
        for route in request.get_all("Route") {
            message = message.with("Route", route);
        }
        message
            .with("From", request.text("From"))
            .with("To", to)
            .with("Call-ID", request.text("Call-ID"))
            .with("CSeq", format!("{} {method}", request.cseq().0))
            .with("Content-Length", 0)
    }

    // Sending ---------------------------------------------------------------------------------------------------------

    /// Sends a request to ringway. On TCP the connection is opened where there is none.
    pub fn send(&mut self, message: &Message, transport: Transport) -> Outcome {
        let bytes = message.to_bytes();
        if message.is_request("ACK") {
            let acknowledged = ack_key(message);
            self.acks.put(acknowledged, (bytes.clone(), transport));
        } else if let (Some(interval), Transport::Udp) = (self.retransmit, transport) {
            let until = Until::Response(transaction_key(message));
            self.repeat(until, bytes.clone(), self.account.server_udp, interval);
        }
        self.send_bytes(&bytes, transport)
    }

    pub fn send_bytes(&mut self, bytes: &[u8], transport: Transport) -> Outcome {
        match transport {
            Transport::Udp => Ok(self.links.send_datagram(bytes, self.account.server_udp)?),
            Transport::Tcp => self.send_pieces(&[bytes]),
        }
    }

    /// Writes each piece by itself to the connection to ringway.
    pub fn send_pieces(&mut self, pieces: &[&[u8]]) -> Outcome {
        let conn = self.connection()?;
        Ok(self.links.send_stream(conn, pieces)?)
    }

    /// The connection to ringway, opened where there is none (any more).
    pub fn connection(&mut self) -> Outcome<ConnId> {
        match self.server_conn {
            Some(conn) if self.links.is_open(conn) => Ok(conn),
            _ => self.connect_anew(),
        }
    }

    /// Opens a further connection and uses that from now on; the old one stays open.
    pub fn connect_anew(&mut self) -> Outcome<ConnId> {
        let conn = self.links.connect(self.account.server_tcp)?;
        self.server_conn = Some(conn);
        Ok(conn)
    }

    /// Closes the connection to ringway in an orderly way, and waits until ringway has closed it too and so knows.
    pub fn hang_up_connection(&mut self) -> Outcome {
        match self.server_conn.take() {
            Some(conn) => {
                self.links.close(conn);
                self.wait_closed(conn)
            }
            None => Ok(()),
        }
    }

    /// Breaks the connection to ringway off.
    pub fn reset_connection(&mut self) {
        if let Some(conn) = self.server_conn.take() {
            self.links.reset(conn);
        }
    }

    // Answering -------------------------------------------------------------------------------------------------------

    /// A response to `request` (§8.2.6), with this phone's tag unless it is a 100.
    pub fn reply(&mut self, request: &Received, status: u16, reason: &str) -> Message {
        let mut message = Message::response(status, reason);
        for (n, via) in request.elements("Via").into_iter().enumerate() {
            // RFC 3581 §4: who is asked for rport fills it, and says where the request came from.
            let asked = n == 0 && sip::param(via, "rport") == Some("");
            message = match asked {
                true => {
                    let (ip, port) = (request.from.ip(), request.from.port());
                    let filled = via.replacen(";rport", &format!(";rport={port};received={ip}"), 1);
                    message.with("Via", filled)
                }
                false => message.with("Via", via),
            };
        }
        for route in request.get_all("Record-Route") {
            message = message.with("Record-Route", route);
        }
        let mut to = request.text("To").to_owned();
        if request.to_tag().is_none() && status > 100 {
            to = format!("{to};tag={}", self.tag_for(request.text("Call-ID")));
        }
        message
            .with("From", request.text("From"))
            .with("To", to)
            .with("Call-ID", request.text("Call-ID"))
            .with("CSeq", request.text("CSeq"))
            .with("Content-Length", 0)
    }

    /// One tag a call, so that all responses of this phone belong to one dialog.
    fn tag_for(&mut self, call_id: &str) -> String {
        if let Some(tag) = self.tags.get(call_id) {
            return tag.clone();
        }
        let tag = self.ids.tag();
        self.tags.put(call_id.to_owned(), tag.clone());
        tag
    }

    /// Sends `response` the way `request` came.
    pub fn respond(&mut self, request: &Received, response: &Message) -> Outcome {
        let bytes = response.to_bytes();
        self.requests.put(request_key(request), Some(bytes.clone()));
        let answers_invite = response.cseq().1 == "INVITE";
        let accepted = response.status().is_some_and(|s| (200..300).contains(&s));
        if let (Some(interval), true, true, Transport::Udp) =
            (self.retransmit, answers_invite, accepted, request.transport)
        {
            // §13.3.1.4: a 2xx is repeated until its ACK comes.
            let until = Until::Ack {
                call_id: response.text("Call-ID").to_owned(),
                cseq: response.cseq().0,
            };
            self.repeat(until, bytes.clone(), request.from, interval);
        }
        self.answer_with(request, &bytes)
    }

    fn answer_with(&mut self, request: &Received, bytes: &[u8]) -> Outcome {
        match request.conn {
            Some(conn) => Ok(self.links.send_stream(conn, &[bytes])?),
            None => Ok(self.links.send_datagram(bytes, request.from)?),
        }
    }

    /// [`reply`](Phone::reply) and [`respond`](Phone::respond) in one.
    pub fn answers(&mut self, request: &Received, status: u16, reason: &str) -> Outcome<Message> {
        let response = self.reply(request, status, reason);
        self.respond(request, &response)?;
        Ok(response)
    }

    // Waiting ---------------------------------------------------------------------------------------------------------

    /// The first message that `wanted` takes; what else comes stays for later.
    pub fn wait_for(&mut self, what: &str, wanted: impl Fn(&Received) -> bool) -> Outcome<Received> {
        let deadline = Instant::now() + self.patience;
        loop {
            if let Some(at) = self.inbox.iter().position(&wanted) {
                return Ok(self.inbox.remove(at).expect("a position that was just found"));
            }
            if !self.pump(deadline) {
                return Err(self.failure(&format!("waited {:?} for {what}", self.patience)));
            }
        }
    }

    /// The next request of that method.
    pub fn expect(&mut self, method: &str) -> Outcome<Received> {
        self.wait_for(method, |r| r.is_request(method))
    }

    /// A response to `request`, whatever it says; provisional ones count.
    pub fn any_response(&mut self, request: &Message) -> Outcome<Received> {
        let key = transaction_key(request);
        self.wait_for(&format!("a response to {}", request.title()), |r| {
            r.status().is_some() && transaction_key(r) == key
        })
    }

    /// That response to `request`. Provisional ones before it are passed over; another final one is a failure.
    pub fn response(&mut self, request: &Message, status: u16) -> Outcome<Received> {
        loop {
            let response = self.any_response(request)?;
            let got = response.status().unwrap_or_default();
            if got == status {
                return Ok(response);
            }
            if got >= 200 {
                let title = request.title();
                return Err(self.failure(&format!(
                    "expected {status} to {title}, got:\n{}",
                    response.message
                )));
            }
        }
    }

    /// The final response to `request`, whatever it says.
    pub fn final_response(&mut self, request: &Message) -> Outcome<Received> {
        loop {
            let response = self.any_response(request)?;
            if response.status() >= Some(200) {
                return Ok(response);
            }
        }
    }

    /// Sends a request and waits for its final response.
    pub fn ask(&mut self, request: &Message, transport: Transport) -> Outcome<Received> {
        self.send(request, transport)?;
        self.final_response(request)
    }

    /// Sends a request and waits for just that final response.
    pub fn ask_for(&mut self, request: &Message, transport: Transport, status: u16) -> Outcome<Received> {
        self.send(request, transport)?;
        self.response(request, status)
    }

    /// Everything that came so far and nobody asked for, without waiting.
    pub fn leftovers(&mut self) -> Vec<Received> {
        while self.pump(Instant::now()) {}
        self.inbox.drain(..).collect()
    }

    /// Retransmissions that were absorbed so far: titles of requests and responses.
    pub fn duplicates(&mut self) -> &[String] {
        while self.pump(Instant::now()) {}
        &self.duplicates
    }

    /// Waits until so many retransmissions of that title came: `INVITE`, `200 OK (INVITE)`.
    pub fn wait_duplicates(&mut self, title: &str, count: usize) -> Outcome {
        let deadline = Instant::now() + self.patience;
        while self.duplicates.iter().filter(|d| *d == title).count() < count {
            if !self.pump(deadline) {
                return Err(self.failure(&format!("waited for {count} retransmissions of {title}")));
            }
        }
        Ok(())
    }

    /// Waits until so many lone CRLFs came in all: answers to keepalives.
    pub fn wait_crlfs(&mut self, count: usize) -> Outcome {
        let deadline = Instant::now() + self.patience;
        while self.crlfs < count {
            if !self.pump(deadline) {
                let have = self.crlfs;
                return Err(self.failure(&format!("waited for {count} CRLFs, got {have}")));
            }
        }
        Ok(())
    }

    /// Waits until the other side has closed the connection.
    pub fn wait_closed(&mut self, conn: ConnId) -> Outcome {
        let deadline = Instant::now() + self.patience;
        while self.links.is_open(conn) {
            if !self.pump(deadline) {
                return Err(self.failure("waited for the connection to be closed"));
            }
        }
        Ok(())
    }

    /// Takes one event into the books; `false` at the deadline.
    fn pump(&mut self, deadline: Instant) -> bool {
        loop {
            let due = self.unanswered.iter().map(|u| u.due).min();
            let wake = due.map_or(deadline, |due| due.min(deadline));
            if let Some(event) = self.links.next(wake) {
                self.take(event);
                return true;
            }
            if wake >= deadline {
                return false;
            }
            self.send_again();
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Message(received) => {
                let absorbed = match received.status() {
                    Some(status) => self.is_known_response(&received, status),
                    None => self.is_known_request(&received),
                };
                if !absorbed {
                    self.inbox.push_back(*received);
                }
            }
            Event::Crlf(_) => self.crlfs += 1,
            // Whoever cares asks whether the connection is open.
            Event::Closed(_) => {}
            Event::Unreadable { why, raw } => {
                let raw = String::from_utf8_lossy(&raw).into_owned();
                self.unreadable.push(format!("{why}:\n{raw}"));
            }
        }
    }

    fn is_known_request(&mut self, received: &Received) -> bool {
        if received.is_request("ACK") {
            let (call_id, cseq) = (received.text("Call-ID").to_owned(), received.cseq().0);
            self.unanswered.retain(|u| {
                u.until
                    != Until::Ack {
                        call_id: call_id.clone(),
                        cseq,
                    }
            });
        }
        if self.keeps_duplicates || received.transport == Transport::Tcp {
            return false;
        }
        let key = request_key(received);
        let Some(answer) = self.requests.get(&key).cloned() else {
            self.requests.put(key, None);
            return false;
        };
        self.duplicates.push(received.title());
        if let Some(bytes) = answer {
            // Should it not leave, the other side asks once more.
            let _ = self.answer_with(received, &bytes);
        }
        true
    }

    fn is_known_response(&mut self, received: &Received, status: u16) -> bool {
        let key = transaction_key(received);
        self.unanswered
            .retain(|u| u.until != Until::Response(key.clone()));
        // §13.3.1.4: an INVITE's 2xx is repeated over any transport, since a hop further on may be UDP.
        let accepts = (200..300).contains(&status) && received.cseq().1 == "INVITE";
        if self.keeps_duplicates || received.transport == Transport::Tcp && !accepts {
            return false;
        }
        let seen = format!("{} {} {status} {}", key.0, key.1, received.text("To"));
        if self.responses.get(&seen).is_none() {
            self.responses.put(seen, ());
            return false;
        }
        self.duplicates.push(received.title());
        if status >= 200
            && received.cseq().1 == "INVITE"
            && let Some((ack, transport)) = self.acks.get(&ack_key(received)).cloned()
        {
            let _ = self.send_bytes(&ack, transport);
        }
        true
    }

    fn repeat(&mut self, until: Until, bytes: Vec<u8>, to: SocketAddr, interval: Duration) {
        let now = Instant::now();
        self.unanswered.push(Unanswered {
            until,
            bytes,
            to,
            due: now + interval,
            interval,
            stops: now + interval * 64,
        });
    }

    fn send_again(&mut self) {
        let now = Instant::now();
        self.unanswered.retain(|u| u.stops > now);
        for unanswered in self.unanswered.iter_mut().filter(|u| u.due <= now) {
            let _ = self.links.send_datagram(&unanswered.bytes, unanswered.to);
            unanswered.interval = (unanswered.interval * 2).min(Duration::from_secs(4));
            unanswered.due = now + unanswered.interval;
        }
    }

    /// A failure that says what this phone got instead.
    pub fn failure(&self, what: &str) -> Failure {
        let mut text = format!("{} ({}) {what}", self.name(), self.user());
        for received in &self.inbox {
            text.push_str(&format!(
                "\n  unasked for, over {}: {}",
                received.transport,
                received.title()
            ));
        }
        for broken in &self.unreadable {
            text.push_str(&format!("\n  unreadable: {broken}"));
        }
        Failure::new(text)
    }
}
