"""SI-SDR: the definition, its invariances, which pairs count, and two other implementations of it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sepstream_training.metrics import reference_means, si_sdr, si_sdr_improvement

ORACLE = Path(__file__).resolve().parents[2] / "shared" / "oracles" / "hyper_oracle_audio.npz"


def noise(seed: int, *shape: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal(shape)


@given(ratio_db=st.floats(-40, 60))
def test_the_decibels_are_those_of_signal_against_orthogonal_error(ratio_db: float) -> None:
    target, error = noise(1, 4000), noise(2, 4000)
    target -= target.mean()
    error -= error.mean()
    error -= (error @ target) / (target @ target) * target
    error *= np.linalg.norm(target) / np.linalg.norm(error) * 10 ** (-ratio_db / 20)
    assert si_sdr(target + error, target) == pytest.approx(ratio_db, abs=1e-6)


@given(gain=st.floats(1e-3, 1e3), sign=st.sampled_from([-1, 1]), offset=st.floats(-10, 10))
def test_gain_polarity_and_offset_of_the_estimate_change_nothing(gain: float, sign: int, offset: float) -> None:
    target, estimate = noise(1, 1000), noise(1, 1000) + noise(2, 1000)
    assert si_sdr(sign * gain * estimate + offset, target) == pytest.approx(si_sdr(estimate, target), abs=1e-6)


def test_pairs_that_do_not_count_are_nan_and_a_silent_estimate_is_not_one_of_them() -> None:
    target, silence = noise(1, 1000), np.zeros(1000)
    assert np.isnan(si_sdr(target, silence))
    assert np.isnan(si_sdr(target, 1e-8 * target / np.linalg.norm(target)))
    assert np.isnan(si_sdr(noise(2, 1000), target, mixture=target))
    assert np.isnan(si_sdr_improvement(noise(2, 1000), target, target))
    assert np.isfinite(si_sdr(noise(2, 1000), target))
    assert si_sdr(silence, target) == -np.inf
    assert si_sdr(target, target) > 200


def test_channels_are_one_long_signal() -> None:
    target, estimate = noise(1, 2, 500), noise(2, 2, 500)
    target -= target.mean(axis=1, keepdims=True)
    estimate -= estimate.mean(axis=1, keepdims=True)
    assert si_sdr(estimate, target) == pytest.approx(si_sdr(estimate.ravel(), target.ravel()), abs=1e-9)
    assert si_sdr(np.stack([estimate[0]] * 2), np.stack([target[0]] * 2)) == pytest.approx(si_sdr(estimate[0], target[0]))


def test_improvement_is_the_difference_to_the_mixture() -> None:
    target, other = noise(1, 1000), noise(2, 1000)
    mixture = target + other
    gain = si_sdr_improvement(target + 0.1 * other, target, mixture)
    assert gain == pytest.approx(20, abs=1.0)
    assert si_sdr_improvement(mixture, target, mixture) == 0.0


def test_torchmetrics_agrees() -> None:
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("torchmetrics.functional.audio")
    target, estimate = noise(1, 8, 3000) + 0.3, noise(2, 8, 3000) + noise(1, 8, 3000)
    theirs = functional.scale_invariant_signal_distortion_ratio(
        torch.from_numpy(estimate), torch.from_numpy(target), zero_mean=True
    )
    np.testing.assert_allclose([si_sdr(e, t) for e, t in zip(estimate, target, strict=True)], theirs.numpy(), atol=1e-9)


@pytest.mark.skipif(not ORACLE.exists(), reason="the reference arrays (shared/oracles) are not beside this checkout")
def test_the_reference_system_agrees() -> None:
    arrays = np.load(ORACLE)
    targets, mixtures = np.concatenate([arrays["parents"], arrays["children"]], axis=1), arrays["mix"]
    for estimates, wanted in ((arrays["waveform_est"], "si_sdr"), (np.repeat(mixtures[:, None], 7, axis=1), "si_sdr_noisy")):
        ours = [
            [si_sdr(e, t, mixture) for e, t in zip(item, target, strict=True)]
            for item, target, mixture in zip(estimates, targets, mixtures, strict=True)
        ]
        theirs = np.where(np.isnan(arrays["valid"]), np.nan, arrays[wanted])  # its float32 is good for 2e-6
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_the_means_of_the_reference_go_over_sources_and_then_over_files() -> None:
    """A file with one source weighs as much as one with three; a dropped pair weighs nothing, in its own file only."""
    nan = float("nan")
    files = [
        {"a": (9.0, 0.0), "b": (6.0, -3.0), "c": (3.0, -6.0)},
        {"a": (1.0, 2.0), "b": (nan, nan), "c": (nan, nan)},
        {"a": (nan, nan), "b": (nan, nan), "c": (nan, nan)},
    ]
    means = reference_means(files)
    assert means == {
        "est_a": 5.0, "est_b": 6.0, "est_c": 3.0, "noisy_a": 1.0, "noisy_b": -3.0, "noisy_c": -6.0, "global_avg": 3.5
    }  # fmt: skip
    assert reference_means(files[2:])["global_avg"] is None
    assert reference_means([]) == {"global_avg": None}
    assert reference_means([{"a": (-np.inf, 1.0)}, {"a": (2.0, 1.0)}])["est_a"] == 2.0  # a silent estimate is 0/0 there


@pytest.mark.skipif(not ORACLE.exists(), reason="the reference arrays (shared/oracles) are not beside this checkout")
def test_the_means_of_the_reference_systems_own_figures() -> None:
    arrays = np.load(ORACLE)
    targets, mixtures = np.concatenate([arrays["parents"], arrays["children"]], axis=1), arrays["mix"]
    files = [
        {str(k): (si_sdr(item[k], target[k], mixture), si_sdr(mixture, target[k], mixture)) for k in range(7)}
        for item, target, mixture in zip(arrays["waveform_est"], targets, mixtures, strict=True)
    ]
    theirs = np.where(np.isnan(arrays["valid"]), np.nan, arrays["si_sdr"])
    means = reference_means(files)
    assert means["global_avg"] == pytest.approx(np.mean([np.nanmean(row) for row in theirs]), abs=1e-5)
    assert means["est_5"] == pytest.approx(np.nanmean(theirs[:, 5]), abs=1e-5)


def test_metrics_load_no_torch() -> None:
    code = "import sepstream_training.metrics, sys; print('torch' in sys.modules)"
    path = str(Path(__file__).resolve().parents[1] / "training")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": path}, check=True)
    assert done.stdout.strip() == "False"
