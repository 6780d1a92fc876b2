// The page: asks once a second what the server does, and shows it.

import { lines, one, Refused, setToken } from "./ask.js";
import { bar, byId, chart, duration, element, legend, linear, logarithmic, rate, table, time, whole } from "./draw.js";
import { showCalls, startCalls } from "./calls.js";

const EVERY_MS = 1000;
/** Seconds that the charts show. */
const SPAN_S = 300;
/** Peers that are shown, and the seconds that they are the busiest in. */
const PEERS = 10;
const PEERS_SPAN_S = 60;
/** Bindings of one subscriber that are shown. */
const BINDINGS_MAX = 100;

const PERCENTILES = [
  { name: "p50", of: "p50_us", label: "p50" },
  { name: "p90", of: "p90_us", label: "p90" },
  { name: "p99", of: "p99_us", label: "p99" },
  { name: "p999", of: "p999_us", label: "p99.9" },
];

const ABOUT = {
  ringing: "From an INVITE's arrival to the 180 that leaves for its caller: the callee's phone is in it.",
  answer: "From an INVITE's arrival to the 200 that leaves for its caller: the people are in it.",
  transaction: "The life of a transaction, the timers that absorb retransmissions included.",
  turn: "One turn of a shard's loop.",
  mailbox: "A message's way from the shard that received it to the one that owns it.",
};
const ABOUT_MESSAGE = "The time in the server: from the kernel's receive time stamp to the send.";

/** What is known. `sample`: rates since the answer before; `seconds`: those of the server's history, oldest first. */
const known = { status: undefined, sample: undefined, seconds: [], times: [], peers: [], curve: undefined, kind: "INVITE", isChosen: false };

// Asking --------------------------------------------------------------------------------------------------------------

async function poll() {
  const last = known.seconds.at(-1)?.at_ms ?? 0;
  const behind = known.status ? Math.ceil((known.status.now_ms - last) / 1000) + 3 : SPAN_S;
  const peers = [];
  const [status, seconds, times] = await Promise.all([
    one("status"),
    one(`history?seconds=${last ? Math.min(SPAN_S, Math.max(5, behind)) : SPAN_S}`),
    one("histograms"),
    lines(`peers?seconds=${PEERS_SPAN_S}&count=${PEERS}`, (peer) => peers.push(peer)),
  ]);
  if (known.status && status.uptime_s < known.status.uptime_s) {
    // Another server has taken its place: what was counted before is of no use.
    Object.assign(known, { status: undefined, seconds: [] });
  }
  keepSample(status);
  const newest = known.seconds.at(-1)?.at_ms ?? 0;
  known.seconds.push(...seconds.filter((second) => second.at_ms > newest));
  known.seconds = known.seconds.slice(-SPAN_S);
  Object.assign(known, { status, times, peers });
  if (!known.isChosen && !times.some((row) => row.kind === known.kind) && times.length > 0) {
    known.kind = times.some((row) => row.kind === "INVITE") ? "INVITE" : times[0].kind;
  }
  if (!known.isChosen && times.some((row) => row.kind === "INVITE")) known.kind = "INVITE";
  known.curve = await one(`histograms/${encodeURIComponent(known.kind)}`);
}

const sum = (counts) => Object.values(counts).reduce((all, count) => all + count, 0);

/** Rates are differences of two answers, over the time between them by the server's own clock. */
function keepSample(status) {
  const before = known.status;
  const s = before ? (status.now_ms - before.now_ms) / 1000 : 0;
  const per = (now, then) => (s > 0 ? Math.max(0, now - then) / s : null);
  const of = (pick) => (before ? per(pick(status), pick(before)) : null);
  known.sample = {
    received: of((one) => sum(one.received)),
    sent: of((one) => sum(one.sent)),
    started: of((one) => one.totals.calls_started),
    registered: of((one) => one.received.REGISTER ?? 0),
    dropped: of((one) => sum(one.drops)),
    by: (group, name) => (before ? per(status[group][name] ?? 0, before[group][name] ?? 0) : null),
    shard: (index, name) => (before?.shards[index] ? per(status.shards[index][name], before.shards[index][name]) : null),
  };
}

// Showing -------------------------------------------------------------------------------------------------------------

function show() {
  const { status, sample } = known;
  byId("version").textContent = status.version;
  byId("facts").textContent = `up ${duration(status.uptime_s)} · ${status.listeners.join(", ")}`;
  showState(status.state, status.state);
  showFigures(status, sample);
  showOverTime();
  showLatency();
  showCurve();
  showTimes();
  showShards(status, sample);
  showPeers();
  showCounts(status, sample);
}

function showState(name, text) {
  const state = byId("state");
  if (state.textContent !== text) state.textContent = text;
  state.className = name;
  document.querySelector("main").classList.toggle("gone", name === "gone");
}

function showFigures(status, sample) {
  const figures = [
    ["calls", "Calls now", whole(status.now.calls)],
    ["calls-rate", "Calls/s", rate(sample.started ?? 0)],
    ["received-rate", "Messages/s in", rate(sample.received ?? 0)],
    ["sent-rate", "Messages/s out", rate(sample.sent ?? 0)],
    ["registrations", "Registrations", whole(status.now.registrations)],
    ["subscriptions", "Subscriptions", whole(status.now.subscriptions)],
    ["connections", "Connections", whole(status.now.connections)],
    ["transactions", "Transactions", whole(status.now.transactions)],
    ["drops-rate", "Drops/s", rate(sample.dropped ?? 0)],
  ];
  const into = byId("figures");
  if (!into.firstChild) {
    into.append(...figures.map(([id, name]) => element("div", {}, [element("dt", {}, name), element("dd", { id: `now-${id}` })])));
  }
  for (const [id, , value] of figures) byId(`now-${id}`).textContent = value;
  byId("now-drops-rate").className = sample.dropped > 0 ? "alarm" : "";
}

/** The last minutes up to now. */
function minutes() {
  const now = known.status.now_ms;
  return {
    isTime: true,
    scale: { of: (at) => 1 - (now - at) / (SPAN_S * 1000), ticks: [5, 4, 3, 2, 1, 0].map((ago) => now - ago * 60000) },
    text: (at) => (at === now ? "now" : `−${Math.round((now - at) / 60000)}`),
    read: (at) => (now - at < 500 ? "now" : `${duration(Math.round((now - at) / 1000))} ago`),
    label: "minutes",
  };
}

const greatest = (points) => points.reduce((most, point) => Math.max(most, point[1] ?? 0), 0);

/** The seconds that the charts show. */
function lastSeconds() {
  const from = known.status.now_ms - SPAN_S * 1000;
  return known.seconds.filter((second) => second.at_ms >= from);
}

function overTime(id, entries, text) {
  const seconds = lastSeconds();
  const curves = entries.map(({ name, of, label }) => ({ name, label, points: seconds.map((second) => [second.at_ms, of(second)]) }));
  const scale = linear(Math.max(...curves.map((curve) => greatest(curve.points))));
  chart(byId(`${id}-chart`), curves, minutes(), { scale, text: whole, read: text }, "measuring …");
  const last = seconds.at(-1);
  legend(byId(`${id}-key`), entries.map((entry) => ({ ...entry, value: last ? text(entry.of(last)) : "" })));
}

function showOverTime() {
  const messages = [
    { name: "one", label: "in", of: (second) => second.received_per_s },
    { name: "two", label: "out", of: (second) => second.sent_per_s },
  ];
  overTime("rate", messages, rate);
  overTime("calls", [{ name: "one", label: "now", of: (second) => second.calls }], whole);
}

/** A power of ten of microseconds. */
const tickTime = (us) => (us >= 1e6 ? `${us / 1e6} s` : us >= 1e3 ? `${us / 1e3} ms` : `${us} µs`);

function showLatency() {
  const rows = lastSeconds().map((second) => [second.at_ms, second.times.find((row) => row.kind === known.kind)]);
  const curves = PERCENTILES.map(({ name, of, label }) => ({
    name,
    label,
    points: rows.map(([at, row]) => [at, row ? row[of] : null]),
  }));
  const all = curves.flatMap((curve) => curve.points.map((point) => point[1])).filter((us) => us > 0);
  const scale = logarithmic(Math.min(...all, 1e3), Math.max(...all, 10));
  chart(byId("latency-chart"), curves, minutes(), { scale, text: tickTime, read: time }, `no ${known.kind} in these minutes`);
  const last = rows.findLast(([, row]) => row)?.[1];
  legend(byId("latency-key"), [
    { name: "", label: "", value: known.kind },
    ...PERCENTILES.map(({ name, of, label }) => ({ name, label, value: last ? time(last[of]) : "" })),
  ]);
}

/** As HdrHistogram's plots have it: each nine takes as much room. */
function showCurve() {
  const curve = known.curve;
  const points = curve.points.filter((point) => point.quantile < 1).map((point) => [1 / (1 - point.quantile), point.us]);
  const most = curve.points.at(-1)?.us;
  const last = points.at(-1)?.[0] ?? 1;
  const end = Math.max(1000, 10 ** Math.ceil(Math.log10(Math.max(last, 10)) - 1e-9));
  // The greatest has no place on such an axis: the curve ends at its height.
  if (points.length > 0) points.push([Math.min(end, Math.max(last, curve.count)), most]);
  const x = logarithmic(1, end);
  const percent = (value) => (value <= 1 ? "0 %" : `${(100 - 100 / value).toFixed(Math.max(0, Math.round(Math.log10(value)) - 2))} %`);
  const exact = (value) => `${(100 - 100 / value).toFixed(Math.max(1, Math.ceil(Math.log10(value))))} %`;
  const values = points.map((point) => point[1]).filter((us) => us > 0);
  const y = logarithmic(Math.min(...values, 1e6), Math.max(...values, 10));
  chart(byId("curve-chart"), [{ name: "p99", label: curve.kind, points }], { scale: x, text: percent, label: "percentile", read: exact }, { scale: y, text: tickTime, read: time }, `no ${curve.kind} so far`);
  legend(byId("curve-key"), [
    { name: "p99", label: curve.kind, value: `${whole(curve.count)} times` },
    { name: "", label: "mean", value: curve.count ? time(curve.mean_us) : "" },
    { name: "", label: "max", value: most === undefined ? "" : time(most) },
  ]);
}

function showTimes() {
  const columns = [
    { name: "Kind", of: (row) => row.kind },
    { name: "Times", number: true, of: (row) => whole(row.count) },
    ...PERCENTILES.map(({ of, label }) => ({ name: label, number: true, of: (row) => time(row[of]) })),
    { name: "max", number: true, of: (row) => time(row.max_us) },
  ];
  table(byId("times"), columns, known.times, {
    chosen: (row) => row.kind === known.kind,
    choose: (row) => {
      Object.assign(known, { kind: row.kind, isChosen: true });
      turn();
    },
  });
  byId("kind-about").textContent = known.times.length === 0 ? "Nothing yet." : `${known.kind}: ${ABOUT[known.kind] ?? ABOUT_MESSAGE}`;
}

function showShards(status, sample) {
  const rows = status.shards.map((shard, index) => ({ ...shard, index, in: sample.shard(index, "received") ?? 0 }));
  const most = Math.max(1, ...rows.map((row) => row.in));
  const per = (name) => (row) => rate(sample.shard(row.index, name) ?? 0);
  table(byId("shards"), [
    { name: "Shard", number: true, of: (row) => row.index },
    { name: "", bar: true, of: (row) => bar(row.in / most, "one") },
    { name: "In/s", number: true, of: (row) => rate(row.in) },
    { name: "Out/s", number: true, of: per("sent") },
    { name: "Turns/s", number: true, of: per("turns") },
    { name: "Mail out/s", number: true, of: per("mailbox_sent") },
    { name: "Mail in/s", number: true, of: per("mailbox_received") },
    { name: "Calls", number: true, of: (row) => whole(row.calls) },
    { name: "Registrations", number: true, of: (row) => whole(row.registrations) },
    { name: "Connections", number: true, of: (row) => whole(row.connections) },
    { name: "Transactions", number: true, of: (row) => whole(row.transactions) },
    { name: "Timers", number: true, of: (row) => whole(row.timers) },
    { name: "Buffers", number: true, of: (row) => whole(row.buffers) },
  ], rows);
}

function showPeers() {
  const most = Math.max(1, ...known.peers.map((row) => row.received + row.sent));
  table(byId("peers"), [
    { name: "Peer", of: (row) => row.peer },
    { name: "", bar: true, of: (row) => bar((row.received + row.sent) / most, "one") },
    { name: "In/s", number: true, of: (row) => rate(row.received_per_s) },
    { name: "Out/s", number: true, of: (row) => rate(row.sent_per_s) },
    { name: "In", number: true, of: (row) => whole(row.received) },
    { name: "Out", number: true, of: (row) => whole(row.sent) },
  ], known.peers);
}

function showCounts(status, sample) {
  const kinds = [...new Set([...Object.keys(status.received), ...Object.keys(status.sent)])];
  const order = (kind) => (/^\dxx$/.test(kind) ? `~${kind}` : kind);
  kinds.sort((a, b) => (order(a) < order(b) ? -1 : 1));
  const per = (group) => (kind) => rate(sample.by(group, kind) ?? 0);
  const all = (group) => (kind) => whole(status[group][kind] ?? 0);
  table(byId("messages"), [
    { name: "Kind", of: (kind) => kind },
    { name: "In/s", number: true, of: per("received") },
    { name: "Out/s", number: true, of: per("sent") },
    { name: "In", number: true, of: all("received") },
    { name: "Out", number: true, of: all("sent") },
  ], kinds);
  const none = [{ reason: "none" }];
  const drops = Object.entries(status.drops).sort((a, b) => b[1] - a[1]).map(([reason, count]) => ({ reason, count }));
  table(byId("drops"), [
    { name: "Reason", of: (row) => row.reason.replaceAll("_", " ") },
    { name: "Per second", number: true, of: (row) => (row.count ? rate(sample.by("drops", row.reason) ?? 0) : "") },
    { name: "Since the start", number: true, of: (row) => (row.count ? whole(row.count) : "") },
  ], drops.length > 0 ? drops : none);
}

// Turns ---------------------------------------------------------------------------------------------------------------

let next;
let isBusy = false;

async function turn() {
  if (isBusy) return;
  isBusy = true;
  clearTimeout(next);
  try {
    await poll();
    show();
    await showCalls();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    if (error.status === 401) return askForToken();
    showState("gone", error.status === 0 ? "no answer from the server; asking again" : error.message);
  } finally {
    isBusy = false;
    // A tab that nobody sees asks nothing.
    if (!document.hidden && !byId("token-dialog").open) next = setTimeout(turn, EVERY_MS);
  }
}

let hasTried = false;

function askForToken() {
  showState("gone", "a token is wanted");
  byId("token-said").textContent = hasTried ? "That is not the token." : "";
  byId("token").value = "";
  if (!byId("token-dialog").open) byId("token-dialog").showModal();
}

byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  hasTried = true;
  setToken(byId("token").value);
  byId("token-dialog").close();
  turn();
});

byId("search").addEventListener("submit", async (event) => {
  event.preventDefault();
  const aor = byId("aor").value.trim();
  if (!aor) return;
  const found = [];
  let said = "";
  try {
    await lines(`registrations/${encodeURIComponent(aor)}`, (binding) => found.push(binding) < BINDINGS_MAX);
    said = `${whole(found.length)} ${found.length === 1 ? "binding" : "bindings"}`;
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    said = error.status === 404 ? `${aor} is not registered.` : error.message;
  }
  byId("search-said").textContent = said;
  table(byId("bindings"), [
    { name: "Subscriber", of: (binding) => binding.aor },
    { name: "Contact", of: (binding) => binding.contact },
    { name: "Via", of: (binding) => binding.transport },
    { name: "From", of: (binding) => binding.peer },
    { name: "Registered for", number: true, of: (binding) => duration(binding.registered_s) },
    { name: "Expires in", number: true, of: (binding) => duration(binding.expires_s) },
  ], found);
});

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) turn();
});
addEventListener("resize", () => known.status && show());

startCalls();
turn();
