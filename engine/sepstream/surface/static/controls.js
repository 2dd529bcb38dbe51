// Faders, knobs and switches of the one table of controls, made of the browser's own elements: keyboard, touch and screen
// readers know them already. Every one says which control it is (data-control), for MIDI learn and for the line of hints.

let table = new Map(), faderKnots = [];

// What the server's hello says of controls.
export function learnTable(hello) {
  table = new Map(hello.table.map((row) => [row.name, row]));
  faderKnots = hello.fader;
}

// The row of a concrete name: bus/vox/gain_db -> bus/{bus}/gain_db.
export function rowOf(name) {
  const [kind, , ...rest] = name.split("/");
  return table.get(name) ?? table.get(`${kind}/{${kind}}/${rest.join("/")}`);
}

// Where a fader stands, 0..1, as the engine has it.
export function toUnit(row, value) {
  return Math.min(Math.max(position(row, value), 0), 1);
}

export function fromUnit(row, unit) {
  if (unit <= 0 || unit >= 1) return row.ends[unit >= 1 ? 1 : 0];
  if (row.curve === "fader") return along(faderKnots, unit, 0, 1);
  const [low, high] = row.curve === "log" ? row.ends.map(Math.log1p) : row.ends, now = low + (high - low) * unit;
  return row.curve === "log" ? Math.expm1(now) : now;
}

function position(row, value) {
  if (row.curve === "fader") return along(faderKnots, value, 1, 0);
  const [low, high, now] = row.curve === "log" ? [...row.ends, value].map(Math.log1p) : [...row.ends, value];
  return (now - low) / (high - low);
}

function along(knots, value, x, y) {
  const after = knots.findIndex((knot) => knot[x] > value);
  if (after === 0) return knots[0][y];
  if (after < 0) return knots[knots.length - 1][y];
  const [start, end] = [knots[after - 1], knots[after]];
  return start[y] + ((end[y] - start[y]) * (value - start[x])) / (end[x] - start[x]);
}

// A value as people read it.
export function shown(row, value) {
  if (row.curve === "fader") return value <= row.ends[0] ? "off" : `${value > 0 ? "+" : ""}${value.toFixed(1)}`;
  if (row.name.endsWith("/pan")) return Math.abs(value) < 0.005 ? "C" : `${value < 0 ? "L" : "R"}${Math.round(100 * Math.abs(value))}`;
  if (row.unit === "ms") return value < 10 ? value.toFixed(1) : value.toFixed(0);
  return Math.abs(value) >= 100 ? value.toFixed(0) : value.toFixed(2);
}

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === undefined || value === null) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "style") made.style.cssText = value;
    else if (name in made && name !== "list" && name !== "role") made[name] = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

// Every control has ``put(value)``: the scene says where it stands, unless a hand is on it.

export function fader(name, set, {label = name, vertical = false} = {}) {
  const row = rowOf(name), input = element("input", {type: "range", min: 0, max: 1, step: "any", className: vertical ? "fader" : "slider"});
  input.setAttribute("aria-label", label);
  if (vertical) input.setAttribute("orient", "vertical");
  const made = named(input, name, row);
  let held = false, last;
  const say = (value) => {
    input.setAttribute("aria-valuetext", `${shown(row, value)} ${row.unit}`.trim());
    input.style.setProperty("--at", toUnit(row, value));
    made.onshow?.(shown(row, value));
  };
  const turn = (value) => {
    last = value;
    set(name, value);
    say(value);
  };
  input.addEventListener("input", () => turn(snapped(row, fromUnit(row, input.valueAsNumber))));
  input.addEventListener("pointerdown", () => (held = true));
  for (const end of ["pointerup", "pointercancel", "blur"]) input.addEventListener(end, () => ((held = false), made.put(last)));
  input.addEventListener("dblclick", () => (turn(row.default), (input.value = toUnit(row, row.default))));
  input.addEventListener("keydown", (event) => {
    const step = {ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 5, PageDown: -5}[event.key];
    if (event.key === "0" || event.key === "Delete") turn(row.default);
    else if (step) turn(snapped(row, fromUnit(row, toUnit(row, last) + step * 0.01)));
    else return;
    input.value = toUnit(row, last);
    event.preventDefault();
  });
  made.put = (value) => {
    if (value === undefined) return;
    if (!held) {
      last = value;
      input.value = toUnit(row, value);
      say(value);
    }
  };
  return made;
}

// Near its resting place a fader rests there.
function snapped(row, value) {
  return Math.abs(toUnit(row, value) - toUnit(row, row.default)) < 0.008 && row.kind === "number" ? row.default : value;
}

export function toggle(name, set, text, label, className = "") {
  const button = named(element("button", {type: "button", className: `toggle ${className}`, textContent: text}), name, rowOf(name));
  button.setAttribute("aria-label", label);
  button.setAttribute("aria-pressed", "false");
  button.addEventListener("click", () => set(name, button.getAttribute("aria-pressed") !== "true"));
  button.put = (value) => button.setAttribute("aria-pressed", String(Boolean(value)));
  return button;
}

// A text or a number that is typed: Enter and leaving say it, Escape takes it back.
export function entry(name, label, say, {read = String, className = "", list} = {}) {
  const input = named(element("input", {type: "text", className: `entry ${className}`, autocomplete: "off", spellcheck: false}), name, rowOf(name));
  input.setAttribute("aria-label", label);
  if (list) input.setAttribute("list", list);
  let last = "";
  const tell = async () => {
    if (input.value === last) return;
    const fine = await say(input.value);
    input.classList.toggle("wrong", fine === false);
    if (fine === false && document.activeElement !== input) input.value = last;
  };
  input.addEventListener("change", tell);
  input.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      input.value = last;
      input.classList.remove("wrong");
      input.blur();
    } else if (event.key === "Enter") {
      input.blur();
    }
  });
  input.put = (value) => {
    last = read(value);
    if (document.activeElement !== input) {
      input.value = last;
      input.classList.remove("wrong");
    }
  };
  return input;
}

export function named(made, name, row) {
  made.dataset.control = name;
  if (row) made.title = `${row.help}\nOSC /${name}`;
  return made;
}
