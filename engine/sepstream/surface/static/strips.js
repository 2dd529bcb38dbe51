// The strips of the buses, and of the master: name, pan, mute, solo, fader and meter, outputs.
//
//   new Strips(box, {set(name, value), act(...steps), choose(bus)})
//   strips.show(values, classes)   the scene;  strips.meters(levels)   30 times a second

import {busColour} from "./colours.js";
import {element, entry, fader, toggle} from "./controls.js";

const FLOOR_DB = -60, HOLD_MS = 1500, FALL_DB_PER_S = 20;

export class Strips {
  constructor(box, asks) {
    [this.box, this.asks, this.strips, this.chosen] = [box, asks, new Map(), ""];
    this.master = null;
    this.names = [];
  }

  show(values, classes) {
    const names = values.buses ?? [];
    if (!this.master) this.box.append((this.master = new Master(this.asks)).root);
    if (names.join() !== this.names.join()) this.arrange(names);
    names.forEach((name, place) => {
      const strip = this.strips.get(name), colour = busColour(place, name, values[`bus/${name}/select`], classes);
      strip.show(values, colour, name === this.chosen);
    });
    this.master.show(values);
  }

  arrange(names) {
    for (const [name, strip] of this.strips) {
      if (names.includes(name)) continue;
      strip.root.remove();
      this.strips.delete(name);
    }
    names.forEach((name) => {
      if (!this.strips.has(name)) this.strips.set(name, new Strip(name, this.asks));
      this.box.insertBefore(this.strips.get(name).root, this.master.root);
    });
    this.names = names;
  }

  meters({buses, outputs}) {
    this.names.forEach((name, place) => this.strips.get(name)?.meter.put(buses[place] ?? 0));
    this.master?.meter.put(Math.max(0, ...outputs));
  }

  draw(now) {
    for (const strip of this.strips.values()) strip.meter.draw(now);
    this.master?.meter.draw(now);
  }
}

class Strip {
  constructor(name, asks) {
    const control = (field) => `bus/${name}/${field}`;
    this.name = name;
    this.title = element("button", {type: "button", className: "name", onclick: () => asks.choose(name)}, name);
    this.title.setAttribute("aria-label", `bus ${name}: show what it takes`);
    this.taken = element("div", {className: "taken"});
    this.meter = new Meter(`level of ${name}`);
    this.parts = {
      pan: fader(control("pan"), asks.set, {label: `pan of ${name}`}),
      mute: toggle(control("mute"), asks.set, "M", `mute ${name}`, "mute"),
      solo: toggle(control("solo"), asks.set, "S", `solo ${name}`, "solo"),
      gain_db: fader(control("gain_db"), asks.set, {label: `level of ${name}`, vertical: true}),
      outputs: entry(control("outputs"), `outputs of ${name}`, (text) => asks.act([control("outputs"), text]), {read: (list) => list.join(","), className: "outputs"}),
    };
    const {pan, mute, solo, gain_db, outputs} = this.parts;
    const panText = element("span", {className: "value"}), level = element("span", {className: "value db"});
    pan.onshow = (text) => (panText.textContent = text);
    gain_db.onshow = (text) => (level.textContent = text);
    this.root = element("section", {className: "strip"},
      element("header", {}, this.title), this.taken,
      element("div", {className: "pan"}, pan, panText),
      element("div", {className: "switches"}, mute, solo),
      element("div", {className: "level"}, this.meter.root, gain_db), level,
      element("label", {className: "out"}, "out", outputs));
    this.root.setAttribute("aria-label", `bus ${name}`);
    this.root.dataset.bus = name;
  }

  show(values, colour, chosen) {
    for (const [field, part] of Object.entries(this.parts)) part.put(values[`bus/${this.name}/${field}`]);
    const select = values[`bus/${this.name}/select`] ?? "what the others leave";
    if (this.taken.textContent !== select) this.taken.textContent = this.taken.title = select;
    this.root.style.setProperty("--colour", colour);
    this.root.classList.toggle("chosen", chosen);
    this.title.setAttribute("aria-pressed", String(chosen));
    const soloed = values.buses.some((bus) => values[`bus/${bus}/solo`]);
    const silent = values[`bus/${this.name}/mute`] || (soloed && !values[`bus/${this.name}/solo`]);
    this.root.classList.toggle("silent", Boolean(silent));
  }
}

class Master {
  constructor(asks) {
    this.meter = new Meter("level of all outputs");
    this.parts = {
      "master/gain_db": fader("master/gain_db", asks.set, {label: "master level", vertical: true}),
      bypass: toggle("bypass", asks.set, "bypass", "bypass: the input in place of all buses", "bypass"),
    };
    const level = element("span", {className: "value db"});
    this.parts["master/gain_db"].onshow = (text) => (level.textContent = text);
    this.root = element("section", {className: "strip master"},
      element("header", {}, element("span", {className: "name"}, "master")),
      element("div", {className: "switches"}, this.parts.bypass),
      element("div", {className: "level"}, this.meter.root, this.parts["master/gain_db"]), level);
    this.root.setAttribute("aria-label", "master");
  }

  show(values) {
    for (const [name, part] of Object.entries(this.parts)) part.put(values[name]);
  }
}

// A peak meter in dB that holds its peak; drawn by moving two boxes, which costs the screen nothing.
export class Meter {
  constructor(label) {
    this.bar = element("i", {className: "bar"});
    this.held = element("i", {className: "held"});
    this.root = element("div", {className: "meter", role: "meter"}, this.bar, this.held);
    this.root.setAttribute("aria-label", label);
    this.root.setAttribute("aria-valuemin", FLOOR_DB);
    this.root.setAttribute("aria-valuemax", 0);
    Object.assign(this, {now: FLOOR_DB, peak: FLOOR_DB, since: 0, drawn: 0, target: FLOOR_DB});
  }

  put(linear) {
    this.target = linear > 0 ? Math.max(20 * Math.log10(linear), FLOOR_DB) : FLOOR_DB;
  }

  draw(time) {
    const seconds = Math.min((time - this.drawn) / 1000, 0.1);
    this.drawn = time;
    this.now = Math.max(this.target, this.now - 3 * FALL_DB_PER_S * seconds);
    if (this.target >= this.peak) [this.peak, this.since] = [this.target, time];
    else if (time - this.since > HOLD_MS) this.peak = Math.max(this.target, this.peak - FALL_DB_PER_S * seconds);
    const share = (db) => Math.min(Math.max(1 - db / FLOOR_DB, 0), 1.0);
    const [bar, held] = [share(this.now), share(this.peak)];
    if (bar !== this.barAt) this.bar.style.clipPath = `inset(${100 * (1 - (this.barAt = bar))}% 0 0 0)`;
    if (held !== this.heldAt) {
      this.heldAt = held;
      this.held.style.bottom = `${100 * held}%`;
      this.held.style.opacity = held > 0 ? 1 : 0;
      this.held.classList.toggle("hot", this.peak > -0.1);
      this.root.setAttribute("aria-valuenow", this.peak.toFixed(0));
    }
  }
}
