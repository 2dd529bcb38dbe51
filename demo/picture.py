"""Draw demo/picture.png: the mixture, and each stem that sep-render made of it beside the one that went in.

make demo && pip install matplotlib && python demo/picture.py
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import soundfile
from numpy.typing import NDArray

HERE = Path(__file__).parent
STEMS = {"male": "#4fb3bf", "female": "#e86a92", "bass": "#7e57c2", "drums": "#d9534f", "guitar": "#5cb85c"}
TOP_HZ, FLOOR_DB, WINDOW = 8000, -75, 2048


def read(path: Path) -> tuple[NDArray[np.float64], int]:
    audio, rate_hz = soundfile.read(path)
    return audio.T, rate_hz


def levels(audio: NDArray[np.float64]) -> NDArray[np.float64]:
    """(channels, samples) -> (bins, frames) in dB below full scale, channels averaged."""
    frames = np.lib.stride_tricks.sliding_window_view(audio, WINDOW, axis=1)[:, ::1024] * np.hanning(WINDOW)
    power = np.square(np.abs(np.fft.rfft(frames)) / (WINDOW / 4)).mean(axis=0)
    return 10 * np.log10(power.T + 1e-12)


def si_sdr_db(estimate: NDArray[np.float64], target: NDArray[np.float64]) -> float:
    heard = (estimate * target).sum() / np.square(target).sum() * target
    return float(10 * np.log10(np.square(heard).sum() / np.square(estimate - heard).sum()))


def draw(axis: plt.Axes, audio: NDArray[np.float64], rate_hz: int, title: str, colour: str) -> None:
    ramp = matplotlib.colors.LinearSegmentedColormap.from_list("ramp", ["#111318", colour, "#ffffff"])
    bins = int(TOP_HZ * WINDOW / rate_hz)
    extent = (0, audio.shape[1] / rate_hz, 0, TOP_HZ / 1000)
    axis.imshow(levels(audio)[:bins], origin="lower", aspect="auto", cmap=ramp, vmin=FLOOR_DB, vmax=-15, extent=extent)
    axis.set_title(title, color="#e8e8e8", fontsize=9, loc="left", pad=3)
    axis.tick_params(colors="#8a8f98", labelsize=7)
    for spine in axis.spines.values():
        spine.set_visible(False)


def main() -> None:
    mixture, rate_hz = read(HERE / "mixture.flac")
    figure, axes = plt.subplots(6, 2, figsize=(11, 10.5), facecolor="#111318", sharex=True, sharey=True)
    draw(axes[0, 0], mixture, rate_hz, "in: the mixture", "#9aa4b2")
    axes[0, 1].axis("off")
    axes[0, 1].text(
        0, 0.3, "left: what sepstream heard in it\nright: what went in", color="#8a8f98", transform=axes[0, 1].transAxes
    )
    for row, (name, colour) in enumerate(STEMS.items(), 1):
        heard, target = read(HERE / "stems" / "mixture" / f"{name}.wav")[0], read(HERE / f"{name}.flac")[0]
        gain_db = si_sdr_db(heard, target) - si_sdr_db(mixture, target)
        draw(axes[row, 0], heard, rate_hz, f"out: {name}, {gain_db:+.1f} dB SI-SDR", colour)
        draw(axes[row, 1], target, rate_hz, f"{name}, as it was", colour)
    figure.supxlabel("seconds", color="#8a8f98", fontsize=8)
    figure.supylabel("kHz", color="#8a8f98", fontsize=8)
    figure.tight_layout()
    figure.savefig(HERE / "picture.png", dpi=72)


if __name__ == "__main__":
    main()
