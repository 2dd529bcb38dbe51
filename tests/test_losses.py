"""The losses against a float64 model written out in NumPy, and against the reference system where both mean the same."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sepstream_training.losses import Scene, class_log_masks, class_masks, make_scene, mask_loss, sdr_loss

ORACLE = Path(__file__).resolve().parents[2] / "shared" / "oracles" / "hyper_oracle_audio.npz"

FAMILIES = [[0, 1], [2, 3, 4]]
LEVELS = [slice(0, 2), slice(2, 7)]
B, C, T, L, F, K = 3, 2, 5, 5, 6, 7

torch.set_num_threads(1)


def spectra(seed: int = 1) -> NDArray[np.complex128]:
    """(B, C, T, L, F) leaves: loud, soft, silent (leaf 4 of item 1), and far too soft to matter (leaf 3 of item 2)."""
    rng = np.random.default_rng(seed)
    leaves = rng.standard_normal((B, C, T, L, F)) + 1j * rng.standard_normal((B, C, T, L, F))
    leaves *= rng.uniform(0.1, 1, (B, 1, T, L, F))
    leaves[1, :, :, 4] = 0
    leaves[2, :, :, 3] *= 1e-3
    return leaves


def with_parents(leaves: NDArray[np.complex128]) -> NDArray[np.complex128]:
    return np.concatenate([np.stack([leaves[:, :, :, m].sum(axis=3) for m in FAMILIES], axis=3), leaves], axis=3)


def scene(leaves: NDArray[np.complex128]) -> Scene:
    return make_scene(torch.from_numpy(leaves), FAMILIES)


def random_logits(seed: int = 2) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((B, T, K, F)) * 3).requires_grad_()


def test_scene_holds_power_cross_power_and_what_the_network_sees() -> None:
    leaves = spectra()
    both, mix = with_parents(leaves), leaves.sum(axis=3)
    ours = scene(leaves)
    np.testing.assert_allclose(ours.mix, (np.abs(mix) ** 2).sum(axis=1), rtol=1e-12)
    np.testing.assert_allclose(ours.stems, (np.abs(both) ** 2).sum(axis=1), rtol=1e-12)
    np.testing.assert_allclose(ours.cross, (mix[:, :, :, None].conj() * both).real.sum(axis=1), atol=1e-12)
    np.testing.assert_allclose(ours.magnitude, np.sqrt((np.abs(mix) ** 2).mean(axis=1)), rtol=1e-12)


def test_class_masks_are_a_softmax_per_level() -> None:
    logits = random_logits()
    masks = class_masks(logits, LEVELS).detach().numpy()
    for level in LEVELS:
        raised = np.exp(logits.detach().numpy()[:, :, level])
        np.testing.assert_allclose(masks[:, :, level], raised / raised.sum(axis=2, keepdims=True), rtol=1e-12)


def test_mask_loss_is_the_weighted_cross_entropy_to_the_dominant_class() -> None:
    leaves, logits = spectra(), random_logits()
    power = (np.abs(with_parents(leaves)) ** 2).sum(axis=1)
    magnitude = np.sqrt((np.abs(leaves.sum(axis=3)) ** 2).mean(axis=1))
    wanted = 0.0
    for b, t, f in np.ndindex(B, T, F):
        for level in LEVELS:
            z = logits.detach().numpy()[b, t, level, f]
            entropy = np.log(np.exp(z).sum()) - z[np.argmax(power[b, t, level, f])]
            wanted += magnitude[b, t, f] / magnitude[b].mean() * entropy / (B * T * F)
    assert mask_loss(class_log_masks(logits, LEVELS), scene(leaves), LEVELS).item() == pytest.approx(wanted, rel=1e-10)


def test_sdr_loss_is_the_decibels_of_the_masked_mixture() -> None:
    leaves = spectra()
    masks = class_masks(random_logits(), LEVELS)
    both, mix = with_parents(leaves), leaves.sum(axis=3, keepdims=True)
    wanted = []
    for b, k in np.ndindex(B, K):
        estimate = masks.detach().numpy()[b, None, :, k] * mix[b, :, :, 0]
        error = (np.abs(estimate - both[b, :, :, k]) ** 2).sum()
        own, heard = (np.abs(both[b, :, :, k]) ** 2).sum(), (np.abs(mix[b]) ** 2).sum()
        wanted.append(10 * np.log10(error / (own if own > 1e-4 * heard else heard) + 1e-3))
    assert sdr_loss(masks, scene(leaves)).item() == pytest.approx(np.mean(wanted), rel=1e-10)


def test_perfect_masks_of_separate_sources_reach_the_floor_of_30_db() -> None:
    leaves = spectra() * (np.arange(L)[:, None] == np.arange(F) % L)  # every bin belongs to one leaf
    both, mix = with_parents(leaves), leaves.sum(axis=3, keepdims=True)
    masks = torch.from_numpy(np.abs(both[:, 0]) > 0).double()
    assert (both == masks.numpy()[:, None] * mix).all()
    assert sdr_loss(masks, scene(leaves)).item() == pytest.approx(-30, abs=1e-6)


def test_losses_do_not_care_how_loud_the_scene_is() -> None:
    logits = random_logits()
    soft, loud = scene(1e-2 * spectra()), scene(1e2 * spectra())
    assert mask_loss(class_log_masks(logits, LEVELS), soft, LEVELS).item() == pytest.approx(
        mask_loss(class_log_masks(logits, LEVELS), loud, LEVELS).item(), rel=1e-9
    )
    masks = class_masks(logits, LEVELS)
    assert sdr_loss(masks, soft).item() == pytest.approx(sdr_loss(masks, loud).item(), rel=1e-9)


@pytest.mark.parametrize("gain", [0.0, 1e-20, 1.0, 1e6])
def test_gradients_are_finite_from_silence_to_overload(gain: float) -> None:
    logits, quiet = random_logits(), scene(gain * spectra())
    (mask_loss(class_log_masks(logits, LEVELS), quiet, LEVELS) + sdr_loss(class_masks(logits, LEVELS), quiet)).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.skipif(not ORACLE.exists(), reason="the reference arrays (shared/oracles) are not beside this checkout")
def test_mask_loss_is_seven_times_the_reference_systems() -> None:
    """It divides by all seven classes where we take the mean over bins; ties and silence go to index 0 in both."""
    arrays = np.load(ORACLE)
    window = arrays["window"].astype(np.float64)
    padded = np.pad(arrays["children"], ((0, 0), (0, 0), (256, 256)), mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, 512, axis=-1)[:, :, ::256]
    children = np.fft.rfft(frames * window)  # (items, leaves, frames, bins)
    np.testing.assert_allclose(children.sum(axis=1), arrays["stft"], atol=1e-6)
    theirs = make_scene(torch.from_numpy(children.transpose(0, 2, 1, 3)[:, None]), [[0, 1, 2], [3, 4]])
    logits = torch.from_numpy(np.concatenate([arrays["logits_parent"], arrays["logits_child"]], axis=3).transpose(0, 1, 3, 2))
    assert mask_loss(class_log_masks(logits, LEVELS), theirs, LEVELS).item() == pytest.approx(
        7 * float(arrays["loss_mask"]), rel=1e-5
    )
    weight = theirs.magnitude / theirs.magnitude.mean(dim=(1, 2), keepdim=True)
    np.testing.assert_allclose(weight, arrays["mag_weights"], rtol=1e-3, atol=1e-4)
