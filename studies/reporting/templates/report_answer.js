// The answer in words, its limits, and the table.
const byId = (id) => document.getElementById(id);
function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== ""));
  return element;
}
const button = (text, action, attributes = {}) => el("button", {type: "button", onclick: action, ...attributes}, text);
// A link and not a button: a long configuration wraps within its sentence.
const link = (i) => el("a", {href: T.n[i] === null ? "#" : `#trial=${T.n[i]}`, onclick: (event) => { event.preventDefault(); select(i); }}, T.configuration[i]);
const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\"'\"'")}'`);
const listed = (words, last = "and") => (words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} ${last} ${words.at(-1)}`);
const limitText = (o) => `${O[o].label} ${O[o].maximize ? "of at least" : "up to"} ${withUnit(o, limitDigits(o, state.limits[o]))}`;
const limitDigits = (o, x) => (O[o].learned || O[o].freeScale ? String(Number(x.toPrecision(4))) : Number(x.toPrecision(5)).toLocaleString("en"));

function select(i) {
  if (i < N && T.outcome[i] === COMPLETED) state.trial = i;
  changed();
}
function command(i) {
  const name = quoted(D.name);
  if (T.n[i] !== null) return `tradeoff export ${name} --trial ${T.n[i]} --output chosen`;
  const limits = Object.entries(state.limits).map(([o, x]) => ` --limit "${O[o].name}${O[o].maximize ? ">=" : "<="}${x}"`).join("");
  const how = want() === "balance" ? "--knee" : `--${O[want()].maximize ? "maximize" : "minimize"} ${O[want()].name}`;
  return `tradeoff export ${name}${limits} ${how} --output chosen`;
}
function lead() {
  const limits = Object.keys(state.limits).map(limitText);
  return `${limits.length ? `With ${listed(limits)}` : "Without limits of yours"}, for ${wantName(want())}:`;
}

function drawAnswer() {
  const {candidates, sound, pick, shown: i} = answer(), place = byId("answer");
  const parts = [];
  if (!T.front.length) {
    parts.push(el("h2", {class: "take"}, "No configuration has finished yet."));
  } else if (i === null && !candidates.length) {
    const close = nearest(), broken = Object.keys(state.limits).filter((o) => (O[o].maximize ? T.v[o][close] < state.limits[o] : T.v[o][close] > state.limits[o]));
    const miss = broken.map((o) => {
      const gap = Math.abs(T.v[o][close] - state.limits[o]);
      return `${O[o].label} ${isAbout(+o, close) ? "about " : ""}${value(+o, close)}, ${withUnit(o, Number(gap.toPrecision(2)).toString())} ${O[o].maximize ? "too little" : "too much"}`;
    });
    parts.push(el("p", {class: "lead"}, lead()), el("h2", {class: "take"}, "Nothing that was tried keeps these limits."),
      el("p", {}, "Nearest is ", el("strong", {}, T.configuration[close]), ` (${trialName(close)}): ${miss.join("; ")}.`),
      button("Relax the limits to fit it", () => {
        for (const o of broken) {
          const v = T.v[o][close], up = 10 ** (Math.floor(Math.log10(Math.abs(v) || 1)) - 3);
          state.limits[o] = Number((O[o].maximize ? Math.floor(v / up) * up : Math.ceil(v / up) * up).toPrecision(6));
        }
        changed();
      }));
  } else if (i === null) {
    parts.push(el("p", {class: "lead"}, lead()), el("h2", {class: "take"}, `Nothing here is clearly better than ${D.baselineName}.`),
      el("p", {}, "What usually helps: more epochs, a higher learning rate, more samples, or a model whose weights are neither frozen nor random. A click chooses a configuration nevertheless."));
  } else {
    parts.push(...aboutPick(i, pick, candidates, sound));
  }
  if (D.other) parts.push(inOther(i));
  place.replaceChildren(...parts);
}
function inOther(i) {
  const pick = otherPick();
  if (pick === null) return el("p", {class: "alternative"}, `In ${D.other.name}: nothing that keeps these limits and is worth taking.`);
  const words = O.map((_, o) => (i === null ? `${O[o].label} ${value(o, pick)}` : difference(o, pick, i)));
  return el("p", {class: "alternative", id: "in-other"}, `In ${D.other.name}: `, el("strong", {}, T.configuration[pick]), `, ${words.join(", ")}.`);
}
function aboutPick(i, pick, candidates, sound) {
  const parts = [], isChosen = state.trial !== null && i !== pick;
  if (isChosen) {
    const isBeaten = points.some((j) => j !== i && O.every((_, o) => cost(o, j) <= cost(o, i)) && O.some((_, o) => cost(o, j) < cost(o, i)));
    parts.push(el("p", {class: "lead"}, `You chose ${trialName(i)}${isBeaten ? " (beaten: another one is at least as good in everything)" : ""}:`));
  } else parts.push(el("p", {class: "lead"}, lead()));
  const based = O.map((each, o) => ({each, o})).filter(({each}) => each.baseline !== null);
  const isPoor = based.length && based.every(({each, o}) => cost(o, i) + 2 * (T.error[o][i] || 0) > (each.maximize ? -each.baseline : each.baseline));
  if (isPoor) parts.push(el("p", {class: "careful"}, `Careful: ${D.baselineName} reaches ${show(based[0].o, based[0].each.baseline)}, so this has learned next to nothing.`));
  parts.push(el("h2", {class: "take"}, isChosen ? `${T.configuration[i]}.` : `Take ${T.configuration[i]}.`));
  parts.push(el("dl", {class: "values"}, ...O.map((each, o) => el("div", {}, el("dt", {}, each.label),
    el("dd", {}, el("strong", {}, `${isAbout(o, i) ? "about " : ""}${value(o, i)}`),
      ...[errorText(o, i), own(o, i) ? `expected; its training reached ${own(o, i)}` : "", T.sources[T.source[o][i]][0]].filter(Boolean).map((text) => el("span", {class: "note"}, text)))))));
  if (isChosen && pick !== null) {
    parts.push(el("p", {}, `Against the recommendation: ${O.map((_, o) => difference(o, i, pick)).join(", ")}.`));
  }
  if (isChosen) parts.push(button("Back to the recommendation", () => { state.trial = null; changed(); }));
  else {
    const best = [...O.keys()].filter((o) => candidates.every((j) => cost(o, j) >= cost(o, i)));
    const within = Object.keys(state.limits).length ? "within your limits" : "that was tried";
    if (best.length) parts.push(el("p", {}, `Nothing ${within} has ${listed(best.map((o) => `${O[o].maximize ? "higher" : "lower"} ${O[o].label}`), "or")}.`));
    parts.push(...alternatives(i, sound));
  }
  const text = command(i), code = el("code", {tabindex: 0}, text);
  parts.push(el("div", {class: "command"}, code, button("Copy", async (event) => {
    const target = event.currentTarget;
    try {
      await navigator.clipboard.writeText(text);
      target.textContent = "Copied";
    } catch {
      // Not every page may write to the clipboard: the text is marked, for the reader's own keys.
      getSelection().selectAllChildren(code);
      target.textContent = "Marked: press Ctrl+C";
    }
  })));
  return parts;
}
function alternatives(i, sound) {
  const found = new Map();
  O.forEach((each, o) => {
    const other = extreme(sound, o);
    if (cost(o, other) < cost(o, i) && !found.has(other)) found.set(other, `${each.maximize ? "More" : "Less"} ${each.label.replace(/^(training|peak) /, "")}`);
  });
  const time = O.findIndex((each) => !each.learned);
  const like = time < 0 || !O[0].learned ? [] : sound.filter((j) => j !== i && !found.has(j) && Math.abs(T.v[0][j] - T.v[0][i]) <= Math.hypot(T.error[0][j], T.error[0][i]) && T.v[time][j] < 0.9 * T.v[time][i]);
  const lines = [...found].slice(0, 3);
  if (like.length) lines.unshift([extreme(like, time), `As good in ${O[0].label}, as far as one can tell`]);
  return lines.map(([j, name]) => el("p", {class: "alternative"}, `${name}: `, link(j),
    `, ${O.map((_, o) => difference(o, j, i)).join(", ")}`));
}

// Limits: a range, a number, and a rug of the front for each objective that varies.
const controls = [];
function buildLimits() {
  const place = byId("limits");
  if (!T.front.length) { place.hidden = true; return; }
  const wants = ["balance", ...O.keys()];
  place.append(el("h2", {class: "small"}, "Within my limits I want"), el("div", {class: "wants", role: "radiogroup", "aria-label": "what I want"},
    ...wants.map((w) => el("label", {}, el("input", {type: "radio", name: "want", value: w, onchange: () => { state.want = w; state.trial = null; changed(); }}), el("span", {}, wantName(w))))));
  const order = [...O.keys()].sort((a, b) => O[a].learned - O[b].learned);
  for (const o of order) {
    const values = T.front.map((i) => T.v[o][i]), low = Math.min(...near(values)), high = Math.max(...near(values));
    if (!(high > low)) continue;
    const scaled = scale(low, high, 0, 1000, low > 0 && high / low > 8), none = O[o].maximize ? 0 : 1000;
    const put = (x) => {
      if (x === null) delete state.limits[o]; else state.limits[o] = x;
      state.trial = null;
      changed();
    };
    const name = `${O[o].label} ${O[o].maximize ? "at least" : "at most"}`;
    const range = el("input", {type: "range", min: 0, max: 1000, step: 1, "aria-label": name, oninput: () => {
      put(+range.value === none ? null : Number(scaled.invert(+range.value).toPrecision(3)));
    }});
    const number = el("input", {type: "text", inputmode: "decimal", placeholder: "any", "aria-label": `${name}${O[o].unit ? `, in ${O[o].unit}` : ""}`, onchange: () => {
      const text = number.value.replaceAll(",", "").trim(), x = Number(text);
      put(text === "" || !Number.isFinite(x) ? null : x);
    }});
    const rug = el("div", {class: "rug", "aria-hidden": "true"}, ...T.front.map((i) => el("i", {style: `left:${Math.max(0, Math.min(1000, scaled(T.v[o][i]))) / 10}%`})));
    place.append(el("div", {class: "limit"}, el("div", {class: "row"}, el("span", {}, name), el("span", {class: "number"}, number, O[o].unit ? ` ${O[o].unit}` : "")), range, rug));
    controls.push({o, range, number, rug, scaled, none});
  }
  place.append(button("No limits", () => { state.limits = {}; state.want = null; state.trial = null; changed(); }, {id: "no-limits"}));
}
function drawLimits() {
  const {shown: pick} = answer();
  for (const {o, range, number, rug, scaled, none} of controls) {
    const limit = state.limits[o];
    const at = limit === undefined ? none : Math.max(0, Math.min(1000, scaled(Math.max(limit, scaled.log ? scaled.low / 2 : -Infinity))));
    if (document.activeElement !== range || limit === undefined) range.value = at;
    range.setAttribute("aria-valuetext", limit === undefined ? "no limit" : withUnit(o, limitDigits(o, limit)));
    if (document.activeElement !== number) number.value = limit === undefined ? "" : limitDigits(o, limit);
    [...rug.children].forEach((tick, k) => { tick.className = T.front[k] === pick ? "pick" : keeps(T.front[k]) ? "" : "out"; });
  }
  for (const radio of document.querySelectorAll("input[name=want]")) radio.checked = radio.value === String(want());
}

const columns = [
  {key: "trial", label: "trial", order: (i) => T.n[i] ?? Infinity},
  {key: "configuration", label: "configuration", order: (i) => T.configuration[i]},
  ...O.map((each, o) => ({key: each.name, o, label: each.unit ? `${each.short} (${each.unit})` : each.short, order: (i) => (T.v[o][i] === null ? Infinity : cost(o, i))})),
  ...D.measured.map((o) => ({key: `measured ${O[o].name}`, own: o, label: `${O[o].short}, measured`, order: (i) => Number(own(o, i)) || 0})),
  {key: "remark", label: "what is known of it", order: remark},
];
function tableRows() {
  const words = state.search.toLowerCase().split(/\s+/).filter(Boolean), hasBrush = Object.keys(state.brushes).length > 0;
  const kept = new Set(passing());
  const found = rows.filter((i) => (hasBrush || T.outcome[i] === COMPLETED ? kept.has(i) : true) && matches(i, words));
  const column = columns.find((each) => each.key === state.sort.replace(/^-/, "")) ?? columns[2], turn = state.sort.startsWith("-") ? -1 : 1;
  const ties = [column, ...columns.slice(2, 2 + O.length), columns[0]];
  const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
  return found.sort((a, b) => ties.reduce((d, each, k) => d || (k ? 1 : turn) * compare(each.order(a), each.order(b)), 0));
}
const FIRST_ROWS = 50;
function drawTable() {
  if (!N) return;
  const found = tableRows(), most = state.all ? found.length : FIRST_ROWS, {shown: pick} = answer();
  const head = columns.map((column) => {
    const sorted = state.sort.replace(/^-/, "") === column.key || (!state.sort && column === columns[2]);
    const down = state.sort.startsWith("-");
    // The first click puts the best first: of what is maximised, the largest.
    const direction = !sorted ? null : (column.o !== undefined && O[column.o].maximize) === down ? "ascending" : "descending";
    return el("th", {scope: "col", class: column.own !== undefined ? "number own" : column.o === undefined ? column.key : "number", "aria-sort": direction},
      button(column.label, () => { state.sort = sorted && !down ? `-${column.key}` : column.key; changed(); }, {class: "head"}),
      direction ? el("span", {"aria-hidden": "true"}, direction === "ascending" ? " ↑" : " ↓") : null);
  });
  const body = found.slice(0, most).map((i) => el("tr", {
    "aria-current": i === pick ? "true" : null,
    class: [i === pick ? "pick" : "", onFront.has(i) ? "front" : "", T.outcome[i] !== COMPLETED ? "ended" : keeps(i) ? "" : "beyond"].join(" "),
    onmouseenter: () => hover(i), onmouseleave: () => hover(null),
  },
  el("td", {class: "trial"}, String(T.n[i] ?? "–")),
  el("td", {class: "configuration"}, T.outcome[i] === COMPLETED ? link(i) : T.configuration[i]),
  ...O.map((_, o) => el("td", {class: "number"}, ...(T.v[o][i] === null ? [""] : [`${value(o, i, false)}${isAbout(o, i) ? "~" : ""}`]))),
  ...D.measured.map((o) => el("td", {class: "number own"}, T.outcome[i] === COMPLETED ? own(o, i) : "")),
  el("td", {class: "remark"}, remark(i))));
  byId("table-head").replaceChildren(el("tr", {}, ...head));
  byId("table-body").replaceChildren(...body);
  byId("table-count").textContent = found.length ? `${found.length.toLocaleString("en")} of ${N.toLocaleString("en")} rows` : "No trial passes every filter.";
  const more = byId("table-more");
  more.hidden = found.length <= most;
  more.textContent = `Show all ${found.length.toLocaleString("en")}`;
  byId("table-clear").hidden = !(state.search || Object.keys(state.brushes).length);
  if (document.activeElement !== byId("search")) byId("search").value = state.search;
}
