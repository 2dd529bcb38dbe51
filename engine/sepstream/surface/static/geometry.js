// The Poincaré disk in float64: the same formulas as engine/sepstream/disk.py, for drawing and for hands. Pure.
//
// Points are [x, y] of the unit disk. A class is a vector (w0, w1, w2): X = (1 + |x|², 2x) / (1 - |x|²), logit = scale asinh <X, w>.

export const RIM = 0.999;
const TURN = 2 * Math.PI;

export const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

// Of all classes at one point; without ``scale`` the signed distances to their geodesics.
export function logits(head, x, y) {
  const square = x * x + y * y, depth = Math.max(1 - square, 1e-6);
  return head.vectors.map(([w0, w1, w2], k) => head.scale[k] * Math.asinh((w0 * (1 + square) + 2 * (w1 * x + w2 * y)) / depth));
}

// The boundary of a class as a path: an arc at right angles to the rim, or a straight line through the middle.
export function geodesic([w0, w1, w2]) {
  const size = Math.hypot(w1, w2), angle = Math.atan2(w2, w1), half = Math.acos(clamp(-w0 / size, -1, 1));
  const ends = [angle - half, angle + half].map((a) => [Math.cos(a), Math.sin(a)]);
  if (Math.abs(w0) < 1e-6 * size) return {ends, radius: Infinity};
  return {x: -w1 / w0, y: -w2 / w0, radius: Math.sqrt(Math.max((size / w0) ** 2 - 1, 0)), ends};
}

// d(x, y) = 2 asinh(|x - y| / sqrt((1 - |x|²)(1 - |y|²)))
export function distance([x, y], [u, v]) {
  const chord = (x - u) ** 2 + (y - v) ** 2;
  return 2 * Math.asinh(Math.sqrt(chord / (Math.max(1 - x * x - y * y, 1e-9) * Math.max(1 - u * u - v * v, 1e-9))));
}

// A hyperbolic circle is a circle: {x, y, radius}, as drawn.
export function circle([x, y], r) {
  const square = x * x + y * y, t = Math.tanh(r / 2), under = 1 - square * t * t;
  const pull = (1 - t * t) / under;
  return {x: x * pull, y: y * pull, radius: (t * (1 - square)) / under};
}

// The half-plane beyond a geodesic at signed distance ``offset``, as the vector of that geodesic.
export function halfVector(angle, offset) {
  const turn = (angle * Math.PI) / 180, steep = Math.cosh(offset);
  return [-Math.sinh(offset), steep * Math.cos(turn), steep * Math.sin(turn)];
}

export const certaintyRadius = (certainty) => clamp(certainty, 0, 1);

// Into the disk, where centres have to be.
export function onDisk([x, y], rim = RIM - 1e-6) {
  const norm = Math.hypot(x, y);
  return norm > rim ? [(x * rim) / norm, (y * rim) / norm] : [x, y];
}

// Shapes, as presets write them: {disc: {x, y, r, soft}}. -> [its call, its numbers]
export const shapeOf = (region) => Object.entries(region)[0];

// What is inside, in signed hyperbolic or drawn distance: positive inside, for picking with a finger; not the engine's mask.
export function inside(region, [px, py]) {
  const [call, n] = shapeOf(region), p = [px, py], norm = Math.hypot(px, py);
  switch (call) {
    case "disc":
      return n.r - distance(p, [n.x, n.y]);
    case "annulus": {
      const d = distance(p, [n.x, n.y]);
      return Math.min(n.outer - d, d - n.inner);
    }
    case "certain":
      return Math.min(n.high - norm, norm - n.low) || 1e-6;
    case "half": {
      const [w0, w1, w2] = halfVector(n.angle, n.offset ?? 0), square = norm * norm;
      return Math.asinh((w0 * (1 + square) + 2 * (w1 * px + w2 * py)) / Math.max(1 - square, 1e-6));
    }
    case "ellipse": {
      const turn = ((n.angle ?? 0) * Math.PI) / 180, c = Math.cos(turn), s = Math.sin(turn);
      const [dx, dy] = [px - n.x, py - n.y];
      return 1 - Math.hypot((c * dx + s * dy) / n.a, (c * dy - s * dx) / n.b);
    }
    case "lasso":
      return encloses(n.points, p) ? 1 : -1;
  }
  return -1;
}

// By an odd number of turns, as the engine has it.
export function encloses(points, [px, py]) {
  let within = false;
  for (let i = 0, j = points.length - 1; i < points.length; j = i++) {
    const [ax, ay] = points[i], [bx, by] = points[j];
    if (ay > py !== by > py && px < ((bx - ax) * (py - ay)) / (by - ay) + ax) within = !within;
  }
  return within;
}

// The middle of a shape, where its handle is.
export function centre(region) {
  const [call, n] = shapeOf(region);
  if (call === "lasso") {
    const sum = n.points.reduce(([x, y], [u, v]) => [x + u, y + v], [0, 0]);
    return sum.map((value) => value / n.points.length);
  }
  if (call === "half") {
    const turn = (n.angle * Math.PI) / 180, reach = Math.tanh((n.offset ?? 0) / 2);
    return [reach * Math.cos(turn), reach * Math.sin(turn)];
  }
  if (call === "certain") return [0, -(n.low + n.high) / 2];
  return [n.x ?? 0, n.y ?? 0];
}

// What hands do to shapes. Each gives a new region.

export function moved(region, [dx, dy]) {
  const [call, n] = shapeOf(region);
  switch (call) {
    case "disc":
    case "annulus": {
      const [x, y] = onDisk([n.x + dx, n.y + dy]);
      return {[call]: {...n, x, y}};
    }
    case "ellipse":
      return {ellipse: {...n, x: clamp(n.x + dx, -2, 2), y: clamp(n.y + dy, -2, 2)}};
    case "lasso":
      return {lasso: {...n, points: n.points.map(([x, y]) => [clamp(x + dx, -2, 2), clamp(y + dy, -2, 2)])}};
    case "half": {
      const [x, y] = centre(region), [u, v] = onDisk([x + dx, y + dy], 0.98), turn = (n.angle * Math.PI) / 180;
      const along = u * Math.cos(turn) + v * Math.sin(turn);
      return {half: {...n, offset: clamp(2 * Math.atanh(along), -16, 16)}};
    }
    case "certain": {
      const shift = clamp(-dy, -n.low, 1 - n.high);
      return {certain: {...n, low: n.low + shift, high: n.high + shift}};
    }
  }
  return region;
}

export function scaled(region, factor) {
  const [call, n] = shapeOf(region), [cx, cy] = centre(region);
  const within = (value, low, high) => clamp(value * factor, low, high);
  switch (call) {
    case "disc":
      return {disc: {...n, r: within(n.r, 0.02, 16)}};
    case "annulus":
      return {annulus: {...n, inner: within(n.inner, 0, 16), outer: within(n.outer, 0.02, 16)}};
    case "ellipse":
      return {ellipse: {...n, a: within(n.a, 0.01, 4), b: within(n.b, 0.01, 4)}};
    case "lasso":
      return {lasso: {...n, points: n.points.map(([x, y]) => [clamp(cx + (x - cx) * factor, -2, 2), clamp(cy + (y - cy) * factor, -2, 2)])}};
    case "half":
      return {half: {...n, offset: clamp((n.offset ?? 0) + 2 * (1 - factor), -16, 16)}};
    case "certain": {
      const middle = (n.low + n.high) / 2, half = ((n.high - n.low) / 2) * factor;
      return {certain: {...n, low: clamp(middle - half, 0, middle), high: clamp(middle + half, middle, 1)}};
    }
  }
  return region;
}

// By degrees, about its own middle; a half-plane about the middle of the disk.
export function rotated(region, degrees) {
  const [call, n] = shapeOf(region), wrap = (angle) => ((((angle + 180) % 360) + 360) % 360) - 180;
  if (call === "ellipse" || call === "half") return {[call]: {...n, angle: wrap((n.angle ?? 0) + degrees)}};
  if (call !== "lasso") return region;
  const turn = (degrees * Math.PI) / 180, c = Math.cos(turn), s = Math.sin(turn), [cx, cy] = centre(region);
  return {lasso: {...n, points: n.points.map(([x, y]) => [cx + c * (x - cx) - s * (y - cy), cy + s * (x - cx) + c * (y - cy)])}};
}

// A region from the way of a finger: from where it went down to where it is.
export function drawn(call, from, to, path) {
  const [x, y] = onDisk(from), reach = Math.max(Math.hypot(to[0] - from[0], to[1] - from[1]), 0.02);
  const [u, v] = onDisk(to);
  switch (call) {
    case "disc":
      return {disc: {x, y, r: Math.max(distance([x, y], [u, v]), 0.05), soft: 0.2}};
    case "ellipse":
      return {ellipse: {x, y, a: Math.max(Math.abs(to[0] - from[0]), 0.02), b: Math.max(Math.abs(to[1] - from[1]), 0.02), angle: 0, soft: 0.2}};
    case "annulus": {
      const outer = Math.max(distance([x, y], [u, v]), 0.1);
      return {annulus: {x, y, inner: outer / 2, outer, soft: 0.2}};
    }
    case "half": {
      const angle = (Math.atan2(to[1] - from[1], to[0] - from[0]) * 180) / Math.PI, turn = (angle * Math.PI) / 180;
      return {half: {angle, offset: 2 * Math.atanh(clamp(x * Math.cos(turn) + y * Math.sin(turn), -0.98, 0.98)), soft: 0.2}};
    }
    case "certain": {
      const [low, high] = [Math.hypot(...from), Math.hypot(...to)].sort((a, b) => a - b);
      return {certain: {low: clamp(low, 0, 0.99), high: high > 0.97 ? 1 : Math.max(clamp(high, 0, 1), low + 0.01), soft: 0.2}};
    }
    case "lasso":
      return {lasso: {points: thinned(path, 64), soft: 0.1}};
  }
  return null;
}

// At most so many points of a path, evenly along it.
export function thinned(path, most) {
  if (path.length <= most) return path;
  return Array.from({length: most}, (_, i) => path[Math.floor((i * path.length) / most)]);
}

// The outline of a shape on a Canvas path, in units of the disk; for annuli and bands an even-odd path.
export function trace(path, region, grow = 0) {
  const [call, n] = shapeOf(region);
  const ring = (c, r) => {
    const {x, y, radius} = circle(c, Math.max(r, 0));
    path.moveTo(x + radius, y);
    path.arc(x, y, radius, 0, TURN);
  };
  switch (call) {
    case "disc":
      ring([n.x, n.y], n.r + grow);
      break;
    case "annulus":
      ring([n.x, n.y], n.outer + grow);
      if (n.inner > grow) ring([n.x, n.y], n.inner - grow);
      break;
    case "certain":
      for (const [radius, side] of [[n.high, 1], [n.low, -1]]) {
        const r = radius >= 1 ? 1 : Math.tanh(Math.atanh(radius) + (side * grow) / 2);
        if (radius > 0 && r > 0) {
          path.moveTo(r, 0);
          path.arc(0, 0, r, 0, TURN);
        }
      }
      break;
    case "half":
      traceHalf(path, halfVector(n.angle, (n.offset ?? 0) - grow));
      break;
    case "ellipse":
      path.ellipse(n.x, n.y, Math.max(n.a + grow / 3, 0.002), Math.max(n.b + grow / 3, 0.002), ((n.angle ?? 0) * Math.PI) / 180, 0, TURN);
      break;
    case "lasso":
      n.points.forEach(([x, y], i) => (i ? path.lineTo(x, y) : path.moveTo(x, y)));
      path.closePath();
      break;
  }
}

// The side of a geodesic to which its vector points: the arc, and back along the rim.
export function traceHalf(path, vector) {
  const arc = geodesic(vector), [a, b] = arc.ends;
  traceArc(path, arc);
  path.arc(0, 0, 1, Math.atan2(b[1], b[0]), Math.atan2(a[1], a[0]), true);
  path.closePath();
}

export function traceArc(path, {x, y, radius, ends: [a, b]}) {
  path.moveTo(...a);
  if (!Number.isFinite(radius) || radius > 1e4) return path.lineTo(...b);
  const from = Math.atan2(a[1] - y, a[0] - x), to = Math.atan2(b[1] - y, b[0] - x);
  const sweep = ((to - from + 3 * Math.PI) % TURN) - Math.PI;  // the short way round
  path.arc(x, y, radius, from, to, sweep < 0);
}
