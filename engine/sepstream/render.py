"""One sound file through the same Pipeline that plays live: read, resample, separate, resample back, write.

A third of a second at a time, so memory does not grow with the length. Called by batch.py, or by anyone, on one thread.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from math import log10
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .audiofile import AudioReader, AudioWriter, encoding, lead_samples, resample, unwritable
from .contract import Bundle
from .errors import AudioFileError, ExpressionError
from .latent import LatentPipeline, read_sampling
from .paths import folder_name, is_file
from .pipeline import LOUDEST, Pipeline
from .selection import Selection

F32 = NDArray[np.float32]
AnyPipeline = Pipeline | LatentPipeline
PipelineFactory = Callable[[int], AnyPipeline]  # channels -> a pipeline for so many
Progress = Callable[[float], None]  # told the fraction done, 0 to 1, after each block

BLOCK_SAMPLES = 16384  # read at a time, at the model's rate


@dataclass(frozen=True)
class RenderOptions:
    """How buses are written; see ``audiofile.FORMATS``. ``bits`` None is the format's default."""

    format: str = "wav"
    bits: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        encoding(self.format, self.bits)


@dataclass(frozen=True)
class BusReport:
    """One written file. Levels over all channels, in dB of full scale, None for digital silence; ``clipped`` samples."""

    name: str
    path: Path
    rms_db: float | None
    peak_db: float | None
    clipped: int


@dataclass(frozen=True)
class RenderReport:
    """One rendered input.

    ``seconds`` is the input's length. ``real_time_factor`` is audio seconds per second of processing (reading, separating
    and writing, without loading the model): 12 is twelve times faster than real time; None when all files were kept.
    ``latency_samples`` is the model's algorithmic latency in live use, at ``model_hz``; the files themselves are aligned.
    """

    file: Path
    seconds: float
    real_time_factor: float | None
    latency_samples: int
    model_hz: int
    provider: str
    model: str
    buses: tuple[BusReport, ...]
    kept: tuple[Path, ...]  # files that were there before, and still are
    warnings: tuple[str, ...]


def render_file(
    source: Path,
    out_dir: Path,
    pipeline_for: PipelineFactory,
    options: RenderOptions = RenderOptions(),
    *,
    name: Path | None = None,
    progress: Progress = lambda _: None,
) -> RenderReport:
    """Separate ``source`` into ``out_dir / name / BUS.wav``; ``name`` is the input's without suffix unless given.

    Rate, channels and length are the input's. All buses appear together at the end, or, on any exception, none.
    Raises AudioFileError when the input cannot be read or an output cannot be written.
    """
    progress(0.0)
    with AudioReader(source) as reader:
        pipeline = pipeline_for(reader.channels)
        folder = out_dir / (name or folder_name(source))
        paths = {bus: folder / f"{bus}.{options.format}" for bus in pipeline.buses}
        kept = tuple(path for path in paths.values() if is_file(path) and not options.overwrite)
        wanted = {bus: path for bus, path in paths.items() if path not in kept}
        spare_the_input(source, wanted.values())
        start = time.perf_counter()
        buses = _write_buses(reader, pipeline, wanted, options, progress) if wanted else ()
        taken = time.perf_counter() - start
    seconds = (reader.position if wanted else reader.samples) / reader.rate_hz
    return RenderReport(
        file=source,
        seconds=seconds,
        real_time_factor=seconds / taken if wanted else None,
        latency_samples=pipeline.bundle.latency_samples,
        model_hz=pipeline.bundle.sample_rate_hz,
        provider=pipeline.provider,
        model=pipeline.bundle.name,
        buses=buses,
        kept=kept,
        warnings=(*_missing_end(reader), *_clipping(buses)) if wanted else (),
    )


def pipelines(
    bundle: Bundle, selection: Selection, provider: str = "auto", *, seed: int = 0, sampling: Sequence[str] = ()
) -> PipelineFactory:
    """Pipelines for files: many frames per model call. The last one is kept, since loading may outlast a short file.

    A model of kind offline draws at random: each file anew from ``seed``, in the way that ``sampling`` (NAME=VALUE) changes.
    """
    check_sampling(bundle, sampling)

    @lru_cache(maxsize=1)
    def pipeline(channels: int) -> AnyPipeline:
        if bundle.latent:
            settings = read_sampling(bundle.latent.sampling, sampling)
            return LatentPipeline(bundle, selection, channels, provider=provider, seed=seed, sampling=settings)
        return Pipeline(bundle, selection, channels, provider=provider, hops=bundle.graphs[-1].hops)

    return pipeline


def check_sampling(bundle: Bundle, settings: Sequence[str]) -> None:
    """Raises a SepstreamError for settings that the model does not know, or all where it does not draw."""
    if bundle.latent:
        read_sampling(bundle.latent.sampling, settings)
    elif settings:
        raise ExpressionError(f"--sampling is for models that draw, '{bundle.name}' is of kind {bundle.kind}; leave it out")


def separate(reader: AudioReader, pipeline: AnyPipeline) -> Iterator[F32]:
    """The file's blocks -> (buses, channels, n) blocks at the file's rate, aligned with it and in the end just as long."""
    file_hz, model_hz, latency = reader.rate_hz, pipeline.bundle.sample_rate_hz, pipeline.latency_samples
    lanes, lead = len(pipeline.buses) * reader.channels, lead_samples(file_hz, model_hz)
    blocks = reader.blocks(max(1, BLOCK_SAMPLES * file_hz // model_hz))
    heard = chain([_silence(reader, lead)], blocks, [_silence(reader, lead)])
    heard = chain(resample(heard, file_hz, model_hz, reader.channels), [_silence(reader, latency)])
    separated = drop((_process(block, pipeline, reader) for block in heard), latency)
    separated = drop(resample(separated, model_hz, file_hz, lanes), lead)
    given = 0
    for block in separated:
        length = min(block.shape[1], reader.position - given)
        given += length
        yield block[:, :length].reshape(len(pipeline.buses), reader.channels, length)
    assert given == reader.position


def _process(block: F32, pipeline: AnyPipeline, reader: AudioReader) -> F32:
    """(channels, n) -> (buses * channels, n); what the pipeline would silence as no sound is an error in a file."""
    faults = pipeline.faults
    buses = pipeline.process(block)
    if pipeline.faults > faults:
        raise AudioFileError(
            f"'{reader.path}' holds samples beyond {LOUDEST:g} times full scale before {reader.position / reader.rate_hz:.2f} s; "
            "expected sound around -1..1; normalize it first"
        )
    if not np.isfinite(buses).all():
        raise AudioFileError(
            f"'{reader.path}': model '{pipeline.bundle.name}' gives numbers that are no sound before "
            f"{reader.position / reader.rate_hz:.2f} s; expected finite samples; try another --model"
        )
    return buses.reshape(len(pipeline.buses) * reader.channels, block.shape[1])


def _silence(reader: AudioReader, length: int) -> F32:
    return np.zeros((reader.channels, length), np.float32)


def drop(blocks: Iterable[F32], length: int) -> Iterator[F32]:
    """The blocks without their first ``length`` samples."""
    for block in blocks:
        skipped = min(length, block.shape[1])
        length -= skipped
        yield block[:, skipped:]


def _write_buses(
    reader: AudioReader, pipeline: AnyPipeline, wanted: dict[str, Path], options: RenderOptions, progress: Progress
) -> tuple[BusReport, ...]:
    """Separate and write the wanted buses; they get their names together once all of them are whole."""
    pipeline.reset()
    rows = [pipeline.buses.index(bus) for bus in wanted]
    meters = [Meter() for _ in wanted]
    with together(list(wanted.values()), reader.rate_hz, reader.channels, reader.samples, options) as writers:
        for block in separate(reader, pipeline):
            for row, meter, writer in zip(rows, meters, writers, strict=True):
                meter.add(block[row])
                writer.write(block[row])
            progress(min(1.0, reader.position / reader.samples))
    files = zip(wanted.items(), meters, writers, strict=True)
    return tuple(BusReport(bus, path, meter.rms_db, meter.peak_db, writer.clipped) for (bus, path), meter, writer in files)


@contextmanager
def together(
    paths: Sequence[Path], rate_hz: int, channels: int, samples: int, options: RenderOptions
) -> Iterator[list[AudioWriter]]:
    """Files in one folder that appear together at the end, when all of them are whole, or, on any exception, not at all."""
    with ExitStack() as stack:
        stack.enter_context(_folder(paths[0].parent))
        made = (AudioWriter(p, rate_hz, channels, samples=samples, format=options.format, bits=options.bits) for p in paths)
        writers = [stack.enter_context(writer) for writer in made]
        yield writers
        for writer in writers:
            writer.finish()


@contextmanager
def _folder(path: Path) -> Iterator[None]:
    """Make the folder, and those it lies in; take away again what is new if nothing came of it."""
    new = [folder for folder in (path, *path.parents) if not os.path.lexists(folder)]
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from None
    try:
        yield
    except BaseException:
        with suppress(OSError):  # others may have put something there
            for folder in new:
                folder.rmdir()
        raise


def spare_the_input(source: Path, paths: Iterable[Path]) -> None:
    """Raises AudioFileError for an output that is the input."""
    for path in paths:
        if is_file(path) and path.samefile(source):
            raise AudioFileError(f"'{path}' is the input itself, and bus '{path.stem}' needs another place; choose another --out")


def _missing_end(reader: AudioReader) -> list[str]:
    if reader.position >= reader.samples:
        return []
    there, promised = reader.position / reader.rate_hz, reader.samples / reader.rate_hz
    return [f"'{reader.path}' ends after {there:.2f} s of the {promised:.2f} s in its header; rendered what is there"]


def _clipping(buses: Sequence[BusReport]) -> list[str]:
    return [
        f"'{bus.path}': {bus.clipped} samples beyond full scale were clipped; wav with 32f bits keeps them"
        for bus in buses
        if bus.clipped
    ]


class Meter:
    """Level of one bus over a whole file."""

    def __init__(self) -> None:
        self.squares, self.peak, self.count = 0.0, 0.0, 0

    def add(self, block: F32) -> None:
        """Take (channels, n) samples into account."""
        self.squares += float(np.square(block, dtype=np.float64).sum())
        self.peak = max(self.peak, float(np.abs(block).max(initial=0.0)))
        self.count += block.size

    @property
    def rms_db(self) -> float | None:
        return 10 * log10(self.squares / self.count) if self.squares else None

    @property
    def peak_db(self) -> float | None:
        return 20 * log10(self.peak) if self.peak else None
