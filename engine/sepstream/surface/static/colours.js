// Colours of what is drawn. Pure.

const PALETTE = ["#e8a33d", "#3d8be8", "#5cb85c", "#e86a92", "#4fb3bf", "#b388ff", "#d9534f", "#c0ca33"];
export const RESIDUAL = "#9aa3b2";

export function rgb(hex) {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

// Of a bus: its class's, if it takes one class and nothing else; else one of its own.
export function busColour(place, name, select, classes) {
  if (name === "residual") return RESIDUAL;
  const taken = classes.find((each) => each.name === (select ?? "").trim());
  return taken?.colour ?? PALETTE[place % PALETTE.length];
}

// Low frequencies red, high ones violet, an octave always as far. -> [[r, g, b], ...] by bin
export function frequencyColours(bins, binHz) {
  const low = Math.log2(60), high = Math.log2(Math.max(bins * binHz, 120));
  return Array.from({length: bins}, (_, bin) => {
    const share = (Math.log2(Math.max(bin * binHz, 60)) - low) / (high - low);
    return fromHue(share * 285, 0.62);
  });
}

// 0 unsure, dim blue; 1 sure, warm white.
export function certaintyColours() {
  const stops = [[45, 62, 120], [49, 130, 189], [80, 190, 170], [240, 190, 90], [255, 244, 220]];
  return Array.from({length: 256}, (_, i) => {
    const place = (i / 255) * (stops.length - 1), at = Math.min(Math.floor(place), stops.length - 2), share = place - at;
    return stops[at].map((value, channel) => value + (stops[at + 1][channel] - value) * share);
  });
}

function fromHue(hue, lightness) {
  const chroma = 1 - Math.abs(2 * lightness - 1), wave = (n) => {
    const k = (n + hue / 30) % 12;
    return 255 * (lightness - (chroma / 2) * Math.max(-1, Math.min(k - 3, 9 - k, 1)));
  };
  return [wave(0), wave(8), wave(4)];
}

// Of a spectrogram: black, blue, amber, white. -> Uint32 of ABGR by byte
export const HEAT = new Uint32Array(256).map((_, i) => {
  const t = i / 255, r = 255 * Math.min(1, Math.max(0, 1.9 * t - 0.45)), g = 255 * Math.min(1, Math.max(0, 1.5 * t - 0.4) ** 1.2);
  const b = 255 * Math.min(1, 0.9 * Math.sin(Math.PI * Math.min(t * 1.15, 1)) * 0.75 + Math.max(0, 3 * t - 2));
  return (255 << 24) | (b << 16) | (g << 8) | r;
});
