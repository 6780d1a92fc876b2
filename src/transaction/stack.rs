//! The transactions of one shard. What requests come to is in [`server`], what they leave by in [`client`], timers and the
//! machines' steps in [`steps`].

mod client;
mod names;
mod server;
mod steps;

use std::sync::Arc;

use crate::config::{Config, Limits};
use crate::dns::Resolver;
use crate::metrics::{Histograms, MessageKind, Metrics, Peers, Recorded};
use crate::msg::build::Load;
use crate::msg::method::Method;
use crate::msg::request::Request;
use crate::msg::scan::Table;
use crate::port::ConfigId;
use crate::slots::Slots;
use crate::tap::Tap;
use crate::time::{DateShift, Instant};
use crate::timer::{Timer, Wheel};
use crate::token::{TOKEN_LEN, Token, TokenKey, TokenKind};
use crate::trunk::Trunks;
use crate::trunk::board::Board;
use crate::wire::{Flow, ShardId, Transport, TxOp};

use self::names::Names;
use super::key::Keyer;
use super::unsent::Unsent;
use super::{Transaction, TxId};
use crate::key_index::{Key, KeyIndex};

/// What is known of a request that came in, before a transaction is made for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Known {
    /// Nothing: its server transaction would have this key.
    New(Key),
    /// Retransmitted, or the ACK of a 300 to 699: dealt with.
    Absorbed,
    /// An ACK that no transaction knows, or that of a 2xx.
    AckForSuccess,
}

/// Room that a message needs beyond its request for what we add: our tag, `received`, `rport`, a reason phrase, `Date`.
const RESPONSE_SLACK: usize = 1_024;

/// Configurations before the present one that are kept: a request that waits for a look-up through more reloads loses its rule.
const FORMER_MAX: usize = 4;

/// The transaction layer of one shard, with what it stands on: configuration, timers, tokens, counters.
pub struct Stack {
    pub cfg: Arc<Config>,
    config_id: ConfigId,
    names: Box<[Names]>,
    /// Earlier ones, the last first: for what began under them.
    former: [Option<Arc<Config>>; FORMER_MAX],
    pub metrics: Arc<Metrics>,
    /// What is timed and who is busy, since the control thread last took it.
    pub recorded: Box<Recorded>,
    /// By how much what is shown of a time differs from it.
    pub dates: DateShift,
    pub shard: ShardId,
    /// Shards in all.
    pub shards: usize,
    pub key: TokenKey,
    pub keyer: Keyer,
    pub wheel: Wheel<Timer>,
    /// Host names.
    pub dns: Resolver,
    pub trunks: Trunks,
    pub(super) unsent: Unsent,
    txs: Slots<Transaction>,
    by_key: KeyIndex,
    /// For a message of ours that is read again while a received one is still in the shard's own table.
    pub(super) scratch: Option<Box<Table>>,
    stateless_serial: u64,
    /// What those are told who obey it (RFC 7339); `None`: nobody is told.
    pub load: Option<Load>,
    /// While somebody wants to see messages.
    pub tap: Option<Box<Tap>>,
}

/// How many deadlines there may be at a time, give or take those of trunks and DNS: one for each transaction, response context, call,
/// subscriber, subscription and connection.
fn timers_max(limits: &Limits) -> usize {
    [
        limits.transactions_max,
        limits.transactions_max,
        limits.calls_max,
        limits.aors_max,
        limits.subscriptions_max,
        limits.connections_max,
    ]
    .into_iter()
    .fold(0, usize::saturating_add)
}

impl Stack {
    /// The limits of `cfg` are shared out evenly to `shards`.
    pub fn new(
        cfg: Arc<Config>,
        metrics: Arc<Metrics>,
        shard: ShardId,
        key: TokenKey,
        keyer: Keyer,
        now: Instant,
    ) -> Stack {
        let shards = cfg.shards;
        let transactions_max = cfg.limits.transactions_max.div_ceil(shards);
        let timers_max = timers_max(&cfg.limits).div_ceil(shards);
        let hasher = keyer.hasher();
        let board = Arc::new(Board::new(&cfg, None));
        Stack {
            dns: Resolver::new(&cfg, hasher.clone()),
            trunks: Trunks::new(&cfg, board, hasher.clone(), hasher.hash_one(shard)),
            unsent: Unsent::new(cfg.dns.look_ups_max.div_ceil(shards)),
            txs: Slots::new(transactions_max),
            by_key: KeyIndex::new(transactions_max),
            names: Names::of(&cfg),
            cfg,
            config_id: ConfigId::FIRST,
            former: [const { None }; FORMER_MAX],
            metrics,
            recorded: Box::new(Recorded {
                histograms: Histograms::default(),
                peers: Peers::new(hasher),
            }),
            dates: DateShift::default(),
            shard,
            shards,
            key,
            keyer,
            wheel: Wheel::new(now, timers_max),
            scratch: Some(Box::new(Table::new())),
            stateless_serial: 0,
            load: None,
            tap: None,
        }
    }

    /// Has the system provide the memory that the first transactions would wait for. Before the first of them.
    pub fn make_ready(&mut self) {
        self.by_key.make_ready();
    }

    /// Goes by `cfg` from now on. Timers that run keep their time, transactions beyond the new limit go on.
    ///
    /// The control thread holds every configuration too, so that none is freed here.
    pub fn configure(&mut self, cfg: Arc<Config>, config_id: ConfigId) {
        let transactions_max = cfg.limits.transactions_max.div_ceil(self.shards);
        self.txs.set_limit(transactions_max);
        self.by_key.set_slots(transactions_max);
        self.names = Names::of(&cfg);
        self.former.rotate_right(1);
        self.former[0] = Some(std::mem::replace(&mut self.cfg, cfg));
        self.config_id = config_id;
        self.metrics.config_id.set(u64::from(config_id.0));
    }

    pub fn config_id(&self) -> ConfigId {
        self.config_id
    }

    /// The present configuration or one of the last few; `None` for an older one.
    pub fn config_of(&self, id: ConfigId) -> Option<&Arc<Config>> {
        match self.config_id.0.wrapping_sub(id.0) {
            0 => Some(&self.cfg),
            age => self.former.get(age as usize - 1)?.as_ref(),
        }
    }

    /// Transactions that there were, modulo 2^32.
    pub fn begun(&self) -> u32 {
        self.txs.inserted()
    }

    /// Transactions now.
    pub fn len(&self) -> usize {
        self.txs.len()
    }

    pub fn is_empty(&self) -> bool {
        self.txs.is_empty()
    }

    /// A fresh To tag, or branch, that stands for nothing that lives on.
    pub fn stateless_token(&mut self) -> Token {
        self.stateless_serial += 1;
        Token {
            kind: TokenKind::Stateless,
            shard: self.shard,
            slot: self.stateless_serial as u32,
            generation: (self.stateless_serial >> 32) as u32,
        }
    }

    pub fn stateless_tag(&mut self) -> [u8; TOKEN_LEN] {
        let token = self.stateless_token();
        self.key.text(token)
    }

    /// The To tag of an answer without a transaction. RFC 3261 §8.2.7: the same request, coming again, gets the same.
    pub fn repeatable_tag(&self, key: Key) -> [u8; TOKEN_LEN] {
        let Key(hash, _) = key;
        self.key.text(Token {
            kind: TokenKind::Stateless,
            shard: self.shard,
            slot: hash as u32,
            generation: (hash >> 32) as u32,
        })
    }

    /// A response that is new leaves over `transport`.
    pub fn count_response(&self, status: u16, transport: Transport) {
        self.metrics.sent.count(transport, MessageKind::of_status(status));
        if let Some(rejected) = usize::from(status / 100)
            .checked_sub(4)
            .and_then(|i| self.metrics.rejected.get(i))
        {
            rejected.inc();
        }
    }

    /// A request that is new leaves over `transport`.
    pub fn count_request(&self, method: Method, transport: Transport) {
        self.metrics.sent.count(transport, request_kind(method));
    }
}

pub const fn request_kind(method: Method) -> MessageKind {
    match method {
        Method::Invite => MessageKind::Invite,
        Method::Ack => MessageKind::Ack,
        Method::Bye => MessageKind::Bye,
        Method::Cancel => MessageKind::Cancel,
        Method::Register => MessageKind::Register,
        Method::Options => MessageKind::Options,
        Method::Subscribe => MessageKind::Subscribe,
        Method::Notify => MessageKind::Notify,
        Method::Message => MessageKind::Message,
        Method::Info | Method::Update | Method::Prack | Method::Refer | Method::Publish | Method::Other => {
            MessageKind::OtherRequest
        }
    }
}

/// Where the response to a request that came over `flow` goes: RFC 3261 §18.2.2 and RFC 3581 §4.
///
/// First back to the host that the request came from, whatever stands in sent-by: that is what `received` says, which §18.2.1 has us add
/// wherever sent-by is a name. When that fails, [`Stack::answer_not_sent`] goes on. `maddr` leads nowhere: whoever writes one would have
/// us answer somebody who never asked.
pub fn reply_flow(request: &Request<'_>, flow: Flow) -> Flow {
    match (flow.transport, request.via.rport) {
        // RFC 3581 §4: `rport` asks for the source port.
        (Transport::Udp, Some(_)) => flow,
        // §18.2.2: else the source address and the port of sent-by. Over TCP that is only for when the connection is gone.
        (Transport::Udp, None) | (Transport::Tcp, _) => flow.at_port(request.via.port.unwrap_or(5060)),
    }
}

fn op(shard: ShardId, id: TxId) -> TxOp {
    TxOp::Request {
        shard,
        slot: id.slot,
        generation: id.generation,
    }
}
