// The pictures: each is a function of a pen, a size and a palette, and returns where its marks are.
const MEMORY = "peak_memory_mib";
const STEPS = 6, NARROW = 640, MANY = 25;
const views = O.slice(1).map((_, k) => ({y: 0, x: k + 1, third: O.findIndex((__, o) => o !== 0 && o !== k + 1)}));

// The colour step of each point by an objective: six equal shares, the best strongest.
const stepsBy = O.map((_, o) => {
  const order = [...points].sort((a, b) => cost(o, b) - cost(o, a)), steps = [];
  // Equal values have equal colours.
  order.forEach((i, k) => {
    const before = order[k - 1];
    steps[i] = k && T.v[o][i] === T.v[o][before] ? steps[before] : Math.floor((k * STEPS) / order.length);
  });
  return steps;
});
function paint(o, i, colors) {
  const step = o < 0 ? STEPS - 2 : stepsBy[o][i];
  return {color: colors.steps[step], isPale: step < (colors === D.palettes.light ? 2 : 1)};
}
const shapeOf = (i) => (kind[i] === PREDICTED ? "diamond" : "dot");

function padded(o, values, hasRoom = 0.05) {
  let low = Math.min(...values), high = Math.max(...values);
  const log = low > 0 && high / low > 8 && !O[o].learned, room = log ? (high / low) ** hasRoom : (high - low) * hasRoom || Math.abs(high) * 0.1 || 1;
  return log ? [low / room, high * room, true] : [low - room, high + room, false];
}
const others = () => (state.other ? theirs : []);
const overNeeds = Object.values(T.needMib);
function rangeOf(o, view) {
  const zoomed = state.zoom[`${view.y}-${view.x}`]?.[o];
  const values = near([...points, ...others()].map((i) => T.v[o][i]));
  if (O[o].baseline !== null) values.push(O[o].baseline);
  if (O[o].name === MEMORY && D.limitMib !== null) {
    if (overNeeds.length || D.limitMib < 2.5 * Math.max(...values)) values.push(D.limitMib * 1.08);
    const farthest = 1.3 * Math.max(D.limitMib, ...values);
    if (overNeeds.length) values.push(...overNeeds.map((x) => Math.min(x, farthest)));
  }
  const [low, high, log] = padded(o, values, o === view.y ? 0.09 : 0.05);
  return zoomed ? [...zoomed, log] : [low, high, log];
}

function scatter(pen, width, height, view, colors) {
  const box = {left: 62, right: width - 14, top: 22, bottom: height - 74};
  const x = scale(...rangeOf(view.x, view).slice(0, 2), box.left, box.right, rangeOf(view.x, view)[2]);
  const y = scale(...rangeOf(view.y, view).slice(0, 2), box.bottom, box.top, rangeOf(view.y, view)[2]);
  const inside = (px, py) => px >= box.left - 1 && px <= box.right + 1 && py >= box.top - 1 && py <= box.bottom + 1;
  const heading = (o) => (O[o].unit ? `${O[o].label} (${O[o].unit})` : O[o].label);
  const isMemory = O[view.x].name === MEMORY, limit = D.limitMib;
  if (isMemory && limit !== null && limit < x.high) {
    pen.rect(x(limit), box.top, box.right - x(limit), box.bottom - box.top, {fill: colors.red, alpha: 0.09});
  }
  frame(pen, box, x, y, heading(view.x), heading(view.y), colors);
  if (isMemory && limit !== null && limit < x.high && limit > x.low) {
    pen.line([[x(limit), box.top], [x(limit), box.bottom]], {stroke: colors.red, width: 1.5, dash: [5, 4]});
    pen.text(x(limit) - 6, box.top + 6, `does not fit: ${shown(limit, 0)} MiB`, {color: colors.red, anchor: "end", angle: -90, size: 11, halo: colors.ground});
    for (const need of overNeeds) {
      const px = Math.min(x(need), box.right), py = box.bottom - 7;
      for (const d of [-1, 1]) pen.line([[px - 4, py - 4 * d], [px + 4, py + 4 * d]], {stroke: colors.red, width: 2});
    }
  } else if (!isMemory) {
    const over = rows.filter((i) => D.outcomes[T.outcome[i]] === "out of memory").length;
    if (over) pen.text(box.right - 4, box.bottom - 8, `${over} ran out of memory: no values here`, {color: colors.red, anchor: "end", size: 11, halo: colors.ground});
  }
  for (const [o, axis, isX] of [[view.x, x, true], [view.y, y, false]]) {
    const baseline = O[o].baseline;
    if (baseline !== null && baseline > axis.low && baseline < axis.high) {
      const ends = isX ? [[axis(baseline), box.top], [axis(baseline), box.bottom]] : [[box.left, axis(baseline)], [box.right, axis(baseline)]];
      pen.line(ends, {stroke: colors.soft, width: 1.5, dash: [2, 3]});
      const text = `${D.baselineName.replace(/^an? /, "")} ${show(o, baseline)}`;
      if (isX) pen.text(axis(baseline) + 5, box.top + 12, text, {color: colors.soft, size: 11, halo: colors.ground});
      else pen.text(box.left + 6, axis(baseline) - 5, text, {color: colors.soft, size: 11, halo: colors.ground});
    }
    const limited = state.limits[o];
    if (limited !== undefined && limited > axis.low && limited < axis.high) {
      const ends = isX ? [[axis(limited), box.top], [axis(limited), box.bottom]] : [[box.left, axis(limited)], [box.right, axis(limited)]];
      pen.line(ends, {stroke: colors.gold, width: 2});
    }
  }
  const drawn = points.map((i) => ({i, x: x(T.v[view.x][i]), y: y(T.v[view.y][i])})).filter((at) => inside(at.x, at.y));
  stairs(pen, view, x, y, box, points, {stroke: colors.blue, width: 1.5, alpha: 0.75});
  if (others().length) stairs(pen, view, x, y, box, others(), {stroke: colors.soft, width: 1.5, dash: [6, 4]});
  const passed = new Set(passing().filter(keeps)), {shown: pick} = answer();
  const big = T.front.length > MANY ? 4.6 : 6.5;
  const order = (at) => (passed.has(at.i) ? 2 : 0) + (onFront.has(at.i) ? 1 : 0);
  drawn.sort((a, b) => order(a) - order(b));
  for (const each of drawn) {
    const {i} = each, alpha = passed.has(i) ? 1 : 0.22, front = onFront.has(i), {color, isPale} = paint(view.third, i, colors);
    if (front && (T.front.length <= MANY || i === pick || i === state.hover)) whiskers(pen, each, view, x, y, colors, alpha, box);
    const r = front ? big : points.length > 500 ? 3 : 4;
    if (kind[i] === MEASURED) {
      mark(pen, "dot", each.x, each.y, r, {fill: color, stroke: front ? colors.ink : isPale ? colors.grey : null, width: front ? 1.6 : 1, alpha});
    } else {
      if (front) mark(pen, shapeOf(i), each.x, each.y, r, {fill: colors.ground, stroke: colors.ink, width: 1.4, alpha});
      mark(pen, shapeOf(i), each.x, each.y, front ? r - 2 : r, {fill: colors.ground, stroke: isPale && !front ? colors.grey : color, width: front ? 2.6 : 1.6, alpha});
    }
  }
  for (const i of others()) {
    const at = {i, x: x(T.v[view.x][i]), y: y(T.v[view.y][i])};
    if (!inside(at.x, at.y)) continue;
    mark(pen, "square", at.x, at.y, 4.5, {fill: colors.soft, stroke: colors.ink, width: 1.2, alpha: keeps(i) ? 1 : 0.22});
    drawn.push(at);
  }
  D.predicted.forEach((each, k) => {
    const px = x(each.v[view.x]), py = y(each.v[view.y]);
    if (!inside(px, py)) return;
    for (const [o, axis, isX] of [[view.x, x, true], [view.y, y, false]]) {
      const [a, b] = [each.v[o] - each.error[o], each.v[o] + each.error[o]].map((v) => axis(Math.max(axis.low, Math.min(axis.high, v))));
      if (each.error[o]) pen.line(isX ? [[a, py], [b, py]] : [[px, a], [px, b]], {stroke: colors.soft, dash: [2, 2]});
    }
    mark(pen, "square", px, py, 4.5, {fill: colors.ground, stroke: colors.soft, width: 1.4, dash: [2, 2]});
    drawn.push({predicted: k, x: px, y: py});
  });
  const hovered = drawn.find((at) => at.i === state.hover && at.i !== undefined);
  if (hovered) pen.dot(hovered.x, hovered.y, big + 3, {stroke: colors.ink, width: 2});
  const picked = pick === null ? null : drawn.find((at) => at.i === pick);
  if (picked) {
    pen.dot(picked.x, picked.y, big + 5, {stroke: colors.gold, width: 3.4});
    nameplate(pen, picked, drawn, box, T.configuration[pick], colors);
  }
  colourKey(pen, box, height, view, colors);
  return {drawn, x, y, box};
}

// The best that can be reached on these two axes alone.
function stairs(pen, view, x, y, box, among, style) {
  const sign = (o) => (O[o].maximize ? -1 : 1);
  const order = [...among].sort((a, b) => sign(view.x) * (T.v[view.x][a] - T.v[view.x][b]) || sign(view.y) * (T.v[view.y][a] - T.v[view.y][b]));
  const clamp = (v, a, b) => Math.max(Math.min(a, b), Math.min(Math.max(a, b), v));
  const path = [];
  let best = Infinity;
  for (const i of order) {
    const c = sign(view.y) * T.v[view.y][i];
    if (c >= best) continue;
    const px = clamp(x(T.v[view.x][i]), box.left, box.right), py = clamp(y(T.v[view.y][i]), box.top, box.bottom);
    if (path.length) path.push([px, path.at(-1)[1]]);
    path.push([px, py]);
    best = c;
  }
  if (path.length) path.push([O[view.x].maximize ? box.left : box.right, path.at(-1)[1]]);
  pen.line(path, style);
}

// Errors: solid over seeds and repeats, dotted where they are of samples or of a model.
function whiskers(pen, at, view, x, y, colors, alpha, box) {
  for (const [o, axis, isX] of [[view.x, x, true], [view.y, y, false]]) {
    const error = T.error[o][at.i], v = T.v[o][at.i];
    if (!error) continue;
    const dash = /seeds|repeats/.test(T.reasons[T.why[o][at.i]]) ? [] : [2, 2];
    const ends = [v - error, v + error].map((each) => (axis.log && each <= 0 ? axis(axis.low) : axis(each)));
    const [a, b] = isX ? ends.map((p) => Math.max(box.left, Math.min(box.right, p))) : ends.map((p) => Math.max(box.top, Math.min(box.bottom, p)));
    pen.line(isX ? [[a, at.y], [b, at.y]] : [[at.x, a], [at.x, b]], {stroke: colors.ink, width: 1.2, dash, alpha: alpha * 0.8});
  }
}

// The pick's name, at the emptiest of twelve places around it.
function nameplate(pen, at, drawn, box, name, colors) {
  const text = name.length > 44 ? `${name.slice(0, 42)}…` : name, w = Math.min(7.1 * text.length + 8, box.right - box.left), h = 18;
  let best = null;
  for (let k = 0; k < 12; k++) {
    const angle = (k * Math.PI) / 6, reach = 18;
    const cx = at.x + Math.cos(angle) * (reach + w / 2), cy = at.y + Math.sin(angle) * (reach + h / 2);
    const left = Math.max(box.left + 2, Math.min(box.right - w, cx - w / 2)), top = Math.max(4, Math.min(box.bottom - h, cy - h / 2));
    const covers = drawn.filter((d) => d !== at && d.x > left - 6 && d.x < left + w + 6 && d.y > top - 6 && d.y < top + h + 6).length
      + (Math.abs(left + w / 2 - at.x) < w / 2 + 10 && Math.abs(top + h / 2 - at.y) < h / 2 + 10 ? 5 : 0);
    if (best === null || covers < best.covers) best = {covers, left, top};
  }
  pen.rect(best.left, best.top, w, h, {fill: colors.ground, alpha: 0.85});
  pen.text(best.left + w / 2, best.top + 13, text, {color: colors.ink, weight: 700, anchor: "middle", size: 12});
}

function colourKey(pen, box, height, view, colors) {
  if (view.third < 0) return;
  const o = view.third, values = points.map((i) => T.v[o][i]), y = height - 14;
  const name = `colour: ${O[o].short}${O[o].unit ? ` (${O[o].unit})` : ""}`, start = box.left + 6.3 * name.length + 8, swatch = box.right - box.left < 400 ? 11 : 20;
  const ends = [Math.min(...values), Math.max(...values)].map((v) => show(o, v));
  if (O[o].maximize) ends.reverse();
  pen.text(box.left, y, name, {color: colors.soft, size: 11});
  [...colors.steps].reverse().forEach((color, k) => pen.rect(start + swatch * k, y - 9, swatch - 1, 10, {fill: color, stroke: colors.grey, width: 0.5}));
  pen.text(start + swatch * STEPS + 6, y, `${ends[0]} (best) to ${ends[1]}`, {color: colors.soft, size: 11});
}

// Parallel coordinates; on a narrow page the axes are rows.
const scatterHash = (i) => ((Math.imul(i + 1, 2654435761) >>> 0) / 2 ** 32) - 0.5;
function unit(axis, x, i = null) {
  if (x === null) return -0.06;
  if (axis.choices) {
    const n = axis.choices.length, place = n === 1 ? 0.5 : 0.03 + (0.94 * x) / (n - 1);
    return i === null ? place : place + scatterHash(i) * Math.min(0.05, 0.3 / n);
  }
  const [low, high, v] = axis.log ? [axis.low, axis.high, Math.max(x, axis.low / 2)].map(Math.log) : [axis.low, axis.high, x];
  const u = Math.max(0, Math.min(1, (v - low) / (high - low)));
  return axis.flip ? 1 - u : u;
}
function valueAt(axis, u) {
  const v = axis.flip ? 1 - u : u;
  if (axis.choices) return Math.round(((u - 0.03) / 0.94) * (axis.choices.length - 1));
  return axis.log ? Math.exp(Math.log(axis.low) + v * Math.log(axis.high / axis.low)) : axis.low + v * (axis.high - axis.low);
}
const ROW_PX = 62;
function linesGeometry(width, height) {
  const turned = width < NARROW;
  const [from, to] = turned ? [22, width - 22] : [height - 16, 48];
  const across = (k) => (turned ? 36 + k * ROW_PX : 52 + (axes.length > 1 ? (k * (width - 120)) / (axes.length - 1) : 0));
  const place = (k, u) => { const along = from + u * (to - from); return turned ? [along, across(k)] : [across(k), along]; };
  return {turned, from, to, across, place};
}
function wrapped(text, most) {
  const lines = [""];
  for (const word of text.split(" ")) {
    if (lines.at(-1) && (lines.at(-1) + word).length > most) lines.push("");
    lines[lines.length - 1] += (lines.at(-1) ? " " : "") + word;
  }
  return lines;
}
function lines(pen, width, height, colors, most = Infinity) {
  const g = linesGeometry(width, height), {shown: pick} = answer();
  const passed = passing().filter(keeps), isPassed = new Set(passed);
  const path = (i) => axes.map((axis, k) => g.place(k, unit(axis, axis.column[i], i)));
  const thin = (list) => (list.length > most ? list.filter((_, k) => k % Math.ceil(list.length / most) === 0) : list);
  const width1 = passed.length > 300 ? 1 : 1.4, alpha = passed.length > 300 ? 0.5 : 0.8;
  if (most === Infinity) for (const i of points) if (!isPassed.has(i)) pen.line(path(i), {stroke: colors.line, width: 1, alpha: 0.5});
  for (const i of thin(passed).sort((a, b) => stepsBy[0][a] - stepsBy[0][b])) pen.line(path(i), {stroke: paint(0, i, colors).color, width: width1, alpha});
  if (pick !== null) pen.line(path(pick), {stroke: colors.gold, width: 3.2});
  if (state.hover !== null) pen.line(path(state.hover), {stroke: colors.ink, width: 2.4});
  axes.forEach((axis, k) => {
    pen.line([g.place(k, 0), g.place(k, 1)], {stroke: colors.grey, width: 1.5});
    const brush = state.brushes[axis.key];
    if (brush) {
      const spans = brush.set ? [...brush.set].map((c) => [unit(axis, c) - 0.03, unit(axis, c) + 0.03]) : [[brush.low, brush.high].map((v) => unit(axis, v)).sort((a, b) => a - b)];
      for (const [a, b] of spans) {
        const [x1, y1] = g.place(k, a), [x2, y2] = g.place(k, b), fill = {fill: colors.gold, stroke: colors.gold, alpha: 0.5};
        if (g.turned) pen.rect(x1, y1 - 6, Math.max(3, x2 - x1), 12, fill);
        else pen.rect(x1 - 6, y2, 12, Math.max(3, y1 - y2), fill);
      }
    }
    const texts = axis.choices ? axis.choices.map((text, c) => [c, text])
      : ticks(scale(axis.low, axis.high, 0, 1, axis.log), g.turned ? 4 : 6).map((t) => [t, tickText(t)]);
    if (points.some((i) => axis.column[i] === null)) texts.push([null, "not set"]);
    let last = -Infinity;
    const placed = texts.map(([v, text]) => [g.place(k, unit(axis, v)), text]).sort((a, b) => (g.turned ? a[0][0] - b[0][0] : a[0][1] - b[0][1]));
    for (const [[px, py], text] of placed) {
      // A text that would run into the one before it is left out.
      const at = g.turned ? px - 3.4 * text.length : py - 7, end = g.turned ? px + 3.4 * text.length : py + 7;
      if (at < last + 2) continue;
      last = end;
      const short = text.length > 16 ? `…${text.slice(-15)}` : text, isLast = !g.turned && k === axes.length - 1;
      if (g.turned) pen.text(Math.max(3.2 * short.length, Math.min(width - 3.2 * short.length, px)), py + 17, short, {color: colors.ink, size: 11, anchor: "middle", halo: colors.ground});
      else pen.text(isLast ? px - 9 : px + 9, py + 4, short, {color: colors.ink, size: 11, anchor: isLast ? "end" : "start", halo: colors.ground});
    }
    const [hx, hy] = g.place(k, g.turned ? 0 : 1), names = g.turned ? [axis.label] : wrapped(axis.label, Math.max(6, (width - 120) / axes.length / 7.4));
    names.forEach((name, n) => pen.text(g.turned ? 6 : Math.min(hx, width - 4), g.turned ? hy - 12 : hy - 18 - 14 * (names.length - 1 - n), name,
      {color: colors.ink, weight: 600, size: axes.length > 9 && !g.turned ? 11 : 12, anchor: g.turned ? "start" : "middle", halo: colors.ground}));
  });
  return g;
}

// Lines over a horizontal axis: learning curves, and the hypervolume as a staircase.
function chart(pen, width, height, series, xName, yName, colors, options = {}) {
  const all = series.flatMap((each) => each.points), xs = all.map((p) => p[0]), ys = near(all.map((p) => p[1]));
  const box = {left: 66, right: width - 14, top: 16, bottom: height - 52, yText: options.yText};
  if (options.baseline !== undefined && options.baseline !== null) ys.push(options.baseline);
  const [low, high] = options.range ?? [Math.min(...ys), Math.max(...ys)], room = options.range ? 0 : (high - low) * 0.06 || 0.1;
  const x = scale(0, Math.max(...xs) || 1, box.left, box.right), y = scale(low - room, high + room, box.bottom, box.top);
  frame(pen, box, x, y, xName, yName, colors);
  if (options.baseline !== undefined && options.baseline !== null) pen.line([[box.left, y(options.baseline)], [box.right, y(options.baseline)]], {stroke: colors.soft, width: 1.5, dash: [2, 3]});
  for (const each of series) {
    const path = each.points.map(([a, b]) => [x(a), Math.max(box.top, Math.min(box.bottom, y(b)))]);
    const drawn = options.stairs ? path.flatMap((p, k) => (k ? [[p[0], path[k - 1][1]], p] : [p])) : path;
    pen.line(drawn, {stroke: each.picked ? colors.gold : colors.blue, width: each.picked ? 3 : options.stairs ? 2 : 1.3, alpha: each.picked || options.stairs ? 1 : 0.55});
    if (!options.stairs && each.points.length < 12) for (const [a, b] of path) pen.dot(a, b, 2.4, {fill: each.picked ? colors.gold : colors.blue});
  }
}
