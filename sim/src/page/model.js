"use strict";
// What happened, decoded and indexed. Times are in milliseconds from here on.
const data = JSON.parse(document.getElementById("data").textContent);

const KIND = {
  other: 0, phase: 1, fault: 2, started: 3, ready: 4, stopped: 5, role: 6, leader: 7, vote: 8, committed: 9, truncated: 10,
  configured: 11, snapshot: 12, applied: 13, writes: 14, durable: 15, sent: 16, received: 17, invoke: 18, answer: 19, exchange: 20,
  violation: 21,
};
const STATES = ["down", "starting", "follower", "pre-candidate", "candidate", "leader"];
const CLASSES = ["vote", "append", "beat", "snapshot", "read", "client"];
const OUTCOMES = ["ok", "fail", "info", "open"];
// Events that a timeline tells; the rest is one of thousands of its kind.
const TOLD = new Set([
  KIND.other, KIND.phase, KIND.fault, KIND.started, KIND.ready, KIND.stopped, KIND.role, KIND.leader, KIND.vote, KIND.truncated,
  KIND.configured, KIND.snapshot, KIND.invoke, KIND.answer, KIND.violation,
]);

const count = data.kind.length;
const time = new Float64Array(count);
for (let i = 0, at = 0; i < count; i++) {
  at += data.dt[i];
  time[i] = at / 1e6;
}
const lane = Uint16Array.from(data.lane);
const kind = Uint8Array.from(data.kind);
const begin = count ? time[0] : 0;
const end = count ? Math.max(time[count - 1], begin + 1e-3) : 1;

const text = (i) => data.words[data.word[i]];
const laneName = (i) => data.lanes[lane[i]];
const isClient = (at) => data.lanes[at][0] === "c";
const isNode = (at) => data.lanes[at][0] === "n";

// The first place in a sorted list whose value is not below `value`.
function lowerBound(list, value, of = (item) => item) {
  let low = 0, high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (of(list[middle]) < value) low = middle + 1; else high = middle;
  }
  return low;
}

// The events of each lane, in order.
const ofLane = data.lanes.map(() => []);
for (let i = 0; i < count; i++) ofLane[lane[i]].push(i);

// Everything that has a beginning and an end (messages, operations, faults), in columns sorted by beginning. For each
// block of them the latest end is known, so that those that reach into a window are found without looking at all.
const BLOCK = 256;
function spans(items) {
  items.sort((a, b) => a.from - b.from);
  const latest = [];
  items.forEach((item, i) => {
    const block = Math.floor(i / BLOCK);
    latest[block] = Math.max(latest[block] ?? -Infinity, item.to);
  });
  return { items, latest };
}
function eachIn({ items, latest }, from, to, visit) {
  const stop = lowerBound(items, to, (item) => item.from);
  for (let block = 0; block * BLOCK < stop; block++) {
    if (latest[block] < from) continue;
    const last = Math.min(stop, (block + 1) * BLOCK);
    for (let i = block * BLOCK; i < last; i++) if (items[i].to >= from) visit(items[i]);
  }
}

const otherEnd = new Map();
const messages = spans([
  ...data.messages.map(([sent, received, type]) => {
    if (received >= 0) {
      otherEnd.set(sent, received);
      otherEnd.set(received, sent);
    }
    const lost = received < 0;
    const peer = /^to (n\d+)/.exec(text(sent));
    const target = lost ? data.lanes.indexOf(peer ? peer[1] : "") : lane[received];
    return { from: time[sent], to: lost ? time[sent] : time[received], source: lane[sent], target, type, lost, event: sent };
  }).filter((message) => message.target >= 0),
  ...data.exchanges.map(([event, target, arrives]) => ({
    from: time[event], to: Math.min(arrives / 1e6, end), source: lane[event], target, type: 5, lost: arrives / 1e6 > end, event,
  })),
]);
const operations = spans(data.operations.map(([at, number, from, to, outcome, event, answer]) => ({
  lane: at, number, from: from / 1e6, to: to < 0 ? end : to / 1e6, outcome, event, answer,
})));
const faults = spans(data.faults.map(([from, to, lanes, event]) => ({
  from: from / 1e6, to: to < 0 ? from / 1e6 : to / 1e6, lasting: to >= 0, lanes, event,
})));
// Faults that overlap stand in rows above each other.
let faultRows = 0;
{
  const free = [];
  for (const fault of faults.items) {
    let row = free.findIndex((until) => until <= fault.from);
    if (row < 0) row = free.length < 5 ? free.length : 4;
    free[row] = Math.max(fault.to, fault.from + (end - begin) / 60);
    fault.row = row;
    faultRows = Math.max(faultRows, row + 1);
  }
}

const bands = data.bands.map((steps, at) => {
  if (!isNode(at)) return [];
  const list = steps.map(([from, state, term]) => ({ from: from / 1e6, state, term }));
  list.forEach((band, i) => { band.to = i + 1 < list.length ? list[i + 1].from : end; });
  return list;
});
function standingAt(at, when) {
  const list = bands[at];
  const band = list[lowerBound(list, when + 1e-9, (item) => item.from) - 1];
  const steps = data.progress[at];
  const step = steps[lowerBound(steps, (when + 1e-9) * 1e6, (item) => item[0]) - 1];
  return { state: band ? band.state : 0, term: band ? band.term : 0, commit: step ? step[1] : 0, applied: step ? step[2] : 0 };
}

const why = new Map(data.why);
const effects = new Map();
for (const [effect, causes] of why) {
  for (const cause of causes) effects.set(cause, [...(effects.get(cause) ?? []), effect]);
}
const whyList = [...why.keys()].sort((a, b) => a - b);
const witnesses = new Set(data.witnesses);
const toldList = [];
for (let i = 0; i < count; i++) if (TOLD.has(kind[i])) toldList.push(i);
const allList = { length: count, at: (i) => i };

function search(query) {
  const terms = query.toLowerCase().split(/\s+/).filter(Boolean);
  if (!terms.length) return [];
  const names = terms.filter((term) => data.lanes.includes(term));
  const words = terms.filter((term) => !data.lanes.includes(term));
  const hit = new Uint8Array(data.words.length);
  data.words.forEach((word, i) => {
    const lower = word.toLowerCase();
    hit[i] = words.every((term) => lower.includes(term)) ? 1 : 0;
  });
  const mentions = names.map((name) => ({ name, at: data.lanes.indexOf(name), pattern: new RegExp(`\\b${name}\\b`) }));
  const found = [];
  for (let i = 0; i < count; i++) {
    if (!hit[data.word[i]]) continue;
    // The first name is whose lane it is, or whom it is about; every other is spoken of.
    if (mentions.every(({ at, pattern }) => lane[i] === at || pattern.test(text(i)))) found.push(i);
  }
  return found;
}

function shownTime(at, step = 0) {
  const digits = step >= 1000 ? 0 : step >= 100 ? 1 : step >= 10 ? 2 : step >= 1 ? 3 : step >= 0.1 ? 4 : step >= 0.01 ? 5 : 6;
  return `${(at / 1000).toFixed(step ? digits : 6)} s`;
}
