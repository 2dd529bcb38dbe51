"""One block of audio: analyze, separate, select, synthesize. The one owner of streaming state, live and for files.

Called by one thread at a time: live by the worker, for files by render.py. ``state`` may be taken and put back.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import kernels
from .contract import Bundle
from .errors import ExpressionError
from .program import Program
from .selection import Selection, compile
from .separator import ModelState, Separation, Separator
from .spectral import AnalysisState, Stft, SynthesisState

F32 = NDArray[np.float32]
C64 = NDArray[np.complex64]

RAMP_MS = 20.0  # a fader's way from silence to unity: no click, and no wait
LOUDEST = 1e6  # samples beyond this (+120 dBFS), NaN and Inf are faults, not sound
FAINTEST = 1e-15  # -300 dBFS: what is below is silence, before it becomes denormal numbers


class State(NamedTuple):
    """Everything that the next block needs of the past."""

    analysis: AnalysisState
    delayed: C64  # (lookahead, channels, bins): spectra that wait for their masks
    model: ModelState
    smoothing: F32  # (buses, band bins): masks of the last frame
    condition: F32  # (classes, classes): what a conditioned model is being asked for, on its way; (0, 0) of any other
    synthesis: SynthesisState
    gains: F32  # (buses,): where the faders are on their way
    pending: F32  # (channels, < block): input that does not fill a block yet
    ready: F32  # (buses, channels, block - pending): output not yet asked for


class Look(NamedTuple):
    """What a hop held, as the network has it; good until the next one."""

    magnitude: F32  # (band bins,) of the mix: a full-scale sine reads 0.5
    embedding: F32  # (dim, band bins)
    masks: F32  # (buses, band bins)


class Pipeline:
    """(channels, n) samples -> (buses, channels, n) samples, ``latency_samples`` later, for any n.

    ``hops`` frames go to the model per call: 1 is for live use, the bundle's largest graph for files.
    A network of masks sees the root mean square over channels, and its masks act on every channel alike; one of spectra sees
    the channels. Where there are fewer than its graph takes, the last one stands in for the others.
    """

    def __init__(
        self, bundle: Bundle, selection: Selection, channels: int, *, provider: str = "auto", hops: int | None = None
    ) -> None:
        self.bundle, self.channels, self.hops = bundle, channels, hops or 1
        self.stft = Stft(bundle.stft)
        self.separator = Separator(bundle, self.hops, provider, channels)
        self.provider = self.separator.provider
        self.faults = 0  # blocks that held samples which are no sound
        self._scale = bundle.stft.magnitude_scale
        self._slope = 1000.0 / (RAMP_MS * bundle.sample_rate_hz)
        self._block = np.zeros((channels, self.block_samples), np.float32)
        self._signal = self.separator.silence()
        self._heard = np.zeros((1, bundle.band.bins), np.float32)
        self._run(compile(selection, bundle))
        self._state = self.initial_state()
        self._warm_up()

    @property
    def block_samples(self) -> int:
        """Samples per model call."""
        return self.hops * self.bundle.stft.hop_samples

    @property
    def latency_samples(self) -> int:
        """Delay of ``process``, in samples at the bundle's rate: collecting a block, plus overlap, plus look-ahead."""
        return self.bundle.latency_samples - self.bundle.stft.hop_samples + self.block_samples

    @property
    def state(self) -> State:
        """A copy that lasts; assign it to go back to this very moment."""
        now = self._state
        return now._replace(model=self.separator.keep(now.model))

    @state.setter
    def state(self, state: State) -> None:
        self._state = state

    def _run(self, program: Program) -> None:
        self.program, self._targets = program, program.gains()
        self.buses: tuple[str, ...] = program.buses
        lanes = (self.channels, self.hops) if self.bundle.gives_spectra else (self.hops,)
        self._masks = np.zeros((*lanes, len(self.buses), program.width), np.float32)
        if self.bundle.gives_spectra:  # each channel has rows of its own
            self._rows = np.zeros((*lanes, len(self.bundle.classes), program.width), np.float32)
            self._unity = np.zeros((*lanes, program.width), np.float32)
        self._chosen = np.zeros((self.hops, len(self.buses), self.channels, self.bundle.stft.bins), np.complex64)

    def initial_state(self) -> State:
        buses, channels, spec = len(self.buses), self.channels, self.bundle.stft
        return State(
            analysis=self.stft.analysis_state(channels),
            delayed=np.zeros((self.bundle.lookahead_hops, channels, spec.bins), np.complex64),
            model=self.separator.initial_state(),
            smoothing=self.program.initial_state(),
            condition=self.program.condition,
            synthesis=self.stft.synthesis_state(buses * channels),
            gains=self._targets,
            pending=np.zeros((channels, 0), np.float32),
            ready=np.zeros((buses, channels, self.block_samples), np.float32),
        )

    def reset(self) -> None:
        """As if nothing had been heard."""
        self._state = self.initial_state()

    def select(self, selection: Selection) -> None:
        """Play another selection of the same buses from the next block on; masks cross-fade by overlap, faders ramp."""
        program = compile(selection, self.bundle)
        if program.buses != self.buses:
            raise ExpressionError(f"buses {list(program.buses)} differ from the running {list(self.buses)}; keep names and order")
        self.program, self._targets = program, program.gains()

    def change(self, program: Program) -> F32 | None:
        """Play ``program`` from the next block on, whatever its buses. Where they differ from the running ones, returns what
        those still owe, (buses, channels, synthesis - hop): added to the next blocks, it cross-fades the old into the new."""
        if program.buses == self.buses:
            self.program, self._targets = program, program.gains()
            return None
        owed = self._state.synthesis.overlap.reshape(len(self.buses), self.channels, -1)
        owed = owed * self._state.gains[:, None, None]
        self._run(program)
        fresh = self.initial_state()
        kept = {name: getattr(self._state, name) for name in ("analysis", "delayed", "model", "condition", "pending")}
        self._state = fresh._replace(ready=fresh.ready[:, :, self._state.pending.shape[1] :], **kept)
        return owed

    def rejoin(self, history: F32) -> None:
        """Go on after a gap; ``history`` (channels, analysis - hop) is the input just before the next block. The network
        keeps its memory: it is old, but not wrong."""
        self._state = self.initial_state()._replace(analysis=AnalysisState(history), model=self._state.model)

    def process(self, audio: F32) -> F32:
        """(channels, n) -> (buses, channels, n) for any n >= 0, in blocks of ``block_samples`` inside."""
        now = self._state
        pending, ready = np.concatenate([now.pending, audio], axis=1, dtype=np.float32), [now.ready]
        while pending.shape[1] >= self.block_samples:
            block, pending = pending[:, : self.block_samples], pending[:, self.block_samples :]
            ready.append(self.step(block))
        played = np.concatenate(ready, axis=2) if len(ready) > 1 else now.ready
        length = audio.shape[1]
        self._state = self._state._replace(pending=pending, ready=played[:, :, length:])
        return played[:, :, :length]

    def step(self, block: F32) -> F32:
        """(channels, block_samples) -> (buses, channels, block_samples), synthesis - hop (and look-ahead) samples later."""
        now = self._state
        spectra, analysis = self.stft.analyze(self._sound(block), now.analysis)
        condition = self._ask(now.condition)
        found, model = self._separate(spectra, now.model, condition)
        spectra, delayed = _delay(spectra, now.delayed)
        self._spectra, self._embedding = spectra, found.embedding
        chosen, smoothing = (self._mix if self.bundle.gives_spectra else self._mask)(spectra, found, now.smoothing)
        lanes, synthesis = self.stft.synthesize(chosen, now.synthesis)
        audio, gains = self._fade(lanes, now.gains)
        self._state = State(analysis, delayed, model, smoothing, condition, synthesis, gains, now.pending, now.ready)
        return audio

    def look(self) -> Look:
        """At the newest hop that was heard."""
        kernels.magnitude(self._spectra[-1:], self._scale, self._heard)
        masks = self._shares() if self.bundle.gives_spectra else self._masks[-1]
        return Look(self._heard[-1], self._embedding[-1], masks)

    def _shares(self) -> F32:
        """(buses, band bins) of a model that gives spectra: how much of the mix each bus holds, 1 at most."""
        chosen = self._chosen[-1, :, :, : self.bundle.band.bins]
        loud: F32 = np.sqrt(np.square(np.abs(chosen)).mean(axis=1)) * np.float32(self._scale)
        shares: F32 = np.minimum(loud / np.maximum(self._heard[-1], FAINTEST), 1)
        return shares

    def _ask(self, condition: F32) -> F32:
        """A block's step towards what the program asks for: a blend moves as a fader does, whatever moved it."""
        reach = np.float32(self._slope * self.block_samples)
        moved: F32 = condition + np.clip(self.program.condition - condition, -reach, reach) if condition.size else condition
        return moved

    def _separate(self, spectra: C64, state: ModelState, condition: F32) -> tuple[Separation, ModelState]:
        if self.bundle.gives_spectra:
            kernels.spectra_to_signal(spectra, self._scale, self._signal)
        else:
            kernels.magnitude(spectra, self._scale, self._signal)
        return self.separator.step(self._signal, state, condition)

    def _mask(self, spectra: C64, found: Separation, smoothing: F32) -> tuple[C64, F32]:
        """-> (hops, buses * channels, bins) spectra of the buses, and the masks to smooth from."""
        smoothing = self.program.masks(found.masks, found.embedding, self._masks, smoothing)
        band = self.bundle.band
        kernels.apply_masks(spectra, self._masks, band.follow_low, band.follow_high, self._chosen)
        return self._chosen.reshape(self.hops, -1, self.bundle.stft.bins), smoothing

    def _mix(self, spectra: C64, found: Separation, smoothing: F32) -> tuple[C64, F32]:
        """The same of a model that gives spectra: each channel's rows through the program; there is nothing to smooth."""
        band = self.bundle.band
        low, high = band.follow_low, band.follow_high
        kernels.spectra_to_rows(spectra, found.masks, self._scale, low, high, self._unity, self._rows)
        for rows, unity, out in zip(self._rows, self._unity, self._masks, strict=True):
            self.program.masks(rows, found.embedding, out, smoothing, unity)
        kernels.rows_to_spectra(self._masks, spectra, self._chosen)
        return self._chosen.reshape(self.hops, -1, self.bundle.stft.bins), smoothing

    def _fade(self, lanes: F32, gains: F32) -> tuple[F32, F32]:
        """(buses * channels, samples) -> (buses, channels, samples) behind the faders, and where these are now."""
        audio, gains = lanes.reshape(len(self.buses), self.channels, -1), gains.copy()
        kernels.ramp_gains(audio, gains, self._targets, self._slope)
        return audio, gains

    def _sound(self, block: F32) -> F32:
        """The block in an array of ours (kernels are compiled for no other kind), without samples that are no sound:
        a fault must not live on in the network's memory."""
        np.copyto(self._block, block)
        self.faults += kernels.clean(self._block, FAINTEST, LOUDEST) > 0
        return self._block

    def _warm_up(self) -> None:
        """Compile and touch everything before the first real block."""
        self.step(np.zeros((self.channels, self.block_samples), np.float32))
        self.faults = 0
        self.reset()


def _delay(spectra: C64, delayed: C64) -> tuple[C64, C64]:
    """The look-ahead's delay line: (hops, ...) in, the (hops, ...) of ``len(delayed)`` hops ago out."""
    if not len(delayed):
        return spectra, delayed
    line = np.concatenate([delayed, spectra])
    return line[: len(spectra)], line[len(spectra) :]
