// The diagram. Draws what can be told apart at the zoom of the moment.
const canvas = document.getElementById("diagram");
const map = document.getElementById("map");
const scroll = document.getElementById("scroll");
const pen = canvas.getContext("2d");
const mapPen = map.getContext("2d");

const GUTTER = 62, RULER = 26, FAULT_ROW = 15, CLIENT_ROW = 19, PAD = 8;
const view = { from: begin, to: end };
const chosen = { event: -1 };
const hidden = { classes: new Set([2]), beats: true, faults: false, operations: false, writes: true };
const state = { found: [], foundSet: new Set(), onlyWhy: false, hover: null, mark: null, cursor: null };
const frames = [];
let drawn = { messages: 0, events: 0 };
let colours = {};
let layout = { width: 0, height: 0, rows: new Map(), order: [] };
// What the last frame has drawn that can be pointed at.
let targets = [];

function readColours() {
  const style = getComputedStyle(document.documentElement);
  const names = [
    "ground", "panel", "ink", "soft", "line", "lane", "lane-line", "grid", "grid-strong", "follower", "pre-candidate", "candidate", "leader",
    "starting", "down", "on-follower", "on-leader", "on-candidate", "hatch", "vote", "append", "beat", "snapshot", "read", "client", "fault",
    "fault-fill", "fault-bar", "on-fault", "ok", "fail", "info", "open", "violation", "why", "found", "accent", "chosen",
  ];
  colours = Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
  hatches.clear();
}

const hatches = new Map();
function hatch(colour) {
  if (hatches.has(colour)) return hatches.get(colour);
  const tile = document.createElement("canvas");
  tile.width = tile.height = 8;
  const ink = tile.getContext("2d");
  ink.strokeStyle = colour;
  ink.lineWidth = 1.2;
  ink.beginPath();
  for (const shift of [-8, 0, 8]) {
    ink.moveTo(shift, 8);
    ink.lineTo(shift + 8, 0);
  }
  ink.stroke();
  const pattern = pen.createPattern(tile, "repeat");
  hatches.set(colour, pattern);
  return pattern;
}

const scale = () => (layout.width - GUTTER - PAD) / (view.to - view.from);
const xOf = (when) => GUTTER + (when - view.from) * scale();
const timeAt = (x) => view.from + (x - GUTTER) / scale();

// Where each lane is. Nodes share what room there is, clients have a line each.
function arrange() {
  const nodes = [], clients = [];
  data.lanes.forEach((_, at) => { if (isNode(at)) nodes.push(at); else if (isClient(at)) clients.push(at); });
  const width = scroll.clientWidth, room = scroll.clientHeight;
  const top = RULER + (hidden.faults ? 0 : Math.max(1, faultRows) * FAULT_ROW + 8);
  const below = hidden.operations ? 8 : clients.length * CLIENT_ROW + 18;
  const each = Math.max(54, Math.min(150, (room - top - below) / Math.max(1, nodes.length)));
  const rows = new Map();
  let y = top;
  for (const at of nodes) {
    rows.set(at, { top: y, height: each, middle: y + each / 2, band: Math.min(20, each * 0.36) });
    y += each;
  }
  y += 10;
  if (!hidden.operations) {
    for (const at of clients) {
      rows.set(at, { top: y, height: CLIENT_ROW, middle: y + CLIENT_ROW / 2, band: CLIENT_ROW - 6 });
      y += CLIENT_ROW;
    }
  }
  const height = Math.max(room, y + 8);
  layout = { width, height, rows, nodes, clients, top, bottom: y };
  const ratio = window.devicePixelRatio || 1;
  canvas.style.height = `${height}px`;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  map.width = Math.round(map.clientWidth * ratio);
  map.height = Math.round(map.clientHeight * ratio);
  mapPen.setTransform(ratio, 0, 0, ratio, 0, 0);
}

let wanted = false;
function redraw() {
  if (wanted) return;
  wanted = true;
  requestAnimationFrame(() => {
    wanted = false;
    const started = performance.now();
    draw();
    frames.push(performance.now() - started);
    if (frames.length > 1000) frames.splice(0, 500);
  });
}

function draw() {
  targets = [];
  drawn = { messages: 0, events: 0 };
  pen.clearRect(0, 0, layout.width, layout.height);
  pen.textBaseline = "middle";
  drawGrid();
  pen.save();
  pen.beginPath();
  pen.rect(GUTTER, 0, layout.width - GUTTER, layout.height);
  pen.clip();
  drawShades();
  drawMessages();
  drawBands();
  if (!hidden.operations) drawOperations();
  drawEvents();
  if (!hidden.faults) drawFaults();
  drawPhases();
  drawFound();
  if (state.onlyWhy) drawWhy();
  drawViolation();
  drawChosen();
  pen.restore();
  drawNames();
  drawMap();
}

function niceStep(span, lines) {
  const rough = span / lines, power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= rough);
}

function drawGrid() {
  for (const [at, row] of layout.rows) {
    pen.fillStyle = colours.lane;
    if (isNode(at)) pen.fillRect(GUTTER, row.top + 1, layout.width - GUTTER, row.height - 2);
    pen.strokeStyle = colours["lane-line"];
    pen.beginPath();
    pen.moveTo(GUTTER, row.middle + 0.5);
    pen.lineTo(layout.width, row.middle + 0.5);
    pen.stroke();
  }
  const step = niceStep(view.to - view.from, Math.max(2, layout.width / 130));
  pen.font = "11px system-ui, 'DejaVu Sans', sans-serif";
  pen.fillStyle = colours.soft;
  pen.strokeStyle = colours["grid-strong"];
  pen.beginPath();
  for (let at = Math.ceil(view.from / step) * step; at <= view.to; at += step) {
    const x = Math.round(xOf(at)) + 0.5;
    pen.moveTo(x, RULER - 6);
    pen.lineTo(x, layout.bottom);
    if (x + 60 < layout.width) pen.fillText(shownTime(at, step), x + 4, 10);
  }
  pen.globalAlpha = 0.6;
  pen.stroke();
  pen.globalAlpha = 1;
}

// Faults shade the lanes that they befall.
function drawShades() {
  if (hidden.faults) return;
  pen.fillStyle = colours["fault-fill"];
  eachIn(faults, view.from, view.to, (fault) => {
    if (!fault.lasting) return;
    const from = Math.max(GUTTER, xOf(fault.from)), to = Math.min(layout.width, xOf(fault.to));
    for (const at of fault.lanes) {
      const row = layout.rows.get(at);
      if (row) pen.fillRect(from, row.top + 1, Math.max(1, to - from), row.height - 2);
    }
  });
}

function drawFaults() {
  pen.font = "11px system-ui, 'DejaVu Sans', sans-serif";
  eachIn(faults, view.from - (view.to - view.from), view.to, (fault) => {
    const y = RULER + 2 + fault.row * FAULT_ROW;
    const from = xOf(fault.from), to = fault.lasting ? xOf(fault.to) : from + 5;
    const label = text(fault.event).replace(/^fault \d+ begin: /, "");
    const faded = state.onlyWhy && !why.has(fault.event);
    pen.globalAlpha = faded ? 0.25 : 1;
    pen.fillStyle = fault.lasting ? colours["fault-bar"] : colours.fault;
    const left = Math.max(from, GUTTER - 4), width = Math.max(3, Math.min(to, layout.width + 4) - left);
    if (left + width < GUTTER) return;
    if (fault.lasting) {
      pen.beginPath();
      pen.roundRect(left, y, width, FAULT_ROW - 3, 3);
      pen.fill();
    } else {
      pen.beginPath();
      pen.moveTo(from - 4, y);
      pen.lineTo(from + 4, y);
      pen.lineTo(from, y + FAULT_ROW - 4);
      pen.fill();
    }
    const start = Math.max(from, GUTTER) + (fault.lasting ? 5 : 7);
    const spare = nextFaultX(fault) - start - 6;
    if (spare > 24) {
      pen.save();
      pen.beginPath();
      pen.rect(start - 2, y - 1, spare, FAULT_ROW);
      pen.clip();
      pen.fillStyle = fault.lasting ? colours["on-fault"] : colours.fault;
      pen.fillText(label, start, y + FAULT_ROW / 2 - 1);
      pen.restore();
    }
    pen.globalAlpha = 1;
    targets.push({ type: "fault", x: left, y, w: Math.max(width, 10), h: FAULT_ROW, event: fault.event });
  });
}
const followers = new Map();
{
  const last = new Map();
  for (const fault of faults.items) {
    if (last.has(fault.row)) followers.set(last.get(fault.row), fault);
    last.set(fault.row, fault);
  }
}
function nextFaultX(fault) {
  const next = followers.get(fault);
  return next ? Math.min(xOf(next.from), layout.width) : layout.width;
}

function drawBands() {
  pen.font = "600 11px system-ui, 'DejaVu Sans', sans-serif";
  const fills = [null, colours.starting, colours.follower, colours["pre-candidate"], colours.candidate, colours.leader];
  for (const at of layout.nodes) {
    const row = layout.rows.get(at), y = row.middle - row.band / 2;
    let until = -Infinity;
    const list = bands[at];
    for (let i = Math.max(0, lowerBound(list, view.from, (band) => band.to)); i < list.length; i++) {
      const band = list[i];
      if (band.from > view.to) break;
      const from = Math.max(GUTTER, xOf(band.from)), to = Math.min(layout.width, xOf(band.to));
      // What is narrower than a pixel is drawn once a pixel; a candidacy is worth one more than nothing.
      if (to - from < 0.5 && from < until + 0.5) continue;
      until = to;
      const width = Math.max(1, to - from);
      if (band.state === 0) {
        pen.fillStyle = colours.down;
        pen.fillRect(from, y, width, row.band);
        pen.fillStyle = hatch(colours.hatch);
      } else {
        pen.fillStyle = fills[band.state];
      }
      pen.fillRect(from, y, width, row.band);
      const on = band.state === 5 ? "on-leader" : band.state >= 3 ? "on-candidate" : "on-follower";
      const label = band.state === 0 ? "down" : band.state === 1 ? "starts" : `${STATES[band.state]} · term ${band.term}`;
      const short = band.state <= 1 ? "" : `t${band.term}`;
      const shown = width > pen.measureText(label).width + 12 ? label : width > 24 ? short : "";
      if (shown) {
        pen.fillStyle = colours[on];
        pen.fillText(shown, from + 6, row.middle + 0.5);
      }
    }
  }
}

const showsMessage = (message) =>
  !hidden.classes.has(message.type) && layout.rows.has(message.source) && layout.rows.has(message.target);

// Messages, as lines from band to band. Where there are more than can be seen, one for each pair of lanes, kind and
// few pixels stands for all.
function drawMessages() {
  const visible = [];
  const from = view.from, to = view.to;
  let total = 0;
  eachIn(messages, from, to, (message) => { if (showsMessage(message)) total++; });
  const dense = total > 4000;
  const column = dense ? Math.min(12, Math.max(2, total / 4000)) : 0;
  const last = new Map();
  eachIn(messages, from, to, (message) => {
    if (!showsMessage(message)) return;
    if (dense && message.type !== 0 && message.type !== 3) {
      const key = ((message.source * 256 + message.target) * 8 + message.type) * 2 + (message.lost ? 1 : 0);
      const x = xOf(message.from);
      if (x - (last.get(key) ?? -Infinity) < column) return;
      last.set(key, x);
    }
    visible.push(message);
  });
  drawn.messages = visible.length;
  const heavy = visible.length < 600;
  for (let type = 0; type < CLASSES.length; type++) {
    if (hidden.classes.has(type)) continue;
    const colour = colours[CLASSES[type]];
    const lost = [];
    pen.strokeStyle = colour;
    pen.fillStyle = colour;
    pen.lineWidth = type === 0 || type === 3 ? 1.6 : 1;
    pen.globalAlpha = state.onlyWhy ? 0.09 : dense ? 0.4 : type === 2 || type === 5 ? 0.55 : 0.85;
    pen.beginPath();
    for (const message of visible) {
      if (message.type !== type) continue;
      const line = lineOf(message);
      if (message.lost) {
        lost.push(line);
        continue;
      }
      pen.moveTo(line.x0, line.y0);
      pen.lineTo(line.x1, line.y1);
    }
    pen.stroke();
    if (heavy) {
      pen.beginPath();
      for (const message of visible) if (message.type === type && !message.lost) arrow(lineOf(message));
      pen.fill();
    }
    drawLost(lost);
  }
  pen.globalAlpha = 1;
  pen.lineWidth = 1;
  if (visible.length < 3000) for (const message of visible) targets.push({ type: "message", line: lineOf(message), event: message.event });
}

function lineOf(message) {
  const a = layout.rows.get(message.source), b = layout.rows.get(message.target);
  const down = b.middle > a.middle ? 1 : -1;
  const y0 = a.middle + down * a.band / 2, x0 = xOf(message.from);
  const y1 = b.middle - down * b.band / 2;
  if (!message.lost) return { x0, y0, x1: xOf(message.to), y1 };
  // A message that never came ends after a part of the way.
  return { x0, y0, x1: x0 + 14, y1: y0 + down * Math.min(26, Math.abs(y1 - y0) * 0.4) };
}

function drawLost(lines) {
  if (!lines.length) return;
  pen.setLineDash([3, 3]);
  pen.beginPath();
  for (const { x0, y0, x1, y1 } of lines) {
    pen.moveTo(x0, y0);
    pen.lineTo(x1, y1);
  }
  pen.stroke();
  pen.setLineDash([]);
  pen.beginPath();
  for (const { x1, y1 } of lines) {
    pen.moveTo(x1 - 3, y1 - 3);
    pen.lineTo(x1 + 3, y1 + 3);
    pen.moveTo(x1 + 3, y1 - 3);
    pen.lineTo(x1 - 3, y1 + 3);
  }
  pen.stroke();
}

function arrow({ x0, y0, x1, y1 }) {
  const length = Math.hypot(x1 - x0, y1 - y0);
  if (length < 9) return;
  const ux = (x1 - x0) / length, uy = (y1 - y0) / length, size = 6;
  pen.moveTo(x1, y1);
  pen.lineTo(x1 - ux * size - uy * 2.8, y1 - uy * size + ux * 2.8);
  pen.lineTo(x1 - ux * size + uy * 2.8, y1 - uy * size - ux * 2.8);
  pen.closePath();
}

function drawOperations() {
  pen.font = "11px system-ui, 'DejaVu Sans', sans-serif";
  const last = new Map();
  eachIn(operations, view.from, view.to, (operation) => {
    const row = layout.rows.get(operation.lane);
    if (!row) return;
    const from = xOf(operation.from), to = xOf(operation.to);
    if (to < (last.get(operation.lane) ?? -Infinity) + 0.7 && operation.outcome === 0 && !witnesses.has(operation.answer)) return;
    last.set(operation.lane, to);
    const left = Math.max(from, GUTTER), width = Math.max(1.5, Math.min(to, layout.width) - left - 0.5);
    pen.globalAlpha = state.onlyWhy && !why.has(operation.event) ? 0.15 : 1;
    pen.fillStyle = colours[OUTCOMES[operation.outcome]];
    pen.fillRect(left, row.middle - row.band / 2, width, row.band);
    if (operation.outcome >= 2) {
      pen.fillStyle = hatch(colours.panel);
      pen.fillRect(left, row.middle - row.band / 2, width, row.band);
    }
    if (width > 34) {
      const answer = operation.answer >= 0 ? text(operation.answer).replace(/^#\d+ -> (ok|fail|info) ?/, " → ") : " → no answer";
      pen.save();
      pen.beginPath();
      pen.rect(left, row.top, width - 2, row.height);
      pen.clip();
      pen.fillStyle = colours.ink;
      pen.fillText(text(operation.event) + answer, left + 4, row.middle + 0.5);
      pen.restore();
    }
    pen.globalAlpha = 1;
    targets.push({
      type: "operation", x: left, y: row.top, w: width, h: row.height, event: operation.answer >= 0 ? operation.answer : operation.event,
    });
  });
}

// The marks on the bands. In a crowd, what is rare is drawn and what is common is a texture.
const RARE = new Set([KIND.stopped, KIND.started, KIND.role, KIND.vote, KIND.snapshot, KIND.truncated, KIND.configured, KIND.other]);
function drawEvents() {
  const ticks = new Path2D(), quiet = new Path2D();
  for (const at of layout.nodes) {
    const row = layout.rows.get(at), list = ofLane[at];
    const first = lowerBound(list, view.from, (i) => time[i]), stop = lowerBound(list, view.to, (i) => time[i]);
    const few = stop - first < 1500;
    let lastX = -Infinity;
    const lastRare = new Map();
    for (let n = first; n < stop; n++) {
      const i = list[n], x = xOf(time[i]);
      if (RARE.has(kind[i])) {
        if (x - (lastRare.get(kind[i]) ?? -Infinity) < 1) continue;
        lastRare.set(kind[i], x);
        drawGlyph(kind[i], x, row, state.onlyWhy && !why.has(i));
        drawn.events++;
      } else {
        if (x - lastX < 1) continue;
        lastX = x;
        const path = kind[i] === KIND.committed ? ticks : quiet;
        path.moveTo(x, row.middle + row.band / 2);
        path.lineTo(x, row.middle + row.band / 2 + (kind[i] === KIND.committed ? 6 : 3));
        drawn.events++;
      }
      if (few) targets.push({ type: "event", x, y: row.middle, event: i });
    }
  }
  pen.globalAlpha = state.onlyWhy ? 0.25 : 0.8;
  pen.strokeStyle = colours.leader;
  pen.stroke(ticks);
  pen.strokeStyle = colours.beat;
  pen.stroke(quiet);
  pen.globalAlpha = 1;
}

function drawGlyph(what, x, row, faded) {
  const y = row.middle - row.band / 2;
  pen.globalAlpha = faded ? 0.25 : 1;
  pen.lineWidth = 1.8;
  pen.beginPath();
  if (what === KIND.stopped) {
    pen.strokeStyle = colours.fault;
    pen.moveTo(x - 4, row.middle - 4);
    pen.lineTo(x + 4, row.middle + 4);
    pen.moveTo(x + 4, row.middle - 4);
    pen.lineTo(x - 4, row.middle + 4);
    pen.stroke();
  } else if (what === KIND.vote) {
    pen.fillStyle = colours.vote;
    pen.moveTo(x, y - 7);
    pen.lineTo(x + 4, y - 3);
    pen.lineTo(x, y + 1);
    pen.lineTo(x - 4, y - 3);
    pen.fill();
  } else if (what === KIND.snapshot || what === KIND.truncated || what === KIND.configured) {
    pen.fillStyle = what === KIND.configured ? colours.accent : colours.snapshot;
    pen.fillRect(x - 3, y - 6, 6, 6);
  } else {
    pen.strokeStyle = what === KIND.role ? colours.ink : colours.soft;
    pen.lineWidth = what === KIND.role ? 1.4 : 1;
    pen.moveTo(x, y - 3);
    pen.lineTo(x, y + row.band);
    pen.stroke();
  }
  pen.globalAlpha = 1;
  pen.lineWidth = 1;
}

function drawPhases() {
  pen.font = "600 10px system-ui, 'DejaVu Sans', sans-serif";
  for (const [at, name] of data.phases) {
    const x = xOf(at / 1e6);
    if (x < GUTTER - 1 || x > layout.width) continue;
    pen.strokeStyle = colours.accent;
    pen.setLineDash([2, 4]);
    pen.beginPath();
    pen.moveTo(x, 0);
    pen.lineTo(x, layout.bottom);
    pen.stroke();
    pen.setLineDash([]);
    pen.fillStyle = colours.accent;
    pen.fillText(name.toUpperCase(), x + 3, layout.bottom + 1);
  }
}

function ring(i, colour, radius, width) {
  const { x, y } = placeOf(i);
  pen.strokeStyle = colour;
  pen.lineWidth = width;
  pen.beginPath();
  pen.arc(x, y, radius, 0, 7);
  pen.stroke();
  pen.lineWidth = 1;
}

function placeOf(i) {
  const row = layout.rows.get(lane[i]);
  return { x: xOf(time[i]), y: row ? row.middle : RULER + FAULT_ROW / 2 };
}

function drawFound() {
  let lastX = -Infinity;
  const first = lowerBound(state.found, view.from, (i) => time[i]);
  for (let n = first; n < state.found.length && time[state.found[n]] <= view.to; n++) {
    const x = xOf(time[state.found[n]]);
    if (x - lastX < 0.5 && n - first > 400) continue;
    lastX = x;
    ring(state.found[n], colours.found, 6, 2);
  }
}

function drawWhy() {
  pen.strokeStyle = colours.why;
  pen.fillStyle = colours.why;
  for (const [effect, causes] of why) {
    if (effect === data.violation && !layout.rows.has(lane[effect])) continue;
    const to = placeOf(effect);
    for (const cause of causes) {
      const from = placeOf(cause);
      const apart = lane[cause] !== lane[effect];
      pen.globalAlpha = apart ? 0.95 : 0.45;
      pen.lineWidth = apart ? 1.8 : 1.2;
      pen.beginPath();
      pen.moveTo(from.x, from.y);
      if (apart) pen.lineTo(to.x, to.y);
      else pen.quadraticCurveTo((from.x + to.x) / 2, from.y - 20, to.x, to.y);
      pen.stroke();
    }
  }
  pen.globalAlpha = 1;
  pen.lineWidth = 1;
  for (const i of whyList) {
    const { x, y } = placeOf(i);
    if (x < GUTTER || x > layout.width) continue;
    pen.beginPath();
    pen.arc(x, y, witnesses.has(i) ? 5 : 3.2, 0, 7);
    pen.fillStyle = witnesses.has(i) ? colours.violation : colours.why;
    pen.fill();
    pen.strokeStyle = colours.panel;
    pen.stroke();
    targets.push({ type: "event", x, y, event: i });
  }
}

function drawViolation() {
  if (data.violation === null) return;
  const x = xOf(time[data.violation]);
  pen.strokeStyle = colours.violation;
  pen.lineWidth = 2;
  pen.beginPath();
  pen.moveTo(x, RULER - 4);
  pen.lineTo(x, layout.bottom);
  pen.stroke();
  pen.font = "700 11px system-ui, 'DejaVu Sans', sans-serif";
  const label = "✖ violated", width = pen.measureText(label).width + 12;
  const left = Math.min(x - 1, layout.width - width);
  pen.fillStyle = colours.violation;
  pen.beginPath();
  pen.roundRect(left, layout.bottom - 16, width, 17, 3);
  pen.fill();
  pen.fillStyle = colours.panel;
  pen.fillText(label, left + 6, layout.bottom - 7);
  targets.push({ type: "event", x, y: layout.bottom - 8, event: data.violation });
  for (const i of witnesses) {
    ring(i, colours.violation, 9, 2.5);
    ring(i, colours.violation, 13, 1);
  }
  if (layout.rows.has(lane[data.violation])) ring(data.violation, colours.violation, 9, 2.5);
  pen.lineWidth = 1;
}

function drawChosen() {
  if (state.mark) {
    pen.fillStyle = colours.accent;
    pen.globalAlpha = 0.15;
    const [a, b] = state.mark;
    pen.fillRect(Math.min(a, b), 0, Math.abs(b - a), layout.bottom);
    pen.globalAlpha = 1;
  }
  const i = chosen.event;
  if (i < 0) return;
  const { x, y } = placeOf(i);
  pen.strokeStyle = colours.accent;
  pen.beginPath();
  pen.moveTo(x, RULER);
  pen.lineTo(x, layout.bottom);
  pen.globalAlpha = 0.5;
  pen.stroke();
  pen.globalAlpha = 1;
  ring(i, colours.accent, 7, 2.5);
  const other = otherEnd.get(i);
  if (other === undefined) return;
  const end = placeOf(other);
  pen.lineWidth = 2.5;
  pen.beginPath();
  pen.moveTo(x, y);
  pen.lineTo(end.x, end.y);
  pen.stroke();
  pen.lineWidth = 1;
  ring(other, colours.accent, 5, 2);
}

function drawNames() {
  pen.fillStyle = colours.panel;
  pen.fillRect(0, 0, GUTTER, layout.height);
  pen.strokeStyle = colours.line;
  pen.beginPath();
  pen.moveTo(GUTTER - 0.5, 0);
  pen.lineTo(GUTTER - 0.5, layout.height);
  pen.stroke();
  for (const [at, row] of layout.rows) {
    pen.font = isNode(at) ? "700 15px system-ui, 'DejaVu Sans', sans-serif" : "11px system-ui, 'DejaVu Sans', sans-serif";
    pen.fillStyle = isNode(at) ? colours.ink : colours.soft;
    pen.fillText(data.lanes[at], 14, row.middle + 0.5);
  }
  pen.font = "11px system-ui, 'DejaVu Sans', sans-serif";
  pen.fillStyle = colours.soft;
  if (!hidden.faults) pen.fillText("faults", 14, RULER + FAULT_ROW / 2);
}

// The whole run in a strip: how much happens when, who leads, where one is.
let crowd = null;
function drawMap() {
  const width = map.clientWidth, height = map.clientHeight;
  const at = (when) => GUTTER + ((when - begin) / (end - begin)) * (width - GUTTER - PAD);
  mapPen.clearRect(0, 0, width, height);
  if (!crowd || crowd.length !== Math.ceil(width / 2)) {
    crowd = new Float64Array(Math.ceil(width / 2));
    for (let i = 0; i < count; i++) crowd[Math.floor(at(time[i]) / 2)]++;
  }
  const most = Math.max(1, ...crowd);
  mapPen.fillStyle = colours.beat;
  mapPen.globalAlpha = 0.55;
  crowd.forEach((many, n) => {
    const tall = Math.sqrt(many / most) * (height - 20);
    if (many) mapPen.fillRect(n * 2, height - 3 - tall, 1.6, tall);
  });
  mapPen.globalAlpha = 1;
  const thin = Math.max(1.5, Math.min(4, 14 / Math.max(1, layout.nodes.length)));
  layout.nodes.forEach((node, n) => {
    for (const band of bands[node]) {
      if (band.state !== 5 && band.state !== 0) continue;
      mapPen.fillStyle = band.state === 5 ? colours.leader : colours.hatch;
      mapPen.fillRect(at(band.from), 2 + n * thin, Math.max(1, at(band.to) - at(band.from)), thin - 0.5);
    }
  });
  mapPen.fillStyle = colours.found;
  for (const i of state.found.slice(0, 5000)) mapPen.fillRect(at(time[i]), height - 6, 1.5, 6);
  mapPen.fillStyle = colours.violation;
  for (const i of witnesses) mapPen.fillRect(at(time[i]) - 1, 0, 2, height);
  if (data.violation !== null) mapPen.fillRect(at(time[data.violation]) - 1.5, 0, 3, height);
  const from = at(view.from), to = Math.max(at(view.to), from + 3);
  mapPen.fillStyle = colours.panel;
  mapPen.globalAlpha = 0.62;
  mapPen.fillRect(GUTTER, 0, from - GUTTER, height);
  mapPen.fillRect(to, 0, width - to, height);
  mapPen.globalAlpha = 1;
  mapPen.strokeStyle = colours.accent;
  mapPen.lineWidth = 1.5;
  mapPen.strokeRect(from, 1, to - from, height - 2);
}
