// The spectrogram, with what the chosen bus takes laid over it. One column a hop that was shown, the newest at the right.

import {HEAT, rgb} from "./colours.js";

const LOWEST_HZ = 50;

export class Spectrogram {
  constructor(canvas) {
    this.canvas = canvas;
    this.colour = "#ffffff";
    this.gateDb = -60;
    this.topDb = 0;
    new ResizeObserver(() => this.resize()).observe(canvas);
  }

  set model(model) {
    [this.bins, this.binHz] = [model.bins, model.bin_hz];
    this.resize();
  }

  resize() {
    const {clientWidth: width, clientHeight: height} = this.canvas, ratio = Math.min(window.devicePixelRatio || 1, 1.5);
    if (!width || !height || !this.bins) return;
    const old = this.canvas.width > 1 ? this.canvas : null;
    const kept = old && document.createElement("canvas");
    if (kept) {
      [kept.width, kept.height] = [old.width, old.height];
      kept.getContext("2d").drawImage(old, 0, 0);
    }
    [this.canvas.width, this.canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
    this.ink = this.canvas.getContext("2d", {alpha: false});
    this.ink.fillStyle = "#0a0b0e";
    this.ink.fillRect(0, 0, this.canvas.width, this.canvas.height);
    if (kept) this.ink.drawImage(kept, this.canvas.width - kept.width, 0, kept.width, this.canvas.height);
    this.rows = this.binsOfRows(this.canvas.height);
  }

  // From the bottom up each octave as high as the next; row -> [first bin, bin after the last].
  binsOfRows(height) {
    const top = this.bins * this.binHz, low = Math.max(LOWEST_HZ, this.binHz);
    const edge = (row) => (low * (top / low) ** (1 - row / height)) / this.binHz;
    return Array.from({length: height}, (_, row) => {
      const first = Math.min(Math.floor(edge(row + 1)), this.bins - 1);
      return [first, Math.min(Math.max(Math.ceil(edge(row)), first + 1), this.bins)];
    });
  }

  hzAt(share) {
    const top = this.bins * this.binHz, low = Math.max(LOWEST_HZ, this.binHz);
    return low * (top / low) ** share;
  }

  add(columns) {
    if (!this.rows || !columns.length) return;
    const {width, height} = this.canvas, count = columns.length;
    this.ink.drawImage(this.canvas, -count, 0);
    const image = this.ink.createImageData(count, height), out = new Uint32Array(image.data.buffer);
    const [r, g, b] = rgb(this.colour), range = 2 * (this.topDb - this.gateDb), gate = 2 * (this.gateDb + 100);
    columns.forEach(({level, mask, masked}, column) => {
      for (let row = 0; row < height; row++) {
        const [first, after] = this.rows[row];
        let most = 0, taken = 0;
        for (let bin = first; bin < after; bin++) {
          if (level[bin] >= most) [most, taken] = [level[bin], mask[bin]];
        }
        const heat = Math.max(0, Math.min(255, (255 * (most - gate)) / range)) | 0;
        if (!masked) {
          out[row * count + column] = HEAT[heat];
          continue;
        }
        // Taken: in the colour of the bus. Left: grey, and darker.
        const share = taken / 255, light = Math.min(heat * 1.5, 255) / 255, grey = 0.3 * light * 255;
        const mix = (tint) => share * tint * light + (1 - share) * grey;
        out[row * count + column] = (255 << 24) | (mix(b) << 16) | (mix(g) << 8) | mix(r);
      }
    });
    this.ink.putImageData(image, width - count, 0);
  }
}
