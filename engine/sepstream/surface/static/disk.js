// The disk on the screen: cells and geodesics of the classes, the cloud of points, the regions. Drawing only; hands are in editor.js.
//
// Three canvases on top of each other: what stays (cells), what glows (points), what is drawn with a pen (lines, regions).

import {centre, geodesic, logits, shapeOf, trace, traceArc, traceHalf} from "./geometry.js";
import {frequencyColours, certaintyColours, rgb} from "./colours.js";

const MOST_PIXELS = 640;  // of the glow, across
const GLOW_S = 0.3;  // it fades by a factor of e in so long
const FULL = 40;  // dB above the gate that are as bright as can be

export class DiskView {
  // ``box`` is an element that is square; ``model`` as the server tells it, or null in front of a model without a disk.
  constructor(box) {
    this.box = box;
    [this.ground, this.glow, this.pen] = ["ground", "glow", "pen"].map((name) => {
      const canvas = document.createElement("canvas");
      canvas.className = name;
      box.append(canvas);
      return canvas;
    });
    this.pen.tabIndex = 0;
    this.pen.setAttribute("role", "application");
    this.colourBy = "class";
    this.level = "leaves";
    this.showCells = true;
    this.gateDb = -60;
    this.regions = {};  // name -> region
    this.colours = {};  // name -> colour
    this.chosen = "";  // name of a region
    this.draft = null;  // a region that is being drawn
    this.size = 0;
    new ResizeObserver(() => this.resize()).observe(box);
  }

  set model(model) {
    this.head = model.disk;
    this.classes = model.classes;
    this.bins = model.bins;
    this.tables = {frequency: frequencyColours(model.bins, model.bin_hz), certainty: certaintyColours()};
    this.resize();
  }

  resize() {
    const size = Math.floor(this.box.clientWidth), ratio = Math.min(window.devicePixelRatio || 1, 2);
    if (!size) return;
    this.size = size;
    for (const canvas of [this.ground, this.pen]) canvas.width = canvas.height = Math.round(size * ratio);
    const across = (this.across = Math.min(Math.round(size * ratio), MOST_PIXELS));
    this.glow.width = this.glow.height = across;
    this.light = new Float32Array(3 * across * across);
    this.picture = new ImageData(across, across);
    this.pixels = new Uint32Array(this.picture.data.buffer);
    this.pixels.fill(0);
    this.dark = true;
    this.drawGround();
    this.redraw();
  }

  // Units of the disk, y upwards, on a canvas.
  context(canvas) {
    const ink = canvas.getContext("2d"), half = canvas.width / 2, radius = half * 0.96;
    ink.setTransform(1, 0, 0, 1, 0, 0);
    ink.clearRect(0, 0, canvas.width, canvas.height);
    ink.setTransform(radius, 0, 0, -radius, half, half);
    this.pixel = 1 / (0.48 * this.size);  // of CSS, in units of the disk
    return ink;
  }

  toDisk(event) {
    const box = this.pen.getBoundingClientRect(), radius = 0.48 * box.width;
    return [(event.clientX - box.left - box.width / 2) / radius, -(event.clientY - box.top - box.height / 2) / radius];
  }

  // The classes that are shown: of one level of the tree.
  get shown() {
    const all = this.classes.map((each, index) => ({...each, index}));
    return all.filter((each) => (this.level === "leaves" ? each.leaf : !each.parent));
  }

  setLevel(level, cells) {
    [this.level, this.showCells] = [level, cells];
    this.drawGround();
    this.redraw();
  }

  // The cell of each class: where its logit is the greatest of its level, pixel by pixel from the model's own head.
  drawGround() {
    if (!this.classes || !this.size) return;
    const ink = this.context(this.ground);
    ink.fillStyle = "#0a0b0e";
    ink.beginPath();
    ink.arc(0, 0, 1, 0, 2 * Math.PI);
    ink.fill();
    if (!this.head) return;
    if (this.showCells) {
      const across = 360, cells = new ImageData(across, across), out = new Uint32Array(cells.data.buffer), shown = this.shown;
      const head = {scale: shown.map((c) => this.head.scale[c.index]), vectors: shown.map((c) => this.head.vectors[c.index])};
      const tints = shown.map((c) => rgb(c.colour));
      for (let row = 0; row < across; row++) {
        for (let column = 0; column < across; column++) {
          const x = (2 * column + 1) / across - 1, y = 1 - (2 * row + 1) / across;
          if (x * x + y * y > 1) continue;
          const found = logits(head, x, y);
          let best = 0;
          for (let k = 1; k < found.length; k++) if (found[k] > found[best]) best = k;
          const [r, g, b] = tints[best];
          out[row * across + column] = (34 << 24) | (b << 16) | (g << 8) | r;
        }
      }
      const small = document.createElement("canvas");
      small.width = small.height = across;
      small.getContext("2d").putImageData(cells, 0, 0);
      ink.save();
      ink.clip();
      ink.scale(1, -1);
      ink.drawImage(small, -1, -1, 2, 2);
      ink.restore();
    }
    ink.lineWidth = this.pixel;
    for (const certainty of [0.25, 0.5, 0.75]) {
      ink.beginPath();
      ink.arc(0, 0, certainty, 0, 2 * Math.PI);
      ink.strokeStyle = "#ffffff12";
      ink.stroke();
    }
  }

  // Lines and regions; called when something has changed, at most once a frame.
  redraw() {
    if (this.drawing) return;
    this.drawing = true;
    requestAnimationFrame(() => {
      this.drawing = false;
      this.drawPen();
    });
  }

  drawPen() {
    if (!this.size || !this.classes) return;
    const ink = this.context(this.pen), px = this.pixel;
    ink.lineCap = "round";
    if (this.head) {
      for (const each of this.shown) this.drawClass(ink, each, px);
    }
    ink.lineWidth = 1.5 * px;
    ink.strokeStyle = "#5a6273";
    ink.beginPath();
    ink.arc(0, 0, 1, 0, 2 * Math.PI);
    ink.stroke();
    for (const [name, region] of Object.entries(this.regions)) {
      if (name !== this.chosen) this.drawRegion(ink, name, region, px);
    }
    if (this.regions[this.chosen]) this.drawRegion(ink, this.chosen, this.regions[this.chosen], px, true);
    if (this.draft) this.drawRegion(ink, "", this.draft, px, true);
    if (this.handles) this.drawHandles(ink, px);
  }

  drawClass(ink, each, px) {
    ink.beginPath();
    traceArc(ink, geodesic(this.head.vectors[each.index]));
    ink.lineWidth = 1.25 * px;
    ink.strokeStyle = each.colour + "99";
    ink.stroke();
    const place = this.head.places[each.index], far = Math.max(Math.hypot(...place), 1e-6);
    const reach = Math.min(Math.max(far, 0.6), 0.8) / far;
    this.write(ink, each.name, [place[0] * reach, place[1] * reach], each.colour, px, 12);
  }

  // Text the right way up.
  write(ink, text, [x, y], colour, px, size) {
    ink.save();
    ink.translate(x, y);
    ink.scale(px, -px);
    ink.font = `600 ${size}px system-ui, sans-serif`;
    ink.textAlign = "center";
    ink.textBaseline = "middle";
    ink.lineWidth = 3;
    ink.strokeStyle = "#0a0b0ecc";
    ink.strokeText(text, 0, 0);
    ink.fillStyle = colour;
    ink.fillText(text, 0, 0);
    ink.restore();
  }

  drawRegion(ink, name, region, px, chosen = false) {
    const colour = this.colours[name] ?? "#ffffff", [call, numbers] = shapeOf(region);
    ink.save();
    ink.beginPath();
    ink.arc(0, 0, 1, 0, 2 * Math.PI);
    ink.clip();
    ink.beginPath();
    if (call === "cell" || call === "side") this.traceClass(ink, call, numbers.name);
    else trace(ink, region);
    ink.fillStyle = colour + (chosen ? "38" : "20");
    ink.fill("evenodd");
    ink.lineWidth = (chosen ? 2.5 : 1.5) * px;
    ink.strokeStyle = colour;
    ink.stroke();
    const soft = numbers.soft ?? 0;
    if (soft > 0.02 && call !== "lasso") {
      ink.lineWidth = px;
      ink.setLineDash([4 * px, 4 * px]);
      ink.strokeStyle = colour + "90";
      for (const side of [-0.5, 0.5]) {
        ink.beginPath();
        trace(ink, region, side * soft);
        ink.stroke();
      }
    }
    ink.restore();
    if (name) this.write(ink, name, centre(region), colour, px, 13);
  }

  traceClass(ink, call, name) {
    const index = this.classes.findIndex((each) => each.name === name);
    if (index >= 0 && this.head && call === "side") traceHalf(ink, this.head.vectors[index]);
  }

  drawHandles(ink, px) {
    for (const {at, icon} of this.handles) {
      ink.beginPath();
      ink.arc(at[0], at[1], 9 * px, 0, 2 * Math.PI);
      ink.fillStyle = "#14161b";
      ink.fill();
      ink.lineWidth = 1.5 * px;
      ink.strokeStyle = "#ffffff";
      ink.stroke();
      this.write(ink, icon, at, "#ffffff", px, 12);
    }
  }

  // Points of some hops, as they come from the line: into the light that is already there.
  add(columns) {
    if (!this.light || !this.head) return;
    const across = this.across, radius = 0.48 * across, light = this.light, gate = (this.gateDb + 100) * 2;
    const shown = this.colourBy === "class" ? this.shown : [];
    const head = {scale: shown.map((c) => this.head.scale[c.index]), vectors: shown.map((c) => this.head.vectors[c.index])};
    const tints = shown.map((c) => rgb(c.colour));
    for (const {x, y, level, mask, bins} of columns) {
      for (let bin = 1; bin < bins; bin++) {
        if (level[bin] < gate) continue;
        const u = x[bin] / 32767, v = y[bin] / 32767;
        let tint;
        if (this.colourBy === "class") {
          const found = logits(head, u, v);
          let best = 0;
          for (let k = 1; k < found.length; k++) if (found[k] > found[best]) best = k;
          tint = tints[best];
        } else if (this.colourBy === "certainty") {
          tint = this.tables.certainty[Math.min(Math.floor(Math.hypot(u, v) * 256), 255)];
        } else {
          tint = this.tables.frequency[bin];
        }
        const column = Math.round(across / 2 + u * radius), row = Math.round(across / 2 - v * radius);
        if (column < 1 || row < 1 || column > across - 2 || row > across - 2) continue;
        const strength = Math.min((level[bin] - gate) / (2 * FULL) + 0.08, 1) * (0.1 + (0.9 * mask[bin]) / 255);
        splat(light, 3 * (row * across + column), 3 * across, tint, strength);
      }
    }
    this.dark = false;
  }

  // One frame: what there is, a little darker than before.
  fade(seconds) {
    if (!this.light || this.dark) return;
    const decay = Math.exp(-seconds / GLOW_S), {light, pixels} = this;
    let brightest = 0;
    for (let i = 0, j = 0; i < pixels.length; i++, j += 3) {
      const r = (light[j] *= decay), g = (light[j + 1] *= decay), b = (light[j + 2] *= decay);
      const most = r > g ? (r > b ? r : b) : g > b ? g : b;
      if (most < 2) {
        pixels[i] = 0;
        continue;
      }
      if (most > brightest) brightest = most;
      const gain = most > 255 ? 255 / most : 1, alpha = most > 255 ? 255 : most, full = (255 / most);
      pixels[i] = (alpha << 24) | ((b * (gain === 1 ? full : gain)) << 16) | ((g * (gain === 1 ? full : gain)) << 8) | (r * (gain === 1 ? full : gain));
    }
    this.glow.getContext("2d").putImageData(this.picture, 0, 0);
    if (brightest < 2) {
      light.fill(0);
      this.dark = true;
    }
  }
}

// A dot of three by three pixels.
export function splat(light, at, stride, [r, g, b], strength) {
  for (let dy = -1; dy <= 1; dy++) {
    for (let dx = -1; dx <= 1; dx++) {
      const weight = strength * (dx && dy ? 0.25 : dx || dy ? 0.5 : 1), place = at + dy * stride + 3 * dx;
      light[place] += r * weight;
      light[place + 1] += g * weight;
      light[place + 2] += b * weight;
    }
  }
}
