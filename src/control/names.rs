//! Questions of the shards to DNS, asked by hickory-resolver on the control thread. RFC 3263.
//!
//! Each shard keeps its own answers; what is here is only that two shards with one question have it asked once, that no more
//! than `dns.questions_max` are out at a time, and that each comes to an answer in its time.
//!
//! Where more wait than can be asked, because DNS keeps silent about what somebody has asked for on purpose, the newest goes first and
//! those that nobody waits for any more are not asked at all: first come first served would ask each when its time is over.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType as Type};
use tokio::sync::mpsc;

use crate::config::Dns;
use crate::domain::{Answer, DomainName, Naptr, Question, RECORDS_MAX, Record, RecordType, Srv};
use crate::io::clock::Clock;
use crate::port::Ask;
use crate::time::Instant;
use crate::wire::ShardId;

use super::ports::Ports;

/// Questions that may wait until others are answered; beyond it the oldest counts as not answered.
const WAITING_MAX: usize = 65_536;

/// How soon an answer is handed out again that a shard had no room for.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// An answer, and which shards had the question.
struct Answered {
    question: Question,
    answer: Answer,
    shards: Vec<ShardId>,
}

/// Who waits for a question.
struct Asked {
    shards: Vec<ShardId>,
    /// When it was last asked for.
    at: Instant,
}

/// The questions that are out.
pub struct Names {
    /// `None`: there is no server to ask.
    resolver: Option<Arc<TokioResolver>>,
    timeout: Duration,
    questions_max: usize,
    /// Who waits for each question, those that wait to be asked included.
    asked: HashMap<Question, Asked>,
    /// Those that are not out yet, the oldest first.
    waiting: VecDeque<Question>,
    clock: Clock,
    out: usize,
    answers_in: mpsc::UnboundedSender<(Question, Answer)>,
    answers: mpsc::UnboundedReceiver<(Question, Answer)>,
}

impl Names {
    /// Whom to ask is read here and now: `servers`, or /etc/resolv.conf.
    pub fn new(cfg: &Dns, clock: Clock) -> Names {
        let resolver = match resolver(cfg) {
            Ok(resolver) => Some(Arc::new(resolver)),
            Err(error) => {
                tracing::warn!(%error, "host names can't be looked up: no DNS server is known");
                None
            }
        };
        let (answers_in, answers) = mpsc::unbounded_channel();
        Names {
            resolver,
            timeout: cfg.timeout,
            questions_max: cfg.questions_max,
            asked: HashMap::new(),
            waiting: VecDeque::new(),
            clock,
            out: 0,
            answers_in,
            answers,
        }
    }

    /// Asks what the shards want to know and hands the answers out, for ever.
    pub async fn run(mut self, ports: &Ports) {
        let Some(mut questions) = ports.take_questions() else {
            return;
        };
        let mut unheard: VecDeque<(ShardId, Ask)> = VecDeque::new();
        loop {
            tokio::select! {
                Some((shard, question)) = questions.recv() => self.ask(shard, question),
                Some(answered) = self.next_answer() => {
                    for shard in answered.shards {
                        let resolved = Box::new((answered.question, answered.answer.clone()));
                        unheard.push_back((shard, Ask::Resolved(resolved)));
                    }
                }
                () = tokio::time::sleep(RETRY_INTERVAL), if !unheard.is_empty() => {}
            }
            while let Some((shard, ask)) = unheard.pop_front() {
                if let Err(ask) = ports.ask(shard, ask, b"") {
                    unheard.push_front((shard, ask));
                    break;
                }
            }
        }
    }

    /// A shard's question. Its answer comes out of [`Names::next_answer`].
    fn ask(&mut self, shard: ShardId, question: Question) {
        let at = self.clock.now();
        if let Some(asked) = self.asked.get_mut(&question) {
            if !asked.shards.contains(&shard) {
                asked.shards.push(shard);
            }
            asked.at = at;
            return;
        }
        let shards = vec![shard];
        self.asked.insert(question, Asked { shards, at });
        if self.waiting.len() >= WAITING_MAX
            && let Some(oldest) = self.waiting.pop_front()
        {
            self.give_up(oldest);
        }
        self.waiting.push_back(question);
        self.ask_next();
    }

    /// Answers what is not asked.
    fn give_up(&mut self, question: Question) {
        self.out += 1;
        // The receiver is here: it can't be gone.
        _ = self.answers_in.send((question, Answer::Failed));
    }

    /// Whether everybody who asked has been told by now that there is no answer.
    fn is_late(&self, question: &Question) -> bool {
        let now = self.clock.now();
        (self.asked.get(question)).is_none_or(|asked| now.since(asked.at) >= self.timeout)
    }

    /// The next answer that has come; waits for it.
    async fn next_answer(&mut self) -> Option<Answered> {
        let (question, answer) = self.answers.recv().await?;
        self.out -= 1;
        self.ask_next();
        let shards = self
            .asked
            .remove(&question)
            .map_or(Vec::new(), |asked| asked.shards);
        Some(Answered {
            question,
            answer,
            shards,
        })
    }

    fn ask_next(&mut self) {
        while let Some(oldest) = self.waiting.front().copied()
            && self.is_late(&oldest)
        {
            self.waiting.pop_front();
            self.give_up(oldest);
        }
        while self.out < self.questions_max
            && let Some(question) = self.waiting.pop_back()
        {
            if self.is_late(&question) {
                self.give_up(question);
                continue;
            }
            self.out += 1;
            let (answers, resolver, timeout) = (self.answers_in.clone(), self.resolver.clone(), self.timeout);
            tokio::task::spawn_local(async move {
                let answer = match resolver {
                    Some(resolver) => tokio::time::timeout(timeout, look_up(&resolver, &question)).await,
                    None => Ok(Answer::Failed),
                };
                let answer = answer.unwrap_or_else(|_| {
                    tracing::debug!(name = %question.name, record_type = ?question.record_type, "DNS keeps silent");
                    Answer::Failed
                });
                // Nobody listens any more: the server stops.
                _ = answers.send((question, answer));
            });
        }
    }
}

fn resolver(cfg: &Dns) -> Result<TokioResolver, NetError> {
    let mut builder = if cfg.servers.is_empty() {
        TokioResolver::builder_tokio()?
    } else {
        let server = |addr: &std::net::SocketAddr| {
            let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
            for connection in &mut connections {
                connection.port = addr.port();
            }
            NameServerConfig::new(addr.ip(), true, connections)
        };
        let servers = cfg.servers.iter().map(server).collect();
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    let options: &mut ResolverOpts = builder.options_mut();
    // Every shard keeps its answers for their time; a second memory would only make them older.
    options.cache_size = 0;
    options.attempts = cfg.attempts;
    options.timeout = cfg.timeout / cfg.attempts.max(1) as u32;
    options.edns0 = true;
    builder.build()
}

async fn look_up(resolver: &TokioResolver, question: &Question) -> Answer {
    let Ok(mut name) = Name::from_ascii(question.name.as_str()) else {
        return Answer::Nothing { ttl_s: None };
    };
    // As it is: no search list.
    name.set_fqdn(true);
    let wanted = match question.record_type {
        RecordType::A => Type::A,
        RecordType::Aaaa => Type::AAAA,
        RecordType::Srv => Type::SRV,
        RecordType::Naptr => Type::NAPTR,
    };
    let found = match resolver.lookup(name, wanted).await {
        Ok(found) => found,
        Err(NetError::Dns(DnsError::NoRecordsFound(none)))
            if matches!(none.response_code, ResponseCode::NXDomain | ResponseCode::NoError) =>
        {
            return Answer::Nothing {
                ttl_s: none.negative_ttl,
            };
        }
        Err(error) => {
            tracing::debug!(name = %question.name, record_type = ?question.record_type, %error, "DNS");
            return Answer::Failed;
        }
    };
    let mut records = Vec::new();
    let mut ttl_s = u32::MAX;
    for record in found.answers() {
        // An alias on the way bounds the time as well (RFC 1034 §3.6.2).
        ttl_s = ttl_s.min(record.ttl);
        if let Some(record) = record_of(&record.data)
            && records.len() < RECORDS_MAX
        {
            records.push(record);
        }
    }
    if records.is_empty() {
        return Answer::Nothing { ttl_s: Some(ttl_s) };
    }
    Answer::Records {
        records: records.into(),
        ttl_s,
    }
}

/// The record as planning knows it. NAPTR of other flags and services lead nowhere that SIP knows: RFC 3263 §4.1.
fn record_of(data: &RData) -> Option<Record> {
    match data {
        RData::A(ip) => Some(Record::A(ip.0)),
        RData::AAAA(ip) => Some(Record::Aaaa(ip.0)),
        RData::SRV(srv) => Some(Record::Srv(Srv {
            priority: srv.priority,
            weight: srv.weight,
            port: srv.port,
            target: domain_name(&srv.target),
        })),
        RData::NAPTR(naptr) if naptr.flags.eq_ignore_ascii_case(b"s") => Some(Record::Naptr(Naptr {
            order: naptr.order,
            preference: naptr.preference,
            transport: Naptr::transport_of(&naptr.services)?,
            replacement: domain_name(&naptr.replacement)?,
        })),
        // The other types were not asked for.
        _ => None,
    }
}

fn domain_name(name: &Name) -> Option<DomainName> {
    DomainName::new(name.to_ascii().as_bytes())
}
