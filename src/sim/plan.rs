//! What the parties of a run set out to do: the weather of a seed, the habits of a phone, the plan of a call.

use std::net::SocketAddr;
use std::time::Duration;

use super::exchange::Service;
use super::net::Faults;
use super::phone::Act;
use super::rng::Rng;

/// How a run is mixed. Each seed draws its weather from this.
#[derive(Clone, Debug)]
pub struct Mix {
    /// Fixed here, or drawn.
    pub shards: Option<usize>,
    /// Per mille of datagrams, or drawn.
    pub loss: Option<u32>,
    /// Calls that a run places.
    pub calls: usize,
    pub phones: usize,
    /// Only phones that behave.
    pub polite: bool,
    /// Fixed here, or drawn.
    pub service: Option<Service>,
    /// Whether places have names: fixed here, or drawn.
    pub names: Option<bool>,
    /// Whether phones register flows (RFC 5626): fixed here, or drawn.
    pub flows: Option<bool>,
}

impl Default for Mix {
    fn default() -> Mix {
        Mix {
            shards: None,
            loss: None,
            calls: 60,
            phones: 10,
            polite: false,
            service: None,
            names: None,
            flows: None,
        }
    }
}

/// What one seed has in store.
#[derive(Clone, Debug)]
pub struct Weather {
    pub faults: Faults,
    pub shards: usize,
    /// Seconds into the run at which the server crashes, and for how long it is away.
    pub crashes: Vec<(Duration, Duration)>,
    /// Limits so low that they are met.
    pub is_scarce: bool,
    /// Phones break the rules.
    pub is_rude: bool,
    /// Phones may use TCP.
    pub has_tcp: bool,
    /// Over how long the calls are placed.
    pub span: Duration,
    pub service: Service,
    /// Gateways that hear nothing for a while.
    pub is_deaf: bool,
    /// Seconds into the run at which the configuration is read again.
    pub reloads: Vec<Duration>,
    /// Some places have names, for which DNS is asked.
    pub has_names: bool,
    /// DNS keeps silent about some, or gets them wrong.
    pub has_dns_trouble: bool,
    /// Some phones register flows, and are called by their GRUUs.
    pub has_flows: bool,
}

impl Weather {
    pub fn of(seed: u64, mix: &Mix) -> Weather {
        let mut rng = Rng::part(seed, "weather");
        let shards = mix.shards.unwrap_or_else(|| rng.pick(&[1, 2, 4]));
        let has_tcp = rng.below(3) > 0;
        let base = rng.between(50, 20_000);
        let calm = Faults {
            delay_us: (base, base),
            cuts: rng.one_in(2),
            any_shard: rng.one_in(3),
            ..Faults::default()
        };
        let mut faults = match rng.below(10) {
            0..=2 => calm,
            3..=5 => Faults {
                loss: rng.between(0, 30) as u32,
                duplicate: rng.between(0, 20) as u32,
                late: rng.between(0, 20) as u32,
                delay_us: (base / 4, base * 2),
                ..calm
            },
            6 | 7 => Faults {
                loss: rng.between(30, 150) as u32,
                duplicate: rng.between(0, 100) as u32,
                late: rng.between(0, 100) as u32,
                delay_us: (100, 60_000),
                ..calm
            },
            8 => Faults {
                reset: rng.between(1, 60) as u32,
                refuse: rng.between(0, 300) as u32,
                slow_reader: rng.between(0, 40) as u32,
                loss: rng.between(0, 20) as u32,
                send_error: rng.between(0, 10) as u32,
                ..calm
            },
            _ => Faults {
                damage: rng.between(5, 200) as u32,
                loss: rng.between(0, 20) as u32,
                ..calm
            },
        };
        if let Some(loss) = mix.loss {
            faults.loss = loss;
        }
        let span = Duration::from_secs(rng.pick(&[2, 20, 120, 400]));
        let crashes = if rng.one_in(8) {
            (0..1 + rng.below(2))
                .map(|_| {
                    let at = rng.millis(0, span.as_millis() as u64 + 20_000);
                    (at, rng.millis(1, 20_000))
                })
                .collect()
        } else {
            Vec::new()
        };
        // What is drawn for a proxy alone does not change what the same seed means for phones.
        let mut own = Rng::part(seed, "service");
        let drawn = own.pick(&[Service::Phones, Service::Proxy]);
        let service = mix.service.unwrap_or(drawn);
        let is_proxy = service == Service::Proxy;
        let is_deaf = is_proxy && !mix.polite && own.one_in(3);
        let reloads = if is_proxy && own.one_in(6) {
            vec![own.millis(0, span.as_millis() as u64 + 20_000)]
        } else {
            Vec::new()
        };
        let mut names = Rng::part(seed, "names");
        let has_names = mix.names.unwrap_or(names.one_in(3));
        let drawn_flows = Rng::part(seed, "flows").one_in(3);
        let has_flows = has_tcp && mix.flows.unwrap_or(drawn_flows);
        Weather {
            has_flows,
            has_names,
            has_dns_trouble: has_names && names.one_in(2),
            faults,
            shards,
            crashes,
            is_scarce: rng.one_in(8),
            is_rude: !mix.polite && rng.one_in(2),
            has_tcp,
            span,
            service,
            is_deaf,
            reloads,
        }
    }

    /// Whether what the parties see can be foretold exactly.
    pub fn is_calm(&self) -> bool {
        self.faults.is_calm()
            && self.crashes.is_empty()
            && !self.is_scarce
            && !self.faults.any_shard
            && !self.is_deaf
            && self.reloads.is_empty()
            && !self.has_dns_trouble
    }

    /// Whether everything sent arrives sooner or later, at a server that has room for it.
    pub fn is_fair(&self) -> bool {
        let faults = &self.faults;
        faults.damage + faults.send_error + faults.reset + faults.refuse + faults.slow_reader == 0
            && self.crashes.is_empty()
            && !self.is_scarce
    }
}

/// What a phone always does the same way.
#[derive(Clone, Debug)]
pub struct Habits {
    pub rport: bool,
    /// Its Contact asks for TCP.
    pub contact_tcp: bool,
    /// Per mille of its own requests that go over TCP.
    pub tcp: u32,
    /// Per mille of its messages over TCP that are cut off by the loss of its network.
    pub cut: u32,
    pub is_rude: bool,
    pub supports_100rel: bool,
    /// It unregisters at the end rather than let its registration run out.
    pub is_tidy: bool,
    pub subscribes: bool,
    pub expires_s: u64,
    /// Thousandths of the preference that its Contact names.
    pub q: Option<u16>,
    /// It never registers.
    pub is_gateway: bool,
    /// From when to when into the run it hears nothing.
    pub deaf: Option<(Duration, Duration)>,
    /// Its Contact has a name.
    pub has_name: bool,
    /// It registers two flows, one over TCP and one over UDP.
    pub has_flows: bool,
    /// The second of its flows goes by this edge proxy.
    pub edge: Option<SocketAddr>,
    /// It is behind a NAT, and has its dialogs stay on the flows that they began on (RFC 5626 §4.3).
    pub has_ob: bool,
}

impl Habits {
    pub fn draw(weather: &Weather, rng: &mut Rng) -> Habits {
        let tcp = if weather.has_tcp {
            rng.pick(&[0, 0, 300, 1_000])
        } else {
            0
        };
        let is_troubled = weather.faults.reset > 0;
        Habits {
            rport: rng.one_in(2),
            contact_tcp: weather.has_tcp && rng.one_in(3),
            tcp,
            cut: if is_troubled { 20 } else { 0 },
            is_rude: weather.is_rude && rng.one_in(2),
            supports_100rel: rng.one_in(3),
            is_tidy: rng.one_in(2),
            subscribes: rng.one_in(3),
            expires_s: rng.between(60, 300),
            q: None,
            is_gateway: false,
            deaf: None,
            has_name: false,
            has_flows: false,
            edge: None,
            has_ob: false,
        }
    }

    /// The same for a run with a proxy.
    pub fn behind_proxy(self, is_gateway: bool, weather: &Weather, rng: &mut Rng) -> Habits {
        let is_deaf = is_gateway && weather.is_deaf && rng.one_in(2);
        let from = rng.millis(0, weather.span.as_millis() as u64);
        Habits {
            q: rng.pick(&[None, Some(1_000), Some(500), Some(0)]),
            is_gateway,
            subscribes: self.subscribes && !is_gateway,
            deaf: is_deaf.then(|| (from, from + rng.millis(500, 60_000))),
            ..self
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Acknowledge {
    Prompt,
    Late(Duration),
    Twice,
    Never,
}

/// What a caller sets out to do.
#[derive(Clone, Debug)]
pub struct CallerPlan {
    pub cancel_after: Option<Duration>,
    /// The CANCEL does not wait for a provisional response.
    pub cancels_early: bool,
    pub acknowledge: Acknowledge,
    /// After the answer.
    pub acts: Vec<(Duration, Act)>,
    pub has_record_route: bool,
    pub is_tel: bool,
    pub supports_100rel: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Answer,
    Refuse(u16, &'static str),
    Never,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnCancel {
    Obey,
    /// The 200 to the INVITE crosses the CANCEL.
    AnswerAllTheSame,
    Ignore,
}

/// RFC 3261 §17.2.1: within so long an INVITE has a response.
const TRYING_WITHIN: Duration = Duration::from_millis(200);

/// What a callee sets out to do.
#[derive(Clone, Debug)]
pub struct CalleePlan {
    pub has_trying: bool,
    pub ring_after: Option<Duration>,
    pub verdict: Verdict,
    pub verdict_after: Duration,
    /// It says something more when it has answered: another status, under another tag if it is a 2xx.
    pub again: Option<(u16, &'static str)>,
    pub on_cancel: OnCancel,
    pub acts: Vec<(Duration, Act)>,
}

/// Refusals that a proxy has to choose between, follow, gather or fail over on.
const REFUSALS: &[(u16, &str)] = &[
    (302, "Moved Temporarily"),
    (302, "Moved Temporarily"),
    (401, "Unauthorized"),
    (407, "Proxy Authentication Required"),
    (415, "Unsupported Media Type"),
    (480, "Temporarily Unavailable"),
    (486, "Busy Here"),
    (500, "Server Internal Error"),
    (503, "Service Unavailable"),
    (503, "Service Unavailable"),
    (600, "Busy Everywhere"),
];

/// What goes on in a call that stands, on one side, ended by a BYE if this side is to send it.
fn acts(hold: Duration, hangs_up: bool, is_rude: bool, rng: &mut Rng) -> Vec<(Duration, Act)> {
    let mut acts = Vec::new();
    for _ in 0..rng.pick(&[0, 0, 0, 1, 2, 4]) {
        let act = rng.pick(&[Act::Reinvite, Act::Update, Act::Info, Act::Message, Act::Reinvite]);
        // Half of them at a full second, so that both sides often speak at once.
        let mut at = rng.millis(0, hold.as_millis() as u64);
        if rng.one_in(2) {
            at = Duration::from_secs(at.as_secs());
        }
        acts.push((at, act));
    }
    if is_rude && rng.one_in(4) {
        acts.push((rng.millis(0, hold.as_millis() as u64), Act::WrongTag));
    }
    if hangs_up {
        acts.push((hold, Act::Bye));
    }
    if is_rude && rng.one_in(3) {
        acts.push((hold + rng.millis(0, 60_000), Act::Stale));
    }
    acts
}

impl CallerPlan {
    pub fn draw(is_rude: bool, supports_100rel: bool, rng: &mut Rng) -> CallerPlan {
        let hold = rng.millis(0, 60_000);
        let cancel_after = rng.one_in(6).then(|| {
            let most = rng.pick(&[100, 3_000, 12_000]);
            rng.millis(0, most)
        });
        let acknowledge = match (is_rude, rng.below(8)) {
            (true, 0) => Acknowledge::Never,
            (true, 1) => Acknowledge::Late(rng.millis(100, 40_000)),
            (true, 2) => Acknowledge::Twice,
            (_, 3) => Acknowledge::Late(rng.millis(10, 3_000)),
            _ => Acknowledge::Prompt,
        };
        // Always somebody hangs up: the caller, or both at once.
        let hangs_up = true;
        CallerPlan {
            cancel_after,
            cancels_early: is_rude && rng.one_in(3),
            acknowledge,
            acts: acts(hold, hangs_up, is_rude, rng),
            has_record_route: rng.one_in(8),
            is_tel: rng.one_in(5),
            supports_100rel,
        }
    }
}

impl CalleePlan {
    /// The same for a run with a proxy.
    pub fn behind_proxy(self, rng: &mut Rng) -> CalleePlan {
        let (status, reason) = rng.pick(REFUSALS);
        let verdict = if rng.one_in(3) {
            Verdict::Refuse(status, reason)
        } else {
            self.verdict
        };
        CalleePlan { verdict, ..self }
    }

    pub fn draw(is_rude: bool, rng: &mut Rng) -> CalleePlan {
        let verdict = match rng.below(20) {
            0..=12 => Verdict::Answer,
            13 | 14 => Verdict::Refuse(486, "Busy Here"),
            15 => Verdict::Refuse(603, "Decline"),
            16 => Verdict::Refuse(480, "Temporarily Unavailable"),
            17 => Verdict::Refuse(302, "Moved Temporarily"),
            18 => Verdict::Refuse(404, "Not Found"),
            _ => Verdict::Never,
        };
        let most = rng.pick(&[10, 1_000, 10_000, 10_000, 60_000]);
        let verdict_after = rng.millis(0, most);
        let ring_after = (!rng.one_in(5)).then(|| rng.millis(0, verdict_after.as_millis() as u64));
        let on_cancel = match (is_rude, rng.below(8)) {
            (_, 0 | 1) => OnCancel::AnswerAllTheSame,
            (true, 2) => OnCancel::Ignore,
            _ => OnCancel::Obey,
        };
        let again = (is_rude && rng.one_in(4))
            .then(|| rng.pick(&[(200, "OK"), (486, "Busy Here"), (180, "Ringing")]));
        let hold = rng.millis(0, 60_000);
        let hangs_up = rng.one_in(2);
        // RFC 3261 §17.2.1: whoever does not answer within 200 ms says 100.
        let is_slow = verdict == Verdict::Never || verdict_after > TRYING_WITHIN;
        CalleePlan {
            has_trying: if is_rude {
                rng.one_in(2)
            } else {
                is_slow || rng.one_in(2)
            },
            ring_after,
            verdict,
            verdict_after,
            again,
            on_cancel,
            acts: acts(hold, hangs_up, is_rude, rng),
        }
    }
}
