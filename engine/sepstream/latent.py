"""Two sources drawn from the codes of their mixture, as a pipeline for files: the kind "offline" (contract.LatentSpec).

Half of the mixture becomes codes; for each chunk of them the priors and the likelihood draw many pairs of sequences
(sampler.py); the best of them are decoded, and the decoded sounds say who owns which share of each bin of the mixture. So what
is heard is the mixture itself, every channel with its own phase, and what is selected together is the mixture again; the sound
of the codes, narrow and coarse, is never heard. Called by render.py in the place of a Pipeline.
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import kernels
from .contract import Bundle, LatentSpec, SamplingSpec
from .errors import ExpressionError, nearest
from .pipeline import FAINTEST, LOUDEST
from .sampler import Best, Counted, Cut, Gaussian, Likelihood, choose, cut, log_softmax, sum_table
from .selection import Selection, compile
from .separator import Call
from .spectral import AnalysisState, Stft, SynthesisState

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
C64 = NDArray[np.complex64]

TINY = 1e-12  # power: where both sources are silent, each has half


def read_sampling(spec: SamplingSpec, settings: Sequence[str]) -> SamplingSpec:
    """``spec`` with settings such as "top_k=32". Raises ExpressionError, BundleError for a value out of range."""
    kinds = {field.name: type(getattr(spec, field.name)) for field in fields(spec)}
    changes = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or name not in kinds:
            raise ExpressionError(f"--sampling '{setting:.80}'; expected NAME=VALUE; {nearest(name, kinds)}")
        try:
            changes[name] = kinds[name](value)
        except ValueError:
            wanted = {int: "a whole number", float: "a number"}[kinds[name]]
            raise ExpressionError(
                f"--sampling {name} is '{value:.80}'; expected {wanted}, such as {getattr(spec, name)}"
            ) from None
    return replace(spec, **changes)


class State(NamedTuple):
    """Everything that the next chunk needs of the past; arrays begin with what lies furthest back."""

    heard: F32  # mono, from the encoder's margin before the next chunk on
    waiting: F32  # (channels, n): the mixture whose masks are yet to come, from a fade before the next chunk on
    codes: I32  # (3, lead): of both sources and of half their mixture
    fading: F32  # (2, fade * hop): of the last chunk, where it becomes the next one
    analysis: AnalysisState  # of both sources, then of the mixture's channels
    smoothing: F32
    synthesis: SynthesisState
    ready: F32  # (buses, channels, n): output not yet asked for


class LatentPipeline:
    """(channels, n) samples -> (buses, channels, n) samples, ``latency_samples`` later, for any n; a chunk at a time inside.

    The same ``seed`` gives the same output, from ``reset`` on. ``sampling`` replaces the bundle's own.
    """

    def __init__(
        self,
        bundle: Bundle,
        selection: Selection,
        channels: int,
        *,
        provider: str = "auto",
        seed: int = 0,
        sampling: SamplingSpec | None = None,
    ) -> None:
        assert bundle.latent is not None
        self.bundle, self.channels, self.seed = bundle, channels, seed
        self.spec = replace(bundle.latent, sampling=sampling or bundle.latent.sampling)
        self.program = compile(selection, bundle)
        self.buses = self.program.buses
        self.stft = Stft(bundle.stft)
        self.faults = 0  # blocks that held samples which are no sound
        encoder, decoder, tables = bundle.graphs[:3]
        self._encode, self._decode = (Call(bundle, graph, provider) for graph in (encoder, decoder))
        self.provider = self._encode.provider
        self._sampler = Sampler(bundle, self.spec, Call(bundle, tables, "cpu")(), provider)
        silence = self._codes(np.zeros(encoder.inputs[0].shape[1], np.float32))
        self._silence = np.resize(silence, self.spec.lead_codes).astype(np.int32)
        self.reset()

    @property
    def latency_samples(self) -> int:
        return self.bundle.latency_samples

    @property
    def block_samples(self) -> int:
        """Samples per chunk."""
        return self.spec.chunk_codes * self.spec.hop_samples

    def reset(self) -> None:
        """As if nothing had been heard."""
        spec, channels = self.spec, self.channels
        fade = spec.fade_codes * spec.hop_samples
        late = (spec.chunk_codes + spec.margin_codes) * spec.hop_samples
        self._sampler.reset(self.seed)
        self._state = State(
            heard=np.zeros(spec.margin_codes * spec.hop_samples, np.float32),
            waiting=np.zeros((channels, fade), np.float32),
            codes=np.tile(self._silence, (3, 1)),
            fading=np.zeros((2, fade), np.float32),
            analysis=self.stft.analysis_state(2 + channels),
            smoothing=self.program.initial_state(),
            synthesis=self.stft.synthesis_state(len(self.buses) * channels),
            ready=np.zeros((len(self.buses), channels, late), np.float32),
        )

    def process(self, audio: F32) -> F32:
        """(channels, n) -> (buses, channels, n) for any n >= 0."""
        audio = np.array(audio, np.float32, order="C")
        self.faults += kernels.clean(audio, FAINTEST, LOUDEST) > 0
        now = self._state
        heard = np.concatenate([now.heard, 0.5 * audio.mean(axis=0)], dtype=np.float32)
        self._state = now._replace(heard=heard, waiting=np.concatenate([now.waiting, audio], axis=1))
        window = self._encode.graph.inputs[0].shape[1]
        ready = [now.ready]
        while len(self._state.heard) >= window:
            ready.append(self._chunk(self._state.heard[:window]))
        played = np.concatenate(ready, axis=2)
        length = audio.shape[1]
        self._state = self._state._replace(ready=played[:, :, length:])
        return played[:, :, :length]

    def _chunk(self, window: F32) -> F32:
        """The mixture around a chunk -> (buses, channels, chunk)."""
        now, spec = self._state, self.spec
        mixture = self._codes(window)
        drawn = self._sampler.draw(mixture)  # (2, draws, chunk)
        told = self._sounds(np.concatenate([now.codes[2], mixture])[None])
        sounds = [self._sounds(_after(now.codes[source], drawn.codes[source])) for source in (0, 1)]
        size = self.block_samples
        best = choose(*(each[:, -size:].astype(np.float64) for each in (*sounds, told)), *drawn.log_priors)
        self._sampler.keep(best)
        chosen = np.stack([sounds[source][best[source], -size - now.fading.shape[1] :] for source in (0, 1)])
        faded, fading = _fade(now.fading, chosen)
        found = np.stack([*(drawn.codes[source, best[source]] for source in (0, 1)), mixture])
        codes = np.concatenate([now.codes, found], axis=1)[:, -spec.lead_codes :]
        self._state = now._replace(heard=now.heard[size:], waiting=now.waiting[:, size:], codes=codes, fading=fading)
        return self._select(faded, now.waiting[:, :size])

    def _codes(self, window: F32) -> I32:
        (codes,) = self._encode(np.ascontiguousarray(window[None]))
        whole: I32 = codes[0].astype(np.int32)
        return whole

    def _sounds(self, codes: I32) -> F32:
        """(rows, lead + chunk) -> (rows, samples)."""
        return np.concatenate([self._decode(row[None].astype(np.float32))[0] for row in codes])

    def _select(self, sounds: F32, mixture: F32) -> F32:
        """(2, n) of the sources, (channels, n) of the mixture -> (buses, channels, n), synthesis - hop samples later."""
        now, bundle = self._state, self.bundle
        spectra, analysis = self.stft.analyze(np.concatenate([sounds, mixture]), now.analysis)
        power = np.square(np.abs(spectra[:, :2, : bundle.band.bins])) + np.float32(0.5 * TINY)
        shares = power / power.sum(axis=1, keepdims=True)
        masks = np.empty((len(spectra), len(self.buses), bundle.band.bins), np.float32)
        smoothing = self.program.masks(shares, np.zeros((len(spectra), 0, bundle.band.bins), np.float32), masks, now.smoothing)
        chosen = np.empty((len(spectra), len(self.buses), self.channels, bundle.stft.bins), np.complex64)
        own = np.ascontiguousarray(spectra[:, 2:])
        kernels.apply_masks(own, masks, bundle.band.follow_low, bundle.band.follow_high, chosen)
        lanes, synthesis = self.stft.synthesize(chosen.reshape(len(spectra), -1, bundle.stft.bins), now.synthesis)
        self._state = self._state._replace(analysis=analysis, smoothing=smoothing, synthesis=synthesis)
        return lanes.reshape(len(self.buses), self.channels, -1) * self.program.gains()[:, None, None]


def _after(past: I32, codes: I32) -> I32:
    """(lead,) before each row of (draws, chunk)."""
    return np.concatenate([np.tile(past, (len(codes), 1)), codes], axis=1)


def _fade(before: F32, after: F32) -> tuple[F32, F32]:
    """(2, fade) and (2, fade + n) -> (2, n) that goes over from one to the other, and the (2, fade) that are left."""
    length = before.shape[1]
    fall = 1 - ((np.arange(length) + 0.5) / length).astype(np.float32)
    out = after[:, :-length].copy()
    out[:, :length] += (before - after[:, :length]) * fall
    return out, after[:, -length:]


class Drawn(NamedTuple):
    """``codes`` (2, draws, chunk), and their mean log-probability per code under the priors, ``log_priors`` (2, draws)."""

    codes: I32
    log_priors: F64


class Sampler:
    """The priors with what they remember, the likelihood, and the random numbers."""

    def __init__(self, bundle: Bundle, spec: LatentSpec, tables: Sequence[F32], provider: str) -> None:
        """``tables`` are the outputs of the bundle's third graph. Raises ExpressionError for counts that are not there."""
        self.spec, sampling = spec, spec.sampling
        self.cut = Cut(sampling.temperature, sampling.top_k, sampling.top_p)
        table = sum_table(tables[0])
        self.likelihood: Likelihood = Gaussian(tables[0], table, sampling.sigma)
        if sampling.likelihood == "counts":
            if len(tables) < 2:
                raise ExpressionError(f"--sampling likelihood is 'counts', and model '{bundle.name}' has none; expected gaussian")
            counts = _counts(tables[1], spec.codes)
            self.likelihood = Counted(counts, table, sampling.power, sampling.smoothing, self.likelihood)
        self._priors = [RememberingPrior(Call(bundle, graph, provider), spec) for graph in bundle.graphs[3:]]

    def reset(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        for prior in self._priors:
            prior.reset()

    def draw(self, mixture: I32) -> Drawn:
        """(chunk,) codes of half the mixture -> codes of the sources, one after the other given all before."""
        draws = self.spec.draws
        codes = np.empty((2, draws, len(mixture)), np.int32)
        log_priors = np.zeros((2, draws))
        for t, code in enumerate(mixture):
            logits = [prior.step() for prior in self._priors]
            first, second = (cut(each, self.cut) for each in logits)
            drawn = self.likelihood.draw(int(code), first, second, self._rng)
            for source, prior in enumerate(self._priors):
                own = drawn[:, source]
                log_priors[source] += log_softmax(logits[source])[np.arange(draws), own]
                prior.take(own)
            codes[:, :, t] = drawn.T
        return Drawn(codes, log_priors / len(mixture))

    def keep(self, best: Best) -> None:
        """All draws go on from the best."""
        for prior, row in zip(self._priors, best, strict=True):
            prior.keep(row)


class RememberingPrior:
    """The prior of one source, for all draws at once; keys and values lie in rings, of which the oldest slot is next."""

    def __init__(self, call: Call, spec: LatentSpec) -> None:
        self._call, self._spec = call, spec
        self.reset()

    def reset(self) -> None:
        spec = self._spec
        self._last = np.full(spec.draws, spec.codes, np.float32)
        self._ages = np.full(spec.context_codes, spec.context_codes + 1, np.float32)
        self._rings = [np.zeros(tensor.shape, np.float32) for tensor in self._call.graph.inputs[2:]]
        self._slot = 0

    def step(self) -> F32:
        """(draws, codes) logits of the next code. What was new in the last one is remembered from now on."""
        logits, *newest = self._call(self._last, self._ages, *self._rings)
        for ring, new in zip(self._rings, newest, strict=True):
            ring[:, :, self._slot] = new
        self._ages = np.minimum(self._ages + 1, np.float32(self._spec.context_codes + 1))
        self._ages[self._slot] = 1
        self._slot = (self._slot + 1) % self._spec.context_codes
        return logits

    def take(self, codes: I32) -> None:
        """(draws,): what came of it."""
        self._last = codes.astype(np.float32)

    def keep(self, row: int) -> None:
        self._last[:] = self._last[row]
        for ring in self._rings:
            ring[:] = ring[row]


def _counts(table: F32, codes: int) -> I32:
    """(n, 4) as stored -> whole numbers; a bundle's hand is not trusted with indices."""
    counts = np.rint(table).astype(np.int32)
    return counts[((counts[:, :3] >= 0) & (counts[:, :3] < codes)).all(axis=1) & (counts[:, 3] > 0)]
