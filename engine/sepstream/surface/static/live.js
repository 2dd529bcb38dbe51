// The live page: what the server tells goes to the parts, what hands do goes to the server.

import {busColour} from "./colours.js";
import {element, entry, fader, learnTable, named, rowOf, toggle} from "./controls.js";
import {DiskView} from "./disk.js";
import {Editor} from "./editor.js";
import {centre, shapeOf} from "./geometry.js";
import {Line} from "./socket.js";
import {Spectrogram} from "./spectrogram.js";
import {Strips} from "./strips.js";

const $ = (id) => document.getElementById(id);
const TOOLS = {
  hand: ["choose and move", '<path d="M5 3l11 7-5 1-2 5z"/>'],
  disc: ["draw a disc", '<circle cx="9" cy="9" r="6"/>'],
  ellipse: ["draw an ellipse", '<ellipse cx="9" cy="9" rx="7" ry="4"/>'],
  lasso: ["draw a lasso", '<path d="M3 9c0-5 5-7 9-5s4 8 0 9-5-3-9-4z" stroke-dasharray="2 2"/>'],
  half: ["draw a half-plane", '<path d="M6 2a14 14 0 0 0 0 14M10 5h5M10 9h5M10 13h5"/>'],
  annulus: ["draw an annulus", '<circle cx="9" cy="9" r="7"/><circle cx="9" cy="9" r="3"/>'],
  certain: ["draw a band of certainty", '<circle cx="9" cy="9" r="7" stroke-dasharray="2 2"/><circle cx="9" cy="9" r="4.5"/>'],
};
const REGION_TEXT = {x: "x", y: "y", r: "radius", a: "half axis a", b: "half axis b", angle: "angle", offset: "offset", inner: "inner", outer: "outer", low: "from", high: "to", soft: "soft edge"};

let classes = [], values = {}, chosenBus = "", learning = false, toastTimer = 0;

const line = new Line({hello, state, engine, log, meters: (levels) => strips.meters(levels), columns, open, error: complain});
const act = (...steps) => line.act(...steps);
const set = (name, value) => line.set(name, value);

const view = new DiskView($("disk"));
const editor = new Editor(view, {
  draw: drawn,
  change: (name, region) => line.set(`region/${name}`, region),
  choose: () => showRegions(),
  remove: (name) => act(["remove/region", name]),
});
const spectrum = new Spectrogram($("spectrum"));
const strips = new Strips($("strips"), {set, act, choose: chooseBus});
view.pen.setAttribute("aria-label", "disk: n chooses a region, arrows move it, plus and minus scale it, brackets turn it, comma and full stop make its edge softer, Delete takes it away");

// What the server says.

function hello(message) {
  learnTable(message);
  ({classes} = message.model);
  $("model").textContent = message.model.name;
  view.model = spectrum.model = message.model;
  labelSpectrum();
  $("disk").querySelector(".none")?.remove();
  if (!message.model.disk) $("disk").append(element("p", {className: "none"}, "this model has no disk"));
  $("morph").replaceChildren(morphFader);
  $("add-class").replaceChildren(
    element("option", {value: ""}, "everything"), ...classes.map((each) => element("option", {value: each.name}, each.name)), element("option", {value: "residual"}, "what the others leave"));
}

const morphFader = element("span");

function state(all, changed) {
  values = all;
  if (!morphFader.firstChild) {
    const made = fader("morph", set, {label: "from A to B"});
    morphFader.append(made);
    morphFader.put = made.put;
  }
  morphFader.put(values.morph);
  if (!values.buses.includes(chosenBus)) chosenBus = "";
  for (const [name, region] of Object.entries(values.regions)) {
    if (!(editor.act && name === view.chosen)) view.regions[name] = region;
  }
  for (const name of Object.keys(view.regions)) if (!(name in values.regions)) delete view.regions[name];
  if (view.chosen && !(view.chosen in view.regions)) view.chosen = "";
  view.colours = regionColours();
  editor.refresh();
  strips.chosen = chosenBus;
  strips.show(values, classes);
  showTop(changed);
  showBus();
  showRegions();
  showLearning();
}

function showTop(changed) {
  if ("presets" in changed || "preset/load" in changed) {
    const names = values["preset/load"] && !values.presets.includes(values["preset/load"]) ? [values["preset/load"], ...values.presets] : values.presets;
    $("preset").replaceChildren(element("option", {value: ""}, "preset …"), ...names.map((name) => element("option", {value: name}, name)));
  }
  $("preset").value = values["preset/load"];
  const {a, b} = values.ends, both = a && b;
  $("a").setAttribute("aria-pressed", String(a && (!both || values.morph === 0)));
  $("b").setAttribute("aria-pressed", String(both && values.morph === 1));
  $("morph").hidden = !both;
  $("undo").disabled = !values.steps.undo;
  $("redo").disabled = !values.steps.redo;
  $("record").setAttribute("aria-pressed", String(values.record));
}

function engine(now) {
  const show = (id, label, text, warn) => {
    $(id).replaceChildren(label, element("b", {}, text));
    $(id).classList.toggle("warn", Boolean(warn));
  };
  show("load", "load ", `${Math.round(100 * now.load)} %`, now.load > 0.9);
  show("late", "late blocks ", String(now.late_blocks), now.late_blocks > (engine.late ?? now.late_blocks));
  engine.late = now.late_blocks;
  const ms = (value) => value.toFixed(1);
  show("latency", "latency ", `${ms(now.algorithmic_ms)} + ${ms(now.queue_ms)} + ${ms(now.device_ms)} ms`);
  $("latency").title = "algorithmic + queue + device";
  show("provider", "", now.running ? `${now.provider} · ${now.sample_rate_hz / 1000} kHz` : "no device", !now.running);
}

function columns(hops) {
  view.add(hops);
  spectrum.add(hops);
}

function open(is, reason = "") {
  $("lamp").classList.toggle("on", is);
  $("lamp").setAttribute("aria-label", is ? "connected" : "not connected");
  $("veil").hidden = is;
  $("veil-text").textContent = reason || "no connection to sep-live; it comes back by itself …";
}

function log(lines) {
  for (const [source, text] of lines) {
    $("log").append(element("li", {}, element("b", {}, `${source} `), text));
    while ($("log").children.length > 200) $("log").firstChild.remove();
  }
  $("log").scrollTop = 1e9;
}

function complain(text) {
  $("toast").textContent = text;
  $("toast").hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => ($("toast").hidden = true), 6000);
  const item = element("li", {className: "bad"}, text);
  $("log").append(item);
  $("log").scrollTop = 1e9;
}

// Buses.

const selectOf = (bus) => values[`bus/${bus}/select`] ?? "";
const colourOf = (bus) => busColour(values.buses.indexOf(bus), bus, selectOf(bus), classes);
const takes = (bus, region) => selectOf(bus).includes(`region(${region})`);

function chooseBus(bus) {
  chosenBus = bus === chosenBus ? "" : bus;
  watch();
  strips.chosen = chosenBus;
  strips.show(values, classes);
  showBus(true);
}

function watch() {
  line.watch({meters: !document.hidden, points: !document.hidden, bus: chosenBus});
  spectrum.colour = chosenBus ? colourOf(chosenBus) : "#ffffff";
  $("overlay").textContent = chosenBus ? `coloured: what ${chosenBus} takes` : "choose a bus to see what it takes";
}

let busParts = null;

function showBus(anew = false) {
  const residual = chosenBus === "residual";
  if (anew || busParts?.bus !== chosenBus) {
    $("bus-title").textContent = chosenBus ? `Bus ${chosenBus}` : "Bus";
    busParts = {bus: chosenBus};
    if (!chosenBus) {
      $("bus-fields").replaceChildren(element("p", {className: "dim wide", style: "grid-column: 1 / -1; margin: 0"}, "Touch the name of a bus to see what it takes."));
    } else {
      buildBus(residual);
    }
    watch();
  }
  for (const [field, part] of Object.entries(busParts.parts ?? {})) part.put(field === "name" ? chosenBus : values[`bus/${chosenBus}/${field}`]);
}

function buildBus(residual) {
  const name = (field) => `bus/${chosenBus}/${field}`, bus = chosenBus, rows = [];
  const parts = {wet: fader(name("wet"), set, {label: `wet of ${bus}`}), invert: toggle(name("invert"), set, "inverted", `phase of ${bus} reversed`)};
  if (!residual) {
    parts.select = entry(name("select"), `what ${bus} takes`, (text) => act([name("select"), text]));
    parts.smooth_ms = fader(name("smooth_ms"), set, {label: `smoothing of ${bus}`});
    parts.name = entry("rename/bus", `name of ${bus}`, async (text) => {
      const fine = await act(["rename/bus", `${bus}=${text}`]);
      if (fine) chosenBus = text.trim();
      return fine;
    });
    rows.push(["takes", parts.select, null], ["name", parts.name, null], ["smooth", parts.smooth_ms, "smooth_ms"]);
  }
  rows.push(["wet", parts.wet, "wet"], ["phase", parts.invert, null]);
  const fields = [];
  for (const [text, part, valued] of rows) {
    fields.push(element("span", {className: "label"}, text), part);
    if (!valued) part.classList.add("wide");
    else {
      const value = element("span", {className: "value"});
      part.onshow = (shown) => (value.textContent = `${shown}${rowOf(name(valued)).unit ? ` ${rowOf(name(valued)).unit}` : ""}`);
      fields.push(value);
    }
  }
  const remove = element("button", {type: "button", className: "wide", onclick: () => act(["remove/bus", bus])}, `Remove ${bus}`);
  named(remove, "remove/bus", rowOf("remove/bus"));
  remove.classList.add("unlearnable");
  $("bus-fields").replaceChildren(...fields, element("span"), remove);
  busParts.parts = parts;
}

$("add-bus").onclick = () => {
  const taken = $("add-class").value, name = taken === "residual" ? "residual" : freeName(taken || "mix");
  act(["add/bus", taken === "residual" ? "residual" : `${name}=${taken || "mix"}`]);
};

function freeName(stem, used = values.buses) {
  if (!used.includes(stem)) return stem;
  for (let number = 2; ; number++) if (!used.includes(`${stem}${number}`)) return `${stem}${number}`;
}

// Regions.

function regionColours() {
  const colours = {};
  for (const name of Object.keys(values.regions)) {
    const bus = values.buses.find((each) => takes(each, name));
    colours[name] = bus ? colourOf(bus) : "#c9cfdb";
  }
  return colours;
}

function drawn(region) {
  const used = Object.keys(values.regions);
  let number = 1;
  while (used.includes(String(number))) number++;
  const mode = $("mode").value, steps = [[`region/${number}`, region]];
  if (mode === "new" || !chosenBus || chosenBus === "residual") steps.push(["add/bus", `${freeName(`region${number}`)}=region(${number})`]);
  else steps.push([`bus/${chosenBus}/select`, `(${selectOf(chosenBus)}) ${mode} region(${number})`]);
  act(...steps).then((fine) => {
    if (!fine) return;
    editor.setTool("hand");
    showTools();
    view.regions[number] = region;
    editor.choose(String(number));
  });
}

let regionParts = null;

function showRegions() {
  const names = Object.keys(values.regions ?? {});
  const key = JSON.stringify([names, view.chosen, view.colours]);
  if (showRegions.key !== key) {
    showRegions.key = key;
    $("region-chips").replaceChildren(...names.map((name) => {
      const chip = element("button", {type: "button", className: "chip", onclick: () => editor.choose(view.chosen === name ? "" : name)}, `${name} · ${shapeOf(values.regions[name])[0]}`);
      chip.style.setProperty("--colour", view.colours[name]);
      chip.setAttribute("aria-pressed", String(name === view.chosen));
      return chip;
    }));
    if (!names.length) $("region-chips").append(element("span", {className: "dim"}, "Choose a shape and draw on the disk."));
  }
  const region = values.regions?.[view.chosen];
  const shape = region ? `${view.chosen}/${shapeOf(region)[0]}` : "";
  if (regionParts?.shape !== shape) buildRegion(region, shape);
  if (region) {
    const [, numbers] = shapeOf(region);
    for (const [field, part] of Object.entries(regionParts.parts)) part.put(numbers[field] ?? 0);
    for (const [bus, box] of regionParts.buses) box.setAttribute("aria-pressed", String(takes(bus, view.chosen)));
  }
}

function buildRegion(region, shape) {
  regionParts = {shape, parts: {}, buses: []};
  if (!region) return $("region-fields").replaceChildren();
  const name = view.chosen, [call, numbers] = shapeOf(region), fields = [];
  const known = ["x", "y", "r", "a", "b", "angle", "offset", "inner", "outer", "low", "high", "soft"];
  for (const field of known.filter((each) => each in numbers || each === "soft" || (each === "offset" && call === "half") || (each === "angle" && call === "ellipse"))) {
    const control = `region/${name}/${field}`, value = element("span", {className: "value"});
    const part = fader(control, (_, number) => act([control, number]), {label: `${REGION_TEXT[field]} of region ${name}`});
    part.onshow = (text) => (value.textContent = text);
    regionParts.parts[field] = part;
    fields.push(element("span", {className: "label"}, REGION_TEXT[field]), part, value);
  }
  const buses = values.buses.filter((bus) => bus !== "residual").map((bus) => {
    const box = element("button", {type: "button", className: "chip", onclick: () => tie(bus, name)}, bus);
    box.style.setProperty("--colour", colourOf(bus));
    regionParts.buses.push([bus, box]);
    return box;
  });
  const remove = element("button", {type: "button", className: "wide", onclick: () => removeRegion(name)}, `Remove region ${name}`);
  named(remove, "remove/region", rowOf("remove/region"));
  remove.classList.add("unlearnable");
  fields.push(element("span", {className: "label"}, "buses"), element("div", {className: "chips wide", style: "margin: 0"}, ...buses), element("span"), remove);
  $("region-fields").replaceChildren(...fields);
}

// Tied to a bus, or not any more: by what the bus takes.
function tie(bus, name) {
  const select = selectOf(bus), mode = $("mode").value === "new" ? "|" : $("mode").value;
  if (!takes(bus, name)) return act([`bus/${bus}/select`, `(${select}) ${mode} region(${name})`]);
  const rest = select.replace(new RegExp(`\\s*[|&-]\\s*region\\(${name}\\)`), "");
  return act([`bus/${bus}/select`, rest === select ? "mix" : rest]);
}

// A bus that was made for this region alone goes with it.
function removeRegion(name) {
  const alone = values.buses.filter((bus) => selectOf(bus).trim() === `region(${name})`);
  const keeps = values.buses.some((bus) => bus !== "residual" && !alone.includes(bus));
  act(...(keeps ? alone.map((bus) => ["remove/bus", bus]) : []), ["remove/region", name]);
}

// Tools.

for (const [tool, [label, picture]] of Object.entries(TOOLS)) {
  const button = element("button", {type: "button", title: label, onclick: () => (editor.setTool(tool), showTools())});
  button.setAttribute("aria-label", label);
  button.dataset.tool = tool;
  button.innerHTML = `<svg viewBox="0 0 18 18" aria-hidden="true">${picture}</svg>`;
  $("tools").append(button);
}

function showTools() {
  for (const button of $("tools").children) button.setAttribute("aria-pressed", String(button.dataset.tool === editor.tool));
}

$("colour").onchange = () => (view.colourBy = $("colour").value);
$("level").onchange = $("cells").onclick = (event) => {
  if (event.currentTarget === $("cells")) $("cells").setAttribute("aria-pressed", String($("cells").getAttribute("aria-pressed") !== "true"));
  view.setLevel($("level").value, $("cells").getAttribute("aria-pressed") === "true");
};
$("gate").oninput = () => {
  view.gateDb = spectrum.gateDb = $("gate").valueAsNumber;
  $("gate-db").textContent = `${$("gate").value} dB`;
};

// The top line.

$("preset").onchange = () => $("preset").value && act(["preset/load", $("preset").value]);
$("save").onclick = () => {
  const name = prompt("Keep what plays as", values["preset/load"] || "mine");
  if (name) act(["preset/save", name.trim()]);
};
const hear = (end, share) => () => {
  if (!values.ends.a) return act(["preset/a", ""]);
  if (!values.ends.b) return end === "b" ? act(["preset/b", ""], ["morph", 1]) : undefined;
  return act(["morph", share]);
};
$("a").onclick = hear("a", 0);
$("b").onclick = hear("b", 1);
$("undo").onclick = () => act(["undo", true]);
$("redo").onclick = () => act(["redo", true]);
$("panic").onclick = () => act(["panic", true]);
$("record").onclick = () => act(["record", !values.record]);

document.addEventListener("keydown", (event) => {
  if (!(event.ctrlKey || event.metaKey) || event.target.matches?.("input[type=text]")) return;
  const step = {z: event.shiftKey ? "redo" : "undo", y: "redo"}[event.key.toLowerCase()];
  if (!step) return;
  event.preventDefault();
  act([step, true]);
});

// MIDI learn: click what shall be played, then move what shall play it.

$("learn").onclick = () => {
  learning = !learning;
  if (!learning && values.learn) act(["learn", ""]);
  showLearning();
};

function showLearning() {
  if (showLearning.was && !values.learn) learning = false;
  showLearning.was = values.learn;
  $("learn").setAttribute("aria-pressed", String(learning));
  document.body.classList.toggle("learning", learning);
  for (const each of document.querySelectorAll("[data-control].waiting")) each.classList.remove("waiting");
  if (values.learn) document.querySelector(`[data-control="${CSS.escape(values.learn)}"]`)?.classList.add("waiting");
  if (learning) hint(...(values.learn ? ["move a knob for ", element("code", {}, `/${values.learn}`)] : ["click a control to be played by MIDI"]));
}

for (const kind of ["pointerdown", "mousedown", "click"]) {
  document.addEventListener(kind, (event) => {
    const control = learning && event.target.closest?.("[data-control]:not(.unlearnable)");
    if (!control) return;
    event.preventDefault();
    event.stopPropagation();
    if (kind === "click") act(["learn", control.dataset.control]);
  }, true);
}

// What a control is called, and what plays it: for whoever points at it.

function hint(...parts) {
  $("hint").replaceChildren(...parts);
}

for (const kind of ["pointerover", "focusin"]) {
  document.addEventListener(kind, (event) => {
    if (learning) return;
    const name = event.target.closest?.("[data-control]")?.dataset.control;
    if (!name) return kind === "pointerover" ? undefined : hint();
    const bound = values.bindings?.[name];
    hint(`${rowOf(name)?.help ?? ""} `, element("code", {}, `/${name}`), bound ? ` · MIDI ${bound}` : "");
  });
}

// The screen.

function labelSpectrum() {
  const box = $("spectrum").parentElement;
  for (const old of box.querySelectorAll("span")) old.remove();
  const low = spectrum.hzAt(0), high = spectrum.hzAt(1);
  for (const hz of [100, 300, 1000, 3000, 10000]) {
    if (hz > low && hz < high) box.append(element("span", {style: `bottom: ${(100 * Math.log(hz / low)) / Math.log(high / low)}%`}, hz < 1000 ? `${hz} Hz` : `${hz / 1000} kHz`));
  }
}

let before = performance.now();
function frame(now) {
  view.fade(Math.min((now - before) / 1000, 0.1));
  strips.draw(now);
  before = now;
  requestAnimationFrame(frame);
}

document.addEventListener("visibilitychange", watch);
editor.setTool("hand");
showTools();
watch();
requestAnimationFrame(frame);

// For tests: what the page knows.
window.sepstream = {line, view, editor, get values() { return values; }, centre};
