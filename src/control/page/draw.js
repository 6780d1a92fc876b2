// Elements, tables and charts. Whatever a peer sent becomes a text node or an attribute value, never markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element: `text` as its text, or `children`. */
export function element(name, attributes = {}, content = []) {
  return fill(document.createElement(name), attributes, content);
}

export function shape(name, attributes = {}, content = []) {
  return fill(document.createElementNS(SVG, name), attributes, content);
}

function fill(made, attributes, content) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) made.setAttribute(name, value);
  }
  made.append(...[content].flat().filter((one) => one !== undefined).map((one) => (one instanceof Node ? one : String(one))));
  return made;
}

export const byId = (id) => document.getElementById(id);

// Numbers as people read them -----------------------------------------------------------------------------------------

const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export const whole = (number) => WHOLE.format(number);

/** A rate: a decimal where there are few. */
export const rate = (number) => (number > 0 && number < 10 ? number.toFixed(1) : whole(number));

/** Microseconds with three digits and their unit. */
export function time(us) {
  if (!(us >= 0)) return "";
  const digits = (number) => (number < 10 ? number.toFixed(2) : number < 100 ? number.toFixed(1) : number.toFixed(0));
  if (us < 999.5) return `${digits(us)} µs`;
  if (us < 999500) return `${digits(us / 1e3)} ms`;
  return `${digits(us / 1e6)} s`;
}

export function duration(s) {
  if (s < 120) return `${s} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h ${String(Math.floor(s / 60) % 60).padStart(2, "0")}`;
  return `${Math.floor(s / 86400)} d ${Math.floor(s / 3600) % 24} h`;
}

// Tables --------------------------------------------------------------------------------------------------------------

/**
 * Fills a table. A column is `{ name, of, number, text }`: `of` makes a row's cell. Rows that are there are kept and changed where they
 * differ, so that a selection and a pointer stay where they are.
 */
export function table(into, columns, rows, { choose, chosen, key } = {}) {
  if (!into.tHead) {
    const names = columns.map((column) => element("th", { class: column.number && "number", scope: "col" }, column.name));
    into.append(element("thead", {}, element("tr", {}, names)), element("tbody"));
  }
  const body = into.tBodies[0];
  into.hidden = rows.length === 0;
  while (body.rows.length > rows.length) body.lastChild.remove();
  rows.forEach((row, index) => {
    let line = body.rows[index];
    if (!line) {
      const cells = columns.map((column) => element("td", { class: cellClass(column) }));
      line = body.appendChild(element("tr", {}, cells));
    }
    line.className = `${choose ? "choice" : ""} ${chosen?.(row) ? "chosen" : ""}`.trim();
    line.onclick = choose ? () => choose(row) : null;
    columns.forEach((column, at) => put(line.cells[at], column.of(row), choose && at === 0, key?.(row)));
  });
}

const cellClass = (column) => (column.number ? "number" : column.bar ? "bar" : "text");

function put(cell, value, isChoice, key) {
  if (value instanceof Node) return cell.replaceChildren(value);
  const text = String(value ?? "");
  const into = isChoice ? (cell.querySelector("button") ?? cell.appendChild(element("button", { type: "button" }))) : cell;
  if (into.textContent !== text) into.textContent = text;
  if (cell.title !== text) cell.title = text;
  if (key !== undefined) cell.parentNode.dataset.key = key;
}

/** A bar in a cell: `share` of 1. */
export function bar(share, name) {
  const width = Math.max(0, Math.min(1, share)) * 100;
  return shape("svg", { viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" }, [
    shape("rect", { class: "track", width: 100, height: 8 }),
    shape("rect", { class: name, width: width.toFixed(2), height: 8 }),
  ]);
}

// Charts --------------------------------------------------------------------------------------------------------------

const HEIGHT = 210;
/** How wide a letter of a chart is, about. */
const LETTER = 6.3;
const EDGE = { left: 56, right: 12, top: 8, bottom: 34 };

/** Round numbers from 0 up to what holds `greatest`. */
export function linear(greatest) {
  const rough = Math.max(greatest, 1) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = Math.max(1, [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough));
  const top = Math.ceil(Math.max(greatest, 1) / step) * step;
  const ticks = [];
  for (let at = 0; at <= top + step / 2; at += step) ticks.push(at);
  return { of: (value) => value / top, ticks };
}

/** Powers of ten that hold all from `least` to `greatest`. */
export function logarithmic(least, greatest) {
  const from = Math.floor(Math.log10(Math.max(least, 0.1)) + 1e-9);
  const to = Math.max(from + 1, Math.ceil(Math.log10(Math.max(greatest, 0.1)) - 1e-9));
  const ticks = [];
  for (let power = from; power <= to; power += 1) ticks.push(10 ** power);
  return { of: (value) => (Math.log10(Math.max(value, 10 ** from)) - from) / (to - from), ticks };
}

/**
 * Draws curves: `{ name, label, points: [[x, y], ...] }`, where y `null` breaks a curve. `x` and `y` are `{ scale, text, label, read }`; a
 * scale's `of` is from 0 to 1, `text` is for ticks and `read` for where somebody points at.
 */
export function chart(into, curves, x, y, none) {
  const pointer = pointers.get(into) ?? follow(into);
  const width = Math.max(280, Math.round(into.clientWidth));
  const inner = { w: width - EDGE.left - EDGE.right, h: HEIGHT - EDGE.top - EDGE.bottom };
  const px = (value) => EDGE.left + x.scale.of(value) * inner.w;
  const py = (value) => EDGE.top + (1 - y.scale.of(value)) * inner.h;
  const parts = [];
  const bottom = EDGE.top + inner.h;
  const isThere = curves.some((curve) => curve.points.some((point) => point[1] !== null));
  if (isThere) {
    for (const tick of y.scale.ticks) {
      const at = Math.round(py(tick));
      parts.push(shape("line", { class: "grid", x1: EDGE.left, x2: width - EDGE.right, y1: at, y2: at }));
      parts.push(shape("text", { x: EDGE.left - 8, y: at + 4, "text-anchor": "end" }, y.text(tick)));
    }
    // From the right, where the last one must be read; one that would touch it is left out.
    let room = width;
    for (const tick of x.scale.ticks.toReversed()) {
      const at = Math.round(px(tick));
      parts.push(shape("line", { class: "axis", x1: at, x2: at, y1: bottom, y2: bottom + 4 }));
      const text = x.text(tick);
      const wide = text.length * LETTER;
      const anchor = at > width - 40 ? "end" : at < EDGE.left + 20 && x.isTime ? "start" : "middle";
      const left = anchor === "end" ? width - EDGE.right - wide : anchor === "start" ? at : at - wide / 2;
      if (left + wide > room) continue;
      room = left - LETTER;
      parts.push(shape("text", { x: anchor === "end" ? width - EDGE.right : at, y: bottom + 16, "text-anchor": anchor }, text));
    }
    parts.push(shape("text", { x: EDGE.left + inner.w / 2, y: HEIGHT - 3, "text-anchor": "middle" }, x.label));
    for (const curve of curves) {
      parts.push(shape("path", { class: `curve ${curve.name}`, d: path(curve.points, px, py) }));
    }
  } else {
    parts.push(shape("text", { class: "none", x: width / 2, y: HEIGHT / 2, "text-anchor": "middle" }, none));
  }
  parts.push(shape("line", { class: "axis", x1: EDGE.left, x2: width - EDGE.right, y1: bottom, y2: bottom }));
  const label = curves.map((curve) => curve.label).join(", ");
  const readout = shape("g");
  const drawn = shape("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": label }, [...parts, readout]);
  into.replaceChildren(drawn);
  pointer.tell = () => readout.replaceChildren(...(pointer.share === undefined ? [] : told(pointer.share * width)));
  pointer.tell();

  /** What all curves are at the point that is nearest to `at`. */
  function told(at) {
    const there = curves.flatMap((curve) => curve.points.filter((point) => point[1] !== null).map((point) => point[0]));
    if (there.length === 0) return [];
    const nearest = there.reduce((best, one) => (Math.abs(px(one) - at) < Math.abs(px(best) - at) ? one : best));
    const values = curves.flatMap((curve) => {
      const point = curve.points.find((one) => one[0] === nearest);
      return point && point[1] !== null ? [{ curve, value: point[1] }] : [];
    });
    const words = [x.read(nearest), ...values.map(({ curve, value }) => `${curve.label} ${y.read(value)}`)];
    const box = { w: Math.max(...words.map((word) => word.length)) * LETTER + 16, h: words.length * 15 + 9 };
    const where = px(nearest);
    const left = where + 10 + box.w > width ? where - 10 - box.w : where + 10;
    return [
      shape("line", { class: "hover", x1: where, x2: where, y1: EDGE.top, y2: bottom }),
      ...values.map(({ curve, value }) => shape("circle", { class: `dot ${curve.name}`, cx: where, cy: py(value), r: 3 })),
      shape("rect", { class: "readout", x: left, y: EDGE.top, width: box.w, height: box.h, rx: 4 }),
      ...words.map((word, line) => shape("text", { class: line === 0 ? "" : "value", x: left + 8, y: EDGE.top + 16 + line * 15 }, word)),
    ];
  }
}

/** Where somebody points at in each chart: a share of its width, and what then is to be told. */
const pointers = new WeakMap();

function follow(into) {
  const pointer = { share: undefined, tell: undefined };
  const at = (event) => {
    const { left, width } = into.getBoundingClientRect();
    pointer.share = (event.clientX - left) / width;
    pointer.tell();
  };
  into.addEventListener("pointerdown", at);
  into.addEventListener("pointermove", at);
  into.addEventListener("pointerleave", () => {
    pointer.share = undefined;
    pointer.tell();
  });
  pointers.set(into, pointer);
  return pointer;
}

function path(points, px, py) {
  let isDown = false;
  let d = "";
  for (const [x, y] of points) {
    if (y === null) {
      isDown = false;
      continue;
    }
    d += `${isDown ? "L" : "M"}${px(x).toFixed(1)} ${py(y).toFixed(1)}`;
    // A point alone is seen too.
    if (!isDown) d += "h0.01";
    isDown = true;
  }
  return d;
}

/** What the curves are: `[{ name, label, value }]`. */
export function legend(into, entries) {
  into.replaceChildren(
    ...entries.map(({ name, label, value }) => {
      const mark = shape("svg", { viewBox: "0 0 14 4", "aria-hidden": "true" }, shape("line", { class: `curve ${name}`, x1: 1, x2: 13, y1: 2, y2: 2 }));
      return element("span", {}, [mark, label, element("b", {}, value)]);
    }),
  );
}
