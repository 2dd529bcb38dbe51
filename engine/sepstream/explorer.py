"""Questions to a file that has been heard (analysis.py): what does a selection take, how does it sound, what is in it?

A Choice is an expression of the language of buses, and maybe a Patch: an outline drawn on the spectrogram. What is heard is
the file times the masks of the choice, by the synthesis of pipeline.py, for any range of samples and for that range alone:
so "mix" is the file itself, and what a partition takes adds up to it. Pictures and statistics look at a View: frames of a
range of time, all of them or evenly spread. Pure, but for reading the store's tapes; any thread may ask.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import kernels
from .analysis import FLOOR_DB, MASK_ONE, STEP_DB, Store, level_code
from .audiofile import resample
from .contract import BandSpec, Bundle
from .disk import certainty, point
from .errors import ExpressionError
from .expression import Expression, Mix, quoted
from .program import Program
from .render import Meter, RenderOptions, drop, spare_the_input, together
from .selection import Bus, Selection, compile
from .spectral import AnalysisState

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]

MAX_CORNERS = 512  # of a patch
MAX_SECONDS, MAX_HZ = 1e6, 1e6  # of a corner
VIEW_FRAMES = 1600  # a view has no more: as many as a screen has columns
CERTAINTY_BARS = 50
BLOCK_HOPS = 256  # synthesised at a time when a whole file is wanted
EVERYTHING = Mix()
FORGOTTEN = 2.0**-24  # what is left of the past when a smoothed mask no longer knows it


@dataclass(frozen=True)
class Patch:
    """A closed outline on the spectrogram, corners (seconds, Hz): the bins whose middle an odd number of turns encloses.

    A frame's middle is that of its synthesis window, in the file's time. Raises ExpressionError.
    """

    corners: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        if not 3 <= len(self.corners) <= MAX_CORNERS:
            raise ExpressionError(f"patch: {len(self.corners)} corners; expected 3 to {MAX_CORNERS}")
        for corner in self.corners:
            if not (isinstance(corner, tuple) and len(corner) == 2 and all(map(_is_number, corner))):
                raise ExpressionError(f"patch: corner {quoted(corner)}; expected (seconds, Hz), finite")
            if abs(corner[0]) > MAX_SECONDS or abs(corner[1]) > MAX_HZ:
                raise ExpressionError(f"patch: corner {quoted(corner)}; expected {MAX_SECONDS:g} s and {MAX_HZ:g} Hz at most")

    @classmethod
    def rectangle(cls, start_s: float, stop_s: float, low_hz: float, high_hz: float) -> "Patch":
        return cls(((start_s, low_hz), (stop_s, low_hz), (stop_s, high_hz), (start_s, high_hz)))


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)


@dataclass(frozen=True)
class Choice:
    """What is taken: ``expression``, inside the ``patch`` if there is one; or, with ``rest``, all but that."""

    expression: Expression = EVERYTHING
    patch: Patch | None = None
    rest: bool = False


class Question(NamedTuple):
    """Choices made ready for one model; belongs to one thread at a time (Program)."""

    choices: tuple[Choice, ...]
    program: Program
    preroll_hops: int  # that a smoothed mask has to hear first


def ask(bundle: Bundle, *choices: Choice, regions: tuple[Any, ...] = ()) -> Question:
    """One output for each of the choices. Raises ExpressionError for what the model does not have."""
    selection = Selection(tuple(Bus(f"choice{i}", c.expression) for i, c in enumerate(choices)), None, regions)
    return Question(choices, compile(selection, bundle), 0)


def ask_buses(bundle: Bundle, selection: Selection) -> Question:
    """The buses of a preset, smoothing and residual included; ``listen`` leaves their faders alone."""
    program = compile(selection, bundle)
    slowest_ms = max((bus.smooth_ms for bus in selection.buses), default=0.0)
    hop_ms = 1000 * bundle.stft.hop_samples / bundle.sample_rate_hz
    return Question((Choice(),) * len(program.buses), program, math.ceil(-math.log(FORGOTTEN) * slowest_ms / hop_ms))


# Masks.


class View(NamedTuple):
    """The bins of the band, of some frames, that are loud enough to be looked at: (bins,) each, frame by frame.

    ``masks`` (rows, classes, band bins) and ``embedding`` (rows, dim, band bins) hold what the network said of them one
    after the other, as if they were whole frames: a program asks each bin by itself.
    """

    hops: I64  # (n,) the frames, rising
    frame: I64  # of each bin, its place in ``hops``
    bin: I64
    level: U8  # codes of analysis.level_codes
    masks: F32
    embedding: F32


def view(
    store: Store,
    threshold_db: float,
    start_s: float = 0.0,
    stop_s: float = math.inf,
    *,
    most: int = VIEW_FRAMES,
    hops: int | None = None,
) -> View:
    """What is at ``threshold_db`` (0 is a sine at full scale) or above it in the frames whose middle lies in [start, stop)
    of the file's time: ``most`` frames of them, evenly spread; only of the first ``hops`` frames, if that is given."""
    there = store.hops if hops is None else min(hops, store.hops)
    first, last = (min(_first_hop(store, s), there) for s in (start_s, stop_s))
    chosen = np.unique(np.linspace(first, max(first, last - 1), min(most, max(0, last - first))).round().astype(np.int64))
    width = store.bundle.band.bins
    levels = store.picture[0].pick(chosen)[:, :width]
    frame, bin = np.nonzero(levels >= level_code(threshold_db))
    masks, embedding = (_packed(tape.pick(chosen), frame, bin, width) for tape in (store.masks, store.embedding))
    return View(chosen, frame, bin, levels[frame, bin], _masks(masks), embedding)


def _packed(rows: NDArray[Any], frame: I64, bin: I64, width: int) -> NDArray[Any]:
    """(n, lanes, band bins), and places in it -> (rows, lanes, band bins) with nothing else; zeros fill the last row."""
    lanes, used = rows.shape[1], -(-len(frame) // width)
    found = np.zeros((lanes, used * width), rows.dtype)
    at = frame * (lanes * width) + bin
    for lane in range(lanes):
        found[lane, : len(frame)] = rows.reshape(-1).take(at + lane * width)
    return np.ascontiguousarray(found.reshape(lanes, used, width).swapaxes(0, 1))


def _unpacked(packed: F32, length: int) -> F32:
    """(rows, lanes, band bins) -> (lanes, length)"""
    return packed.swapaxes(0, 1).reshape(packed.shape[1], -1)[:, :length]


def select(store: Store, question: Question, seen: View) -> F32:
    """(choices, bins) masks of the bins that are seen; a bus's smoothing, that needs neighbours in time, is left out."""
    program, length = question.program, len(seen.bin)
    out = np.empty((len(seen.masks), len(program.buses), store.bundle.band.bins), np.float32)
    program.masks(seen.masks, seen.embedding, out, program.initial_state())
    found = np.array(_unpacked(out, length))
    for k, choice in enumerate(question.choices):
        if choice.patch:
            found[k] *= patch_mask(store, choice.patch, seen.hops)[seen.frame, seen.bin]
        if choice.rest:
            found[k] = 1 - found[k]
    return found


def _whole(store: Store, question: Question, hops: I64, masks: F32, embedding: F32) -> F32:
    """(n, choices, bins) masks of neighbouring frames over the whole spectrum."""
    band, bins, program = store.bundle.band, store.bundle.stft.bins, question.program
    out = np.empty((len(hops), len(program.buses), band.bins), np.float32)
    program.masks(masks, embedding, out, program.initial_state())
    found = follow(out, band, bins)
    for k, choice in enumerate(question.choices):
        if choice.patch:
            found[:, k] *= patch_mask(store, choice.patch, hops)
        if choice.rest:
            found[:, k] = 1 - found[:, k]
    return found


def follow(masks: F32, band: BandSpec, bins: int) -> F32:
    """(hops, buses, band bins) -> (hops, buses, bins): bins above the band follow it (contract.BandSpec)."""
    found = np.empty((*masks.shape[:2], bins), np.float32)
    found[..., : band.bins] = masks
    found[..., band.bins :] = masks[..., band.follow_low : band.follow_high].mean(axis=-1, keepdims=True)
    return found


def _masks(codes: NDArray[np.uint16]) -> F32:
    return codes * np.float32(1 / MASK_ONE)


def middle_s(store: Store, hops: I64) -> F64:
    """Where frames are in the file's time: the middle of what is heard of them."""
    spec = store.bundle.stft
    samples = (hops + 1) * spec.hop_samples - spec.synthesis_samples / 2 - store.lead_samples
    return np.asarray(samples / store.bundle.sample_rate_hz)


def _first_hop(store: Store, at_s: float) -> int:
    """The first frame whose middle is not before this."""
    spec = store.bundle.stft
    samples = at_s * store.bundle.sample_rate_hz + store.lead_samples + spec.synthesis_samples / 2
    return int(min(max(0.0, np.ceil(samples / spec.hop_samples) - 1), store.hops))


def bin_hz(bundle: Bundle) -> NDArray[Any]:
    """(bins,) frequencies."""
    return np.arange(bundle.stft.bins) * (bundle.sample_rate_hz / bundle.stft.analysis_samples)


def patch_mask(store: Store, patch: Patch, hops: I64) -> F32:
    """(n, bins) 0 or 1. Along each frame, every side of the outline that it meets turns all bins above that point over."""
    seconds, bins = middle_s(store, hops), store.bundle.stft.bins
    per_bin_hz = store.bundle.sample_rate_hz / store.bundle.stft.analysis_samples
    turns = np.zeros((len(hops), bins + 1), np.int32)
    for (s0, hz0), (s1, hz1) in zip(patch.corners, (*patch.corners[1:], patch.corners[0]), strict=True):
        met = np.flatnonzero((seconds >= min(s0, s1)) & (seconds < max(s0, s1)))
        if len(met):
            crossed_hz = hz0 + (seconds[met] - s0) * ((hz1 - hz0) / (s1 - s0))
            np.add.at(turns, (met, np.clip(np.ceil(crossed_hz / per_bin_hz), 0, bins).astype(np.int64)), 1)
    return np.asarray(np.cumsum(turns[:, :bins], axis=1) % 2, np.float32)


# Sound.


def listen(store: Store, question: Question, start: int, stop: int) -> F32:
    """(choices, channels, stop - start) samples at the model's rate, counted from the file's first: the file times the
    masks. What has not been heard yet, and what lies beyond the file's ends, is silence (but see ``_sound``)."""
    return _sound(store, question, start + store.lead_samples, stop + store.lead_samples)


def _sound(store: Store, question: Question, start: int, stop: int) -> F32:
    """The same, counted from the store's first sample, the lead included."""
    spec, channels, buses = store.bundle.stft, store.channels, len(question.program.buses)
    hop, late = spec.hop_samples, spec.synthesis_samples - spec.hop_samples
    out = np.zeros((buses, channels, max(0, stop - start)), np.float32)
    begin, end = max(0, start), min(stop, store.hops * hop - late)
    if begin >= end:
        return out
    first, last = begin // hop, -(-(end + late) // hop)
    masks = masks_of(store, question, first, last)
    chosen = np.empty((last - first, buses, channels, spec.bins), np.complex64)
    kernels.apply_masks(spectra(store, first, last), masks, 0, 1, chosen)
    lanes = buses * channels
    heard, _ = store.stft.synthesize(chosen.reshape(last - first, lanes, spec.bins), store.stft.synthesis_state(lanes))
    at = begin - first * hop + late  # frame ``first`` begins ``late`` samples before its hop, where the one before is missing
    out[:, :, begin - start : end - start] = heard.reshape(buses, channels, -1)[:, :, at : at + end - begin]
    return out


def masks_of(store: Store, question: Question, first: int, last: int) -> F32:
    """(last - first, choices, bins) masks of neighbouring frames, smoothed as the buses say."""
    begin = max(0, first - question.preroll_hops)
    hops = np.arange(begin, last)
    masks, embedding = _masks(store.masks.read(begin, last)), store.embedding.read(begin, last)
    return np.ascontiguousarray(_whole(store, question, hops, masks, embedding)[first - begin :])


def spectra(store: Store, first: int, last: int) -> NDArray[np.complex64]:
    """(last - first, channels, bins) spectra of frames, as the network's magnitudes had them."""
    spec, stft = store.bundle.stft, store.stft
    past = spec.analysis_samples - spec.hop_samples
    sound = store.sound.read(first * spec.hop_samples - past, last * spec.hop_samples).T
    history, block = (np.ascontiguousarray(part) for part in (sound[:, :past], sound[:, past:]))
    found, _ = stft.analyze(block, AnalysisState(history))
    return found


def whole(store: Store, question: Question) -> Iterator[F32]:
    """The whole file, (choices, channels, n) blocks at its own rate, aligned with it and as long. The analysis has ended."""
    assert store.samples is not None, "the analysis has not ended"
    file_hz, model_hz, length = store.rate_hz, store.bundle.sample_rate_hz, store.samples
    lanes = len(question.program.buses) * store.channels
    size = BLOCK_HOPS * store.bundle.stft.hop_samples
    end = store.hops * store.bundle.stft.hop_samples
    blocks = (_sound(store, question, at, min(at + size, end)).reshape(lanes, -1) for at in range(0, end, size))
    given = 0
    for block in drop(resample(blocks, model_hz, file_hz, lanes), store.file_lead_samples):
        part = block[:, : length - given]
        given += part.shape[1]
        yield part.reshape(-1, store.channels, part.shape[1])
        if given == length:
            return


class Written(NamedTuple):
    """A file that was made: where, and its level over all channels, None for silence."""

    path: Path
    rms_db: float | None
    clipped: int


def export(
    store: Store,
    question: Question,
    paths: Sequence[Path],
    options: RenderOptions,
    *,
    gains: Sequence[float] | None = None,
    progress: Callable[[float], None] = lambda _: None,
) -> tuple[Written, ...]:
    """Write each choice, times its gain, to its path: rate, channels and length are the file's. All appear together at the
    end, or, on any exception, none. Raises AudioFileError."""
    assert store.samples is not None, "the analysis has not ended"
    spare_the_input(store.source, paths)
    factors, meters = gains or (1.0,) * len(paths), [Meter() for _ in paths]
    with together(paths, store.rate_hz, store.channels, store.samples, options) as writers:
        for block in whole(store, question):
            for sound, factor, writer, meter in zip(block, factors, writers, meters, strict=True):
                louder = sound * np.float32(factor)
                writer.write(louder)
                meter.add(louder)
            progress(min(1.0, writers[0].position / max(1, store.samples)))
    return tuple(Written(w.path, m.rms_db, w.clipped) for w, m in zip(writers, meters, strict=True))


# Pictures and statistics.


class Cloud(NamedTuple):
    """Bins of a view as points of the disk, (n,) each."""

    place: I64  # in the view
    x: F32
    y: F32
    leaf: U8  # the likeliest leaf, by its place among the leaves


def cloud(bundle: Bundle, seen: View, most: int) -> Cloud:
    """All bins of the view, or ``most`` of them, spread evenly over time and frequency; none of a model without a disk."""
    place = np.arange(len(seen.bin) if bundle.disk else 0)
    if len(place) > most:  # a plain comb would keep the same few bins of every frame
        place = ((np.arange(most) + np.random.default_rng(0).random(most)) * (len(place) / most)).astype(np.int64)
    u = _unpacked(seen.embedding, len(seen.bin))[:, place]
    x = point(u) if _is_curved(bundle) else u
    masks = _unpacked(seen.masks, len(seen.bin))[:, place]
    first = len(bundle.class_names) - len(bundle.leaves)
    across, up = (x[0], x[-1]) if len(x) else np.zeros((2, 0), np.float32)
    return Cloud(place, across, up, masks[first:].argmax(axis=0).astype(np.uint8))


def _is_curved(bundle: Bundle) -> bool:
    return bundle.disk is not None and bundle.disk.curvature > 0


class Statistics(NamedTuple):
    """What a selection takes of a view, and beside it all that is there."""

    hz: F64  # (band bins,)
    taken: F64  # (band bins,) mean energy per frame; a sine at full scale is 1
    there: F64
    bars: F64  # (bars + 1,) edges of the bars of certainty, 0 to 1
    taken_by_certainty: F64  # (bars,) share of all energy that is there
    there_by_certainty: F64
    energy_share: float
    bin_share: float


def statistics(bundle: Bundle, seen: View, mask: F32) -> Statistics:
    """``mask`` (bins,) of the view. Energy is taken by the mask's square, as it is heard."""
    band, frames = bundle.band.bins, max(1, len(seen.hops))
    energy = ENERGY[seen.level]
    taken = energy * np.square(mask)
    total = max(float(energy.sum()), 1e-30)
    u = _unpacked(seen.embedding, len(seen.bin))
    sure = certainty(u) if _is_curved(bundle) else np.zeros(len(seen.bin), np.float32)
    bar = np.minimum((sure * CERTAINTY_BARS).astype(np.int64), CERTAINTY_BARS - 1)
    by_hz = [np.bincount(seen.bin, e, band) / frames for e in (taken, energy)]
    by_certainty = [np.bincount(bar, e, CERTAINTY_BARS) / total for e in (taken, energy)]
    return Statistics(
        hz=bin_hz(bundle)[:band],
        taken=by_hz[0],
        there=by_hz[1],
        bars=np.linspace(0.0, 1.0, CERTAINTY_BARS + 1),
        taken_by_certainty=by_certainty[0],
        there_by_certainty=by_certainty[1],
        energy_share=float(taken.sum()) / total,
        bin_share=float(mask.mean()) if mask.size else 0.0,
    )


ENERGY = np.concatenate([[0.0], 10 ** ((FLOOR_DB + STEP_DB * np.arange(1, 256)) / 10)])  # by code; the least is nothing

# ITU-R BS.1770-4, tables 1 and 2: how loud a frequency is, as two filters (b, a) at 48 kHz.
K_WEIGHTING_HZ = 48000
K_WEIGHTING = (
    ((1.53512485958697, -2.69169619938640, 1.19839281085285), (1.0, -1.69065929318241, 0.73248077421585)),
    ((1.0, -2.0, 1.0), (1.0, -1.99004745483398, 0.99007225036621)),
)
MOST_MATCH_DB = 40.0


def loudness_weight(hz: NDArray[Any]) -> F64:
    """Energy gain of the K weighting at each frequency."""
    z = np.exp(-2j * np.pi * np.minimum(hz, K_WEIGHTING_HZ / 2) / K_WEIGHTING_HZ)
    parts = [np.abs(np.polynomial.Polynomial(b)(z) / np.polynomial.Polynomial(a)(z)) ** 2 for b, a in K_WEIGHTING]
    return np.asarray(parts[0] * parts[1])


def match_db(found: Statistics) -> float:
    """The gain that makes the selection as loud as all of it, by BS.1770 without its gate; MOST_MATCH_DB at most."""
    weight = loudness_weight(found.hz)
    taken, there = (max(float((weight * e).sum()), 1e-30) for e in (found.taken, found.there))
    return float(np.clip(10 * math.log10(there / taken), -MOST_MATCH_DB, MOST_MATCH_DB))
