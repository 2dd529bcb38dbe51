// The explorer's page. What is chosen is one value, ``now``; from it follow the expression that the server is asked about,
// the picture, the disk, the statistics and the sound. It is kept for the next time that the page is loaded.

import {Newest, ask, put} from "./ask.js";
import {CloudView} from "./cloud.js";
import {element} from "./controls.js";
import {Editor} from "./editor.js";
import {Spectrogram, clock} from "./filegram.js";
import {Player} from "./player.js";
import {overCertainty, overHz} from "./plots.js";

const WARM = "#ffb03c";
const LOOK_MS = 250;
const SETTLED_MS = 60;  // a hand that rests so long is heard, though it has let nothing go
const HEARING_MS = 1000;  // between two looks at a file that is being heard
const MOST_QUIETER_DB = 30;  // that the mixture is made for the sake of the same loudness
const byId = (id) => document.getElementById(id);

const NOTHING = {
  classes: {},  // name -> mask, cell or side
  join: "|",
  regions: {},  // name -> region, as presets write it
  patch: null,  // corners on the spectrogram
  rest: false,
  certain: 0,
  typed: null,  // an expression that was written by hand, in place of all but patch and rest
};
let now = {...NOTHING};
let look = {db: -60, colour: "class", level: "leaves", volume: -6, match: true};
let hello, file, disk, editor, picture, player;
let seen = null;  // the view that is on the screen, and the question it answers
let masks = null;  // of its bins, a byte each; null where all of it is selected
let matchDb = 0, settling = 0;

start();

async function start() {
  restore();
  try {
    hello = await ask("hello");
  } catch (error) {
    byId("name").textContent = error.message;
    return;
  }
  build();
  for (;;) {
    await refresh();
    await new Promise((resolve) => setTimeout(resolve, file && !file.heard && !file.fault ? LOOK_MS : 4 * LOOK_MS));
  }
}

// The expression.

function expression() {
  if (now.typed !== null) return now.typed;
  const kinds = {mask: (name) => name, cell: (name) => `cell(${name})`, side: (name) => `side(${name})`};
  const classes = Object.entries(now.classes).map(([name, kind]) => kinds[kind](name));
  const parts = [...classes, ...Object.keys(now.regions).map((name) => `region(${name})`)];
  const together = parts.length > 1 ? `(${parts.join(` ${now.join} `)})` : parts[0];
  const sure = now.certain > 0 ? `certain(${now.certain}..1)` : null;
  return [together, sure].filter(Boolean).join(" & ") || "mix";
}

const choice = () => ({
  select: expression(),
  regions: now.regions,
  rest: now.rest,
  ...(now.patch ? {patch: now.patch} : {}),
});

const isEverything = () => expression() === "mix" && !now.patch && !now.rest;

// What changes when something is chosen: first what is seen, at once what is heard, then the numbers.

function change(next, released = true) {
  now = {...now, ...next};
  keep();
  put_choice();
  if (!file) return;
  selecting.wish();
  clearTimeout(settling);
  if (released) settled();
  else settling = setTimeout(settled, SETTLED_MS);
}

function settled() {
  player.renew();
  counting.wish();
}

const viewing = new Newest(async () => {
  const [start_s, stop_s] = picture.range, wanted = {start_s, stop_s, db: look.db, hops: file.hops}, {number} = file;
  await tried(async () => {
    const found = readView(await ask("view", wanted));
    if (file?.number !== number) return;
    seen = {...found, asked: wanted};
    if (isEverything()) highlight(seen, null);
    selecting.wish();
    counting.wish();
  });
});

const selecting = new Newest(async () => {
  if (!seen) return;
  const view = seen, all = isEverything();
  if (all) {
    byId("wrong").textContent = "";
    highlight(view, null);
    return;
  }
  try {
    const found = new Uint8Array(await ask("select", {view: view.asked, ...choice()}));
    byId("wrong").textContent = "";
    if (seen === view && found.length === view.bin.length) highlight(view, found);
  } catch (error) {
    byId("wrong").textContent = error.message;
  }
});

// On the disk and on the spectrogram alike.
function highlight(view, found) {
  masks = found;
  disk.show(view, found);
  picture.show(view, found ?? new Uint8Array(0));
}

const counting = new Newest(async () => {
  if (!seen) return;
  try {
    const found = await ask("count", {view: seen.asked, ...choice()});
    overHz(byId("hz"), found);
    overCertainty(byId("sure"), found);
    const db = 10 * Math.log10(Math.max(found.energy_share, 1e-9));
    byId("share").textContent = `${percent(found.energy_share)} of the energy (${db.toFixed(1)} dB), ${percent(found.bin_share)} of the bins`;
    matchDb = found.match_db;
    levels();
  } catch (error) {
    byId("share").textContent = "";
  }
});

const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;

// The louder of the two is made quieter: nothing clips.
function levels() {
  const db = look.match && !isEverything() ? Math.min(Math.max(matchDb, -MOST_QUIETER_DB), MOST_QUIETER_DB) : 0;
  const gain = (wanted) => 10 ** (Math.min(wanted, 0) / 20);
  player.show(player.shown, {mixture: gain(-db), selection: gain(db)});
}

// Little-endian, as explore.py's view_bytes writes it.
function readView(bytes) {
  const [hops, bins, points] = new Uint32Array(bytes, 0, 4);
  let at = 16;
  const next = (Kind, count) => {
    const found = new Kind(bytes, at, count);
    at += found.byteLength;
    return found;
  };
  return {
    hops: next(Int32Array, hops),
    frame: next(Int32Array, bins),
    bin: next(Int32Array, bins),
    place: next(Int32Array, points),
    x: next(Int16Array, points),
    y: next(Int16Array, points),
    level: next(Uint8Array, bins),
    leaf: next(Uint8Array, points),
  };
}

// The file.

let lookedAt = 0, toldLines = 0;

async function refresh() {
  let state;
  try {
    state = await ask("state");
  } catch {
    return failed(new Error("the server has gone; this page goes on when sep-explore is there again"));
  }
  const before = file;
  file = state.file && {...state.file, number: state.number};
  showLog(state);
  const other = before?.number !== file?.number;
  if (other) {
    player.stop();
    player.at = 0;
    player.setLoop(null);
    seen = null;
    put_choice();
  }
  const busy = file && !file.heard && !file.fault;
  byId("hearing").hidden = !busy;
  byId("done").value = file?.done ?? 0;
  const kHz = file && (file.rate_hz / 1000).toFixed(1).replace(".0", "");
  const facts = file && `${file.name} · ${clock(file.seconds)} · ${kHz} kHz · ${file.channels === 1 ? "mono" : file.channels === 2 ? "stereo" : `${file.channels} channels`}`;
  byId("name").textContent = file ? `${facts}${file.fault ? ` · ${file.fault}` : ""}` : "Open a sound file, or drop one here.";
  document.title = file ? `${file.name} · sepstream explorer` : "sepstream explorer";
  for (const id of ["write", "stems"]) byId(id).disabled = !file?.heard;
  for (const id of ["play", "seek", "loop"]) byId(id).disabled = !file?.samples;
  player.load(file?.samples ?? 0, file?.channels ?? 1);
  if (!file) {
    if (before) picture.load(null), disk.show(null, null);
    return;
  }
  const grown = other || file.hops !== before.hops || file.heard !== before.heard;
  if (grown) picture.load(file);
  if (grown && (other || file.heard || performance.now() - lookedAt > HEARING_MS)) {
    lookedAt = performance.now();
    viewing.wish();
  }
}

async function openFile(chosen) {
  if (!chosen) return;
  byId("hearing").hidden = false;
  byId("name").textContent = `${chosen.name} is being read`;
  await tried(() => put(chosen, (share) => (byId("done").value = share)));
  await refresh();
}

function showLog({log, told}) {
  const fresh = Math.min(told - toldLines, log.length);
  if (told < toldLines) toldLines = 0;  // another server
  for (const [at, text] of log.slice(log.length - Math.max(fresh, 0))) say(text, new Date(1000 * at));
  toldLines = told;
}

function say(text, at = new Date(), bad = false) {
  const line = element("li", {className: bad ? "bad" : ""}, element("time", {}, at.toLocaleTimeString()), text);
  byId("log").append(line);
  while (byId("log").childElementCount > 300) byId("log").firstChild.remove();
  byId("log").scrollTop = byId("log").scrollHeight;
}

let lastFault = "";
function failed(error) {
  if (error.message !== lastFault) say(error.message, new Date(), true);
  lastFault = error.message;
}

async function tried(act) {
  try {
    const found = await act();
    lastFault = "";
    return found;
  } catch (error) {
    failed(error);
    return null;
  }
}

// The page's parts.

function build() {
  disk = new CloudView(byId("box"));
  disk.pen.setAttribute("aria-label", "The disk: regions are drawn, dragged, scaled and turned here; arrow keys move the chosen one");
  disk.model = hello.model;
  disk.colourBy = look.colour;
  disk.level = look.level;
  editor = new Editor(disk, {
    draw: (region) => {
      const name = freeName();
      disk.chosen = name;
      setTool("hand");
      change({regions: {...now.regions, [name]: region}, typed: null});
    },
    change: (name, region) => change({regions: {...now.regions, [name]: region}}, false),
    done: () => change({}),
    remove: (name) => removeRegion(name),
    choose: () => {},
  });
  picture = new Spectrogram(byId("filegram"), {
    picture: hello.picture,
    fetch: (zoom, first, count) => ask("tile", {zoom, first, count}),
    picked: (corners, released) => change({patch: corners}, released),
    ranged: () => file && viewing.wish(),
    sought: (seconds) => player.seek(seconds * hello.sample_rate_hz),
    failed,
  });
  player = new Player({
    rate: hello.sample_rate_hz,
    fetch: async (voice, start, count) => {
      const asked = voice === "mixture" ? {select: "mix"} : choice();
      return new Float32Array(await ask("sound", {start, count, ...asked}));
    },
    failed,
    moved: showPlayhead,
  });
  player.setVolume(10 ** (look.volume / 20));
  radios("tools", {seek: "Seek", rectangle: "Rectangle", lasso: "Lasso"}, "seek", (tool) => (picture.tool = tool));
  radios("voices", {mixture: "Mixture", selection: "Selection"}, "selection", (voice) => player.show(voice));
  radios("join", {"|": "any of", "&": "all of"}, now.join, (join) => change({join, typed: null}));
  const shapes = {hand: "move", disc: "disc", ellipse: "ellipse", annulus: "ring", half: "half", certain: "band", lasso: "lasso"};
  radios("shapes", shapes, "hand", (tool) => editor.setTool(tool));
  for (const each of hello.model.classes) byId("classes").append(classRow(each));
  wire();
  put_choice();
  setInterval(() => player.playing && showPlayhead(), 33);
}

function radios(id, options, chosen, act) {
  for (const [value, text] of Object.entries(options)) {
    const input = element("input", {type: "radio", name: id, value, checked: value === chosen, onchange: () => act(value)});
    const label = element("label", {}, input, element("span", {}, text));
    byId(id).append(label);
  }
}

function setTool(tool) {
  document.querySelector(`#shapes input[value="${tool}"]`).checked = true;
  editor.setTool(tool);
}

function classRow({name, colour}) {
  const cells = hello.model.classes.length > 1;
  const options = ["–", "mask", ...(cells ? ["cell"] : []), "side"].map((text) => element("option", {value: text === "–" ? "" : text}, text));
  const select = element("select", {onchange: () => {
    const {[name]: _, ...others} = now.classes;
    change({classes: select.value ? {...others, [name]: select.value} : others, typed: null});
  }}, ...options);
  select.dataset.name = name;
  const label = element("label", {}, element("span", {}, name), select);
  label.style.setProperty("--tint", colour);
  return label;
}

function freeName() {
  let n = 1;
  while (now.regions[n]) n++;
  return String(n);
}

function removeRegion(name) {
  const {[name]: _, ...others} = now.regions;
  disk.chosen = "";
  change({regions: others, typed: null});
}

function wire() {
  const on = (id, event, act) => byId(id).addEventListener(event, act);
  on("file", "change", () => openFile(byId("file").files[0]).then(() => (byId("file").value = "")));
  on("cancel", "click", () => tried(() => ask("cancel", {})).then(refresh));
  on("clear", "click", () => picture.clear());
  on("in", "click", () => picture.zoom(0.6));
  on("out", "click", () => picture.zoom(1 / 0.6));
  on("all", "click", () => picture.setRange([0, file?.seconds ?? 1]));
  on("play", "click", toggle);
  on("seek", "input", () => player.seek(byId("seek").valueAsNumber * player.length));
  on("loop", "click", () => loop(byId("loop").getAttribute("aria-pressed") !== "true"));
  on("volume", "input", () => setLook({volume: byId("volume").valueAsNumber}));
  on("match", "change", () => setLook({match: byId("match").checked}));
  on("colour", "change", () => setLook({colour: byId("colour").value}));
  on("level", "change", () => setLook({level: byId("level").value}));
  on("db", "input", () => setLook({db: byId("db").valueAsNumber}));
  on("certain", "input", () => change({certain: byId("certain").valueAsNumber, typed: null}, false));
  on("certain", "change", () => change({}));
  on("rest", "change", () => change({rest: byId("rest").checked}));
  on("none", "click", () => {
    [disk.chosen, picture.corners] = ["", null];
    change({...NOTHING});
  });
  on("expression", "change", () => change({typed: byId("expression").value.trim() || null}));
  on("write", "click", () => written({name: byId("as").value, ...choice()}));
  on("stems", "click", () => written({stems: byId("which").value}));
  on("preset", "click", () => savePreset());
  document.addEventListener("keydown", (event) => {
    if (event.target.closest("input, select, button, textarea") || event.key !== " ") return;
    event.preventDefault();
    toggle();
  });
  let inside = 0;
  document.addEventListener("dragenter", () => (byId("drop").hidden = ++inside === 0));
  document.addEventListener("dragleave", () => (byId("drop").hidden = --inside === 0));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    inside = 0;
    byId("drop").hidden = true;
    openFile(event.dataTransfer.files[0]);
  });
}

function setLook(next) {
  look = {...look, ...next};
  keep();
  [disk.colourBy] = [look.colour];
  if (next.level) disk.setLevel(look.level, true);
  if (next.colour) disk.paint();
  if (next.volume !== undefined) player.setVolume(look.volume <= -48 ? 0 : 10 ** (look.volume / 20));
  if (next.match !== undefined) levels();
  if (next.db !== undefined && file) viewing.wish();
  put_choice();
}

function toggle() {
  if (player.playing) player.pause();
  else tried(() => player.play());
  showPlayhead();
}

function loop(wanted) {
  const times = now.patch?.map(([s]) => s), [start, stop] = times ? [Math.min(...times), Math.max(...times)] : picture.range;
  const [a, b] = [start, stop].map((s) => Math.round(Math.min(Math.max(s * hello.sample_rate_hz, 0), player.length)));
  player.setLoop(wanted && b - a >= hello.sample_rate_hz / 50 ? [a, b] : null);
  byId("loop").setAttribute("aria-pressed", String(Boolean(player.loop)));
}

async function written(body) {
  const buttons = ["write", "stems"].map(byId);
  for (const button of buttons) button.disabled = true;
  await tried(() => ask("export", body));
  await refresh();
}

async function savePreset() {
  const name = byId("as").value;
  if (now.patch || now.rest) say("what is drawn on the spectrogram, and 'everything else', are not in a preset: live sound has no past");
  const scene = {buses: {[name]: {select: expression()}}, regions: now.regions, residual: true};
  await tried(() => ask("export", {scene, name}));
  await refresh();
}

// What the controls show follows from what is chosen.

function put_choice() {
  const text = expression();
  if (document.activeElement !== byId("expression") || now.typed === null) byId("expression").value = text;
  for (const select of document.querySelectorAll("#classes select")) select.value = now.classes[select.dataset.name] ?? "";
  byId("rest").checked = now.rest;
  byId("certain").value = now.certain;
  byId("certain_said").textContent = now.certain.toFixed(2);
  byId("db").value = look.db;
  byId("db_said").textContent = `${String(look.db).replace("-", "−")} dB`;
  byId("volume").value = look.volume;
  byId("match").checked = look.match;
  byId("colour").value = look.colour;
  byId("level").value = look.level;
  document.querySelector(`#join input[value="${now.join}"]`).checked = true;
  disk.regions = {...now.regions};
  disk.colours = Object.fromEntries(Object.keys(now.regions).map((name) => [name, WARM]));
  editor.refresh();
  picture.corners = now.patch;
  picture.draw();
  byId("regions").replaceChildren(...Object.entries(now.regions).map(([name, region]) => {
    const button = element("button", {type: "button", className: "chip", onclick: () => removeRegion(name)}, `${name} ${Object.keys(region)[0]} ✕`);
    button.setAttribute("aria-label", `Remove region ${name}`);
    return button;
  }));
}

function showPlayhead() {
  const seconds = player.position / hello.sample_rate_hz;
  byId("time").textContent = clock(seconds);
  if (document.activeElement !== byId("seek") || player.playing) byId("seek").value = player.length ? player.position / player.length : 0;
  byId("seek").setAttribute("aria-valuetext", clock(seconds));
  byId("play").textContent = player.playing ? "❚❚" : "▶";
  byId("play").setAttribute("aria-label", player.playing ? "Pause" : "Play");
  picture.playhead = seconds;
  picture.draw();
}

// Between two loads of the page.

function keep() {
  sessionStorage.setItem("explore", JSON.stringify({now, look}));
}

function restore() {
  try {
    const kept = JSON.parse(sessionStorage.getItem("explore") ?? "{}");
    [now, look] = [{...now, ...kept.now}, {...look, ...kept.look}];
  } catch {
    sessionStorage.removeItem("explore");
  }
}

// For tests and the curious.
window.sepstream = {
  get now() {
    return now;
  },
  get seen() {
    return seen;
  },
  get masks() {
    return masks;
  },
  get player() {
    return player;
  },
  // All that was asked for is here.
  get idle() {
    return ![viewing, selecting, counting].some((wish) => wish.running);
  },
  get file() {
    return file;
  },
  expression,
};
