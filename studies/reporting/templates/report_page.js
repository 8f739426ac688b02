// The page put together: pictures in their places, pointers and keys, and what follows a change.
const pictures = [];
const NAMES = views.map((view) => `${O[view.y].label} over ${O[view.x].label}`);
const tip = byId("tip");

class Picture {
  constructor(host, draw, height, name) {
    Object.assign(this, {host, draw, height, name});
    this.canvas = el("canvas", {"aria-hidden": "true"});
    this.over = el("div", {class: "over", role: "group", "aria-label": name});
    this.paper = el("div", {class: "paper"});
    host.append(this.canvas, this.over, this.paper);
    pictures.push(this);
  }
  get size() {
    const width = this.host.clientWidth;
    return [width, this.height(width)];
  }
  render(quick = false) {
    const [width, height] = this.size;
    if (!width) return;
    this.host.style.height = `${height}px`;
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${height}px`;
    this.at = this.draw(new CanvasPen(this.canvas, width, height, Math.max(1, devicePixelRatio)), width, height, palette(), quick);
    this.overlay?.(this.at);
  }
  svg(width, height, colors = D.palettes.light) {
    const limits = Object.keys(state.limits).map((o) => limitText(o)).join(", ");
    const pen = new SvgPen(width, height + 24, `${this.name}, ${D.name}`);
    pen.rect(0, 0, width, height + 24, {fill: colors.ground});
    this.draw(pen, width, height, colors);
    pen.text(10, height + 14, `${D.name}: ${this.name}${limits ? `; ${limits}` : ""}`, {color: colors.soft, size: 11});
    return pen.toString();
  }
}

let queued = null, hashTimer = 0;
function hover(i) {
  if (state.hover === i) return;
  state.hover = i;
  queued ??= requestAnimationFrame(() => { queued = null; pictures.forEach((picture) => picture.linked && picture.render()); });
}
function changed(quick = false) {
  clearTimeout(hashTimer);
  if (!quick) { drawAnswer(); drawLimits(); drawTable(); }
  drawChips();
  pictures.forEach((picture) => picture.linked && picture.render(quick));
  hashTimer = setTimeout(() => {
    if (quick) changed();
    const text = hash();
    history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
  }, 120);
}

function tipFor(at) {
  if (at.predicted !== undefined) {
    const each = D.predicted[at.predicted];
    return [el("strong", {}, each.configuration), el("span", {}, "predicted, and not trained"),
      ...O.map((objective, o) => el("span", {}, `${objective.label}: ${withUnit(o, show(o, each.v[o]))}${each.error[o] ? ` ± ${show(o, each.error[o])}` : ""}`))];
  }
  const i = at.i;
  return [el("strong", {}, T.configuration[i]), el("span", {}, `${trialName(i)}, ${remark(i)}`),
    ...O.map((objective, o) => el("span", {}, `${objective.label}: ${isAbout(o, i) ? "about " : ""}${value(o, i)} ${errorText(o, i)}`))];
}
function showTip(at, x, y) {
  tip.replaceChildren(...tipFor(at));
  tip.hidden = false;
  const {width, height} = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(innerWidth - width - 4, x + 14))}px`;
  tip.style.top = `${y + height + 20 > innerHeight ? y - height - 12 : y + 14}px`;
}
const hideTip = () => { tip.hidden = true; hover(null); };
const placeIn = (picture, event) => {
  const box = picture.host.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
};

function buildScatter(view, k) {
  const host = el("div", {class: "picture"}), key = `${view.y}-${view.x}`;
  const whole = button("Whole picture", () => { delete state.zoom[key]; whole.hidden = true; picture.render(); }, {hidden: true, class: "whole"});
  byId("scatters").append(el("figure", {class: k ? "other" : ""}, el("figcaption", {class: "unseen"}, NAMES[k]), host, whole));
  const picture = new Picture(host, (pen, width, height, colors) => scatter(pen, width, height, view, colors), (width) => (width < NARROW ? Math.min(width * 0.95, 380) : Math.max(400, Math.min(540, width * 0.62))), NAMES[k]);
  picture.linked = true;
  // Points of the front are buttons, with one stop for the tab key and arrows between them.
  const stops = T.front.map((i, n) => el("button", {type: "button", class: "stop", tabindex: n ? -1 : 0, "aria-label": `${T.configuration[i]}: ${O.map((o, m) => `${o.label} ${isAbout(m, i) ? "about " : ""}${value(m, i)}`).join(", ")}`,
    onclick: () => select(i), onblur: hideTip,
    onfocus: (event) => { const box = event.target.getBoundingClientRect(); hover(i); showTip({i}, box.left, box.top); },
    onkeydown: (event) => {
      const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
      if (!step) return;
      event.preventDefault();
      const next = stops[(n + step + stops.length) % stops.length];
      stops.forEach((stop) => { stop.tabIndex = stop === next ? 0 : -1; });
      next.focus();
    }}));
  picture.over.append(...stops);
  picture.overlay = ({drawn}) => {
    const places = new Map(drawn.filter((at) => at.i !== undefined).map((at) => [at.i, at]));
    stops.forEach((stop, n) => {
      const at = places.get(T.front[n]);
      stop.hidden = !at;
      if (at) { stop.style.left = `${at.x}px`; stop.style.top = `${at.y}px`; }
    });
  };
  const nearestTo = (x, y) => picture.at.drawn.reduce((best, at) => { const d = Math.hypot(at.x - x, at.y - y); return d < best.d ? {d, at} : best; }, {d: 18, at: null}).at;
  let from = null;
  const frameOf = el("div", {class: "zoom", hidden: true});
  picture.over.append(frameOf);
  host.addEventListener("pointermove", (event) => {
    const [x, y] = placeIn(picture, event);
    if (from && Math.hypot(x - from[0], y - from[1]) > 6) {
      Object.assign(frameOf.style, {left: `${Math.min(x, from[0])}px`, top: `${Math.min(y, from[1])}px`, width: `${Math.abs(x - from[0])}px`, height: `${Math.abs(y - from[1])}px`});
      frameOf.hidden = false;
      return;
    }
    const at = nearestTo(x, y);
    host.style.cursor = at ? "pointer" : "crosshair";
    if (!at) return hideTip();
    hover(at.i < N ? at.i : null);
    showTip(at, event.clientX, event.clientY);
  });
  host.addEventListener("pointerleave", hideTip);
  host.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "touch" || event.button) return;
    from = placeIn(picture, event);
    event.preventDefault();
  });
  addEventListener("pointerup", (event) => {
    if (!from) return;
    const [x, y] = placeIn(picture, event), [x0, y0] = from, {x: sx, y: sy} = picture.at;
    from = null;
    frameOf.hidden = true;
    if (Math.hypot(x - x0, y - y0) <= 6) return;
    const sorted = (a, b) => [a, b].sort((p, q) => p - q);
    state.zoom[key] = {[view.x]: sorted(sx.invert(x0), sx.invert(x)), [view.y]: sorted(sy.invert(y0), sy.invert(y))};
    whole.hidden = false;
    picture.render();
  });
  host.addEventListener("click", (event) => {
    const at = nearestTo(...placeIn(picture, event));
    if (at?.i !== undefined && !event.target.closest(".stop")) select(at.i);
  });
  host.addEventListener("dblclick", () => whole.click());
  return picture;
}

function drawChips() {
  if (!axes.length) return;
  const keys = Object.keys(state.brushes), kept = passing().length;
  byId("chips").replaceChildren(...keys.map((key) => button(`${axisOf(key).label}: ${brushText(axisOf(key))} ✕`, () => { delete state.brushes[key]; changed(); },
    {class: "chip", "aria-label": `clear ${axisOf(key).label}: ${brushText(axisOf(key))}`})));
  byId("passing").textContent = keys.length ? `${kept.toLocaleString("en")} of ${points.length.toLocaleString("en")} configurations pass` : "";
}
function setBrush(axis, brush, quick = false) {
  if (brush) state.brushes[axis.key] = brush; else delete state.brushes[axis.key];
  changed(quick);
}
function brushByKey(axis, event) {
  const brush = state.brushes[axis.key], step = {ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1}[event.key];
  if (event.key === "Delete" || event.key === "Backspace") { event.preventDefault(); return setBrush(axis, null); }
  if (!step) return;
  event.preventDefault();
  if (axis.choices) {
    const n = axis.choices.length, now = brush ? Math.max(...brush.set) : step > 0 ? -1 : n;
    return setBrush(axis, {set: new Set([(now + step + n) % n])});
  }
  // Along the axis as it is drawn, where better is up.
  const ends = brush ? [brush.low, brush.high].map((v) => unit(axis, v)).sort((a, b) => a - b) : [0, 1];
  ends[event.shiftKey ? 1 : 0] = Math.max(0, Math.min(1, ends[event.shiftKey ? 1 : 0] + step * 0.02));
  if (ends[0] >= ends[1]) return;
  setBrush(axis, ranged(axis, ...ends));
}
function ranged(axis, a, b) {
  const [low, high] = [a, b].map((u) => Number(valueAt(axis, u).toPrecision(4))).sort((p, q) => p - q);
  // Rounding must not cut off what lies on the axis's very end; nor must what is beyond a scale's end be lost.
  const atEnds = [Math.min(a, b) <= 0, Math.max(a, b) >= 1], values = points.map((i) => axis.column[i]).filter((v) => v !== null);
  const [isLow, isHigh] = axis.flip ? [atEnds[1], atEnds[0]] : atEnds;
  return {low: isLow ? Math.min(...values) : low, high: isHigh ? Math.max(...values) : high};
}

function buildLines() {
  const host = byId("lines");
  const height = (width) => (width < NARROW ? 36 + axes.length * ROW_PX : axes.length > 8 ? 430 : 400);
  const picture = new Picture(host, (pen, width, h, colors, quick) => lines(pen, width, h, colors, quick ? 400 : Infinity), height, "Settings and what they reach");
  picture.linked = true;
  const heads = axes.map((axis) => el("button", {type: "button", class: "axis", onkeydown: (event) => brushByKey(axis, event), onclick: (event) => { if (event.detail) setBrush(axis, null); }}));
  picture.over.append(...heads);
  picture.overlay = (g) => heads.forEach((head, k) => {
    const [x, y] = g.place(k, g.turned ? 0 : 1);
    Object.assign(head.style, g.turned ? {left: "0", top: `${y - 28}px`, width: "180px", height: "26px"} : {left: `${x - 40}px`, top: "4px", width: "80px", height: `${y - 14}px`});
    head.setAttribute("aria-label", `${axes[k].label}: ${brushText(axes[k])}. Arrow keys move the lower edge, with Shift the upper one; Delete clears`);
  });
  const along = (event) => { const [x, y] = placeIn(picture, event), g = picture.at; return (((g.turned ? x : y) - g.from) / (g.to - g.from)); };
  const axisAt = (event) => {
    const [x, y] = placeIn(picture, event), g = picture.at, u = along(event), at = g.turned ? y : x;
    const k = axes.findIndex((_, n) => Math.abs(g.across(n) - at) < (g.turned ? 18 : 20));
    return k >= 0 && u > -0.08 && u < 1.08 ? k : -1;
  };
  const set = (axis, a, b, quick) => {
    const [low, high] = [Math.min(a, b), Math.max(a, b)];
    if (!axis.choices) return setBrush(axis, ranged(axis, Math.max(0, low), Math.min(1, high)), quick);
    const inside = axis.choices.map((_, c) => c).filter((c) => unit(axis, c) >= low - 0.02 && unit(axis, c) <= high + 0.02);
    setBrush(axis, inside.length ? {set: new Set(inside)} : null, quick);
  };
  let drag = null;
  host.addEventListener("pointerdown", (event) => {
    const k = event.target.closest(".axis") ? -1 : axisAt(event);
    if (k < 0 || event.button) return;
    drag = {axis: axes[k], from: along(event), moved: false};
    host.setPointerCapture(event.pointerId);
    event.preventDefault();
  });
  host.addEventListener("pointermove", (event) => {
    if (drag) {
      const u = along(event), [length] = [Math.abs(picture.at.to - picture.at.from)];
      drag.moved ||= Math.abs(u - drag.from) * length > 5;
      if (drag.moved) set(drag.axis, drag.from, u, true);
      return;
    }
    const k = axisAt(event);
    host.style.cursor = k < 0 ? "default" : picture.at.turned ? "ew-resize" : "ns-resize";
    const i = k < 0 ? lineAt(event) : null;
    if (i === null) return hideTip();
    hover(i);
    showTip({i}, event.clientX, event.clientY);
  });
  const end = () => {
    if (drag && !drag.moved) {
      const {axis, from} = drag, c = axis.choices ? Math.max(0, Math.min(axis.choices.length - 1, valueAt(axis, from))) : -1;
      const isAt = c >= 0 && Math.abs(unit(axis, c) - from) < Math.min(0.06, 0.4 / axis.choices.length), now = state.brushes[axis.key];
      setBrush(axis, isAt && !(now && now.set.size === 1 && now.set.has(c)) ? {set: new Set([c])} : null);
    } else if (drag) changed();
    drag = null;
  };
  host.addEventListener("pointerup", end);
  host.addEventListener("pointercancel", end);
  host.addEventListener("pointerleave", hideTip);
  host.addEventListener("click", (event) => { const i = axisAt(event) < 0 && !event.target.closest(".axis") ? lineAt(event) : null; if (i !== null) select(i); });
  // The line that is nearest to a place between two axes.
  function lineAt(event) {
    const [x, y] = placeIn(picture, event), g = picture.at, across = g.turned ? y : x, u = along(event);
    const k = axes.findIndex((_, n) => n + 1 < axes.length && g.across(n) <= across && across <= g.across(n + 1));
    if (k < 0) return null;
    const share = (across - g.across(k)) / (g.across(k + 1) - g.across(k));
    let best = null, least = 7 / Math.abs(g.to - g.from);
    for (const i of passing()) {
      const at = (1 - share) * unit(axes[k], axes[k].column[i], i) + share * unit(axes[k + 1], axes[k + 1].column[i], i);
      if (Math.abs(at - u) < least) { least = Math.abs(at - u); best = i; }
    }
    return best;
  }
}

function save(name, content, type) {
  const link = el("a", {href: URL.createObjectURL(new Blob([content], {type})), download: name});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
const fileName = (what, end) => `${D.name.replace(/[^\w.-]+/g, "_")}-${what}.${end}`;
function savePng(picture, what) {
  const [width, height] = [900, 560], canvas = el("canvas");
  const pen = new CanvasPen(canvas, width, height, 2), colors = palette();
  pen.rect(0, 0, width, height, {fill: colors.ground});
  picture.draw(pen, width, height - 24, colors);
  pen.text(10, height - 8, `${D.name}: ${picture.name}`, {color: colors.soft, size: 11});
  canvas.toBlob((blob) => save(fileName(what, "png"), blob, "image/png"));
}

function start() {
  readHash(location.hash.slice(1));
  buildLimits();
  if (points.length) {
    const shownViews = views.map(buildScatter);
    if (axes.length) buildLines();
    const tabs = byId("tabs");
    tabs.append(...shownViews.map((picture, k) => button(`over ${O[views[k].x].short}`, () => { state.tab = k; tab(); }, {"aria-pressed": String(k === 0)})));
    const tab = () => {
      [...byId("scatters").children].forEach((figure, k) => figure.classList.toggle("other", k !== state.tab));
      [...tabs.children].forEach((each, k) => each.setAttribute("aria-pressed", String(k === state.tab)));
      pictures.forEach((picture) => picture.render());
    };
    byId("save-scatters").append(...shownViews.flatMap((picture, k) => [
      button(`SVG: ${NAMES[k]}`, () => save(fileName(`over-${O[views[k].x].name}`, "svg"), picture.svg(900, 536, palette()), "image/svg+xml")),
      button(`PNG: ${NAMES[k]}`, () => savePng(picture, `over-${O[views[k].x].name}`))]));
    if (axes.length) byId("save-lines").append(button("Save SVG", () => save(fileName("settings", "svg"), pictures.find((each) => each.host.id === "lines").svg(1200, 430, palette()), "image/svg+xml")));
  }
  if (D.hypervolume.length) {
    const last = D.hypervolume.at(-1)[0], [name, seconds] = last < 180 ? ["s", 1] : last < 10800 ? ["min", 60] : ["h", 3600];
    const series = [{points: D.hypervolume.map(([x, y]) => [x / seconds, y])}];
    new Picture(byId("hypervolume"), (pen, width, height, colors) => chart(pen, width, height, series, `time spent on trials (${name})`, "share of the box", colors, {stairs: true, range: [0, 1], yText: (t) => `${Math.round(100 * t)}%`}), () => 320, "Hypervolume over the time spent");
  }
  if (D.curves.length) {
    const learned = O.findIndex((each) => each.learned), name = learned < 0 ? "accuracy" : O[learned].label;
    const picture = new Picture(byId("curves"), (pen, width, height, colors) => {
      const {shown: pick} = answer(), picked = pick === null ? null : T.n[pick];
      chart(pen, width, height, D.curves.map((each) => ({...each, picked: each.n === picked})), "training samples", name, colors, {baseline: learned < 0 ? null : O[learned].baseline});
    }, () => 320, "Learning curves");
    picture.linked = true;
  }
  byId("other")?.addEventListener("click", (event) => {
    state.other = !state.other;
    event.currentTarget.setAttribute("aria-pressed", String(state.other));
    changed();
  });
  byId("search")?.addEventListener("input", (event) => { state.search = event.target.value; changed(); });
  byId("table-more")?.addEventListener("click", () => { state.all = true; drawTable(); });
  byId("table-clear")?.addEventListener("click", () => { state.search = ""; state.brushes = {}; byId("search").value = ""; changed(); });
  const redraw = () => pictures.forEach((picture) => picture.render());
  new ResizeObserver(() => requestAnimationFrame(redraw)).observe(document.body);
  isDark.addEventListener("change", redraw);
  addEventListener("hashchange", () => { readHash(location.hash.slice(1)); changed(); });
  for (const details of document.querySelectorAll("details")) details.addEventListener("toggle", redraw);
  // Paper gets vectors, and every row.
  addEventListener("beforeprint", () => {
    state.all = true;
    document.querySelectorAll("details.more").forEach((details) => { details.open = true; });
    drawTable();
    for (const picture of pictures) {
      const isLines = picture.host.id === "lines", [width, height] = isLines ? [Math.max(720, axes.length * 84), 360] : [460, 330];
      picture.paper.insertAdjacentHTML("afterbegin", picture.svg(width, height));
    }
  });
  addEventListener("afterprint", () => {
    state.all = false;
    drawTable();
    pictures.forEach((picture) => picture.paper.replaceChildren());
  });
  document.body.classList.add("live");
  changed();
}
start();
