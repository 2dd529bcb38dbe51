// Hands on the disk: draws regions, moves, scales and turns them; by mouse, by one or two fingers, by keyboard.
//
//   new Editor(view, {draw(region), change(name, region), choose(name), remove(name), done(name)})
//
// It holds no state of the scene: it asks for changes, and draws what the scene says.

import {centre, circle, distance, drawn, inside, moved, onDisk, rotated, scaled, shapeOf} from "./geometry.js";

const NEAR_PX = 22;  // a finger is this thick
const DRAG_PX = 3;
const ARROWS = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1]};

export class Editor {
  constructor(view, asks) {
    [this.view, this.asks, this.tool, this.pointers] = [view, asks, "hand", new Map()];
    const pen = view.pen;
    pen.addEventListener("pointerdown", (event) => this.down(event));
    pen.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel"]) pen.addEventListener(end, (event) => this.up(event));
    pen.addEventListener("wheel", (event) => this.wheel(event), {passive: false});
    pen.addEventListener("keydown", (event) => this.key(event));
    pen.addEventListener("dblclick", (event) => event.preventDefault());
  }

  setTool(tool) {
    this.tool = tool;
    this.view.pen.style.cursor = tool === "hand" ? "grab" : "crosshair";
    this.view.draft = null;
    this.refresh();
  }

  get chosen() {
    return this.view.regions[this.view.chosen];
  }

  // After the scene has changed: the handles stand where the region is.
  refresh() {
    const region = this.chosen;
    this.view.handles = region && this.tool === "hand" ? handlesOf(region) : null;
    this.view.redraw();
  }

  choose(name) {
    this.view.chosen = name;
    this.refresh();
    this.asks.choose?.(name);
  }

  apply(region) {
    this.view.regions[this.view.chosen] = region;
    this.refresh();
    this.asks.change(this.view.chosen, region);
  }

  down(event) {
    this.view.pen.setPointerCapture(event.pointerId);
    this.view.pen.focus({preventScroll: true});
    event.preventDefault();
    const at = this.view.toDisk(event);
    this.pointers.set(event.pointerId, at);
    if (this.pointers.size === 2) return this.beginPinch();
    if (this.pointers.size > 2) return;
    if (this.tool !== "hand") {
      this.act = {kind: "draw", from: at, path: [at], start: event};
      return;
    }
    const handle = this.view.handles?.find((each) => this.near(each.at, at));
    const name = handle ? this.view.chosen : this.find(at);
    if (name !== this.view.chosen) this.choose(name);
    if (name) this.act = {kind: handle?.kind ?? "move", from: at, region: this.view.regions[name], start: event};
  }

  beginPinch() {
    this.view.draft = null;
    const [a, b] = this.pointers.values();
    this.act = this.chosen ? {kind: "pinch", region: this.chosen, span: [b[0] - a[0], b[1] - a[1]], middle: between(a, b)} : null;
  }

  move(event) {
    if (!this.pointers.has(event.pointerId)) return this.hover(event);
    const at = this.view.toDisk(event), act = this.act;
    this.pointers.set(event.pointerId, at);
    if (!act) return;
    if (act.kind === "pinch") return this.pinch(act);
    if (!act.moved && Math.hypot(event.clientX - act.start.clientX, event.clientY - act.start.clientY) < DRAG_PX) return;
    act.moved = true;
    const middle = act.region && centre(act.region);
    if (act.kind === "draw") {
      act.path.push(at);
      this.view.draft = drawn(this.tool, act.from, at, act.path);
      this.view.redraw();
    } else if (act.kind === "move") {
      this.apply(moved(act.region, [at[0] - act.from[0], at[1] - act.from[1]]));
    } else if (act.kind === "scale") {
      this.apply(scaled(act.region, stretch(act.region, act.from, at)));
    } else if (act.kind === "turn") {
      const pivot = shapeOf(act.region)[0] === "half" ? [0, 0] : middle;
      this.apply(rotated(act.region, angle(pivot, at) - angle(pivot, act.from)));
    }
  }

  pinch(act) {
    const [a, b] = this.pointers.values(), span = [b[0] - a[0], b[1] - a[1]], middle = between(a, b);
    const factor = Math.hypot(...span) / Math.max(Math.hypot(...act.span), 0.05);
    const turn = ((Math.atan2(span[1], span[0]) - Math.atan2(act.span[1], act.span[0])) * 180) / Math.PI;
    const shift = [middle[0] - act.middle[0], middle[1] - act.middle[1]];
    this.apply(moved(rotated(scaled(act.region, factor), turn), shift));
  }

  up(event) {
    if (!this.pointers.delete(event.pointerId)) return;
    const act = this.act;
    this.act = null;
    if (act?.kind === "draw") {
      const draft = this.view.draft;
      this.view.draft = null;
      if (draft && act.moved && event.type === "pointerup" && (this.tool !== "lasso" || act.path.length > 4)) this.asks.draw(draft);
      this.view.redraw();
    } else if (act?.moved || act?.kind === "pinch") {
      this.asks.done?.(this.view.chosen);
    }
  }

  hover(event) {
    if (this.tool !== "hand") return;
    const at = this.view.toDisk(event), handle = this.view.handles?.some((each) => this.near(each.at, at));
    this.view.pen.style.cursor = handle ? "pointer" : this.find(at) ? "move" : "grab";
  }

  wheel(event) {
    if (!this.chosen) return;
    event.preventDefault();
    const step = -Math.sign(event.deltaY || event.deltaX);
    if (event.altKey) this.soften(step * 0.05);
    else if (event.shiftKey) this.apply(rotated(this.chosen, step * 3));
    else this.apply(scaled(this.chosen, 1.05 ** step));
  }

  soften(by) {
    const [call, numbers] = shapeOf(this.chosen);
    this.apply({[call]: {...numbers, soft: Math.min(Math.max((numbers.soft ?? 0) + by, 0), 4)}});
  }

  key(event) {
    const names = Object.keys(this.view.regions), step = event.shiftKey ? 0.1 : 0.02;
    if (event.key === "Escape") {
      this.view.draft = this.act = null;
      this.choose("");
    } else if ((event.key === "n" || event.key === "N") && names.length) {
      const place = names.indexOf(this.view.chosen) + (event.key === "n" ? 1 : -1);
      this.choose(names[(place + names.length) % names.length]);
    } else if (!this.chosen) {
      return;
    } else if (ARROWS[event.key]) {
      this.apply(moved(this.chosen, ARROWS[event.key].map((way) => way * step)));
    } else if (event.key === "+" || event.key === "=") {
      this.apply(scaled(this.chosen, 1.05));
    } else if (event.key === "-") {
      this.apply(scaled(this.chosen, 1 / 1.05));
    } else if (event.key === "[" || event.key === "]") {
      this.apply(rotated(this.chosen, event.key === "[" ? 5 : -5));
    } else if (event.key === "," || event.key === ".") {
      this.soften(event.key === "." ? 0.05 : -0.05);
    } else if (event.key === "Delete" || event.key === "Backspace") {
      this.asks.remove(this.view.chosen);
    } else {
      return;
    }
    event.preventDefault();
  }

  // The region under a finger: the chosen one first, then the smallest.
  find(at) {
    const under = Object.entries(this.view.regions).filter(([, region]) => inside(region, at) > 0 || this.near(centre(region), at));
    if (under.some(([name]) => name === this.view.chosen)) return this.view.chosen;
    under.sort(([, a], [, b]) => area(a) - area(b));
    return under[0]?.[0] ?? "";
  }

  near(place, at) {
    return dist(place, at) < NEAR_PX * this.view.pixel;
  }
}

const between = (a, b) => [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
const dist = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);
const angle = (pivot, at) => (Math.atan2(at[1] - pivot[1], at[0] - pivot[0]) * 180) / Math.PI;

// Roughly how large, to pick the smaller of two.
function area(region) {
  const [call, n] = shapeOf(region);
  return {disc: n.r, annulus: n.outer, ellipse: Math.sqrt(n.a * n.b) * 2, lasso: 1.5, half: 8, certain: 9}[call] ?? 10;
}

// How much larger a region becomes when the finger on its handle goes from one place to another.
function stretch(region, from, to) {
  const middle = centre(region), round = "disc" in region || "annulus" in region;
  const [before, after] = [from, to].map((at) => (round ? distance(onDisk(at), middle) : dist(at, middle)));
  return Math.max(after / Math.max(before, 0.02), 0.05);
}

// Where a finger takes hold to scale and to turn.
function handlesOf(region) {
  const [call, n] = shapeOf(region), [x, y] = centre(region), turn = ((n.angle ?? 0) * Math.PI) / 180;
  const at = (dx, dy) => {
    const place = [x + dx, y + dy], norm = Math.hypot(...place);
    return norm > 0.97 ? place.map((value) => (value * 0.97) / norm) : place;
  };
  if (call === "disc" || call === "annulus") return [{kind: "scale", icon: "⤢", at: edge(region, [x, y])}];
  if (call === "ellipse") {
    return [
      {kind: "scale", icon: "⤢", at: at(n.a * Math.cos(turn), n.a * Math.sin(turn))},
      {kind: "turn", icon: "↻", at: at(-n.b * Math.sin(turn), n.b * Math.cos(turn))},
    ];
  }
  if (call === "half") return [{kind: "turn", icon: "↻", at: [0.9 * Math.cos(turn), 0.9 * Math.sin(turn)]}];
  if (call === "lasso") {
    const far = n.points.reduce((best, point) => (dist(point, [x, y]) > dist(best, [x, y]) ? point : best));
    const [dx, dy] = [far[0] - x, far[1] - y];
    return [{kind: "scale", icon: "⤢", at: at(dx, dy)}, {kind: "turn", icon: "↻", at: at(-dy, dx)}];
  }
  return [];
}

// The rightmost point of a hyperbolic circle, or the leftmost where that is too near to the rim.
function edge(region, at) {
  const [, n] = shapeOf(region), {x, y, radius} = circle(at, n.r ?? n.outer);
  return [x + (x > 0.3 ? -radius : radius), y];
}
