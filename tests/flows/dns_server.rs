//! An authoritative DNS server for one test: a zone in memory, served over UDP, that counts what it is asked.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use hickory_resolver::proto::op::{Message, MessageType, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, NAPTR, SOA, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};

use crate::support::Setup;

/// How often the server looks whether its test is over.
const LOOK: Duration = Duration::from_millis(20);

#[derive(Default)]
struct Zone {
    records: HashMap<Name, Vec<(u32, RData)>>,
    /// Names that are answered with a failure, or not at all.
    failing: Vec<Name>,
    silent: Vec<Name>,
    /// For how long it holds that there is nothing, seconds.
    negative_ttl_s: u32,
    asked: HashMap<(Name, RecordType), usize>,
}

pub struct DnsServer {
    pub at: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl DnsServer {
    pub fn start() -> DnsServer {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        socket.set_read_timeout(Some(LOOK)).expect("a time-out");
        let at = socket.local_addr().expect("an address");
        let zone = Arc::new(Mutex::new(Zone {
            negative_ttl_s: 60,
            ..Zone::default()
        }));
        let is_over = Arc::new(AtomicBool::new(false));
        let (served, over) = (zone.clone(), is_over.clone());
        let thread = std::thread::spawn(move || {
            let mut bytes = [0; 4_096];
            while !over.load(Ordering::Relaxed) {
                let Ok((len, peer)) = socket.recv_from(&mut bytes) else {
                    continue;
                };
                let Ok(query) = Message::from_vec(&bytes[..len]) else {
                    continue;
                };
                if let Some(answer) = served.lock().unwrap().answer(&query) {
                    let answer = answer.to_vec().expect("an answer can be written");
                    socket.send_to(&answer, peer).expect("it is sent");
                }
            }
        });
        DnsServer {
            at,
            zone,
            is_over,
            thread: Some(thread),
        }
    }

    /// The setup, with this server as the one to ask.
    pub fn serves(&self, setup: Setup) -> Setup {
        setup.key("dns", "servers", &format!("[\"{}\"]", self.at))
    }

    fn zone(&self, change: impl FnOnce(&mut Zone)) {
        change(&mut self.zone.lock().unwrap());
    }

    fn add(&self, owner: &str, ttl_s: u32, data: RData) -> &DnsServer {
        self.zone(|zone| zone.records.entry(name(owner)).or_default().push((ttl_s, data)));
        self
    }

    pub fn host(&self, owner: &str, ttl_s: u32, ip: Ipv4Addr) -> &DnsServer {
        self.add(owner, ttl_s, RData::A(A(ip)))
    }

    pub fn host_v6(&self, owner: &str, ttl_s: u32, ip: Ipv6Addr) -> &DnsServer {
        self.add(owner, ttl_s, RData::AAAA(AAAA(ip)))
    }

    pub fn service(
        &self,
        owner: &str,
        ttl_s: u32,
        (priority, weight): (u16, u16),
        port: u16,
        target: &str,
    ) -> &DnsServer {
        let srv = SRV::new(priority, weight, port, name(target));
        self.add(owner, ttl_s, RData::SRV(srv))
    }

    /// `service`: such as `SIP+D2U`.
    pub fn pointer(&self, owner: &str, order: u16, service: &str, replacement: &str) -> &DnsServer {
        let naptr = NAPTR::new(
            order,
            50,
            b"s".as_slice().into(),
            service.as_bytes().into(),
            b"".as_slice().into(),
            name(replacement),
        );
        self.add(owner, 60, RData::NAPTR(naptr))
    }

    /// Questions about this name get SERVFAIL.
    pub fn fails(&self, owner: &str) {
        self.zone(|zone| zone.failing.push(name(owner)));
    }

    /// Questions about this name, and all names below it, get no answer.
    pub fn is_silent(&self, owner: &str) {
        self.zone(|zone| zone.silent.push(name(owner)));
    }

    pub fn set_negative_ttl(&self, ttl_s: u32) {
        self.zone(|zone| zone.negative_ttl_s = ttl_s);
    }

    /// How often it was asked this.
    pub fn asked(&self, owner: &str, record_type: RecordType) -> usize {
        let zone = self.zone.lock().unwrap();
        zone.asked.get(&(name(owner), record_type)).copied().unwrap_or(0)
    }

    /// How often it was asked anything about this name itself.
    pub fn asked_of(&self, owner: &str) -> usize {
        let zone = self.zone.lock().unwrap();
        let counts = zone.asked.iter().filter(|((of, _), _)| *of == name(owner));
        counts.map(|(_, count)| count).sum()
    }
}

impl Zone {
    fn answer(&mut self, query: &Message) -> Option<Message> {
        let question = query.queries.first()?.clone();
        let (owner, record_type) = (question.name().to_lowercase(), question.query_type());
        *self.asked.entry((owner.clone(), record_type)).or_insert(0) += 1;
        if self.silent.iter().any(|silent| silent.zone_of(&owner)) {
            return None;
        }
        let mut answer = Message::new(query.metadata.id, MessageType::Response, query.metadata.op_code);
        answer.metadata.authoritative = true;
        answer.metadata.recursion_desired = query.metadata.recursion_desired;
        answer.add_query(question);
        if self.failing.contains(&owner) {
            answer.metadata.response_code = ResponseCode::ServFail;
            return Some(answer);
        }
        let known = self.records.get(&owner);
        let records = known.into_iter().flatten();
        for (ttl_s, data) in records.filter(|(_, data)| data.record_type() == record_type) {
            answer.add_answer(Record::from_rdata(owner.clone(), *ttl_s, data.clone()));
        }
        if answer.answers.is_empty() {
            if known.is_none() {
                answer.metadata.response_code = ResponseCode::NXDomain;
            }
            // RFC 2308 §3: the SOA's minimum says for how long.
            let ttl_s = self.negative_ttl_s;
            let soa = SOA::new(name("ns.example"), name("root.example"), 1, 900, 900, 900, ttl_s);
            answer.add_authority(Record::from_rdata(name("example"), ttl_s, RData::SOA(soa)));
        }
        Some(answer)
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(std::thread::panicking() || ended.is_ok(), "the DNS server failed");
        }
    }
}

fn name(text: &str) -> Name {
    let mut name = Name::from_str(text).expect("a name");
    name.set_fqdn(true);
    name
}
