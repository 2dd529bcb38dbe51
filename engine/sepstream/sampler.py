"""Two sources in the codes of their mixture: likelihoods of pairs of codes, draws from the posterior, the best of many draws.

A vector-quantised autoencoder whose codes add up (LQ-VAE) says of each pair (i, j) which code k the mixture of both has; a
prior of each source says how probable i and j are here. After Mancusi, Postolache, Fumero, Santilli, Cosmo, Rodolà 2021
(Unsupervised Source Separation via Bayesian Inference in the Latent Domain, arXiv 2110.05313); likelihoods from counts after
Postolache, Mariani, Mancusi, Santilli, Cosmo, Rodolà 2023 (Latent Autoregressive Source Separation, arXiv 2301.08562).

Pure: codes and probabilities in, codes out; whoever calls brings the random generator. Codes are numbers from 0 to codes - 1.
"""

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from . import kernels

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]

ROUNDING = 1e-12  # relative error of a distance


class Cut(NamedTuple):
    """What is left of a prior before codes are drawn: flattened or sharpened by ``temperature``, then only the ``top_k`` most
    probable codes (0: all), then as few of them as hold ``top_p`` of the probability (1: all)."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0


def log_softmax(logits: F32) -> F64:
    """(rows, codes) -> (rows, codes), over codes."""
    shifted = logits - logits.max(axis=1, keepdims=True).astype(np.float64)
    found: F64 = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return found


def cut(logits: F32, to: Cut) -> F64:
    """(rows, codes) logits -> the probabilities that are left, each row with sum 1. Ties at the edge of top-k all stay."""
    chances = np.exp(log_softmax(logits / np.float32(to.temperature)))
    if 0 < to.top_k < chances.shape[1]:
        edge = np.partition(chances, -to.top_k, axis=1)[:, -to.top_k, None]
        chances = np.where(chances >= edge, chances, 0.0)
    if to.top_p < 1.0:
        order = np.argsort(-chances, axis=1, kind="stable")
        ranked = np.take_along_axis(chances, order, axis=1)
        before = np.cumsum(ranked, axis=1) - ranked  # the first is always kept
        kept = np.where(before < to.top_p * ranked.sum(axis=1, keepdims=True), ranked, 0.0)
        np.put_along_axis(chances, order, kept, axis=1)
    whole: F64 = chances / chances.sum(axis=1, keepdims=True)
    return whole


# ---- what the mixture says --------------------------------------------------------------------------------------------


def sum_table(codebook: F32) -> I32:
    """(codes, dim) -> (codes, codes): the code nearest to (e_i + e_j) / 2; where that is i, it might as well be j, and it is the
    lower of both.

    |(e_i + e_j) / 2 - e_k|^2 differs from |e_k|^2 - <e_i, e_k> - <e_j, e_k> by what does not depend on k: the sum of two
    entries of one codes x codes matrix. So no vector of a sum is ever made: 2048 codes take some seconds and 50 MB.
    """
    vectors = codebook.astype(np.float64)
    out = np.empty((len(codebook), len(codebook)), np.int32)
    costs = 0.5 * np.square(vectors).sum(axis=1, keepdims=True) - vectors @ vectors.T
    kernels.nearest_sums(costs, ROUNDING * float(np.abs(costs).max()), out)
    return out


class Likelihood(Protocol):
    """p(code of the mixture | codes of the sources)."""

    def draw(self, code: int, first: F64, second: F64, rng: np.random.Generator) -> I32:
        """(rows, codes) probabilities of either source -> (rows, 2) codes, drawn from first * second * likelihood."""


class Gaussian:
    """exp(-|e_table[i, j] - e_code|^2 / (2 sigma^2)), the likelihood of the LQ-VAE: a dense function of all pairs.

    It depends on a pair by its entry in the table alone, so a step takes codes^2 numbers for all rows together.
    """

    def __init__(self, codebook: F32, table: I32, sigma: float) -> None:
        vectors = codebook.astype(np.float64)
        size = np.square(vectors).sum(axis=1)
        apart = np.maximum(size[:, None] + size - 2.0 * vectors @ vectors.T, 0.0)
        self.table, self.exponents = table, -apart / (2.0 * sigma**2)

    def draw(self, code: int, first: F64, second: F64, rng: np.random.Generator) -> I32:
        chances = rng.random((2, len(first)))
        weights = np.exp(self.exponents[code])[self.table]
        rows = first * (second @ weights)  # the table is symmetric
        i = _pick(rows, chances[0])
        out = np.stack([i, _pick(second * weights[i], chances[1])], axis=1).astype(np.int32)
        for row in np.flatnonzero(rows.sum(axis=1) <= 0.0):
            out[row] = self._draw_far(code, first[row], second[row], chances[:, row])
        return out

    def _draw_far(self, code: int, first: F64, second: F64, chances: F64) -> I32:
        """Where all pairs that the priors allow are so far off that their likelihoods are zero in floating point: relative
        to the likeliest of them."""
        i, j = np.flatnonzero(first), np.flatnonzero(second)
        exponents = self.exponents[code][self.table[np.ix_(i, j)]]
        weights = np.outer(first[i], second[j]) * np.exp(exponents - exponents.max())
        place = int(_pick(weights.reshape(1, -1), chances[:1])[0])
        return np.array([i[place // len(j)], j[place % len(j)]], np.int32)


class Counted:
    """((c_ijk + smoothing [table_ij = k]) / (c_ij + smoothing)) ^ power, from counts c of mixtures whose codes are known.

    A sparse function: for each code of the mixture a list of pairs. Without counts it says that the table is right. Where no
    pair on the list is possible at all, ``otherwise`` is asked.
    """

    def __init__(self, counts: I32, table: I32, power: float, smoothing: float, otherwise: Likelihood) -> None:
        """``counts`` (n, 4): code of the first source, of the second, of the mixture, and how often."""
        self.otherwise, codes = otherwise, len(table)
        i, j = np.indices(table.shape).reshape(2, -1)
        keys = np.concatenate([_key(*counts[:, :3].T, codes=codes), _key(i, j, table.reshape(-1), codes=codes)])
        amounts = np.concatenate([counts[:, 3], np.full(table.size, smoothing)])
        keys, places = np.unique(keys, return_inverse=True)
        sums = np.bincount(places, amounts)
        pairs = keys % codes**2
        weights = (sums / np.bincount(pairs, sums, codes**2)[pairs]) ** power
        self.starts = np.searchsorted(keys // codes**2, np.arange(codes + 1))
        self.pairs = np.stack([pairs // codes, pairs % codes], axis=1).astype(np.int32)
        self.weights = weights

    def draw(self, code: int, first: F64, second: F64, rng: np.random.Generator) -> I32:
        listed = slice(self.starts[code], self.starts[code + 1])
        out = np.empty((len(first), 2), np.int32)
        kernels.draw_listed(first, second, self.pairs[listed], self.weights[listed], rng.random(len(first)), out)
        missed = out[:, 0] < 0
        if missed.any():
            out[missed] = self.otherwise.draw(code, first[missed], second[missed], rng)
        return out


def _key(i: NDArray[Any], j: NDArray[Any], k: NDArray[Any], *, codes: int) -> NDArray[np.int64]:
    """One number of a pair and its mixture, in the order of the mixture."""
    key: NDArray[np.int64] = (k.astype(np.int64) * codes + i) * codes + j
    return key


def _pick(weights: F64, chances: F64) -> NDArray[np.int64]:
    """(rows, n) weights, (rows,) numbers in [0, 1) -> (rows,) places, each as probable as its weight; never one of weight 0."""
    rising = np.cumsum(weights, axis=1)
    found: NDArray[np.int64] = (rising <= chances[:, None] * rising[:, -1:]).sum(axis=1)
    last = weights.shape[1] - 1 - np.argmax(weights[:, ::-1] > 0.0, axis=1)  # rounding must not lead beyond it
    picked: NDArray[np.int64] = np.minimum(found, last)
    return picked


# ---- which of the draws -----------------------------------------------------------------------------------------------


class Best(NamedTuple):
    """Numbers of the chosen draws: of the first source and of the second."""

    first: int
    second: int


def choose(first: F64, second: F64, mixture: F64, log_first: F64, log_second: F64) -> Best:
    """The pair of draws, not necessarily of one draw, that explains the mixture best.

    ``first`` and ``second`` (draws, samples) are decoded, ``mixture`` (samples,) is what half of both together should be;
    ``log_first`` and ``log_second`` (draws,) are mean log-probabilities per code. The posterior of 2110.05313: log prior
    - |first / 2 + second / 2 - mixture|^2 / (2 s^2), with s^2 so that both terms weigh the same on average.
    """
    prior = log_first[:, None] + log_second
    one, other = 0.5 * first, 0.5 * second
    left = one - mixture  # |left + other|^2, without a signal for each pair
    error = np.square(left).sum(axis=1)[:, None] + np.square(other).sum(axis=1) + 2.0 * left @ other.T
    weight = -prior.mean() / max(float(error.mean()), 1e-30)  # 1 / (2 s^2); certain priors have nothing to say
    score = prior - error * (weight if weight > 0.0 else 1.0)
    return Best(*(int(place) for place in np.unravel_index(int(score.argmax()), score.shape)))
