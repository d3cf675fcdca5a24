// Hands and eyes: zoom, pan, choose, search.
function setView(from, to) {
  const whole = end - begin, margin = whole * 0.01;
  const span = Math.min(Math.max(to - from, 1e-4), whole + 2 * margin);
  from = Math.max(begin - margin, Math.min(from, end + margin - span));
  view.from = from;
  view.to = from + span;
  redraw();
}
const fit = () => setView(begin - (end - begin) * 0.01, end + (end - begin) * 0.01);
function zoom(factor, x = (layout.width + GUTTER) / 2) {
  const at = timeAt(Math.max(GUTTER, x)), share = (at - view.from) / (view.to - view.from);
  const span = (view.to - view.from) * factor;
  setView(at - span * share, at + span * (1 - share));
}
const pan = (share) => setView(view.from + (view.to - view.from) * share, view.to + (view.to - view.from) * share);

// Chooses an event; if asked, brings it into view.
function select(i, bring = false) {
  chosen.event = i;
  if (i >= 0 && bring) {
    const span = view.to - view.from, at = time[i];
    if (span > (end - begin) * 0.5 && end - begin > 400) setView(at - 60, at + 60);
    else if (at < view.from + span * 0.05 || at > view.to - span * 0.05) setView(at - span / 2, at + span / 2);
    const row = layout.rows.get(lane[i]);
    if (row && (row.top < scroll.scrollTop || row.top + row.height > scroll.scrollTop + scroll.clientHeight)) {
      scroll.scrollTop = row.middle - scroll.clientHeight / 2;
    }
  }
  showDetails();
  if (i >= 0) showStanding(time[i]);
  follow(i);
  showRows();
  redraw();
}

// What is under the pointer: the nearest event or message, else what has an extent.
function hitAt(x, y) {
  let best = null, near = 8;
  for (const target of targets) {
    if (target.type === "event") {
      const distance = Math.hypot(target.x - x, target.y - y);
      const rank = RARE.has(kind[target.event]) || witnesses.has(target.event) || target.event === data.violation ? distance - 3 : distance;
      if (distance < 9 && rank < near) [best, near] = [target, rank];
    } else if (target.type === "message") {
      const { x0, y0, x1, y1 } = target.line, length = (x1 - x0) ** 2 + (y1 - y0) ** 2 || 1;
      const share = Math.max(0, Math.min(1, ((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / length));
      const distance = Math.hypot(x0 + share * (x1 - x0) - x, y0 + share * (y1 - y0) - y) + 1.5;
      if (distance < Math.min(near, 6)) [best, near] = [target, distance];
    }
  }
  if (best) return best;
  for (let n = targets.length - 1; n >= 0; n--) {
    const target = targets[n];
    if (target.w !== undefined && x >= target.x - 2 && x <= target.x + target.w + 2 && y >= target.y && y <= target.y + target.h) return target;
  }
  // In a crowd: whatever is nearest on the lane.
  for (const [at, row] of layout.rows) {
    if (!isNode(at) || Math.abs(y - row.middle) > row.band) continue;
    const list = ofLane[at], n = lowerBound(list, timeAt(x), (i) => time[i]);
    const close = [list[n - 1], list[n]].filter((i) => i !== undefined).sort((a, b) => Math.abs(xOf(time[a]) - x) - Math.abs(xOf(time[b]) - x))[0];
    if (close !== undefined && Math.abs(xOf(time[close]) - x) < 6) return { type: "event", event: close };
  }
  return null;
}

function pointer() {
  let drag = null;
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    const [x, y] = place(event);
    drag = { x, y, from: view.from, to: view.to, top: scroll.scrollTop, clientY: event.clientY, moved: false, marks: event.shiftKey };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = place(event);
    if (!drag) {
      const hit = hitAt(x, y), box = scroll.getBoundingClientRect();
      showTip(hit, event.clientX - box.left, event.clientY - box.top);
      canvas.style.cursor = hit ? "pointer" : "";
      if (chosen.event < 0) showStanding(timeAt(x));
      return;
    }
    if (Math.hypot(x - drag.x, event.clientY - drag.clientY) > 4) drag.moved = true;
    if (!drag.moved) return;
    showTip(null);
    if (drag.marks) {
      state.mark = [drag.x, x];
      redraw();
    } else {
      scroll.classList.add("dragging");
      const shift = (drag.x - x) * ((drag.to - drag.from) / (layout.width - GUTTER - PAD));
      setView(drag.from + shift, drag.to + shift);
      scroll.scrollTop = drag.top - (event.clientY - drag.clientY);
    }
  });
  canvas.addEventListener("pointerup", (event) => {
    const [x, y] = place(event);
    if (drag && !drag.moved) {
      const hit = hitAt(x, y);
      select(hit ? hit.event : -1);
    } else if (drag && drag.marks) {
      const [a, b] = [timeAt(Math.min(drag.x, x)), timeAt(Math.max(drag.x, x))];
      state.mark = null;
      setView(a, b);
    }
    scroll.classList.remove("dragging");
    drag = null;
  });
  canvas.addEventListener("pointerleave", () => showTip(null));
  canvas.addEventListener("dblclick", (event) => zoom(0.33, place(event)[0]));
  scroll.addEventListener("wheel", (event) => {
    event.preventDefault();
    const sideways = event.shiftKey ? event.deltaY || event.deltaX : event.deltaX;
    if (Math.abs(sideways) > Math.abs(event.shiftKey ? 0 : event.deltaY)) pan(sideways / 900);
    else zoom(Math.exp(Math.max(-240, Math.min(240, event.deltaY)) / 420), place(event)[0]);
  }, { passive: false });
  const toMap = (event) => {
    const box = map.getBoundingClientRect(), span = view.to - view.from;
    const at = begin + ((event.clientX - box.left - GUTTER) / (box.width - GUTTER - PAD)) * (end - begin);
    setView(at - span / 2, at + span / 2);
  };
  map.addEventListener("pointerdown", (event) => { map.setPointerCapture(event.pointerId); toMap(event); });
  map.addEventListener("pointermove", (event) => { if (event.buttons) toMap(event); });
}

function find(query) {
  state.found = search(query);
  $("count").textContent = query.trim() ? `${state.found.length.toLocaleString("en")}` : "";
  $("next").disabled = $("previous").disabled = !state.found.length;
  chooseList(query.trim() ? "found" : lists.name === "found" ? "told" : lists.name);
  redraw();
}
function step(by) {
  if (!state.found.length) return;
  const at = chosen.event, n = lowerBound(state.found, by > 0 ? at + 1 : at);
  const next = (n + (by > 0 ? 0 : -1) + state.found.length) % state.found.length;
  select(state.found[next], true);
  $("count").textContent = `${next + 1} / ${state.found.length.toLocaleString("en")}`;
}

// First all that shows the violation at once, then one after the other.
let shownViolation = -1;
function showViolation() {
  if (data.violation === null) return;
  const stops = [data.violation, ...[...witnesses].sort((a, b) => a - b)];
  shownViolation = (shownViolation + 1) % (stops.length + (witnesses.size > 1 ? 1 : 0));
  if (shownViolation === stops.length) shownViolation = -1;
  if (shownViolation < 0 || (shownViolation === 0 && witnesses.size)) {
    const times = [...witnesses].map((i) => time[i]);
    const near = time[data.violation] - Math.max(...times) < 2000;
    const from = Math.min(...times), to = near ? time[data.violation] : Math.max(...times);
    const margin = Math.max((to - from) * 0.15, 4);
    setView(from - margin, to + margin);
    select(near ? data.violation : [...witnesses].at(-1));
  } else {
    select(stops[shownViolation], true);
  }
}
function toggleWhy() {
  if (!why.size) return;
  state.onlyWhy = !state.onlyWhy;
  $("only").setAttribute("aria-pressed", state.onlyWhy);
  if (state.onlyWhy) {
    chooseList("why");
    const told = whyList.filter((i) => i !== data.violation || time[i] - time[whyList.at(-2) ?? i] < 2000);
    const from = time[told[0]], to = time[told.at(-1)], margin = Math.max((to - from) * 0.05, 1);
    setView(from - margin, to + margin);
  }
  redraw();
}
function toggleTheme(to) {
  const dark = to ?? document.documentElement.dataset.theme !== "dark";
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  readColours();
  if (chosen.event >= 0) showStanding(time[chosen.event]);
  redraw();
}
function neighbour(by) {
  const i = chosen.event;
  if (i < 0) return;
  const list = ofLane[lane[i]], next = list[lowerBound(list, i) + by];
  if (next !== undefined) select(next, true);
}

function keyboard() {
  // What is typed is looked for a little later, but not later than somebody asks for the next match.
  let waiting = 0, looked = "";
  const findNow = () => {
    clearTimeout(waiting);
    const query = $("search").value;
    if (query !== looked) find(looked = query);
  };
  const keys = {
    "+": () => zoom(0.6), "=": () => zoom(0.6), "-": () => zoom(1 / 0.6), 0: fit, Home: fit, ArrowLeft: () => pan(-0.2), ArrowRight: () => pan(0.2),
    v: showViolation, w: toggleWhy, t: () => toggleTheme(), n: () => step(1), N: () => step(-1), "[": () => neighbour(-1), "]": () => neighbour(1),
    m: () => { const other = otherEnd.get(chosen.event); if (other !== undefined) select(other, true); },
    "/": () => { $("search").focus(); $("search").select(); }, "?": () => $("keys").showModal(), Escape: () => select(-1),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || $("keys").open) return;
    if (event.target === $("search")) {
      if (event.key === "Enter") findNow();
      if (event.key === "Enter") step(event.shiftKey ? -1 : 1);
      if (event.key === "Escape") { $("search").value = ""; findNow(); $("search").blur(); }
      return;
    }
    const action = keys[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });
  $("search").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(findNow, count > 30000 ? 150 : 0);
  });
}

function buttons() {
  const actions = {
    previous: () => step(-1), next: () => step(1), in: () => zoom(0.6), out: () => zoom(1 / 0.6), fit, only: toggleWhy, theme: () => toggleTheme(),
    help: () => $("keys").showModal(), show: showViolation,
    more: () => { const open = $("verdict").classList.toggle("open"); $("more").textContent = open ? "less" : "more"; resize(); },
  };
  for (const [id, action] of Object.entries(actions)) $(id).addEventListener("click", action);
  for (const tab of document.querySelectorAll(".tabs button")) tab.addEventListener("click", () => chooseList(tab.dataset.list));
  $("list").addEventListener("scroll", showRows, { passive: true });
  $("next").disabled = $("previous").disabled = true;
  $("only").disabled = !why.size;
}

function resize() {
  arrange();
  showRows();
  redraw();
}

function heading() {
  document.title = `raftkv · ${data.world}${data.rule ? ` · ${data.rule}` : ""}`;
  $("world").textContent = /^\d+$/.test(data.world) ? `seed ${data.world}` : data.world;
  const nodes = data.lanes.filter((_, at) => isNode(at)).length;
  const seconds = ((end - begin) / 1000).toFixed(1), many = count.toLocaleString("en");
  $("figures").textContent = `${nodes} nodes · ${data.operations.length} operations · ${data.faults.length} faults · ${many} events · ${seconds} s`;
  $("figures").title = data.reproduce;
  if (!data.rule) return;
  $("verdict").hidden = false;
  $("rule").textContent = data.rule;
  $("detail").textContent = data.detail;
  $("more").hidden = !data.detail.includes("\n") && data.detail.length < 140;
  $("verdict").title = data.reproduce;
}

readColours();
heading();
toggleTheme(window.matchMedia("(prefers-color-scheme: dark)").matches);
arrange();
pointer();
keyboard();
buttons();
showLegend();
chooseList(why.size ? "why" : "told");
showDetails();
showStanding(begin);
fit();
if (data.violation !== null) showViolation();
new ResizeObserver(resize).observe(scroll);

// For those who drive the page by a program.
window.raftkv = {
  count, frames, select, setView, fit, find, zoom, pan,
  view: () => [view.from, view.to], drawn: () => drawn, chosen: () => chosen.event, found: () => state.found.length,
  violation: () => data.violation, witnesses: () => [...witnesses], textOf: text,
  placeOf: (i) => { const box = canvas.getBoundingClientRect(), { x, y } = placeOf(i); return { x: x + box.left, y: y + box.top }; },
};
