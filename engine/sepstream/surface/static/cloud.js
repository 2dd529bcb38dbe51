// The disk of a file: the same disk (disk.js), with a cloud that stands still and is drawn when what is seen or selected changes.

import {rgb} from "./colours.js";
import {DiskView, splat} from "./disk.js";

const LEFT = 0.12;  // how bright a point is that is not selected

export class CloudView extends DiskView {
  // ``view`` as answers.js reads it; ``masks`` a byte for each of its bins, or null: all are selected.
  show(view, masks) {
    [this.seen, this.masks] = [view, masks];
    this.paint();
  }

  resize() {
    super.resize();
    this.paint();
  }

  paint() {
    if (!this.light || this.painting) return;
    this.painting = true;
    requestAnimationFrame(() => {
      this.painting = false;
      this.drawCloud();
    });
  }

  drawCloud() {
    this.light.fill(0);
    const {seen, masks, across, light} = this;
    if (seen) {
      const radius = 0.48 * across, tints = this.classes.filter((each) => each.leaf).map((each) => rgb(each.colour));
      const weight = Math.min(1, 9000 / Math.max(seen.place.length, 1)) + 0.15;
      for (let i = 0; i < seen.place.length; i++) {
        const at = seen.place[i], u = seen.x[i] / 32767, v = seen.y[i] / 32767;
        const column = Math.round(across / 2 + u * radius), row = Math.round(across / 2 - v * radius);
        if (column < 1 || row < 1 || column > across - 2 || row > across - 2) continue;
        const tint = {
          class: () => tints[seen.leaf[i]],
          certainty: () => this.tables.certainty[Math.min(Math.floor(Math.hypot(u, v) * 256), 255)],
          frequency: () => this.tables.frequency[seen.bin[at]],
        }[this.colourBy]();
        splat(light, 3 * (row * across + column), 3 * across, tint, weight * (masks ? LEFT + ((1 - LEFT) * masks[at]) / 255 : 1));
      }
    }
    this.dark = false;
    this.fade(0);
  }
}
