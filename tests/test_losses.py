"""The losses against a float64 model written out in NumPy, and against the reference system where both mean the same."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sepstream.contract import GEOMETRIES, StftSpec
from sepstream.errors import DataError
from sepstream_training.losses import (
    Scene,
    Waves,
    class_log_masks,
    class_masks,
    make_scene,
    mask_loss,
    sdr_loss,
    si_sdr_each,
    si_sdr_loss,
    spectral_si_sdr_each,
    spectrogram_loss,
    total,
    waveform_loss,
    waveforms,
)
from sepstream_training.metrics import si_sdr
from sepstream_training.recipe import SHARE_TERMS, LossSpec, load_recipe

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


def test_without_magnitude_weights_every_bin_counts_the_same() -> None:
    leaves, logits = spectra(), random_logits()
    power, z = (np.abs(with_parents(leaves)) ** 2).sum(axis=1), logits.detach().numpy()
    wanted = 0.0
    for b, t, f in np.ndindex(B, T, F):
        for level in LEVELS:
            own = z[b, t, level, f]
            wanted += (np.log(np.exp(own).sum()) - own[np.argmax(power[b, t, level, f])]) / (B * T * F)
    got = mask_loss(class_log_masks(logits, LEVELS), scene(leaves), LEVELS, weighted=False)
    assert got.item() == pytest.approx(wanted, rel=1e-10)


def test_spectrogram_loss_is_the_truncated_phase_sensitive_one() -> None:
    """In mono as Erdogan et al. write it, with angles."""
    leaves = spectra()[:, :1]
    masks = class_masks(random_logits(), LEVELS)
    both, mix = with_parents(leaves)[:, 0], leaves.sum(axis=3)[:, 0, :, None]
    target = np.clip(np.abs(both) * np.cos(np.angle(both) - np.angle(mix)), 0, np.abs(mix))
    wanted = np.abs(np.abs(mix) * masks.detach().numpy() - target).mean()
    assert spectrogram_loss(masks, scene(leaves)).item() == pytest.approx(wanted, rel=1e-10)
    twice = spectrogram_loss(masks, scene(np.repeat(leaves, 2, axis=1)))  # the same on both channels is mono
    assert twice.item() == pytest.approx(wanted, rel=1e-10)


# ---- waveforms --------------------------------------------------------------------------------------------------------

SMALL = StftSpec(32, 16, 8)


def sound(samples: int = 160) -> NDArray[np.float64]:
    """(items, channels, leaves, samples); one leaf of one item is silent."""
    stems = np.random.default_rng(3).standard_normal((B, C, L, samples))
    stems[1, :, 4] = 0
    return stems


def scene_of(stems: NDArray[np.float64], spec: StftSpec) -> Scene:
    frames = np.lib.stride_tricks.sliding_window_view(stems, spec.analysis_samples, axis=-1)[..., :: spec.hop_samples, :]
    leaves = np.fft.rfft(frames * spec.windows().analysis * spec.magnitude_scale)
    return scene(leaves.transpose(0, 1, 3, 2, 4))


@pytest.mark.parametrize(
    "spec", [SMALL, StftSpec(32, 32, 16), StftSpec(32, 12, 8), StftSpec(24, 8, 8), GEOMETRIES["ultra"]], ids=str
)
def test_the_waves_of_a_signals_spectra_are_the_signal(spec: StftSpec) -> None:
    stems = sound(spec.analysis_samples + 9 * spec.hop_samples)
    masks = torch.ones(B, 10, K, spec.bins, dtype=torch.float64)
    heard, wanted = waveforms(masks, scene_of(stems, spec), Waves(spec))
    first = spec.analysis_samples - spec.synthesis_samples + spec.hop_samples
    inside = stems[..., first : first + 9 * spec.hop_samples]
    np.testing.assert_allclose(wanted[:, :, 2:], inside, atol=1e-12)
    np.testing.assert_allclose(wanted[:, :, 1], inside[:, :, 2:].sum(axis=2), atol=1e-12)
    np.testing.assert_allclose(heard, np.broadcast_to(inside.sum(axis=2, keepdims=True), heard.shape), atol=1e-12)


def overlap_add(spectra: NDArray[np.complex128], spec: StftSpec) -> NDArray[np.float64]:
    """(frames, bins) -> samples, frame after frame."""
    out = np.zeros(len(spectra) * spec.hop_samples + spec.analysis_samples)
    for n, frame in enumerate(spectra):
        start = n * spec.hop_samples + spec.analysis_samples - spec.synthesis_samples
        tail = np.fft.irfft(frame / spec.magnitude_scale, spec.analysis_samples)[-spec.synthesis_samples :]
        out[start : start + spec.synthesis_samples] += tail * spec.windows().synthesis
    first = spec.analysis_samples - spec.synthesis_samples + spec.hop_samples
    return out[first : first + (len(spectra) - 1) * spec.hop_samples]


def heard_and_wanted(masks: torch.Tensor, truth: Scene) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(items, classes, channels, samples) of masked and true spectra, in NumPy."""
    both = with_parents(truth.leaves.numpy())
    heard = masks.detach().numpy()[:, None] * both[:, :, :, :2].sum(axis=3, keepdims=True)
    return tuple(  # type: ignore[return-value]
        np.array([[[overlap_add(x[b, c, :, k], SMALL) for c in range(C)] for k in range(K)] for b in range(B)])
        for x in (heard, both)
    )


def waves_logits(truth: Scene) -> torch.Tensor:
    frames, bins = truth.mix.shape[1:]
    return torch.from_numpy(np.random.default_rng(4).standard_normal((B, frames, K, bins)) * 2).requires_grad_()


def test_waveform_loss_is_the_mean_distance_of_samples() -> None:
    truth = scene_of(sound(), SMALL)
    masks = class_masks(waves_logits(truth), LEVELS)
    heard, wanted = heard_and_wanted(masks, truth)
    assert waveform_loss(*waveforms(masks, truth, Waves(SMALL))).item() == pytest.approx(np.abs(heard - wanted).mean(), rel=1e-10)


def quietly(si_sdr_db: float, heard: NDArray[np.float64], wanted: NDArray[np.float64]) -> float:
    """Error over signal, each with 1e-8 of the source's power added: to the metric, what is said softly is said."""
    power = np.square(heard - heard.mean(axis=-1, keepdims=True)).sum()
    own = 1e-8 * np.square(wanted - wanted.mean(axis=-1, keepdims=True)).sum()
    signal = power / (1 + 10 ** (-si_sdr_db / 10))
    return float((power - signal + own) / (signal + own))


def test_silence_is_no_answer_to_a_source_that_sounds() -> None:
    """Of a silent estimate, neither error nor signal is left; the loss must not take that for perfection."""
    truth = scene_of(sound(), SMALL)
    masks = class_masks(waves_logits(truth), LEVELS).detach()
    loud = truth.stems.sum(dim=(1, 3)) > 1e-3 * truth.mix.sum(dim=(1, 2))[:, None]
    assert loud.any()
    for scale in (1e-7, 1e-12, 0.0):
        assert (spectral_si_sdr_each(scale * masks, truth)[loud] > -0.01).all()
        assert (si_sdr_each(*waveforms(scale * masks, truth, Waves(SMALL)))[loud] > -0.01).all()
    full, soft = (spectral_si_sdr_each(scale * masks, truth)[loud] for scale in (1.0, 0.1))
    torch.testing.assert_close(soft, full, atol=1e-3, rtol=0)


def test_si_sdr_loss_is_the_metric_and_silence_is_asked_for_silence() -> None:
    truth = scene_of(sound(), SMALL)
    masks = class_masks(waves_logits(truth), LEVELS)
    heard, wanted = heard_and_wanted(masks, truth)
    losses = []
    for b, k in np.ndindex(B, K):
        if wanted[b, k].any():
            losses.append(10 * np.log10(quietly(si_sdr(heard[b, k], wanted[b, k]), heard[b, k], wanted[b, k]) + 1e-3))
        else:
            centred = heard[b, k] - heard[b, k].mean(axis=-1, keepdims=True)
            loudest = max(np.square(w - w.mean(axis=-1, keepdims=True)).sum() for w in wanted[b])
            losses.append(10 * np.log10(np.square(centred).sum() / loudest + 1e-3))
    assert si_sdr_loss(*waveforms(masks, truth, Waves(SMALL))).item() == pytest.approx(np.mean(losses), rel=1e-9)


# ---- together ---------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_weighted_sum_of_its_terms() -> None:
    truth = scene_of(sound(), SMALL)
    logits, waves = waves_logits(truth), Waves(SMALL)
    weights = {"mask": 0.5, "spectrogram": 3.0, "waveform": 7.0, "si_sdr": 0.1, "sdr": 0.2, "spectral_si_sdr": 0.3}
    found = total(logits, truth, LEVELS, LossSpec(**weights), waves)
    assert found.keys() == {"loss", *weights}
    assert found["loss"].item() == pytest.approx(sum(weight * found[name].item() for name, weight in weights.items()))
    for name in weights:
        alone = total(logits, truth, LEVELS, LossSpec(**{"mask": 0.0, name: 2.0}), waves)
        assert alone["loss"].item() == pytest.approx(2 * found[name].item())
        assert alone.keys() == {"loss", "sdr", name}


def test_decisions_are_asked_of_the_disk_and_sound_of_what_is_heard() -> None:
    truth = scene_of(sound(), SMALL)
    heard, decided, waves = waves_logits(truth), -waves_logits(truth), Waves(SMALL)
    spec = LossSpec(mask=1.0, sdr=1.0, si_sdr=1.0)
    both = total(heard, truth, LEVELS, spec, waves, decided=decided)
    disk, sounds = (total(logits, truth, LEVELS, spec, waves) for logits in (decided, heard))
    assert both["mask"] == disk["mask"] != sounds["mask"]
    assert (both["sdr"], both["si_sdr"]) == (sounds["sdr"], sounds["si_sdr"])


@pytest.mark.parametrize("gain", [0.0, 1e-20, 1.0, 1e4])
@pytest.mark.parametrize("name", ["waveform", "si_sdr", "sdr", *(term for term in SHARE_TERMS if term != "kl")])
def test_every_term_learns_and_has_finite_gradients_from_silence_to_overload(name: str, gain: float) -> None:
    truth = scene_of(gain * sound(), SMALL)
    logits = waves_logits(truth)
    total(logits, truth, LEVELS, LossSpec(**{"mask": 0.0, name: 1.0}), Waves(SMALL))["loss"].backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert gain < 1 or logits.grad.ne(0).any()


@pytest.mark.parametrize("override", ["loss={mask: 0}", "loss.waveform=-1", "loss.magnitude_weights=3", "loss.masc=1"])
def test_a_loss_that_cannot_be_is_refused(override: str) -> None:
    with pytest.raises(DataError, match="loss"):
        load_recipe("tiny", [override])


def masked(masks: torch.Tensor, leaves: NDArray[np.complex128]) -> Iterator[tuple[Any, Any, float, float]]:
    """Of each item and class: the masked mixture, the class, its energy, and the mixture's."""
    both, mix = with_parents(leaves), leaves.sum(axis=3, keepdims=True)
    for b, k in np.ndindex(B, K):
        target = both[b, :, :, k]
        energies = [float((np.abs(signal) ** 2).sum()) for signal in (target, mix[b])]
        yield masks.detach().numpy()[b, None, :, k] * mix[b, :, :, 0], target, *energies


def test_sdr_loss_is_the_decibels_of_the_masked_mixture() -> None:
    leaves = spectra()
    masks = class_masks(random_logits(), LEVELS)
    wanted = []
    for estimate, target, own, heard in masked(masks, leaves):
        error = (np.abs(estimate - target) ** 2).sum()
        wanted.append(10 * np.log10(error / (own if own > 1e-4 * heard else heard) + 1e-3))
    assert sdr_loss(masks, scene(leaves)).item() == pytest.approx(np.mean(wanted), rel=1e-10)


def test_spectral_si_sdr_leaves_the_scale_to_the_listener() -> None:
    leaves = spectra()
    masks = class_masks(random_logits(), LEVELS)
    wanted = []
    for estimate, target, own, heard in masked(masks, leaves):
        nearest = (estimate * target.conj()).real.sum() / own * target if own else 0 * target
        error, signal = ((np.abs(each) ** 2).sum() for each in (estimate - nearest, nearest))
        ratio = (error + 1e-8 * own) / (signal + 1e-8 * own) if own > 1e-4 * heard else error / heard
        wanted.append(10 * np.log10(ratio + 1e-3))
    assert spectral_si_sdr_each(masks, scene(leaves)).mean().item() == pytest.approx(np.mean(wanted), rel=1e-10)


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


# ---- and against the reference system ---------------------------------------------------------------------------------


@pytest.mark.skipif(not ORACLE.exists(), reason="the reference arrays (shared/oracles) are not beside this checkout")
def test_mask_loss_is_seven_times_the_reference_systems() -> None:
    """It divides by all seven classes where we take the mean over bins; ties and silence go to index 0 in both."""
    arrays, theirs = np.load(ORACLE), reference_scene()
    logits = reference_logits()
    for weighted, name in ((True, "loss_mask"), (False, "loss_mask_noweights")):
        ours = mask_loss(class_log_masks(logits, LEVELS), theirs, LEVELS, weighted=weighted).item()
        assert ours == pytest.approx(7 * float(arrays[name]), rel=1e-5)
    weight = theirs.magnitude / theirs.magnitude.mean(dim=(1, 2), keepdim=True)
    np.testing.assert_allclose(weight, arrays["mag_weights"], rtol=1e-3, atol=1e-4)


@pytest.mark.skipif(not ORACLE.exists(), reason="the reference arrays (shared/oracles) are not beside this checkout")
def test_spectrogram_loss_takes_the_reference_systems_targets_with_magnitudes() -> None:
    """It compares a complex estimate with them (0.00976); of magnitudes, as the loss is written, these logits make 0.00643."""
    arrays, theirs = np.load(ORACLE), reference_scene()
    masks = class_masks(reference_logits(), LEVELS)
    wanted = np.abs(np.abs(arrays["stft"])[:, :, None] * masks.numpy() - arrays["psa_targets"].transpose(0, 1, 3, 2)).mean()
    assert wanted == pytest.approx(0.00643, abs=1e-5)
    assert spectrogram_loss(masks, theirs).item() == pytest.approx(wanted, rel=1e-4)


@pytest.mark.skipif(not ORACLE.exists(), reason="the reference arrays (shared/oracles) are not beside this checkout")
def test_waveforms_are_the_reference_systems() -> None:
    """In its own window (half a sample off ours); its padding at the start gives the first hop, too."""
    arrays = np.load(ORACLE)
    stft = StftSpec(512, 512, 256)
    heard, wanted = waveforms(class_masks(reference_logits(), LEVELS), reference_scene(), ReferenceWaves(stft))
    inside = slice(0, heard.shape[-1])
    np.testing.assert_allclose(wanted[:, 0, 2:], arrays["children"][..., inside], atol=1e-6)
    np.testing.assert_allclose(heard[:, 0], arrays["waveform_est"][..., inside], atol=1e-6)


class ReferenceWaves(Waves):
    """With the window that the reference system uses on both sides."""

    def __init__(self, stft: StftSpec) -> None:
        super().__init__(stft)
        self.window = torch.from_numpy(np.sin(np.pi * np.arange(512) / 512) * np.load(ORACLE)["window_sum"].astype(float))


def reference_scene() -> Scene:
    arrays = np.load(ORACLE)
    window = arrays["window"].astype(np.float64)
    padded = np.pad(arrays["children"], ((0, 0), (0, 0), (256, 256)), mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, 512, axis=-1)[:, :, ::256]
    children = np.fft.rfft(frames * window)  # (items, leaves, frames, bins)
    np.testing.assert_allclose(children.sum(axis=1), arrays["stft"], atol=1e-6)
    return make_scene(torch.from_numpy(children.transpose(0, 2, 1, 3)[:, None]), [[0, 1, 2], [3, 4]])


def reference_logits() -> torch.Tensor:
    arrays = np.load(ORACLE)
    return torch.from_numpy(np.concatenate([arrays["logits_parent"], arrays["logits_child"]], axis=3).transpose(0, 1, 3, 2))


# ---- magnitudes of sources --------------------------------------------------------------------------------------------


def magnitudes_of(leaves: NDArray[np.complex128]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(B, T, 1, F) of the mixture and (B, T, L, F) of the leaves, root mean squares over channels."""
    mix = np.sqrt((np.abs(leaves.sum(axis=3)) ** 2).mean(axis=1))
    return mix[:, :, None], np.sqrt((np.abs(leaves) ** 2).mean(axis=1))


def flat_scene(leaves: NDArray[np.complex128]) -> Scene:
    return make_scene(torch.from_numpy(leaves), [])


def random_masks(seed: int = 3) -> NDArray[np.float64]:
    return np.random.default_rng(seed).uniform(0, 1, (B, T, L, F))


def component_of(mask: NDArray[Any], mix: NDArray[Any], source: NDArray[Any], alpha: float, beta: float) -> float:
    """One item, one source, all (T, F): the three parts written out."""
    rest = mix - source
    spoilt, left = (np.square(mask * source - source).sum(), np.square(mask * rest).sum()) / np.square(mix).sum()
    unit, bent = (x / np.linalg.norm(x) if x.any() else x for x in (rest, mask * rest))
    return float((1 - alpha - beta) * spoilt + alpha * left + beta * np.square(bent - unit).sum())


@pytest.mark.parametrize("name", ["l1", "l2", "rmse", "ratio", "ratio squared", "component"])
def test_terms_of_magnitudes_are_what_they_say_in_float64(name: str) -> None:
    leaves, masks = spectra(), random_masks()
    mix, sources = magnitudes_of(leaves)
    wanted = np.zeros((B, L))
    for b, k in np.ndindex(B, L):
        x, s, m = mix[b, :, 0], sources[b, :, k], masks[b, :, k]
        apart = np.abs(m * x - s)
        wanted[b, k] = {
            "l1": lambda x=x, apart=apart: apart.mean() / x.mean(),
            "l2": lambda x=x, apart=apart: (apart**2).mean() / (x**2).mean(),
            "rmse": lambda x=x, apart=apart: np.sqrt((apart**2).mean() / (x**2).mean() + 1e-6),
            "ratio": lambda x=x, m=m, s=s: np.abs(m - np.minimum(s / x, 1)).mean(),
            "ratio squared": lambda x=x, m=m, s=s: (np.abs(m - np.minimum(s / x, 1)) ** 2).mean(),
            "component": lambda x=x, m=m, s=s: component_of(m, x, s, 0.3, 0.5),
        }[name]()
    key, power = name.split(maxsplit=1)[0], 2 if "squared" in name else 1
    spec = LossSpec(mask=0, ratio_power=power, alpha=0.3, beta=0.5, **{key: 2.0})
    both = total(torch.from_numpy(masks), flat_scene(leaves), [], spec, Waves(GEOMETRIES["live"]))
    assert both[key].item() == pytest.approx(wanted.mean(), rel=1e-9)
    assert both["loss"].item() == pytest.approx(2 * wanted.mean(), rel=1e-9)


def test_terms_of_magnitudes_do_not_depend_on_level_and_survive_silence() -> None:
    spec = LossSpec(mask=0, l1=1, l2=1, rmse=1, ratio=1, component=1)
    waves, leaves = Waves(GEOMETRIES["live"]), spectra()
    masks = torch.from_numpy(random_masks()).requires_grad_()
    loud, soft = (total(masks, flat_scene(level * leaves), [], spec, waves)["loss"] for level in (1.0, 1e-3))
    assert soft.item() == pytest.approx(loud.item(), rel=1e-6)
    total(masks, flat_scene(0 * leaves), [], spec, waves)["loss"].backward()
    assert masks.grad is not None and masks.grad.isfinite().all()


def test_the_published_component_loss_would_have_left_the_source_no_weight() -> None:
    with pytest.raises(DataError, match=r"loss.alpha, loss.beta' is \(0.2, 0.8\); expected 0 or more, together below 1"):
        LossSpec(component=1, alpha=0.2, beta=0.8)


@pytest.mark.parametrize("name", ["l2", "si_sdr"])
def test_the_best_permutation_is_the_best_of_all(name: str) -> None:
    """Against all 120 orders of the stems, each as a scene of its own, item by item."""
    leaves, masks = spectra(), random_masks()
    stft = StftSpec(2 * (F - 1), 2 * (F - 1), F - 1)
    weights = {name: 1.0}
    plain, best = LossSpec(mask=0, **weights), LossSpec(mask=0, **weights, best_permutation=True)
    waves = Waves(stft)
    wanted = []
    for b in range(B):
        item = torch.from_numpy(masks[b : b + 1])
        orders = (flat_scene(leaves[b : b + 1, :, :, list(order)]) for order in itertools.permutations(range(L)))
        wanted.append(min(total(item, scene, [], plain, waves)[name].item() for scene in orders))
    got = total(torch.from_numpy(masks), flat_scene(leaves), [], best, waves)
    assert got[name].item() == pytest.approx(np.mean(wanted), rel=1e-9)
    shuffled = total(torch.from_numpy(masks), flat_scene(leaves[:, :, :, [3, 0, 4, 1, 2]]), [], best, waves)
    assert shuffled[name].item() == pytest.approx(got[name].item(), rel=1e-9)


def test_a_term_of_the_networks_own_counts_with_its_weight() -> None:
    spec = LossSpec(mask=0, l1=1, kl=0.5)
    arguments = (torch.from_numpy(random_masks()), flat_scene(spectra()), [], spec, Waves(GEOMETRIES["live"]))
    alone, both = total(*arguments), total(*arguments, own={"kl": torch.tensor(3.0)})
    assert both["loss"].item() == pytest.approx(alone["loss"].item() + 1.5)
