"""A sound file, heard once by the network and kept: what explorer.py needs to answer any question about it.

The stages are those of pipeline.py (spectral, separator), so that what is kept is what a rendering would have heard. One
thread reads, resamples and transforms, the caller's runs the network. A Store grows while the analysis runs and may be
read meanwhile, from any thread; a file of any length takes the memory of a few blocks, and room on the disk:
for each hop the sound, a 16-bit code for each mask, the embedding, and a byte for each bin of the picture.
"""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import kernels
from .audiofile import AudioReader, lead_samples, resample, unwritable
from .contract import Bundle
from .errors import AudioFileError
from .pipeline import FAINTEST, LOUDEST
from .render import BLOCK_SAMPLES
from .separator import Separator
from .spectral import Stft
from .tape import Tape

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
U16 = NDArray[np.uint16]

MASK_ONE = 65535  # the code of a mask of 1: masks are kept within 2^-17
FLOOR_DB, STEP_DB = -120.0, 0.5  # code 0 of the picture, and its steps; 0 dB is a sine at full scale
ZOOM = 4  # frames of one level of the picture in a column of the next
ZOOMS = 6
AHEAD_BLOCKS = 8  # that the reading thread may be ahead of the network
FULL_SCALE = 0.5  # a sine at full scale, as a magnitude (StftSpec.magnitude_scale)


class Store:
    """One file as it was heard. Sample 0 of ``sound`` lies ``lead_samples`` before the file's first, at the model's rate.

    ``sound`` (channels,) samples; for each frame ``masks`` (classes, band bins) codes, ``embedding`` (dim, band bins), and
    ``picture[0]`` (bins,) levels; picture[k] has the loudest of ZOOM**k frames. Frame h ends at sample (h + 1) * hop.
    """

    def __init__(self, reader: AudioReader, bundle: Bundle, folder: Path) -> None:
        self.reader, self.bundle, self.stft = reader, bundle, Stft(bundle.stft)
        self.source, self.rate_hz, self.channels = reader.path, int(reader.rate_hz), int(reader.channels)
        self.promised = int(reader.samples)  # by the header
        self.samples: int | None = None  # of the file, at its own rate, once it has been read to its end
        self.file_lead_samples = lead_samples(self.rate_hz, bundle.sample_rate_hz)
        self.lead_samples = self.file_lead_samples * bundle.sample_rate_hz // self.rate_hz
        bins, bands = bundle.stft.bins, bundle.band.bins
        self.sound = Tape(folder / "sound", (self.channels,), np.float32)
        self.masks = Tape(folder / "masks", (len(bundle.classes), bands), np.uint16)
        self.embedding = Tape(folder / "embedding", (bundle.embedding_dim, bands), np.float32)
        self.picture = tuple(Tape(folder / f"picture{k}", (bins,), np.uint8) for k in range(ZOOMS))

    @property
    def hops(self) -> int:
        """Frames that can be looked at and listened to."""
        return min(self.embedding.rows, self.picture[0].rows)

    @property
    def model_samples(self) -> int:
        """Of the sound that can be listened to, at the model's rate, from the file's first sample on."""
        spec, hz = self.bundle.stft, self.bundle.sample_rate_hz
        heard = self.hops * spec.hop_samples - (spec.synthesis_samples - spec.hop_samples) - self.lead_samples
        length = self.promised if self.samples is None else self.samples
        return max(0, min(heard, round(length * hz / self.rate_hz)))

    @property
    def seconds(self) -> float:
        """The file's length: what its header promises, and in the end what was there."""
        return (self.promised if self.samples is None else self.samples) / self.rate_hz

    @property
    def tapes(self) -> tuple[Tape, ...]:
        return (self.sound, self.masks, self.embedding, *self.picture)

    def close(self) -> None:
        for tape in self.tapes:
            tape.close()


@contextmanager
def opened(source: Path, bundle: Bundle, cache: Path | None = None) -> Iterator[Store]:
    """An empty Store for ``source``, in a folder of its own below ``cache`` (None: the system's for temporary files). Leaving
    it deletes the folder. Raises AudioFileError."""
    with AudioReader(source) as reader, _folder(cache) as folder:
        store = Store(reader, bundle, folder)
        try:
            yield store
        finally:
            store.close()


@contextmanager
def _folder(cache: Path | None) -> Iterator[Path]:
    try:
        if cache:
            cache.mkdir(parents=True, exist_ok=True)
        folder = TemporaryDirectory(prefix="sep-explore-", dir=cache, ignore_cleanup_errors=True)
    except OSError as error:
        raise unwritable(cache or Path("temporary folder"), error) from None
    with folder as name:
        yield Path(name)


def analyze(store: Store, progress: Callable[[float], None] = lambda _: None, provider: str = "auto") -> None:
    """Fill the store. ``progress`` is told the fraction done after each block; whatever it raises ends the analysis.

    Raises AudioFileError for a file that is damaged or no sound, and where the disk is full.
    """
    bundle, reader = store.bundle, store.reader
    separator = Separator(bundle, bundle.graphs[-1].hops, provider)
    state, late = separator.initial_state(), bundle.lookahead_hops
    pyramid = _Pyramid(store.picture)
    with ahead(_transformed(store, separator.graph.hops), AHEAD_BLOCKS) as blocks:
        for block in blocks:
            found, state = separator.step(block.magnitude, state)
            skipped = min(late, len(found.embedding))
            late -= skipped
            store.masks.append(_coded(found.masks[skipped:]))
            store.embedding.append(found.embedding[skipped:])
            store.sound.append(block.sound.T)
            pyramid.append(block.picture)
            progress(min(1.0, block.position / max(1, reader.samples)))
    pyramid.finish()
    store.samples = reader.position
    store.close()


class _Block(NamedTuple):
    """Some frames on their way to the network."""

    sound: F32  # (channels, hops * hop)
    magnitude: F32  # (hops, band bins)
    picture: U8  # (hops, bins)
    position: int  # samples of the file that have been read


def _transformed(store: Store, hops: int) -> Iterator[_Block]:
    """The file as the network hears it, ``hops`` frames at a time, and silence until its last frame has been judged."""
    bundle, stft, reader = store.bundle, store.stft, store.reader
    state = stft.analysis_state(store.channels)
    for sound in _cut(_resampled(store), hops * bundle.stft.hop_samples, bundle):
        if kernels.clean(sound, FAINTEST, LOUDEST):
            raise AudioFileError(
                f"'{reader.path}' holds samples beyond {LOUDEST:g} times full scale before "
                f"{reader.position / reader.rate_hz:.2f} s; expected sound around -1..1; normalize it first"
            )
        spectra, state = stft.analyze(sound, state)
        magnitude = np.empty((hops, bundle.stft.bins), np.float32)
        kernels.magnitude(spectra, bundle.stft.magnitude_scale, magnitude)
        yield _Block(sound, np.ascontiguousarray(magnitude[:, : bundle.band.bins]), level_codes(magnitude), reader.position)


def _resampled(store: Store) -> Iterator[F32]:
    """(channels, n) blocks at the model's rate, the lead before and after."""
    reader, file_hz, model_hz = store.reader, store.rate_hz, store.bundle.sample_rate_hz
    lead = np.zeros((reader.channels, store.file_lead_samples), np.float32)
    blocks = reader.blocks(max(1, BLOCK_SAMPLES * file_hz // model_hz))
    return resample(chain([lead], blocks, [lead]), file_hz, model_hz, reader.channels)


def _cut(blocks: Iterable[F32], size: int, bundle: Bundle) -> Iterator[F32]:
    """Blocks of ``size`` samples, and at the end silence for as long as the synthesis and the look-ahead take."""
    tail = bundle.stft.synthesis_samples - bundle.stft.hop_samples + bundle.lookahead_hops * bundle.stft.hop_samples
    left: F32 | None = None
    for block in blocks:
        left = block if left is None else np.concatenate([left, block], axis=1)
        for _ in range(left.shape[1] // size):
            yield np.array(left[:, :size], order="C")
            left = left[:, size:]
    assert left is not None, "a reader gives at least one block"
    left = np.pad(left, ((0, 0), (0, -(-(left.shape[1] + tail) // size) * size - left.shape[1])))
    for at in range(0, left.shape[1], size):
        yield np.array(left[:, at : at + size], order="C")


def _coded(masks: F32) -> U16:
    codes: U16 = np.rint(np.clip(masks, 0, 1) * np.float32(MASK_ONE)).astype(np.uint16)
    return codes


def level_codes(magnitude: F32) -> U8:
    """Network magnitudes -> codes of STEP_DB from FLOOR_DB up."""
    db = 20 * np.log10(np.maximum(magnitude * np.float32(1 / FULL_SCALE), np.float32(1e-9)))
    codes: U8 = np.clip(np.rint((db - FLOOR_DB) / STEP_DB), 0, 255).astype(np.uint8)
    return codes


def level_code(db: float) -> int:
    """The least code at ``db`` or above it; 256 where there is none."""
    return int(np.clip(np.ceil((db - FLOOR_DB) / STEP_DB), 0, 256))


class _Pyramid:
    """Writes the picture at all its scales: each column of a tape is the loudest of ZOOM columns of the one before."""

    def __init__(self, tapes: tuple[Tape, ...]) -> None:
        self._tapes = tapes
        self._waiting = [np.zeros((0, *tape.shape), np.uint8) for tape in tapes]  # columns that wait for their neighbours

    def append(self, columns: U8) -> None:
        for k, tape in enumerate(self._tapes):
            tape.append(columns)
            waiting = np.concatenate([self._waiting[k], columns])
            whole = len(waiting) - len(waiting) % ZOOM
            columns, self._waiting[k] = waiting[:whole].reshape(-1, ZOOM, *tape.shape).max(axis=1), waiting[whole:]

    def finish(self) -> None:
        """The last columns, of fewer."""
        columns = np.zeros((0, *self._tapes[0].shape), np.uint8)
        for k, tape in enumerate(self._tapes):
            tape.append(columns)
            waiting = np.concatenate([self._waiting[k], columns])
            columns = waiting.max(axis=0, keepdims=True) if len(waiting) else waiting


_END: Any = object()


@contextmanager
def ahead(items: Iterator[Any], depth: int) -> Iterator[Iterator[Any]]:
    """The same items, fetched by a thread of their own that is at most ``depth`` ahead; what it raises is raised here.
    Leaving it stops the thread at its next item."""
    ready: queue.Queue[Any] = queue.Queue(depth)
    stopped = threading.Event()

    def fetch() -> None:
        last: Any = _END
        try:
            for item in items:
                ready.put(item)
                if stopped.is_set():
                    return
        except BaseException as error:  # it is raised where the items are wanted
            last = error
        ready.put(last)

    def given() -> Iterator[Any]:
        while (item := ready.get()) is not _END:
            if isinstance(item, BaseException):
                raise item
            yield item

    thread = threading.Thread(target=fetch, name="sep-explore reader", daemon=True)
    thread.start()
    try:
        yield given()
    finally:
        stopped.set()
        while thread.is_alive():  # it may wait for room
            _drain(ready)
            thread.join(0.01)


def _drain(ready: "queue.Queue[Any]") -> None:
    """Take everything out."""
    while True:
        try:
            ready.get_nowait()
        except queue.Empty:
            return
