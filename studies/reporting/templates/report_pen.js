// One pen with two hands: whatever is drawn on the screen's canvas is drawn the same way as SVG, for print and for saving.
const FONT = getComputedStyle(document.body).fontFamily;
const isDark = matchMedia("(prefers-color-scheme: dark)");
const palette = (dark = isDark.matches) => D.palettes[dark ? "dark" : "light"];
const escaped = (text) => String(text).replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);

// The corners of a mark that is not round.
const CORNERS = {diamond: [[0, -1.25], [1.25, 0], [0, 1.25], [-1.25, 0]], square: [[-1, -1], [1, -1], [1, 1], [-1, 1]]};

class CanvasPen {
  constructor(canvas, width, height, ratio) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    this.context = canvas.getContext("2d");
    this.context.scale(ratio, ratio);
    this.context.lineJoin = "round";
  }
  _paint({fill, stroke, width = 1, dash = [], alpha = 1}) {
    const c = this.context;
    c.globalAlpha = alpha;
    if (fill) { c.fillStyle = fill; c.fill(); }
    if (stroke) { c.strokeStyle = stroke; c.lineWidth = width; c.setLineDash(dash); c.stroke(); }
    c.globalAlpha = 1;
  }
  line(path, style) {
    this.context.beginPath();
    path.forEach(([x, y], k) => (k ? this.context.lineTo(x, y) : this.context.moveTo(x, y)));
    if (style.closed) this.context.closePath();
    this._paint(style);
  }
  dot(x, y, r, style) {
    this.context.beginPath();
    this.context.arc(x, y, r, 0, 2 * Math.PI);
    this._paint(style);
  }
  rect(x, y, w, h, style) {
    this.context.beginPath();
    this.context.rect(x, y, w, h);
    this._paint(style);
  }
  text(x, y, text, {color, size = 12, weight = 400, anchor = "start", angle = 0, halo = null}) {
    const c = this.context;
    c.save();
    c.translate(x, y);
    c.rotate((angle * Math.PI) / 180);
    c.font = `${weight} ${size}px ${FONT}`;
    c.textAlign = anchor === "middle" ? "center" : anchor;
    if (halo) { c.lineWidth = 4; c.strokeStyle = halo; c.setLineDash([]); c.strokeText(text, 0, 0); }
    c.fillStyle = color;
    c.fillText(text, 0, 0);
    c.restore();
  }
}

class SvgPen {
  constructor(width, height, title) {
    this.size = [width, height];
    this.parts = [`<title>${escaped(title)}</title>`];
  }
  _style({fill = "none", stroke = "none", width = 1, dash = [], alpha = 1}) {
    const dashes = dash.length ? ` stroke-dasharray="${dash}"` : "";
    return `fill="${fill || "none"}" stroke="${stroke || "none"}" stroke-width="${width}"${dashes}${alpha < 1 ? ` opacity="${alpha}"` : ""}`;
  }
  line(path, style) {
    const shape = style.closed ? "polygon" : "polyline";
    this.parts.push(`<${shape} points="${path.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ")}" ${this._style(style)}/>`);
  }
  dot(x, y, r, style) {
    this.parts.push(`<circle cx="${x.toFixed(1)}" cy="${y.toFixed(1)}" r="${r}" ${this._style(style)}/>`);
  }
  rect(x, y, w, h, style) {
    this.parts.push(`<rect x="${x.toFixed(1)}" y="${y.toFixed(1)}" width="${Math.max(0, w).toFixed(1)}" height="${Math.max(0, h).toFixed(1)}" ${this._style(style)}/>`);
  }
  text(x, y, text, {color, size = 12, weight = 400, anchor = "start", angle = 0, halo = null}) {
    const place = `transform="translate(${x.toFixed(1)} ${y.toFixed(1)})${angle ? ` rotate(${angle})` : ""}"`;
    const around = halo ? ` stroke="${halo}" stroke-width="4" paint-order="stroke"` : "";
    this.parts.push(`<text ${place} font-size="${size}" font-weight="${weight}" text-anchor="${anchor}" fill="${color}"${around}>${escaped(text)}</text>`);
  }
  toString() {
    const [width, height] = this.size;
    return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" font-family="${escaped(FONT)}">${this.parts.join("")}</svg>`;
  }
}

function mark(pen, shape, x, y, r, style) {
  if (CORNERS[shape]) pen.line(CORNERS[shape].map(([dx, dy]) => [x + r * dx, y + r * dy]), {...style, closed: true});
  else pen.dot(x, y, r, style);
}

// A scale from values to a stretch of pixels, with its round values.
function scale(low, high, from, to, log = false) {
  const map = log ? Math.log : (x) => x, back = log ? Math.exp : (x) => x;
  if (!(high > low)) { const room = Math.abs(low) * 0.1 || 1; low -= log ? low * 0.1 : room; high += log ? high * 0.1 : room; }
  const a = map(low), b = map(high);
  const place = (x) => from + ((map(x) - a) / (b - a)) * (to - from);
  place.invert = (pixel) => back(a + ((pixel - from) / (to - from)) * (b - a));
  place.low = low;
  place.high = high;
  place.log = log;
  return place;
}
function ticks(place, count) {
  const {low, high, log} = place, found = [];
  if (log && high / low >= 4) {
    for (const steps of [[1], [1, 3], [1, 2, 5]]) {
      found.length = 0;
      for (let p = Math.floor(Math.log10(low)); p <= Math.ceil(Math.log10(high)); p++) {
        for (const s of steps) { const x = s * 10 ** p; if (x >= low * 0.999 && x <= high * 1.001) found.push(x); }
      }
      if (found.length >= Math.min(3, count)) return found;
    }
  }
  const raw = (high - low) / Math.max(1, count), power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((s) => s * power >= raw) * power;
  found.length = 0;
  for (let x = Math.ceil(low / step) * step; x <= high + step * 1e-6; x += step) found.push(Math.abs(x) < step * 1e-6 ? 0 : x);
  return found;
}
const tickText = (x) => (Math.abs(x) >= 1e6 || (x !== 0 && Math.abs(x) < 1e-4) ? x.toExponential(0)
  : x.toLocaleString("en", {maximumFractionDigits: 6, maximumSignificantDigits: 4}));

// The frame of a chart: grid, tick texts and the two names.
function frame(pen, box, x, y, xName, yName, colors) {
  const {left, right, top, bottom} = box;
  for (const t of ticks(y, Math.max(2, Math.round((bottom - top) / 70)))) {
    pen.line([[left, y(t)], [right, y(t)]], {stroke: colors.grid});
    pen.text(left - 8, y(t) + 4, box.yText ? box.yText(t) : tickText(t), {color: colors.soft, anchor: "end"});
  }
  for (const t of ticks(x, Math.max(2, Math.round((right - left) / 90)))) {
    pen.line([[x(t), top], [x(t), bottom]], {stroke: colors.grid});
    pen.text(x(t), bottom + 18, tickText(t), {color: colors.soft, anchor: "middle"});
  }
  pen.line([[left, top], [left, bottom], [right, bottom]], {stroke: colors.line, width: 1.5});
  pen.text((left + right) / 2, bottom + 38, xName + (x.log ? ", log" : ""), {color: colors.ink, anchor: "middle", weight: 600});
  pen.text(14, (top + bottom) / 2, yName + (y.log ? ", log" : ""), {color: colors.ink, anchor: "middle", weight: 600, angle: -90});
}
