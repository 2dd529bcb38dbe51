"""Every kernel of the signal path against its plain twin and against NumPy; and where no cache can be written."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sepstream import kernels

ROOT = Path(__file__).resolve().parents[1]
RNG = np.random.default_rng(11)


def noise(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def spectra(*shape: int) -> np.ndarray:
    return (noise(*shape) + 1j * noise(*shape)).astype(np.complex64)


HOPS, CHANNELS, BUSES, BINS, BAND, LENGTH, HOP = 3, 2, 4, 33, 20, 64, 16
CASES = {  # arguments, and which of them are written
    "clean": ((np.float32([[1, np.nan, -2e6], [1e-20, -0.5, np.inf]]), 1e-15, 1e6), (0,)),
    "cut_frames": (
        (noise(2, 48), noise(2, 48), noise(64), np.zeros((3, 2, 64), np.float32), np.zeros((2, 48), np.float32)),
        (3, 4),
    ),
    "magnitude": ((spectra(HOPS, CHANNELS, BINS), 0.01, np.zeros((HOPS, BAND), np.float32)), (2,)),
    "apply_masks": (
        (
            spectra(HOPS, CHANNELS, BINS),
            np.abs(noise(HOPS, BUSES, BAND)),
            15,
            20,
            np.zeros((HOPS, BUSES, CHANNELS, BINS), np.complex64),
        ),
        (4,),
    ),
    "overlap_add": ((noise(HOPS, 5, LENGTH), noise(24), noise(5, 8), np.zeros((5, 48), np.float32)), (2, 3)),
    "ramp_gains": ((noise(3, 2, 40), np.float32([0, 1, 0.5]), np.float32([1, 1, 0]), 0.02), (0, 1)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_kernel_is_its_plain_twin(name: str) -> None:
    arguments, written = CASES[name]
    kernel = getattr(kernels, name)
    runs = []
    for function in (kernel, kernel.py_func):
        mine = [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]
        runs.append((function(*mine), [mine[i] for i in written]))
    assert runs[0][0] == runs[1][0]
    for compiled, plain in zip(runs[0][1], runs[1][1], strict=True):
        assert compiled.any()
        np.testing.assert_allclose(compiled, plain, rtol=1e-5, atol=1e-6)  # contracted multiply-adds round once less


def test_every_kernel_lets_go_of_the_interpreter() -> None:
    compiled = {name: k for name, k in vars(kernels).items() if hasattr(k, "py_func")}
    assert set(CASES) | {"run_program"} <= set(compiled)
    assert all(k.targetoptions.get("nogil") for k in compiled.values())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2e6, -2e6])
def test_a_sample_that_is_no_sound_is_found_and_silenced_wherever_it_is(bad: float) -> None:
    assert kernels.clean(np.zeros((3, 0), np.float32), 1e-15, 1e6) == 0
    for channel, sample in ((0, 0), (1, 7), (2, 9)):
        audio = noise(3, 10)
        wanted = audio.copy()
        audio[channel, sample], wanted[channel, sample] = bad, 0.0
        assert kernels.clean(audio, 1e-15, 1e6) == 1
        np.testing.assert_array_equal(audio, wanted)


def test_denormal_samples_are_silence_and_no_fault() -> None:
    audio = np.float32([[1e-39, -1e-42, 1e-16, 1e-14, 0.0]])
    assert kernels.clean(audio, 1e-15, 1e6) == 0
    np.testing.assert_array_equal(audio, np.float32([[0, 0, 0, 1e-14, 0]]))


@pytest.mark.parametrize("blocks", [1, 2, 7])
def test_frames_are_windows_on_the_signal_and_history_is_its_end(blocks: int) -> None:
    signal, window = noise(2, 48 + blocks * HOP), noise(LENGTH)
    frames, newest = np.zeros((blocks, 2, LENGTH), np.float32), np.zeros((2, 48), np.float32)
    kernels.cut_frames(signal[:, :48].copy(), signal[:, 48:].copy(), window, frames, newest)
    for h in range(blocks):
        np.testing.assert_array_equal(frames[h], signal[:, h * HOP : h * HOP + LENGTH] * window)
    np.testing.assert_array_equal(newest, signal[:, -48:])


def test_magnitude_is_the_root_mean_square_over_channels() -> None:
    z, out = spectra(HOPS, CHANNELS, BINS), np.zeros((HOPS, BAND), np.float32)
    kernels.magnitude(z, 0.25, out)
    np.testing.assert_allclose(out, 0.25 * np.sqrt(np.square(np.abs(z[:, :, :BAND])).mean(axis=1)), rtol=1e-5)


def test_bins_above_the_band_take_the_mean_mask_of_the_band_they_follow() -> None:
    z, masks = spectra(HOPS, CHANNELS, BINS), np.abs(noise(HOPS, BUSES, BAND))
    out = np.zeros((HOPS, BUSES, CHANNELS, BINS), np.complex64)
    kernels.apply_masks(z, masks, 15, 20, out)
    above = np.broadcast_to(masks[:, :, 15:20].mean(axis=2, keepdims=True), (HOPS, BUSES, BINS - BAND))
    full = np.concatenate([masks, above], axis=2)
    np.testing.assert_allclose(out, z[:, None] * full[:, :, None], rtol=1e-5)


def test_a_fader_walks_to_its_target_and_stays() -> None:
    audio, gain = np.ones((2, 2, 100), np.float32), np.float32([0, 1])
    kernels.ramp_gains(audio, gain, np.float32([1, 0.25]), 0.02)
    np.testing.assert_allclose(audio[0, 0], np.minimum(0.02 * np.arange(1, 101), 1), atol=1e-5)
    np.testing.assert_allclose(audio[1, 1], np.maximum(1 - 0.02 * np.arange(1, 101), 0.25), atol=1e-5)
    np.testing.assert_array_equal(audio[:, 0], audio[:, 1])
    np.testing.assert_array_equal(gain, np.float32([1, 0.25]))


def test_kernels_work_where_no_cache_can_be_written(tmp_path: Path) -> None:
    wall = tmp_path / "wall"
    wall.write_text("a file where a folder should be")
    code = (
        "import numpy as np; from sepstream import kernels as k;"
        "print(k.clean(np.zeros((1, 4), np.float32), 0.0, 1.0), k.clean.stats.cache_path is None)"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(wall), "HOME": str(wall), "PYTHONPATH": str(ROOT / "engine")}
    environment.pop("NUMBA_CACHE_DIR", None)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.split() == ["0", "True"], done.stderr
