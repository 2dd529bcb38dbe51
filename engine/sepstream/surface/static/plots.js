// Statistics of a selection: its energy over frequency and over certainty, in front of all that is there.

const FLOOR_DB = -90;
const db = (energy) => Math.max(10 * Math.log10(Math.max(energy, 1e-12)), FLOOR_DB);

function sheet(canvas) {
  const scale = devicePixelRatio || 1, [w, h] = [canvas.clientWidth * scale, canvas.clientHeight * scale].map(Math.round);
  if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
  const c = canvas.getContext("2d");
  c.clearRect(0, 0, w, h);
  c.font = `${11 * scale}px system-ui, sans-serif`;
  return {c, w, h: h - 16 * scale, scale};
}

function area({c, h}, points, fill) {
  c.beginPath();
  c.moveTo(points[0]?.[0] ?? 0, h);
  for (const [x, y] of points) c.lineTo(x, y);
  c.lineTo(points.at(-1)?.[0] ?? 0, h);
  c.closePath();
  c.fillStyle = fill;
  c.fill();
}

function mark({c, h, scale, w}, x, text) {
  c.fillStyle = "#ffffff22";
  c.fillRect(x, 0, scale, h);
  c.fillStyle = "#9aa7b4";
  c.textAlign = x > w - 30 * scale ? "right" : "center";
  c.fillText(text, x, h + 12 * scale);
}

export function overHz(canvas, found) {
  const paper = sheet(canvas), {w, h} = paper, least = 40, most = found.hz.at(-1);
  const x = (hz) => (w * Math.log(Math.max(hz, least) / least)) / Math.log(most / least), y = (e) => (h * db(e)) / FLOOR_DB;
  const points = (values) => values.map((e, bin) => [x(found.hz[bin]), y(e)]);
  area(paper, points(found.there), "#4a5868");
  area(paper, points(found.taken), "#ffb03c");
  for (const hz of [100, 1000, 5000]) if (hz < most) mark(paper, x(hz), hz < 1000 ? `${hz} Hz` : `${hz / 1000} kHz`);
  for (const level of [-30, -60]) {
    const {c, scale} = paper, text = `${level} dB`, y = (h * level) / FLOOR_DB;
    c.fillStyle = "#000a";
    c.fillRect(0, y - 12 * scale, c.measureText(text).width + 6 * scale, 15 * scale);
    c.fillStyle = "#cdd6e0";
    c.textAlign = "left";
    c.fillText(text, 3 * scale, y);
  }
}

export function overCertainty(canvas, found) {
  const paper = sheet(canvas), {c, w, h} = paper, most = Math.max(...found.there_by_certainty, 1e-9), bars = found.there_by_certainty.length;
  for (const [values, fill] of [[found.there_by_certainty, "#4a5868"], [found.taken_by_certainty, "#ffb03c"]]) {
    c.fillStyle = fill;
    values.forEach((value, i) => c.fillRect((i * w) / bars, h * (1 - value / most), w / bars - 1, (h * value) / most));
  }
  for (const certainty of [0.25, 0.5, 0.75]) mark(paper, certainty * w, `${certainty}`);
}
