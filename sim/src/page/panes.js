// What stands beside the diagram: details, where all nodes stand, lists of events, the legend.
const $ = (id) => document.getElementById(id);
const make = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") element.addEventListener("click", value);
    else if (name === "style") element.style.cssText = value;
    else if (value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
};

const KIND_NAMES = [
  "event", "phase", "fault", "start", "ready", "stop", "role", "leader", "vote", "commit", "log cut", "configuration", "snapshot", "applied",
  "write", "durable", "sent", "received", "call", "answer", "to or from a client", "violation",
];

function jump(label, i) {
  const button = make("button", { on: () => select(i, true), title: text(i) });
  button.append(make("b", {}, `${label} `), `${shownTime(time[i])}  ${laneName(i)}  ${text(i).split("\n")[0]}`);
  return button;
}

function showDetails() {
  const pane = $("details"), i = chosen.event;
  pane.replaceChildren();
  if (i < 0) {
    pane.append(make("h2", {}, "Details"), make("div", { class: "at" }, "Click an event, a message, an operation or a fault."));
    return;
  }
  const title = make("div", { class: "title" }, `${laneName(i)} · ${KIND_NAMES[kind[i]]}`);
  if (i === data.violation) title.append(make("span", { class: "badge violation" }, "the violation"));
  else if (witnesses.has(i)) title.append(make("span", { class: "badge violation" }, "shows the violation"));
  else if (why.has(i)) title.append(make("span", { class: "badge" }, "the violation depends on it"));
  pane.append(title, make("div", { class: "at" }, `${shownTime(time[i])} · event ${i + 1} of ${count}`), make("div", { class: "text" }, text(i)));
  const links = make("div", { class: "links" });
  const other = otherEnd.get(i);
  if (other !== undefined) {
    const took = Math.abs(time[other] - time[i]);
    links.append(jump(kind[i] === KIND.sent ? `arrives, ${took.toFixed(3)} ms later:` : `sent, ${took.toFixed(3)} ms before:`, other));
  } else if (kind[i] === KIND.sent) {
    links.append(make("div", { class: "at" }, "It never arrived."));
  }
  const operation = data.operations.find((item) => item[5] === i || item[6] === i);
  if (operation) {
    const twin = operation[5] === i ? operation[6] : operation[5];
    if (twin >= 0) links.append(jump(operation[5] === i ? "answer:" : "call:", twin));
    else links.append(make("div", { class: "at" }, "It was never answered."));
  }
  for (const cause of why.get(i) ?? []) links.append(jump("because", cause));
  for (const effect of (effects.get(i) ?? []).slice(0, 6)) links.append(jump("led to", effect));
  pane.append(links);
}

function showStanding(when) {
  $("when").textContent = shownTime(when);
  const table = $("standing");
  table.replaceChildren();
  const head = make("tr");
  for (const name of ["node", "role", "term", "commit", "applied"]) head.append(make("th", {}, name));
  table.append(head);
  const fills = ["down", "starting", "follower", "pre-candidate", "candidate", "leader"];
  for (const at of layout.nodes ?? []) {
    const { state: role, term, commit, applied } = standingAt(at, when);
    const row = make("tr");
    const dot = make("span", { class: "dot", style: `background:${role === 0 ? colours.hatch : colours[fills[role]]}` });
    row.append(make("td", {}, data.lanes[at]), make("td", {}, dot, STATES[role]));
    for (const number of [term, commit, applied]) row.append(make("td", {}, role === 0 ? "–" : String(number)));
    table.append(row);
  }
}

// The list shows only the rows that are in sight.
const ROW = 21;
const lists = { name: "told", shown: toldList };
function listOf(name) {
  return { why: whyList, told: toldList, all: allList, found: state.found }[name];
}
function chooseList(name) {
  lists.name = name;
  lists.shown = listOf(name);
  for (const tab of document.querySelectorAll(".tabs button")) {
    tab.setAttribute("aria-selected", tab.dataset.list === name);
    const many = listOf(tab.dataset.list).length;
    tab.textContent = `${{ why: "Why", told: "Story", all: "Everything", found: "Found" }[tab.dataset.list]} ${many ? many.toLocaleString("en") : ""}`;
  }
  $("rows").style.height = `${lists.shown.length * ROW}px`;
  follow(chosen.event);
  showRows();
}
const entry = (n) => (lists.shown === allList ? n : lists.shown[n]);
function showRows() {
  const box = $("list"), rows = $("rows"), many = lists.shown.length;
  rows.replaceChildren();
  if (!many) {
    const words = { why: "This run broke no rule.", found: "Nothing found; type / to search.", told: "", all: "" };
    rows.append(make("div", { class: "none" }, words[lists.name]));
    return;
  }
  const first = Math.max(0, Math.floor(box.scrollTop / ROW) - 4);
  const last = Math.min(many, Math.ceil((box.scrollTop + box.clientHeight) / ROW) + 4);
  for (let n = first; n < last; n++) {
    const i = entry(n);
    const classes = ["row", i === chosen.event && "chosen", why.has(i) && "why", (i === data.violation || witnesses.has(i)) && "violation"];
    const row = make("div", { class: classes.filter(Boolean).join(" "), style: `top:${n * ROW}px`, "data-event": i, title: text(i), on: () => select(i, true) });
    row.append(
      make("span", { class: "at" }, (time[i] / 1000).toFixed(6)), make("span", { class: "who" }, laneName(i)),
      make("span", { class: "text" }, text(i).split("\n")[0]),
    );
    rows.append(row);
  }
}
// Brings the list to an event, or to where it would stand.
function follow(i) {
  if (i < 0 || !lists.shown.length) return;
  const n = lists.shown === allList ? i : lowerBound(lists.shown, i);
  const box = $("list"), y = n * ROW;
  if (y < box.scrollTop || y > box.scrollTop + box.clientHeight - ROW) box.scrollTop = Math.max(0, y - box.clientHeight / 3);
}

function showLegend() {
  const legend = $("legend");
  legend.replaceChildren();
  const key = (name, style) => legend.append(make("span", { class: "key" }, make("i", { style }), name));
  key("leader", "background:var(--leader)");
  key("candidate", "background:var(--candidate)");
  key("pre-candidate", "background:var(--pre-candidate)");
  key("follower", "background:var(--follower)");
  key("down", "background:repeating-linear-gradient(135deg,var(--hatch) 0 1px,var(--down) 1px 4px);border:1px solid var(--line)");
  legend.append(make("span", { class: "rule" }));
  const toggle = (name, icon, shown, change) => {
    const button = make("button", { "aria-pressed": shown, title: "Show or hide", on: () => { change(); showLegend(); arrange(); redraw(); } }, icon, name);
    legend.append(button);
  };
  const names = ["votes", "appends", "heartbeats", "snapshots", "reads", "clients"];
  CLASSES.forEach((name, type) => {
    const shown = !hidden.classes.has(type);
    toggle(names[type], make("i", { class: "stroke", style: `border-color:var(--${name})` }), shown, () => {
      if (shown) hidden.classes.add(type); else hidden.classes.delete(type);
    });
  });
  legend.append(make("span", { class: "rule" }));
  toggle("faults", make("i", { style: "background:var(--fault-bar)" }), !hidden.faults, () => { hidden.faults = !hidden.faults; });
  toggle("operations", make("i", { style: "background:var(--ok)" }), !hidden.operations, () => { hidden.operations = !hidden.operations; });
  key("not done", "background:var(--fail)");
  key("unknown", "background:repeating-linear-gradient(135deg,var(--panel) 0 1px,var(--info) 1px 4px)");
  legend.append(make("span", { class: "rule" }));
  legend.append(make("span", { class: "key" }, make("span", { style: "color:var(--vote)" }, "◆"), "vote"));
  legend.append(make("span", { class: "key" }, make("span", { style: "color:var(--fault)" }, "✕"), "stops"));
  legend.append(make("span", { class: "key" }, make("span", { style: "color:var(--violation)" }, "◎"), "shows the violation"));
}

function showTip(hit, x, y) {
  const tip = $("tip");
  tip.hidden = !hit;
  if (!hit) return;
  const i = hit.event;
  tip.replaceChildren(make("div", { class: "at" }, `${shownTime(time[i])} · ${laneName(i)}`), text(i).split("\n").slice(0, 3).join("\n").slice(0, 300));
  const stage = $("stage").getBoundingClientRect(), box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x + 14, stage.width - box.width - 8))}px`;
  tip.style.top = `${y + box.height + 26 > stage.height ? Math.max(4, y - box.height - 12) : y + 16}px`;
}
