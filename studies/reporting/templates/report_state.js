"use strict";
// What the page knows and has been asked for, and what follows: the candidates, the pick, and every value in words.
const D = JSON.parse(document.getElementById("data").textContent);
const T = D.trials, O = D.objectives, P = D.parameters, N = D.other ? D.other.front[0] ?? T.n.length : T.n.length;
T.configuration = T.configuration.map((places) => places.map((place) => D.settings[place]).join(", "));
const COMPLETED = 0, MEASURED = 0, PREDICTED = 2;
const rows = Array.from({length: N}, (_, i) => i);
const points = rows.filter((i) => T.outcome[i] === COMPLETED);
const onFront = new Set(T.front), weak = new Set(T.weak);
// The front of another study comes after all trials of this one.
const theirs = D.other ? D.other.front : [];
const state = {limits: {}, want: null, brushes: {}, trial: null, sort: "", search: "", hover: null, all: false, zoom: {}, tab: 0, other: true};

const cost = (o, i) => (O[o].maximize ? -T.v[o][i] : T.v[o][i]);
const shown = (number, digits) => number.toLocaleString("en", {minimumFractionDigits: digits, maximumFractionDigits: digits});
function show(o, x) {
  if (O[o].freeScale || Math.abs(x) >= 1e9) return Number(x.toPrecision(4)).toLocaleString("en", {maximumSignificantDigits: 4});
  return shown(x, O[o].digits);
}
const withUnit = (o, text) => (O[o].unit ? `${text} ${O[o].unit}` : text);
const isAbout = (o, i) => !T.sources[T.source[o][i]][2];
function value(o, i, unit = true) {
  const x = T.v[o][i];
  const derived = isAbout(o, i) && !O[o].learned;
  const text = derived ? Number(x.toPrecision(3)).toLocaleString("en", {maximumSignificantDigits: 3}) : show(o, x);
  return unit ? withUnit(o, text) : text;
}
function errorText(o, i) {
  const error = T.error[o][i];
  if (!error) return "";
  let text = show(o, error);
  if (!/[1-9]/.test(text)) text = Number(error.toPrecision(1)).toString();
  return `± ${withUnit(o, text)} (${T.reasons[T.why[o][i]]})`;
}
// What a configuration's own training has reached, where its value is what all trainings together lead to expect.
function own(o, i) {
  const k = D.measured.indexOf(o);
  return k < 0 || T.measured[k][i] === null ? "" : show(o, T.measured[k][i]);
}
// The least certain of a trial's values names it: measured, derived, predicted.
const kind = T.n.map((_, i) => Math.max(0, ...O.map((_, o) => (T.source[o][i] === null ? 0 : T.sources[T.source[o][i]][1]))));
const trialName = (i) => (T.n[i] === null ? "a configuration that is not published yet" : `trial ${T.n[i]}${i < N ? "" : ` of ${D.other.name}`}`);

function keeps(i) {
  return Object.entries(state.limits).every(([o, limit]) => (O[o].maximize ? T.v[o][i] >= limit : T.v[o][i] <= limit));
}
// Python's `near`: by a value that all but diverged, the rest would look alike.
const median = (values) => {
  const sorted = [...values].sort((a, b) => a - b), half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
};
function near(values) {
  if (!values.length) return values;
  const middle = median(values);
  const usual = Math.max(Math.abs(middle), median(values.map((x) => Math.abs(x - middle))));
  return usual ? values.filter((x) => Math.abs(x - middle) <= 1000 * usual) : values;
}
function recommended(candidates) {
  const sound = candidates.filter((i) => !weak.has(i)), inside = new Set(sound);
  const clear = sound.filter((i) => !T.ahead[i].some((j) => inside.has(j)));
  return clear.length ? clear : sound;
}
function knee(among) {
  const totals = among.map(() => 0);
  O.forEach((_, o) => {
    const costs = among.map((i) => cost(o, i)), low = Math.min(...costs);
    let high = Math.max(...near(costs));
    if (high <= low) high = Math.max(...costs);
    if (high > low) costs.forEach((x, k) => { totals[k] += (x - low) / (high - low); });
  });
  return among[totals.indexOf(Math.min(...totals))];
}
function extreme(among, o) {
  const order = [o, ...O.keys()];
  return [...among].sort((a, b) => order.reduce((d, k) => d || cost(k, a) - cost(k, b), 0))[0];
}
function want() {
  if (state.want !== null) return state.want;
  const hasCostLimit = Object.keys(state.limits).some((o) => !O[o].learned), learned = O.findIndex((each) => each.learned);
  return hasCostLimit && learned >= 0 ? learned : "balance";
}
const choose = (among) => (want() === "balance" ? knee(among) : extreme(among, want()));
// What keeps the limits, what of it is recommended, and the pick: of none where nothing is worth recommending.
function answer() {
  const candidates = T.front.filter(keeps), sound = recommended(candidates);
  const pick = sound.length ? choose(sound) : null;
  return {candidates, sound, pick, shown: state.trial === null ? pick : state.trial};
}
function otherPick() {
  const sound = recommended(theirs.filter(keeps));
  return sound.length ? choose(sound) : null;
}
function nearest() {
  const excess = (i) => Object.entries(state.limits).reduce((sum, [o, limit]) => {
    const over = O[o].maximize ? limit - T.v[o][i] : T.v[o][i] - limit;
    return sum + Math.max(0, over) / (Math.abs(limit) || 1);
  }, 0);
  return [...T.front].sort((a, b) => excess(a) - excess(b))[0];
}
const wantName = (w) => (w === "balance" ? "the best balance"
  : O[w].learned && O[w].maximize ? `most ${O[w].label}` : `${O[w].maximize ? "most" : "least"} ${O[w].label.replace(/^(training|peak) /, "")}`);

// The difference of one configuration to another in an objective, in words.
function difference(o, a, b) {
  const name = O[o].learned ? O[o].label : O[o].label.replace(/^(training|peak) /, ""), x = T.v[o][a], y = T.v[o][b];
  if (O[o].learned || x <= 0 || y <= 0) {
    const error = Math.hypot(T.error[o][a], T.error[o][b]);
    if (x === y) return `the same ${name}`;
    if (Math.abs(x - y) <= error) return `${name} the same within its error`;
    const size = O[o].points ? `${shown(100 * Math.abs(x - y), 1)} points` : withUnit(o, show(o, Math.abs(x - y)));
    return `${size} ${x > y ? "more" : "less"} ${name}`;
  }
  const ratio = x / y;
  if (Math.abs(ratio - 1) < 0.005) return `the same ${name}`;
  if (ratio >= 2) return `${shown(ratio, 1)} × the ${name}`;
  return `${Math.round(100 * Math.abs(ratio - 1))}% ${ratio > 1 ? "more" : "less"} ${name}`;
}

// Brushes: by axis, either {low, high} in the axis's own values or a set of choices. An axis is a parameter or an objective.
const axes = [
  ...P.map((p, k) => ({key: p.name, label: p.label, choices: p.choices, column: T.p[k], o: null, flip: false})),
  ...O.map((each, o) => ({key: each.name, label: each.unit ? `${each.label} (${each.unit})` : each.label,
    choices: null, column: T.v[o], o, flip: !each.maximize})).sort((a, b) => O[a.o].learned - O[b.o].learned),
].filter((axis) => new Set(points.map((i) => axis.column[i])).size > 1);
for (const axis of axes) {
  if (axis.choices) continue;
  const values = near(points.map((i) => axis.column[i]).filter((x) => x !== null));
  axis.low = Math.min(...values);
  axis.high = Math.max(...values);
  axis.log = axis.low > 0 && axis.high / axis.low > 8;
}
const axisOf = (key) => axes.find((axis) => axis.key === key);
const passes = (axis, brush, x) => x !== null && (brush.set ? brush.set.has(x) : x >= brush.low && x <= brush.high);
function passing() {
  const brushes = Object.entries(state.brushes).map(([key, brush]) => [axisOf(key), brush]);
  return points.filter((i) => brushes.every(([axis, brush]) => passes(axis, brush, axis.column[i])));
}
const axisText = (axis, x) => (axis.choices ? axis.choices[x] : axis.o === null ? Number(x.toPrecision(3)).toString() : show(axis.o, x));
function brushText(axis) {
  const brush = state.brushes[axis.key];
  if (!brush) return "every value";
  if (brush.set) return [...brush.set].sort((a, b) => a - b).map((x) => axis.choices[x]).join(" or ");
  return `${axisText(axis, brush.low)} to ${axisText(axis, brush.high)}`;
}

// Words that the table is searched for: "bf16 memory<20 trained".
function matches(i, words) {
  return words.every((word) => {
    const found = /^([^<>=]+)(<=|>=|<|>|=)(-?[\d.,]+)$/.exec(word);
    if (!found) return rowText(i).includes(word);
    const [, name, sign, number] = found, x = Number(number.replaceAll(",", ""));
    const o = O.findIndex((each) => [each.name, each.label, each.short].some((known) => known.toLowerCase().replaceAll(" ", "_").includes(name)));
    const axis = axes.find((each) => each.label.toLowerCase().replaceAll(" ", "_").includes(name) || each.key.includes(name));
    const raw = o >= 0 ? T.v[o][i] : axis ? (axis.choices ? Number(axis.choices[axis.column[i]]) : axis.column[i]) : null;
    if (raw === null || raw === undefined || Number.isNaN(raw)) return false;
    return {"<": raw < x, ">": raw > x, "<=": raw <= x, ">=": raw >= x, "=": Math.abs(raw - x) < 1e-9}[sign];
  });
}
const KINDS = ["measured", "derived", "predicted"];
const texts = [];
function rowText(i) {
  texts[i] ??= [T.n[i] ?? "", T.configuration[i], D.outcomes[T.outcome[i]], T.words[i] ?? "",
    T.outcome[i] === COMPLETED ? KINDS[kind[i]] : "", onFront.has(i) ? "front" : "",
    T.outcome[i] === COMPLETED ? T.sources[T.source[0][i]][0] : ""].join(" ").toLowerCase();
  return texts[i];
}
function remark(i) {
  const words = T.outcome[i] === COMPLETED ? KINDS[kind[i]] : D.outcomes[T.outcome[i]];
  const all = [words, ...(onFront.has(i) || i >= N ? ["front"] : []), ...(i === D.knee ? ["best balance"] : []), ...(T.words[i] ? [T.words[i]] : [])];
  return all.join(", ");
}

// The hash holds limits, what is wanted, brushes, the trial, the order and the search; what it can't read is ignored.
function hash() {
  const parts = Object.entries(state.limits).map(([o, x]) => [O[o].name, x]);
  if (state.want !== null) parts.push(["want", state.want === "balance" ? "balance" : O[state.want].name]);
  for (const [key, brush] of Object.entries(state.brushes)) {
    parts.push([`b.${key}`, brush.set ? `=${[...brush.set].map((x) => axisOf(key).choices[x]).join("|")}` : `${brush.low}~${brush.high}`]);
  }
  if (state.trial !== null && T.n[state.trial] !== null) parts.push(["trial", T.n[state.trial]]);
  if (state.sort) parts.push(["sort", state.sort]);
  if (state.search) parts.push(["q", state.search]);
  return parts.map((part) => part.map((each) => encodeURIComponent(each)).join("=")).join("&");
}
function readHash(text) {
  Object.assign(state, {limits: {}, want: null, brushes: {}, trial: null, sort: "", search: ""});
  for (const [key, raw] of new URLSearchParams(text)) {
    const o = O.findIndex((each) => each.name === key), number = raw.trim() === "" ? NaN : Number(raw);
    if (o >= 0 && Number.isFinite(number)) state.limits[o] = number;
    if (key === "want") {
      const wanted = O.findIndex((each) => each.name === raw);
      if (raw === "balance" || wanted >= 0) state.want = raw === "balance" ? raw : wanted;
    }
    const axis = key.startsWith("b.") ? axisOf(key.slice(2)) : null;
    if (axis && axis.choices && raw.startsWith("=")) {
      const set = new Set(raw.slice(1).split("|").map((each) => axis.choices.indexOf(each)).filter((x) => x >= 0));
      if (set.size) state.brushes[axis.key] = {set};
    } else if (axis && !axis.choices) {
      const [low, high] = raw.split("~").map((each) => (each.trim() === "" ? NaN : Number(each)));
      if (low <= high) state.brushes[axis.key] = {low, high};
    }
    const trial = key === "trial" ? T.n.indexOf(number) : -1;
    if (trial >= 0 && T.outcome[trial] === COMPLETED) state.trial = trial;
    if (key === "sort" && /^-?(trial|configuration|remark)$/.test(raw)) state.sort = raw;
    if (key === "sort" && O.some((each) => each.name === raw.replace(/^-/, ""))) state.sort = raw;
    if (key === "q") state.search = raw;
  }
}
