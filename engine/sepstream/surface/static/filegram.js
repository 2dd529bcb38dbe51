// The picture of a file: tiles from the server, the selected bins over it, the playhead, and what hands draw on it.
//
// Time runs to the right in seconds of the file, frequency upwards on the mel scale (O'Shaughnessy 1987).

import {clamp} from "./geometry.js";

const TILE = 512;  // columns
const ROWS = 256;
const KEPT_TILES = 96;
const SHORTEST_S = 0.05;
const mel = (hz) => 2595 * Math.log10(1 + hz / 700);
const unmel = (m) => 700 * (10 ** (m / 2595) - 1);

export class Spectrogram {
  // ``fetch(zoom, first, count)`` promises bytes; ``picked(corners, done)`` is told what is drawn, ``ranged`` of another range,
  // ``sought(seconds)`` of a click.
  constructor(canvas, {picture, fetch, picked, ranged, sought, failed}) {
    Object.assign(this, {canvas, picture, fetch, picked, ranged, sought, failed});
    this.tool = "seek";
    this.file = null;
    this.range = [0, 1];
    this.playhead = 0;
    this.tiles = new Map();
    this.overlay = null;
    this.corners = null;
    this.top = mel(picture.bins * picture.bin_hz);
    this.edges = Array.from({length: picture.bins + 1}, (_, bin) => this.row(Math.max(bin - 0.5, 0) * picture.bin_hz));
    this.wanted = false;
    this.listen();
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  row(hz) {  // from the top, 0 to ROWS
    return ROWS * (1 - mel(hz) / this.top);
  }

  load(file) {
    const other = file?.number !== this.file?.number;
    this.file = file;
    if (other) {
      this.tiles.clear();
      [this.overlay, this.corners] = [null, null];
      this.setRange([0, file?.seconds ?? 1]);
    }
    this.draw();
  }

  setRange([start, stop]) {
    const length = Math.max(this.file?.seconds ?? 1, SHORTEST_S), span = clamp(stop - start, SHORTEST_S, length);
    const first = clamp(start, 0, length - span);
    this.range = [first, first + span];
    this.ranged(this.range);
    this.draw();
  }

  zoom(factor, at = (this.range[0] + this.range[1]) / 2) {
    const [start, stop] = this.range;
    this.setRange([at - (at - start) * factor, at + (stop - at) * factor]);
  }

  move(share) {
    const [start, stop] = this.range, by = (stop - start) * share;
    this.setRange([start + by, stop + by]);
  }

  // From seconds and Hz to pixels of the canvas, and back.
  x(seconds) {
    return ((seconds - this.range[0]) / (this.range[1] - this.range[0])) * this.canvas.width;
  }

  y(hz) {
    return (this.row(hz) / ROWS) * this.canvas.height;
  }

  place({offsetX, offsetY}) {
    const [w, h] = [this.canvas.clientWidth, this.canvas.clientHeight], [start, stop] = this.range;
    return [start + clamp(offsetX / w, 0, 1) * (stop - start), unmel(this.top * (1 - clamp(offsetY / h, 0, 1)))];
  }

  // The masks of a view, a byte for each of its bins.
  show(view, masks) {
    this.overlay = null;
    if (view?.hops.length) {
      const width = view.hops.length, image = new ImageData(width, ROWS), pixels = new Uint32Array(image.data.buffer);
      for (let i = 0; i < masks.length; i++) {
        if (!masks[i]) continue;
        const bin = view.bin[i], high = Math.floor(this.edges[bin + 1]), low = Math.max(Math.ceil(this.edges[bin]), high + 1);
        const colour = ((masks[i] * 0.8) << 24) | 0x3cb0ff;  // amber, ABGR
        for (let row = Math.max(high, 0); row < low && row < ROWS; row++) {
          const at = row * width + view.frame[i];
          if (colour >>> 24 > pixels[at] >>> 24) pixels[at] = colour;
        }
      }
      const canvas = new OffscreenCanvas(width, ROWS);
      canvas.getContext("2d").putImageData(image, 0, 0);
      const {lead_s: lead} = this.file, step = this.picture.column_s;
      const first = lead + (view.hops[0] - 0.5) * step, last = lead + (view.hops[width - 1] + 0.5) * step;
      this.overlay = {canvas, first, last};
    }
    this.draw();
  }

  draw() {
    if (this.wanted) return;
    this.wanted = true;
    requestAnimationFrame(() => {
      this.wanted = false;
      this.paint();
    });
  }

  paint() {
    const {canvas} = this, scale = devicePixelRatio || 1;
    const [w, h] = [Math.round(canvas.clientWidth * scale), Math.round(canvas.clientHeight * scale)];
    if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
    const c = canvas.getContext("2d");
    c.fillStyle = "#07090c";
    c.fillRect(0, 0, w, h);
    if (this.file) {
      this.paintTiles(c, w, h);
      if (this.overlay) {
        const {canvas: over, first, last} = this.overlay;
        c.drawImage(over, this.x(first), 0, this.x(last) - this.x(first), h);
      }
    }
    this.paintScale(c, w, h, scale);
    if (this.corners) this.paintOutline(c, scale);
    c.fillStyle = "#fff";
    c.fillRect(this.x(this.playhead) - scale, 0, 2 * scale, h);
  }

  paintTiles(c, w, h) {
    const {column_s: step, zoom} = this.picture, {lead_s: lead, columns} = this.file;
    const perPixel = (this.range[1] - this.range[0]) / step / Math.max(w, 1);
    const level = clamp(Math.floor(Math.log(Math.max(perPixel, 1)) / Math.log(zoom)), 0, columns.length - 1);
    const wide = step * zoom ** level, start = lead - step / 2;
    const first = Math.max(Math.floor((this.range[0] - start) / wide / TILE), 0);
    const last = Math.min(Math.floor((this.range[1] - start) / wide / TILE), Math.floor((columns[level] - 1) / TILE));
    for (let tile = first; tile <= last; tile++) {
      const there = Math.min(columns[level] - tile * TILE, TILE), drawn = this.tile(level, tile, there);
      if (!drawn) continue;
      const left = this.x(start + tile * TILE * wide), right = this.x(start + (tile * TILE + drawn.width) * wide);
      c.drawImage(drawn, left, 0, right - left + 0.5, h);
    }
  }

  // A tile as far as it is there; what is missing of it is on its way.
  tile(level, number, columns) {
    const key = `${level}/${number}`, found = this.tiles.get(key) ?? {drawn: null, columns: 0, busy: false};
    this.tiles.delete(key);
    this.tiles.set(key, found);  // the newest are kept
    for (const old of this.tiles.keys()) {
      if (this.tiles.size <= KEPT_TILES) break;
      this.tiles.delete(old);
    }
    if (found.columns < columns && !found.busy) this.load_tile(found, level, number, columns);
    return found.drawn;
  }

  async load_tile(found, level, number, columns) {
    found.busy = true;
    const {file} = this;
    try {
      const levels = new Uint8Array(await this.fetch(level, number * TILE, columns));
      if (file.number !== this.file?.number) return;
      found.drawn = this.coloured(levels);
      found.columns = columns;
      this.draw();
    } catch (error) {
      this.failed(error);
    } finally {
      found.busy = false;
    }
  }

  coloured(levels) {
    const {bins} = this.picture, width = Math.max(Math.floor(levels.length / bins), 1);
    const image = new ImageData(width, ROWS), pixels = new Uint32Array(image.data.buffer);
    for (let row = 0; row < ROWS; row++) {
      const high = unmel(this.top * (1 - row / ROWS)), low = unmel(this.top * (1 - (row + 1) / ROWS));
      const from = clamp(Math.floor(low / this.picture.bin_hz + 0.5), 0, bins - 1);
      const to = clamp(Math.ceil(high / this.picture.bin_hz + 0.5), from + 1, bins);
      for (let column = 0; column < width; column++) {
        let loudest = 0;
        for (let bin = from; bin < to; bin++) loudest = Math.max(loudest, levels[column * bins + bin]);
        pixels[row * width + column] = SHADES[loudest];
      }
    }
    const canvas = new OffscreenCanvas(width, ROWS);
    canvas.getContext("2d").putImageData(image, 0, 0);
    return canvas;
  }

  paintScale(c, w, h, scale) {
    c.font = `${11 * scale}px system-ui, sans-serif`;
    c.textBaseline = "middle";
    for (const hz of [200, 500, 1000, 2000, 5000, 10000, 20000]) {
      const y = this.y(hz);
      if (y < 8 * scale) continue;
      c.fillStyle = "#fff3";
      c.fillRect(0, y, 6 * scale, scale);
      this.label(c, hz < 1000 ? `${hz} Hz` : `${hz / 1000} kHz`, 9 * scale, y, scale);
    }
    const [start, stop] = this.range, step = tick((stop - start) / Math.max(w / scale / 90, 1));
    for (let s = Math.ceil(start / step) * step; s <= stop; s += step) {
      const x = this.x(s);
      c.fillStyle = "#fff3";
      c.fillRect(x, h - 6 * scale, scale, 6 * scale);
      if (x < w - 40 * scale && x > 60 * scale) this.label(c, clock(s, step), x + 3 * scale, h - 10 * scale, scale);
    }
  }

  label(c, text, x, y, scale) {
    c.fillStyle = "#000a";
    c.fillRect(x - 2 * scale, y - 7 * scale, c.measureText(text).width + 4 * scale, 14 * scale);
    c.fillStyle = "#cdd6e0";
    c.fillText(text, x, y);
  }

  paintOutline(c, scale) {
    c.beginPath();
    this.corners.forEach(([s, hz], i) => (i ? c.lineTo(this.x(s), this.y(hz)) : c.moveTo(this.x(s), this.y(hz))));
    c.closePath();
    c.fillStyle = "#ffffff14";
    c.fill();
    c.lineWidth = 1.5 * scale;
    c.strokeStyle = "#fff";
    c.stroke();
  }

  listen() {
    const {canvas} = this;
    let from = null, path = [];
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || !this.file) return;
      canvas.setPointerCapture(event.pointerId);
      from = this.place(event);
      path = [from];
      if (this.tool === "seek") this.sought(from[0]);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!from) return;
      const to = this.place(event);
      if (this.tool === "seek") return this.sought(to[0]);
      path.push(to);
      this.corners = this.tool === "rectangle" ? rectangle(from, to) : thinned(path, 256);
      this.draw();
      if (this.corners.length >= 3) this.picked(this.corners, false);
    });
    const end = (event) => {
      if (!from) return;
      from = null;
      if (this.tool === "seek") return;
      if (event.type === "pointercancel" || path.length < 3) this.corners = null;
      this.picked(this.corners, true);
      this.draw();
    };
    canvas.addEventListener("pointerup", end);
    canvas.addEventListener("pointercancel", end);
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) this.move((event.deltaX || event.deltaY) / 800);
      else this.zoom(1.0015 ** clamp(event.deltaY, -400, 400), this.place(event)[0]);
    }, {passive: false});
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    const acts = {
      ArrowLeft: () => (event.shiftKey ? this.move(-0.2) : this.sought(this.playhead - (this.range[1] - this.range[0]) / 50)),
      ArrowRight: () => (event.shiftKey ? this.move(0.2) : this.sought(this.playhead + (this.range[1] - this.range[0]) / 50)),
      "+": () => this.zoom(0.7, this.playhead),
      "-": () => this.zoom(1 / 0.7, this.playhead),
      Home: () => this.sought(0),
      End: () => this.sought(this.file?.seconds ?? 0),
      Escape: () => this.clear(),
    };
    if (!acts[event.key]) return;
    event.preventDefault();
    acts[event.key]();
  }

  clear() {
    this.corners = null;
    this.picked(null, true);
    this.draw();
  }
}

const rectangle = ([s0, hz0], [s1, hz1]) => [[s0, hz0], [s1, hz0], [s1, hz1], [s0, hz1]];
const thinned = (path, most) => (path.length <= most ? path : Array.from({length: most}, (_, i) => path[Math.floor((i * path.length) / most)]));

// A step that is 1, 2 or 5 times a power of ten, at least so wide.
function tick(least) {
  const power = 10 ** Math.floor(Math.log10(least));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= least);
}

export function clock(seconds, step = 0.1) {
  const digits = step >= 1 ? 0 : Math.min(Math.ceil(-Math.log10(step)), 3), minutes = Math.floor(seconds / 60);
  const rest = (seconds - 60 * minutes).toFixed(digits).padStart(digits ? 3 + digits : 2, "0");
  return `${minutes}:${rest}`;
}

// From black to a cool white, 40 dB above the floor to full scale: what is selected is warm.
const SHADES = Uint32Array.from({length: 256}, (_, code) => {
  const t = clamp((code - 60) / 170, 0, 1), s = t * t * (3 - 2 * t);
  const [r, g, b] = [7 + 170 * s * s, 9 + 180 * s ** 1.4, 12 + 210 * s ** 0.9];
  return ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
});
