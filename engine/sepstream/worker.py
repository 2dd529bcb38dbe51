"""The worker: one hop off the input ring, through the pipeline and the matrix, onto the output ring.

It reads the mailbox once a hop and never waits for anything but sound. Nothing here can hold the sound up: what is not
on the output ring in time, the callback replaces by the dry sound (callback.py); what was missed is caught up with, or
skipped. All of it runs on the worker's thread.
"""

import math
import os
import time
from collections.abc import Callable
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from . import board as b
from . import kernels
from .board import Board
from .bridge import Bridge
from .contract import Bundle
from .control import mailbox
from .control.mailbox import Order
from .expression import Mix
from .pipeline import RAMP_MS, Pipeline
from .program import Code, Program
from .selection import Bus, Selection

F32 = NDArray[np.float32]

PATIENCE_HOPS = 8  # of backlog, beside the newest block, that are still caught up with
PEAK_FALL_DB_PER_S = 20.0  # of the meters
RMS_MS = 300.0
INPUT_SLOT = 0  # of the recorder's rings: the input, aligned with the buses


class Alarm:
    """Wakes the worker: an eventfd, or a pipe where there is none."""

    def __init__(self) -> None:
        self.read = self.write = -1
        if hasattr(os, "eventfd"):
            self.read = self.write = os.eventfd(0)
        else:
            self.read, self.write = os.pipe()
            os.set_blocking(self.write, False)

    def wait(self) -> None:
        os.read(self.read, 4096)

    def ring(self) -> None:
        os.write(self.write, (1).to_bytes(8, "little"))

    def close(self) -> None:
        for descriptor in {self.read, self.write}:
            os.close(descriptor)


class Worker:
    """The loop around one Pipeline. ``board`` knows the stream's shape already (device.announce).

    Frames are the device's, samples are the model's; between the two stand the bridges, which do nothing where both rates
    are the same. Input frame t of the device is heard again in frame t + ``lag_frames`` of the output ring.
    """

    def __init__(self, board: Board, bundle: Bundle, provider: str = "auto") -> None:
        words = board.words
        self.board, self.bundle = board, bundle
        self.inputs, self.outputs = int(words[b.INPUTS]), int(words[b.OUTPUTS])
        self.hop = bundle.stft.hop_samples
        self.lag = bundle.latency_samples - self.hop  # of the pipeline's output behind its input, in samples
        self.pipeline = Pipeline(bundle, Selection((Bus("mix", Mix()),)), self.inputs, provider=provider)
        self._input_ring, self._output_ring = board.input_ring(), board.output_ring()
        self._tape = board.record_ring(self.inputs)
        bins = bundle.band.bins
        self._views, self._heads = board.views(bins) if bins <= b.VIEW_BINS else None, board.view_heads()
        self._used = set(range(1, int(words[b.SLOTS_USED])))  # slots of the tape that ever held a bus
        self._block = np.zeros((self.inputs, self.hop), np.float32)
        self._sounding = np.zeros_like(self._block)  # a bus, with what it owes
        self._played = np.zeros((self.hop, self.outputs), np.float32)
        self._now = self._target = np.zeros((self.outputs, 2, self.inputs), np.float32)
        self._owed = np.zeros((0, self.outputs), np.float32)  # what buses that were let go still ring
        self._tails: dict[int, F32] = {}  # the same for the tape, by slots
        self._program, self._slots, self._seen = b"", (), 0  # type: tuple[bytes, tuple[int, ...], int]
        self.probe: F32 | None = None  # (n, outputs): to be played once on top of all, by those who measure
        self.probe_at = -1  # frame of the output ring where it began
        self._epoch, self._broken = int(words[b.EPOCH]), True  # broken: nothing to be heard before the callback plays dry
        self._build_bridges(int(words[b.RATE_HZ]), bundle.sample_rate_hz)
        hop_s = self.hop / bundle.sample_rate_hz
        self._slope = 1000.0 / (RAMP_MS * bundle.sample_rate_hz)
        self._decay = 10.0 ** (-PEAK_FALL_DB_PER_S * hop_s / 20.0)
        self._follow = 1.0 - math.exp(-1000.0 * hop_s / RMS_MS)
        words[b.PROVIDER] = {"cpu": b.CPU, "cuda": b.CUDA}[self.pipeline.provider]
        words[b.MODEL_HZ], words[b.HOP_NS] = bundle.sample_rate_hz, round(1e9 * hop_s)
        words[b.ALGORITHMIC] = self.hop_frames + self.lag_frames
        self._warm_up()

    def run(self, alarm: Alarm, over: Callable[[], bool]) -> None:
        """Until ``over``; asleep while no hop is complete."""
        words = self.board.words
        self.begin(int(words[b.FRAMES]))
        while not over():
            if self._due():
                self.turn()
                continue
            words[b.WAKE_AT] = self.at + self._needed
            if not self._due():  # else it came between the question and the alarm
                alarm.wait()

    def begin(self, at: int) -> None:
        """At frame ``at``, where a block of the device ends: hops that end where blocks do need the shortest queue."""
        self._began = at, int(self.board.words[b.RECORDED])
        self._go_to(at)

    @np.errstate(all="ignore")  # what is no number is looked for, and is no reason to write on the performer's screen
    def turn(self) -> None:
        """One hop."""
        started, worked = time.perf_counter_ns(), time.thread_time_ns()
        self._look_around()
        self._hear()
        buses = self.pipeline.step(self._block)
        self._mix(buses)
        self._publish(buses)
        self._measure(buses)
        self._record(buses)
        self._show()
        words = self.board.words
        place = b.HOP_TIMES + 2 * (int(words[b.HOPS]) & (b.TIMES - 1))
        words[place], words[place + 1] = time.perf_counter_ns() - started, time.thread_time_ns() - worked
        words[b.HOPS] += 1

    def on_device(self, samples: F32) -> F32:
        """(n, outputs) -> (frames,): how the first output's samples leave the device, counted from ``probe_at``."""
        played = np.concatenate([samples.T, np.zeros((self.outputs, self.hop), np.float32)], axis=1)
        frames: F32 = self._out.step(played, self._out.initial_state(self.outputs))[0][0]
        return frames

    def _build_bridges(self, device_hz: int, model_hz: int) -> None:
        self._in = Bridge(device_hz, model_hz, whole="source")
        self._out = Bridge(model_hz, device_hz, whole="target", behind=self.lag)
        ratio = self._ratio = Fraction(device_hz, model_hz)
        self.hop_frames = math.ceil(self.hop * ratio)
        self.lag_frames = int(self._in.delay_source_samples + self.lag * ratio + self._out.delay_target_samples)
        past = max(self.bundle.stft.analysis_samples - self.hop, self.lag) * ratio + self._in.delay_source_samples
        self._past_frames = math.ceil(past / ratio.numerator) * ratio.numerator  # a whole number of samples, too
        self.begin(0)

    def _due(self) -> bool:
        return int(self.board.words[b.FRAMES]) >= self.at + self._needed

    def _look_around(self) -> None:
        """What changed since the last hop: the epoch, the backlog, the mail."""
        words = self.board.words
        if self._epoch != words[b.EPOCH]:
            self._epoch = int(words[b.EPOCH])
            self.pipeline.reset()
            self._go_to(self.at)
        behind = int(words[b.FRAMES] - words[b.LAST_BLOCK]) - (self.at + self._needed)
        if behind > PATIENCE_HOPS * self.hop_frames:
            self._skip(behind // self.hop_frames)
        self._seen, order = mailbox.take(self.board, self._seen)
        if order is not None and order.matrix.shape[::2] == (self.outputs, self.inputs):
            self._obey(order)

    def _skip(self, hops: int) -> None:
        """So many hops, or a little less, for the sound to go on at a frame that is a whole number of samples away too."""
        turn = self._ratio.numerator
        at = self.at + hops * self.hop_frames
        at -= (at - self._began[0]) % turn
        if at > self.at:  # else the rates are such that it is as quick to catch up
            self.board.words[b.SKIPPED] += (at - self.at) // self.hop_frames
            self._go_to(at)

    def _go_to(self, at: int) -> None:
        """Go on at frame ``at``, with the input before it as if it had been heard."""
        frames = np.zeros((self.inputs, self._past_frames), np.float32)
        kernels.read_ring(self.board.input_ring(), at - self._past_frames, frames)
        heard, self._heard = self._in.step(frames, self._in.initial_state(self.inputs))
        self._said = self._out.initial_state(self.outputs)
        self._rest = heard[:, :0]  # samples that do not fill a hop yet
        self._needed = self._in.needed(self._heard, self.hop)
        known = self.pipeline.stft.spec.analysis_samples - self.hop
        self.pipeline.rejoin(np.ascontiguousarray(heard[:, -known:]))
        self._past = np.zeros((self.inputs, self.lag + self.hop), np.float32)
        self._past[:, self.hop :] = heard[:, heard.shape[1] - self.lag :]
        self._owed, self._tails = np.zeros((0, self.outputs), np.float32), {}
        self.at = self.out_at = at
        self._broken = True
        began, recorded = self._began
        self._leave_blank(recorded + round((at - began) / self._ratio))

    def _hear(self) -> None:
        """The next hop, as the model's rate has it."""
        frames = np.empty((self.inputs, self._needed), np.float32)
        kernels.read_ring(self._input_ring, self.at, frames)
        heard, self._heard = self._in.step(frames, self._heard)
        self.at += self._needed
        samples = np.concatenate([self._rest, heard], axis=1)
        self._block[:], self._rest = samples[:, : self.hop], samples[:, self.hop :]
        self._needed = self._in.needed(self._heard, self.hop - self._rest.shape[1])

    def _obey(self, order: Order) -> None:
        """Another program, another matrix; where the buses themselves differ, the old ones ring out."""
        if order.program != self._program or order.slots != self._slots:
            before = self._now
            owed = self.pipeline.change(Program(self.bundle, tuple(map(str, order.slots)), Code.unpack(order.program)))
            if owed is not None:
                self._owed = self._ringing(owed, before)
                self._tails = dict(zip(self._slots, owed, strict=False))
                self._now = order.matrix.copy()
                self._now[:, -1] = before[:, -1]  # the dry sound goes on from where it is
                self.board.area("bus_levels", b.MAX_BUSES, 2)[:] = 0.0
            self._program, self._slots = order.program, order.slots
        self._target = order.matrix
        self.board.words[b.BUSES], self.board.words[b.TAKEN] = len(order.slots), self._seen

    def _ringing(self, owed: F32, matrix: F32) -> F32:
        """What buses (buses, channels, n) still owe, through the matrix they had -> (n, outputs)."""
        out = np.zeros((owed.shape[2], self.outputs), np.float32)
        still = np.ascontiguousarray(matrix[:, :-1])
        if self._slots:
            kernels.route(owed, still, still.copy(), 0.0, out)
        return out

    def _mix(self, buses: F32) -> None:
        """The buses and the dry sound of the same moment, each on its outputs."""
        self._past[:, : self.lag] = self._past[:, self.hop :]
        self._past[:, self.lag :] = self._block
        if not self._slots:  # no order yet: the callback plays dry
            self._played[:] = 0.0
            return
        sources = np.concatenate([buses, self._past[None, :, : self.hop]])
        kernels.route(sources, self._now, self._target, self._slope, self._played)
        ringing = min(len(self._owed), self.hop)
        self._played[:ringing] += self._owed[:ringing]
        self._owed = self._owed[ringing:]
        if self.probe is not None:
            self._played[: len(self.probe)] += self.probe
            self.probe, self.probe_at = None, self.out_at

    def _publish(self, buses: F32) -> None:
        """On the output ring, if it is sound, of this epoch, and the callback ready to fade to it."""
        words, at = self.board.words, self.out_at
        if not (np.isfinite(self._played).all() and np.isfinite(buses).all()):
            words[b.FAULTY_HOPS] += 1
            self._played[:] = buses[:] = 0.0  # meters and recorder must not hear of it either
            self._owed, self._tails = self._owed[:0], {}
            self.pipeline.reset()
            self._broken = True
        frames, self._said = self._out.step(self._played.T, self._said)
        self.out_at += frames.shape[1]
        if self._epoch != words[b.EPOCH]:
            words[b.STALE] += 1
        elif self._slots and self._mended():
            kernels.write_ring(frames.T, at, self._output_ring)
            kernels.barrier()  # the sound before its count
            words[b.WET_TO] = self.out_at

    def _mended(self) -> bool:
        """Whether what is published now follows on what was before. After a break the callback plays dry first; then a new
        stretch begins, whole from where the new overlap is."""
        words = self.board.words
        if self._broken and self.board.floats[b.FADES_AT] == 0.0:
            words[b.WET_EPOCH], words[b.WET_TO] = -1, 0
            words[b.WET_FROM] = self.out_at + self.lag_frames
            words[b.WET_EPOCH] = self._epoch
            self._broken = False
        return not self._broken

    def _measure(self, buses: F32) -> None:
        board, decay, follow = self.board, self._decay, self._follow
        kernels.levels(self._block, decay, follow, board.area("input_levels", self.inputs, 2))
        kernels.levels(self._played.T, decay, follow, board.area("output_levels", self.outputs, 2))
        if self._slots:
            kernels.levels(buses.reshape(len(buses), -1), decay, follow, board.area("bus_levels", len(buses), 2))

    def _record(self, buses: F32) -> None:
        """What the recorder may fetch: the input and each bus, and silence where a bus is out of use."""
        if self._tape is None:
            return
        at = int(self.board.words[b.RECORDED])
        self._used.update(self._slots)
        self.board.words[b.SLOTS_USED] = max(self._used, default=0) + 1
        kernels.write_ring(self._past[:, : self.hop].T, at, self._tape[INPUT_SLOT])
        for slot in self._used:
            self._sounding[:] = buses[self._slots.index(slot)] if slot in self._slots else 0.0
            tail = self._tails.get(slot, self._sounding[:, :0])[:, : self.hop]
            self._sounding[:, : tail.shape[1]] += tail
            kernels.write_ring(self._sounding.T, at, self._tape[slot])
        self._tails = {slot: tail[:, self.hop :] for slot, tail in self._tails.items() if tail.shape[1] > self.hop}
        self.board.words[b.RECORDED] = at + self.hop

    def _show(self) -> None:
        """What the model sees and makes of it, for whoever looks: a few copies now and then. One word says that nobody does."""
        words = self.board.words
        every = int(words[b.VIEW_EVERY])
        if every <= 0 or words[b.HOPS] % every or self._views is None:
            return
        look, shown = self.pipeline.look(), int(words[b.VIEWED])
        view, head = self._views[shown % b.VIEWS], self._heads[shown % b.VIEWS]
        masks = min(len(self._slots), b.VIEW_BUSES)
        view[0], view[3 : 3 + masks] = look.magnitude, look.masks[:masks]
        view[1:3] = look.embedding if len(look.embedding) == 2 else 0.0  # only a disk of two dimensions can be drawn
        head[0], head[1], head[2 : 2 + masks] = words[b.HOPS], masks, self._slots[:masks]
        kernels.barrier()  # the view before its count
        words[b.VIEWED] = shown + 1

    def _leave_blank(self, until: int) -> None:
        """Silence on the tape up to sample ``until``, for what was skipped, so that it stays in time."""
        if self._tape is None:
            return
        at = int(self.board.words[b.RECORDED])
        for start in range(at, until, self.hop):
            self._sounding[:] = 0.0
            for slot in (INPUT_SLOT, *self._used):
                kernels.write_ring(self._sounding.T, start, self._tape[slot])
            self.board.words[b.RECORDED] = min(start + self.hop, until)

    def _warm_up(self) -> None:
        """Compile and touch everything that a hop uses, on arrays that nobody hears."""
        self._hear()
        buses = self.pipeline.step(self._block)
        self.pipeline.look()
        self._slots = (0,)
        silent = np.zeros((self.outputs, 2, self.inputs), np.float32)
        self._now, self._target = silent, silent.copy()
        self._ringing(buses, silent)
        self._mix(buses)
        frames, _ = self._out.step(self._played.T, self._said)
        self._touch_ring(frames.T)
        for lanes in (self._block, self._played.T, buses.reshape(len(buses), -1)):
            kernels.levels(lanes, 1.0, 0.0, np.zeros((len(lanes), 2), np.float32))
        self._touch_ring(self._sounding.T)
        self._touch_ring(self._past[:, : self.hop].T)
        kernels.barrier()
        self._slots = ()
        self.pipeline.reset()

    @staticmethod
    def _touch_ring(frames: F32) -> None:
        kernels.write_ring(frames, 0, np.zeros((1, frames.shape[1]), np.float32))
