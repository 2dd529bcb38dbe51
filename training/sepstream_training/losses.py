"""What the networks are asked for: class decisions per bin (mask), spectra (spectrogram), and sources as they will be heard.

Every loss is a scalar of logits or masks (B, T, K, F) and the ``Scene`` they should explain, K classes in the
order of the taxonomy; ``total`` weighs them as a recipe says. Facts on the reference losses: hyper-unmix, arXiv 2212.05008.
"""

import itertools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from sepstream.contract import StftSpec

from .recipe import WINDOW_TERMS, LossSpec

TINY = 1e-8
SILENT = 1e-4  # -40 dB: a class below this share of the mixture's power is asked for silence
FLOOR = 1e-3  # -30 dB: better than this is good enough
QUIET = 1e-8  # -80 dB: an answer so far below its source is silence, and silence is at 0 dB, whatever the scale
ROOT = 1e-6  # -60 dB


class Scene(NamedTuple):
    """What the losses need of a mixture and its stems; powers are summed over channels, for a mask acts on all alike."""

    magnitude: Tensor  # (B, T, F) of the mixture, root mean square over channels: what the network sees
    mix: Tensor  # (B, T, F) power of the mixture
    stems: Tensor  # (B, T, K, F) power of each class
    cross: Tensor  # (B, T, K, F) real part of conj(mixture) * class
    leaves: Tensor  # (B, C, T, leaves, F) complex spectra
    families: list[list[int]]  # the leaves of each parent; empty where classes are flat
    kept: list[int] | None = None  # the leaves that are classes, where not all are

    def until(self, frame: int) -> "Scene":
        """Without the frames from ``frame`` on."""
        magnitude, mix, stems, cross = (each[:, :frame] for each in (self.magnitude, self.mix, self.stems, self.cross))
        return Scene(magnitude, mix, stems, cross, self.leaves[:, :, :frame], self.families, self.kept)

    def turned(self, turn: int) -> "Scene":
        """With class k + ``turn`` in the place of class k; classes are flat."""
        assert not self.families and not self.kept
        stems, cross = (each.roll(-turn, dims=2) for each in (self.stems, self.cross))
        return self._replace(stems=stems, cross=cross, leaves=self.leaves.roll(-turn, dims=3))


class Waves:
    """(..., T, F) complex spectra of frames one hop apart -> (..., samples), as the engine will synthesize them.

    Only samples that every frame over them is known of, so that the spectra of a signal give that signal (T - 1 hops of it,
    from sample analysis - synthesis + hop of the first frame on); bins above F are silent.
    """

    def __init__(self, stft: StftSpec) -> None:
        self.stft = stft
        self.window = torch.tensor(stft.windows().synthesis / stft.magnitude_scale)

    def __call__(self, spectra: Tensor) -> Tensor:
        size, tail, hop = self.stft.analysis_samples, self.stft.synthesis_samples, self.stft.hop_samples
        frames = torch.fft.irfft(spectra, size)[..., size - tail :]
        frames = frames * self.window.to(frames)
        late = torch.nn.functional.pad(frames[..., :-1, hop:], (0, 2 * hop - tail))
        whole: Tensor = frames[..., 1:, :hop] + late
        return whole.flatten(-2)


def make_scene(leaves: Tensor, families: list[list[int]], kept: list[int] | None = None) -> Scene:
    """(B, C, T, leaves, F) complex spectra -> Scene; parents, the sums of their ``families``, come first. Or the leaves that
    are ``kept`` are the classes."""
    mix = leaves.sum(dim=3)
    power = _power(mix).sum(dim=1)
    leaf_cross = (mix.real[:, :, :, None] * leaves.real + mix.imag[:, :, :, None] * leaves.imag).sum(dim=1)
    stems = _power(classes_of(leaves, families, kept, 3)).sum(dim=1)
    cross = classes_of(leaf_cross, families, kept, 2)
    return Scene((power / leaves.shape[1]).sqrt(), power, stems, cross, leaves, families, kept)


def classes_of(leaves: Tensor, families: list[list[int]], kept: list[int] | None, dim: int) -> Tensor:
    """All classes along ``dim``: the sum of each family's leaves, then the leaves themselves; or those that are ``kept``."""
    if kept:
        return leaves[(slice(None),) * dim + (kept,)]
    sums = [leaves[(slice(None),) * dim + (members,)].sum(dim=dim, keepdim=True) for members in families]
    return torch.cat([*sums, leaves], dim=dim)


def total(
    logits: Tensor,
    scene: Scene,
    levels: list[slice],
    spec: LossSpec,
    waves: Waves,
    *,
    decided: Tensor | None = None,
    own: Mapping[str, Tensor] = MappingProxyType({}),
) -> dict[str, Tensor]:
    """``loss``, the weighted sum of the terms of ``spec``, and the terms themselves; ``sdr`` always, for it compares runs.

    The mask term asks for decisions: of the logits ``decided``, where those that are heard hold more than decisions. It needs
    ``levels``; without any, masks are independent, and ``logits`` are these. ``own`` are the network's own terms; of those
    that the recipe gives no weight, nothing is said.
    """
    log_masks = class_log_masks(logits, levels) if levels else None
    masks = logits if log_masks is None else log_masks.exp()
    heard = heard_waves(masks, scene, waves) if spec.needs_waveforms else None
    each = _best(masks, heard, scene, spec, waves) if spec.best_permutation else each_source(masks, heard, scene, spec, waves)
    terms = {name: values.mean() for name, values in each.items()}
    if spec.mask and log_masks is not None:
        log_masks = log_masks if decided is None else class_log_masks(decided, levels)
        terms["mask"] = mask_loss(log_masks, scene, levels, weighted=spec.magnitude_weights)
    terms |= {name: value for name, value in own.items() if getattr(spec, name)}
    loss = torch.stack([getattr(spec, name) * term for name, term in terms.items()]).sum()
    return {"loss": loss, **terms}


def each_source(masks: Tensor, heard: Tensor | None, scene: Scene, spec: LossSpec, waves: Waves) -> dict[str, Tensor]:
    """The terms of ``spec`` that compare sources, before any mean: (B, K), and ``sdr`` whatever its weight."""
    terms = {"sdr": sdr_each(masks, scene)}
    found: dict[str, Callable[[], Tensor]] = {
        "spectral_si_sdr": lambda: spectral_si_sdr_each(masks, scene),
        "spectrogram": lambda: spectrogram_each(masks, scene),
        "l1": lambda: l1_each(masks, scene),
        "l2": lambda: l2_each(masks, scene),
        "rmse": lambda: rmse_each(masks, scene),
        "ratio": lambda: ratio_each(masks, scene, spec.ratio_power),
        "component": lambda: component_each(masks, scene, spec.alpha, spec.beta),
    }
    terms |= {name: term() for name, term in found.items() if getattr(spec, name)}
    if heard is not None:
        wanted = wanted_waves(scene, waves)
        if spec.waveform:
            terms["waveform"] = (heard - wanted).abs().mean(dim=(1, 3))
        if spec.si_sdr:
            terms["si_sdr"] = si_sdr_each(heard, wanted)
    return terms


def _best(masks: Tensor, heard: Tensor | None, scene: Scene, spec: LossSpec, waves: Waves) -> dict[str, Tensor]:
    """``each_source`` for the assignment of targets to masks that makes the weighted sum of each item least; classes are flat.

    Yu, Kolbaek, Tan, Jensen 2017 (Permutation invariant training, arXiv 1607.00325). Targets in turn meet every mask.
    """
    count = masks.shape[2]
    turns = [each_source(masks, heard, scene.turned(turn), spec, waves) for turn in range(count)]  # (B, K): target k + turn
    weighed = torch.stack([torch.stack([getattr(spec, name) * term for name, term in turn.items()]).sum(0) for turn in turns], 2)
    orders = torch.tensor(list(itertools.permutations(range(count))), device=masks.device)
    rows = torch.arange(count, device=masks.device)
    turn_of = (orders - rows) % count  # (K!, K)
    best = turn_of[weighed.detach()[:, rows, turn_of].sum(dim=2).argmin(dim=1)]  # (B, K)
    return {name: torch.stack([turn[name] for turn in turns], 2).gather(2, best[:, :, None])[:, :, 0] for name in turns[0]}


def total_of_spectra(
    answer: Tensor,
    wanted: Tensor,
    mix: Tensor,
    spec: LossSpec,
    waves: Waves,
    *,
    gain: float,
    phases: bool,
    window_samples: int = 0,
) -> dict[str, Tensor]:
    """As ``total``, for (B, C, T, targets, F) spectra against those that were asked of ``mix`` (B, C, T, F).

    Terms of spectra are of real and imaginary parts, or of magnitudes without ``phases``, times ``gain``, the network's own;
    those of windows are of ``window_samples``, or of all at once.
    """
    terms = {"sdr": spectra_sdr_loss(answer, wanted, mix)}
    got, ideal = (gain * (torch.view_as_real(each) if phases else _magnitude(each)) for each in (answer, wanted))
    if spec.spectra_l1:
        terms["spectra_l1"] = (got - ideal).abs().mean()
    if spec.spectra_mse:
        terms["spectra_mse"] = (got - ideal).square().mean()
    if spec.needs_waveforms:
        heard, meant = (waves(each.transpose(2, 3)) for each in (answer, wanted))  # (B, C, targets, samples)
        if spec.waveform:
            terms["waveform"] = waveform_loss(heard, meant)
        if spec.waveform_mse:
            terms["waveform_mse"] = (heard - meant).square().mean()
        if spec.si_sdr:
            terms["si_sdr"] = si_sdr_loss(heard, meant)
        if spec.compares_windows:
            samples = window_samples or heard.shape[-1]
            every = window_losses(_pieces(heard, samples), _pieces(meant, samples))
            terms |= {name: every[name] for name in WINDOW_TERMS if getattr(spec, name)}
    loss = torch.stack([getattr(spec, name) * term for name, term in terms.items()]).sum()
    return {"loss": loss, **terms}


def spectra_sdr_loss(answer: Tensor, wanted: Tensor, mix: Tensor) -> Tensor:
    """``sdr_loss`` of spectra: (B, C, T, targets, F) against what was asked of the mixture (B, C, T, F)."""
    error, own = (_power(each).sum(dim=(1, 2, 4)) for each in (answer - wanted, wanted))  # (B, targets)
    heard = _power(mix).sum(dim=(1, 2, 3))[:, None]
    reference = torch.where(own > SILENT * heard, own, heard)
    return (10 * torch.log10(error / reference.clamp_min(TINY) + FLOOR)).mean()


def window_losses(heard: Tensor, wanted: Tensor) -> dict[str, Tensor]:
    """Of (..., samples) windows, by the projection t = (<heard, wanted> + e) / (|wanted|^2 + e) wanted and r = heard - t:
    distortion |r|, sdr_like |r|^2 - |t|^2, dsr |r|^2 / |t|^2, ldsr its logarithm, nsdr -|t|^2 / |r|^2, and of the cosine between
    heard and wanted, ncs -cos, nlcs -log(1 + cos). Means over windows.

    The losses of LaSAFT's training code, with the signs that are to be minimised; a small e keeps silence finite.
    """
    inner, own = (heard * wanted).sum(dim=-1), wanted.square().sum(dim=-1)
    target = ((inner + TINY) / (own + TINY))[..., None] * wanted
    rest = (heard - target).square().sum(dim=-1)
    signal = target.square().sum(dim=-1)
    cosine = inner / ((heard.square().sum(dim=-1) + TINY) * (own + TINY)).sqrt()
    ratio = (rest + TINY) / (signal + TINY)
    losses = {
        "distortion": (rest + TINY).sqrt(),
        "sdr_like": rest - signal,
        "dsr": ratio,
        "ldsr": ratio.log(),
        "nsdr": -1 / ratio,
        "ncs": -cosine,
        "nlcs": -(cosine + 1 + TINY).log(),
    }
    return {name: value.mean() for name, value in losses.items()}


def _pieces(sound: Tensor, samples: int) -> Tensor:
    """(..., n) -> (..., pieces, samples), the last one filled up with silence."""
    padded = torch.nn.functional.pad(sound, (0, -sound.shape[-1] % samples))
    return padded.reshape(*padded.shape[:-1], -1, samples)


def _magnitude(spectra: Tensor) -> Tensor:
    """With a gradient at zero, too."""
    return (_power(spectra) + TINY**2).sqrt()


def class_masks(logits: Tensor, levels: list[slice]) -> Tensor:
    """A softmax per level of the class tree: each level's masks sum to one. Without levels, the ``logits`` are the masks."""
    return torch.cat([logits[:, :, level].softmax(dim=2) for level in levels], dim=2) if levels else logits


def class_log_masks(logits: Tensor, levels: list[slice]) -> Tensor:
    """The logarithm of ``class_masks``: one softmax serves both losses."""
    return torch.cat([logits[:, :, level].log_softmax(dim=2) for level in levels], dim=2)


def mask_loss(log_masks: Tensor, scene: Scene, levels: list[slice], weighted: bool = True) -> Tensor:
    """Cross-entropy to the dominant source of each bin; ``weighted`` by the mixture's magnitude (mean 1 per item).

    Mean over items and bins, sum over levels: as many times hyper-unmix's mask loss as there are classes.
    """
    weight = scene.magnitude / scene.magnitude.mean(dim=(1, 2), keepdim=True).clamp_min(TINY)
    weight = weight if weighted else torch.ones_like(weight)
    loss = log_masks.new_zeros(())
    for level in levels:
        target = scene.stems[:, :, level].argmax(dim=2, keepdim=True)
        loss = loss - (weight[:, :, None] * log_masks[:, :, level].gather(2, target)).mean()
    return loss


def spectrogram_loss(masks: Tensor, scene: Scene) -> Tensor:
    """L1 of mask * |X| to the truncated phase-sensitive target min(max(|S| cos(S - X), 0), |X|), mean over all.

    Erdogan, Hershey, Watanabe, Le Roux 2015 (Phase-sensitive and recognition-boosted speech separation). |S| cos / |X| is
    Re(X* S) / |X|^2; over channels it is the projection of all of S on all of X.
    """
    return spectrogram_each(masks, scene).mean()


def spectrogram_each(masks: Tensor, scene: Scene) -> Tensor:
    """``spectrogram_loss`` of each source, (B, K)."""
    share = (scene.cross / scene.mix.clamp_min(TINY**2)[:, :, None]).clamp(0, 1)
    return (scene.magnitude[:, :, None] * (masks - share).abs()).mean(dim=(1, 3))


def sdr_loss(masks: Tensor, scene: Scene) -> Tensor:
    """Negative signal-to-distortion ratio in dB of mask * mixture against each class, mean over classes.

    By Parseval on the STFT: |mX - S|^2 = m^2 |X|^2 - 2 m Re(X* S) + |S|^2. A silent class asks for silence:
    its output against the mixture.
    """
    return sdr_each(masks, scene).mean()


def sdr_each(masks: Tensor, scene: Scene) -> Tensor:
    """``sdr_loss`` of each source, (B, K)."""
    error = (masks.square() * scene.mix[:, :, None] - 2 * masks * scene.cross + scene.stems).sum(dim=(1, 3))  # (B, K)
    wanted = scene.stems.sum(dim=(1, 3))
    heard = scene.mix.sum(dim=(1, 2))[:, None]
    reference = torch.where(wanted > SILENT * heard, wanted, heard)
    return 10 * torch.log10(error.clamp_min(0) / reference.clamp_min(TINY) + FLOOR)


def spectral_si_sdr_each(masks: Tensor, scene: Scene) -> Tensor:
    """Negative scale-invariant SDR in dB of the spectra of mask * mixture against each class, (B, K).

    As ``si_sdr_loss``, by Parseval on the STFT like ``sdr_loss``: no waveform is made, and frames may be far apart. What is
    quiet counts as much as what is loud, where ``sdr_loss`` would rather have it silent.
    """
    estimate = (masks.square() * scene.mix[:, :, None]).sum(dim=(1, 3))  # (B, K)
    inner, own = (masks * scene.cross).sum(dim=(1, 3)), scene.stems.sum(dim=(1, 3))
    heard = scene.mix.sum(dim=(1, 2))[:, None]
    signal = inner.square() / own.clamp_min(TINY)
    return _si_ratio_db((estimate - signal).clamp_min(0), signal, own, heard)


# ---- magnitudes of sources, all relative to the mixture's own: a soft mixture counts as much as a loud one -------------


def l1_each(masks: Tensor, scene: Scene) -> Tensor:
    """Mean of |mask |X| - |S|| over the mean of |X|, (B, K). Phases are left out: see ``spectrogram_loss`` for them."""
    mix, source = _magnitudes(scene)
    return (masks * mix - source).abs().mean(dim=(1, 3)) / _or_tiny(mix.mean(dim=(1, 3)))


def l2_each(masks: Tensor, scene: Scene) -> Tensor:
    """Mean of (mask |X| - |S|)^2 over the mean of |X|^2, (B, K)."""
    mix, source = _magnitudes(scene)
    return (masks * mix - source).square().mean(dim=(1, 3)) / _or_tiny(mix.square().mean(dim=(1, 3)))


def rmse_each(masks: Tensor, scene: Scene) -> Tensor:
    """Root of ``l2_each``, (B, K); ROOT under it, for the slope of a root has no end at 0."""
    return (l2_each(masks, scene) + ROOT).sqrt()


def ratio_each(masks: Tensor, scene: Scene, power: int) -> Tensor:
    """Mean of |mask - min(|S| / |X|, 1)| ** ``power``, (B, K): the ideal ratio as far as a mask can reach it."""
    mix, source = _magnitudes(scene)
    ideal = (source / mix.clamp_min(TINY)).clamp_max(1.0)
    return (masks - ideal).abs().pow(power).mean(dim=(1, 3))


def component_each(masks: Tensor, scene: Scene, alpha: float, beta: float) -> Tensor:
    """The mask applied to the parts of the mixture, the source S and the rest R = |X| - |S|, (B, K):

    (1 - alpha - beta) sum (m S - S)^2 / sum |X|^2 + alpha sum (m R)^2 / sum |X|^2 + beta sum (m R / |m R| - R / |R|)^2,
    norms over all bins of an item. Xia, Braun, et al. 2020 (Weighted speech distortion losses, arXiv 2001.10601) as extended by
    Auralflow, whose defaults left the first part no weight, and whose norms had no floor.
    """
    mix, source = _magnitudes(scene)
    rest, whole = mix - source, _or_tiny(mix.square().sum(dim=(1, 3)))
    spoilt = (masks * source - source).square().sum(dim=(1, 3)) / whole
    left = (masks * rest).square().sum(dim=(1, 3)) / whole
    bent = (_unit(masks * rest) - _unit(rest)).square().sum(dim=(1, 3))
    return (1 - alpha - beta) * spoilt + alpha * left + beta * bent


def _magnitudes(scene: Scene) -> tuple[Tensor, Tensor]:
    """(B, T, 1, F) of the mixture and (B, T, K, F) of each source, root mean squares over channels."""
    return scene.magnitude[:, :, None], (scene.stems / scene.leaves.shape[1]).sqrt()


def _or_tiny(x: Tensor) -> Tensor:
    return x.clamp_min(TINY**2)


def _unit(x: Tensor) -> Tensor:
    """(B, T, K, F) of length one for each item and source; nothing stays nothing."""
    return x / (x.square().sum(dim=(1, 3), keepdim=True) + TINY**2).sqrt()


# ---- waveforms --------------------------------------------------------------------------------------------------------


def waveforms(masks: Tensor, scene: Scene, waves: Waves) -> tuple[Tensor, Tensor]:
    """(B, C, K, samples) of each class: what the masks make of the mixture, and what they should."""
    return heard_waves(masks, scene, waves), wanted_waves(scene, waves)


def heard_waves(masks: Tensor, scene: Scene, waves: Waves) -> Tensor:
    """(B, C, K, samples) of what the masks make of the mixture."""
    mixture = scene.leaves.sum(dim=3)[:, :, None]  # (B, C, 1, T, F)
    return waves(mixture * masks.transpose(1, 2)[:, None])


def wanted_waves(scene: Scene, waves: Waves) -> Tensor:
    """(B, C, K, samples) of the classes themselves."""
    return classes_of(waves(scene.leaves.transpose(2, 3)), scene.families, scene.kept, 2)


def waveform_loss(heard: Tensor, wanted: Tensor) -> Tensor:
    """L1 of (B, C, K, samples), mean over all."""
    return (heard - wanted).abs().mean()


def si_sdr_loss(heard: Tensor, wanted: Tensor) -> Tensor:
    """Negative scale-invariant SDR in dB of (B, C, K, samples), channels as one signal, means removed; mean over classes.

    Le Roux, Wisdom, Erdogan, Hershey 2019 (arXiv 1811.02508), eq. 3-5. A silent class has none: it asks for silence.
    """
    return si_sdr_each(heard, wanted).mean()


def si_sdr_each(heard: Tensor, wanted: Tensor) -> Tensor:
    """``si_sdr_loss`` of each source, (B, K)."""
    heard, wanted = heard - heard.mean(dim=-1, keepdim=True), wanted - wanted.mean(dim=-1, keepdim=True)
    own, inner = wanted.square().sum(dim=(1, 3)), (heard * wanted).sum(dim=(1, 3))  # (B, K)
    loud = own.amax(dim=1, keepdim=True)  # of the loudest class, about the mixture
    signal = inner.square() / own.clamp_min(TINY)
    error = (heard.square().sum(dim=(1, 3)) - signal).clamp_min(0)
    return _si_ratio_db(error, signal, own, loud)


def _si_ratio_db(error: Tensor, signal: Tensor, own: Tensor, loud: Tensor) -> Tensor:
    """``error`` in dB over the ``signal`` in what is heard, or over all that is ``loud`` where the class has no power of its
    ``own``. Without QUIET, to say nothing would be the best answer of all."""
    quiet = QUIET * own
    ratio = torch.where(own > SILENT * loud, (error + quiet) / (signal + quiet).clamp_min(TINY**2), error / _or_tiny(loud))
    return 10 * torch.log10(ratio + FLOOR)


def _power(spectra: Tensor) -> Tensor:
    return spectra.real.square() + spectra.imag.square()
