"""Isolated sounds by class, at the training rate, made once and kept in a cache that the next run finds.

A library is what ``mixing`` draws from: clips of a folder, of the generator in ``synthetic``, or of both.
"""

import csv
import hashlib
import logging
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from sepstream.errors import DataError

from . import smf, synthetic

F32 = NDArray[np.float32]

SUFFIXES = {".wav", ".flac", ".ogg", ".mp3", ".aiff"}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Clip:
    """One sound of one class; clips of the same ``group`` are the same bars of the same song, sample-aligned.

    ``chance`` is its probability of being drawn among the clips of its class.
    """

    cached: Path
    group: str
    chance: float = 1.0

    @property
    def samples(self) -> NDArray[np.int16]:
        """(samples,) mono, mapped anew each time: kept open, a large library would use up the file handles."""
        samples: NDArray[np.int16] = np.load(self.cached, mmap_mode="r")
        return samples


Library = Mapping[str, Sequence[Clip]]


def cache_dir() -> Path:
    return Path(os.environ.get("SEPSTREAM_CACHE", Path.home() / ".cache" / "sepstream")) / "audio"


def load_library(root: Path, split: str, folders: Mapping[str, str], rate_hz: int) -> Library:
    """Every clip of ``split`` under ``root``, by class name. ``folders`` names the folder of each class.

    ``root/manifest.csv`` (columns path, split, cls and, if there are songs, group) is read where it exists, otherwise
    ``root/split/folder/**``. Raises DataError for a missing folder, a class without files or a file that is no sound.
    """
    entries = list(_entries(root, split, folders))
    for name, folder in folders.items():
        if all(name != other for other, _, _ in entries):
            raise DataError(f"class '{name}' has no files in '{root / split / folder}'; expected {', '.join(sorted(SUFFIXES))}")
    jobs = [(_decoded_path(path, rate_hz), partial(_decode, path, rate_hz)) for _, path, _ in entries]
    _fill_cache(jobs)
    return _by_class((name, Clip(cached, group)) for (name, _, group), (cached, _) in zip(entries, jobs, strict=True))


def generate_library(
    names: Iterable[str], split: str, rate_hz: int, *, count: int, seconds: float, engine: str = "auto"
) -> Library:
    """``count`` clips of each class from the generator. Clip n of every instrument comes from song n of ``split``.

    Raises DataError for a class or engine that the generator does not know.
    """
    takes = [Take(name, split, number, seconds, rate_hz, engine) for name in names for number in range(count)]
    _fill_cache((take.cached, take.perform) for take in takes)
    return _by_class((take.name, Clip(take.cached, take.group)) for take in takes)


def blend(one: Library, other: Library, share: float) -> Library:
    """The clips of both; one of ``other`` is drawn with probability ``share``."""
    return {name: [*_scaled(one[name], 1 - share), *_scaled(other[name], share)] for name in one}


def _scaled(clips: Sequence[Clip], factor: float) -> list[Clip]:
    return [replace(clip, chance=clip.chance * factor) for clip in clips]


def _by_class(clips: Iterable[tuple[str, Clip]]) -> Library:
    """Clips by class name, each as likely as the others of its class."""
    library: dict[str, list[Clip]] = defaultdict(list)
    for name, clip in clips:
        library[name].append(clip)
    return {name: _scaled(found, 1 / len(found)) for name, found in library.items()}


# ---- a folder's sounds ------------------------------------------------------------------------------------------------


def _entries(root: Path, split: str, folders: Mapping[str, str]) -> Iterable[tuple[str, Path, str]]:
    """(class, file, group) of every sound of the split."""
    if not root.is_dir():
        raise DataError(f"data folder '{root}' does not exist; set data.root=FOLDER or data.root=synthetic")
    if (root / "manifest.csv").is_file():
        yield from _manifest_entries(root, split, folders)
        return
    for name, folder in folders.items():
        for path in sorted((root / split / folder).rglob("*")):
            if path.suffix.lower() in SUFFIXES:
                yield name, path, ""


def _manifest_entries(root: Path, split: str, folders: Mapping[str, str]) -> Iterable[tuple[str, Path, str]]:
    class_of = {folder: name for name, folder in folders.items()}
    with (root / "manifest.csv").open(newline="", encoding="utf8") as lines:
        rows = csv.DictReader(lines)
        if missing := {"path", "split", "cls"} - set(rows.fieldnames or ()):
            raise DataError(f"'{lines.name}' lacks the columns {', '.join(sorted(missing))}; expected path, split, cls, group")
        for row in rows:
            if row["split"] == split and row["cls"] in class_of:
                yield class_of[row["cls"]], root / row["path"], row.get("group") or ""


def _decoded_path(path: Path, rate_hz: int) -> Path:
    """Where the decoded file is kept; the key holds path, size and time, so a changed file is read anew."""
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(f"'{path}' cannot be read as sound ({error.strerror}); remove it from the data set") from None
    return _cache_path(f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{rate_hz}")


def _decode(path: Path, rate_hz: int) -> F32:
    """A sound file -> (samples,): its channels' mean at ``rate_hz``."""
    try:
        audio, source_hz = soundfile.read(path, dtype="float32", always_2d=True)
        if not audio.size or not np.isfinite(audio).all():
            raise ValueError("no samples, or samples that are no numbers")
    except (OSError, ValueError, soundfile.SoundFileError) as error:
        raise DataError(f"'{path}' cannot be read as sound ({error}); remove it from the data set") from None
    mono: F32 = soxr.resample(audio.mean(axis=1), source_hz, rate_hz)
    return mono


# ---- the generator's sounds -------------------------------------------------------------------------------------------


class Take(NamedTuple):
    """One performance of the generator; instruments with the same ``number`` read from one score."""

    name: str
    split: str
    number: int
    seconds: float
    rate_hz: int
    engine: str

    @property
    def group(self) -> str:
        return f"{self.split} song {self.number}" if self.name in synthetic.PARTS else ""

    @property
    def cached(self) -> Path:
        """The key holds the generator's source and whether programs play: what changes the sound changes the key."""
        return _cache_path("|".join(map(str, (_generator_version(), synthetic.missing_package(self.name), *self))))

    def perform(self) -> F32:
        seed = [int(self.split == "valid"), self.number]
        if self.name in synthetic.PARTS:
            song = synthetic.compose(np.random.default_rng(seed))
            return synthetic.play(song, self.name, self.seconds, self.rate_hz, engine=self.engine)
        rng = np.random.default_rng([*seed, *self.name.encode()])  # two voices of one number say different things
        return synthetic.generate(self.name, self.seconds, self.rate_hz, rng, engine=self.engine)


@cache
def _generator_version() -> str:
    sources = [Path(str(module.__file__)).read_bytes() for module in (synthetic, smf)]
    return hashlib.sha256(b"".join(sources)).hexdigest()


# ---- the cache --------------------------------------------------------------------------------------------------------


def _cache_path(key: str) -> Path:
    return cache_dir() / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npy"


def _fill_cache(jobs: Iterable[tuple[Path, Callable[[], F32]]]) -> None:
    """Make what is not there yet, a few at a time: decoders and synthesizers work outside of the interpreter's lock."""
    todo = {cached: make for cached, make in jobs if not cached.is_file()}
    if todo:
        log.info("preparing %d sounds in %s, once", len(todo), cache_dir())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(_write, todo, todo.values()))


def _write(cached: Path, make: Callable[[], F32]) -> None:
    """(samples,) -> int16 .npy, whole or not at all: another run may be reading."""
    samples = np.clip(np.rint(make() * 32767), -32768, 32767).astype(np.int16)
    cached.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=cached.parent, suffix=".part", delete=False) as part:
        np.save(part, samples)
    Path(part.name).replace(cached)
