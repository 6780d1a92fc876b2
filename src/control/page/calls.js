// The calls in progress, and one of them: its legs, and its ladder as its messages come.

import { lines, Refused } from "./ask.js";
import { byId, duration, element, shape, table, whole } from "./draw.js";

/** Calls that are listed. */
const CALLS_MAX = 50;
/** Messages of a ladder; the trace ends after so many. */
const RUNGS_MAX = 400;

/** The call that is looked at: `ended` ends its trace. */
let open;

/** The URI of a name-addr. */
const uri = (nameAddr) => /<([^>]*)>/.exec(nameAddr)?.[1] ?? nameAddr;

export function startCalls() {
  byId("call-close").addEventListener("click", () => (location.hash = ""));
  addEventListener("hashchange", follow);
  follow();
}

/** What stands behind `#call=` is the call that is looked at, so that it can be linked to. */
function follow() {
  const wanted = /^#call=(.+)$/.exec(location.hash)?.[1];
  let callId;
  try {
    callId = wanted && decodeURIComponent(wanted);
  } catch {
    callId = undefined;
  }
  open?.ended.abort();
  open = undefined;
  byId("call").hidden = !callId;
  if (!callId) return;
  open = { callId, ended: new AbortController(), rungs: [], isOver: false };
  byId("call-id").textContent = callId;
  byId("legs").replaceChildren();
  byId("message").hidden = true;
  byId("call-said").textContent = "";
  drawLadder(open);
  watch(open);
}

export async function showCalls() {
  const calls = [];
  let isWhole = true;
  await lines("calls", (call) => {
    isWhole = calls.length < CALLS_MAX;
    if (isWhole) calls.push(call);
    return isWhole;
  });
  const first = (call) => call.legs[0] ?? {};
  table(byId("calls"), [
    { name: "Caller", of: (call) => uri(first(call).remote ?? "") },
    { name: "Callee", of: (call) => uri(first(call).local ?? "") },
    { name: "State", of: (call) => call.state },
    { name: "For", number: true, of: (call) => duration(call.age_s) },
    { name: "Shard", number: true, of: (call) => call.shard },
    { name: "Call-ID", of: (call) => first(call).call_id },
  ], calls, {
    key: (call) => first(call).call_id,
    chosen: (call) => open !== undefined && call.legs.some((leg) => leg.call_id === open.callId),
    choose: (call) => {
      location.hash = `call=${encodeURIComponent(first(call).call_id)}`;
      byId("call").scrollIntoView({ block: "nearest" });
    },
  });
  byId("calls-said").textContent = calls.length === 0 ? "None in progress." : isWhole ? "" : `The first ${whole(CALLS_MAX)}.`;
  if (open) await showLegs(open);
}

async function showLegs(of) {
  // Until its trace brings another message, it stays over.
  if (of.isOver) return;
  const found = [];
  try {
    await lines(`calls/${encodeURIComponent(of.callId)}`, (call) => found.push(call) < 1);
  } catch (error) {
    if (!(error instanceof Refused) || error.status !== 404) throw error;
  }
  if (open !== of) return;
  const call = found[0];
  if (!call) {
    of.isOver = true;
    byId("call-said").textContent = byId("legs").firstChild ? "It is over." : "No call in progress has this Call-ID.";
    return;
  }
  byId("call-said").textContent = `${call.state}, for ${duration(call.age_s)}, on shard ${call.shard}`;
  byId("legs").replaceChildren(
    ...call.legs.map((leg) => {
      const rows = [["Call-ID", leg.call_id], ["Phone", `${leg.transport} ${leg.peer}`], ["Remote", leg.remote], ["Local", leg.local], ["Contact", leg.target]];
      const items = rows.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]);
      return element("dl", {}, [element("dt", { class: "side" }, leg.side), ...items]);
    }),
  );
}

// The ladder ----------------------------------------------------------------------------------------------------------

async function watch(of) {
  const said = (text) => open === of && (byId("ladder-said").textContent = text);
  said("asking …");
  try {
    await lines(`trace?call_id=${encodeURIComponent(of.callId)}&count=${RUNGS_MAX}`, (line) => {
      if (line.bytes !== undefined) {
        of.rungs.push(rung(line));
        of.isOver = false;
      }
      said(`live, from now on${line.dropped ? `; ${whole(line.dropped)} came too fast to be shown` : ""}`);
      drawLadder(of);
    }, of.ended.signal);
    said(of.rungs.length >= RUNGS_MAX ? `the first ${whole(RUNGS_MAX)}` : "ended");
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    said(error.message);
  }
}

/** One message as the ladder has it. */
function rung(line) {
  const bytes = Uint8Array.from(atob(line.bytes), (one) => one.charCodeAt(0));
  const text = new TextDecoder().decode(bytes);
  const first = text.split("\r\n", 1)[0];
  const response = /^SIP\/2\.0 (\d{3}) ?(.*)$/.exec(first);
  const method = /^cseq\s*:\s*\d+\s+(\S+)/im.exec(text)?.[1];
  let title = first.split(" ", 1)[0];
  let name = "request";
  if (response) {
    title = `${response[1]} ${response[2]}${method && method !== "INVITE" ? ` (${method})` : ""}`;
    name = response[1] < "200" ? "early" : response[1] < "300" ? "good" : "bad";
  }
  return { at_ns: line.at_ns, peer: line.is_received ? line.from : line.to, isReceived: line.is_received, transport: line.transport, title, name, text };
}

const LANES = { left: 190, middle: 435, right: 680 };
const WIDTH = 760;
const TOP = 44;
const STEP = 26;

/** The server in the middle, who spoke first on its left, everybody else on its right. */
function drawLadder(of) {
  const into = byId("ladder");
  if (open !== of) return;
  if (of.rungs.length === 0) {
    into.replaceChildren(element("p", { class: "quiet" }, "Waiting for the next message of this call."));
    return;
  }
  const ip = (peer) => peer.slice(0, peer.lastIndexOf(":"));
  const left = of.rungs[0].peer;
  // A phone may speak from several ports; phones of one machine have nothing else to be told apart by.
  const areApart = of.rungs.some((one) => ip(one.peer) !== ip(left));
  const isLeft = (peer) => (areApart ? ip(peer) === ip(left) : peer === left);
  const height = TOP + of.rungs.length * STEP + 8;
  const right = [...new Set(of.rungs.map((one) => one.peer).filter((peer) => !isLeft(peer)))];
  const heads = [
    [LANES.left, left],
    [LANES.middle, "ringway"],
    [LANES.right, right.length > 1 ? `${right[0]} +${right.length - 1}` : (right[0] ?? "")],
  ];
  const parts = heads.flatMap(([x, text]) => [
    shape("text", { class: "head", x, y: 20, "text-anchor": "middle" }, text),
    shape("line", { class: "lane", x1: x, x2: x, y1: 30, y2: height }),
  ]);
  const begun = of.rungs[0].at_ns;
  of.rungs.forEach((one, index) => {
    const y = TOP + index * STEP + 12;
    const peer = isLeft(one.peer) ? LANES.left : LANES.right;
    const [from, to] = one.isReceived ? [peer, LANES.middle] : [LANES.middle, peer];
    const way = Math.sign(to - from);
    const drawn = shape("g", { class: `rung ${one.name} ${of.chosen === index ? "chosen" : ""}` }, [
      shape("rect", { x: 0, y: y - 17, width: WIDTH, height: STEP }),
      shape("text", { x: 84, y: y + 3, "text-anchor": "end" }, `+${((one.at_ns - begun) / 1e6).toFixed(3)} ms`),
      shape("line", { class: "arrow", x1: from, x2: to - way * 5, y1: y, y2: y }),
      shape("path", { class: "tip", d: `M${to} ${y}l${-way * 8} -4v8z` }),
      shape("text", { class: "said", x: (from + to) / 2, y: y - 4, "text-anchor": "middle" }, one.title),
    ]);
    drawn.addEventListener("click", () => {
      of.chosen = of.chosen === index ? undefined : index;
      byId("message").hidden = of.chosen === undefined;
      byId("message").textContent = `${one.transport} ${one.isReceived ? "from" : "to"} ${one.peer}\n\n${one.text}`;
      drawLadder(of);
    });
    parts.push(drawn);
  });
  const label = `Ladder of ${of.rungs.length} messages`;
  into.replaceChildren(shape("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": label }, parts));
}
