"""How well a source was separated. NumPy only, float64: whoever evaluates needs no torch.

Scale-invariant SDR after Le Roux, Wisdom, Erdogan, Hershey 2019 (SDR: half-baked or well done?, eq. 3-5), with the
rules of hyper-unmix (arXiv 2212.05008) on which pairs count.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

SILENCE = 1e-10  # energy, summed over samples, below which nothing is there to be scored


def si_sdr(estimate: ArrayLike, target: ArrayLike, mixture: ArrayLike | None = None) -> float:
    """(..., samples) against (..., samples), any leading axes scored as one signal -> dB, each row's mean removed.

    10 log10(|a t|^2 / |e - a t|^2) with a = <e, t> / |t|^2; -inf for a silent estimate. NaN where the pair does not
    count: the target is silent, or it is all there is in ``mixture`` (where one is given).
    """
    if is_silent(target) or (mixture is not None and is_silent(np.subtract(mixture, target, dtype=np.float64))):
        return float("nan")
    e, t = _centred(estimate), _centred(target)
    heard = (e * t).sum() / ((t * t).sum() + 1e-12) * t
    signal, error = np.square(heard).sum(), np.square(e - heard).sum()
    with np.errstate(divide="ignore"):
        return float(10 * np.log10(signal / error)) if error > 0 else float("inf" if signal > 0 else "-inf")


def si_sdr_improvement(estimate: ArrayLike, target: ArrayLike, mixture: ArrayLike) -> float:
    """dB that ``estimate`` is above the unprocessed ``mixture``; NaN where the pair does not count."""
    return si_sdr(estimate, target, mixture) - si_sdr(mixture, target, mixture)


def reference_means(files: Sequence[Mapping[str, tuple[float, float]]]) -> dict[str, float | None]:
    """The figures of hyper-unmix of (estimate, mixture) SI-SDR in dB, for each source of each file; NaN where a pair is dropped.

    ``est_SOURCE`` and ``noisy_SOURCE`` are means over files; ``global_avg`` is the mean over the sources of a file, parents
    and leaves alike, then over files. What is not finite does not count (there, a silent estimate is
    0/0); None where nothing does.
    """
    sources = list(files[0]) if files else []
    means = {f"est_{name}": _finite_mean([each[name][0] for each in files]) for name in sources}
    means |= {f"noisy_{name}": _finite_mean([each[name][1] for each in files]) for name in sources}
    each_file = [_finite_mean([estimate for estimate, _ in each.values()]) for each in files]
    return {**means, "global_avg": _finite_mean([mean for mean in each_file if mean is not None])}


def _finite_mean(values: Sequence[float]) -> float | None:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else None


def is_silent(signal: ArrayLike) -> bool:
    return bool(np.square(np.asarray(signal, np.float64)).sum() < SILENCE)


def _centred(signal: ArrayLike) -> NDArray[np.float64]:
    x = np.asarray(signal, np.float64)
    mean: NDArray[np.float64] = x.mean(axis=-1, keepdims=True)
    return x - mean
