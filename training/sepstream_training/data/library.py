"""Sounds by class, at the training rate, decoded once and kept in a cache that the next run finds.

A library is what ``mixing`` draws from: clips of a data set (see ``layouts``), of the generator in ``synthetic``, or of both;
and, where the data set is premixed, its tracks.
"""

import hashlib
import logging
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from sepstream.errors import DataError

from . import synthetic
from .entries import F32, Entry
from .synthetic.programs import missing_package
from .synthetic.song import PARTS, compose

FULL_SCALE = 32768

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
    def samples(self) -> NDArray[Any]:
        """(samples,) or (samples, 2), see ``encoded``; mapped anew each time: kept open, they would use up the file handles."""
        samples: NDArray[Any] = np.load(self.cached, mmap_mode="r")
        return samples

    @property
    def bars(self) -> str:
        """What is sample-aligned shares this name; a clip without a group is alone."""
        return self.group or str(self.cached)


@dataclass(frozen=True)
class Held(Clip):
    """A clip in memory; ``cached`` is but its name."""

    held: NDArray[Any] = field(kw_only=True, compare=False)

    @property
    def samples(self) -> NDArray[Any]:
        return self.held


class Named(NamedTuple):
    """A clip and its class; of a ``track`` (a group that is complete) also a parent, or MIX."""

    name: str
    clip: Clip
    track: bool = False


@dataclass(frozen=True)
class Track:
    """A mixture as the data set has it. ``leaves`` holds the clips of each class, none where it is silent; ``sums`` the
    data set's own parents and mixture (MIX), where it has them."""

    name: str
    leaves: Mapping[str, Sequence[Clip]]
    sums: Mapping[str, Clip]

    @property
    def length(self) -> int:
        """Samples."""
        return len(next(clip for clips in (*self.leaves.values(), self.sums.values()) for clip in clips).samples)


class Library(Mapping[str, Sequence[Clip]]):
    """The clips of each class, and the ``tracks`` that some of them make up."""

    def __init__(self, clips: Mapping[str, Sequence[Clip]], tracks: Sequence[Track] = ()) -> None:
        self.tracks = list(tracks)
        self._clips = {name: list(found) for name, found in clips.items()}
        self._rungs = {name: _rungs(found) for name, found in self._clips.items() if found}
        self._songs = {name: _by_group(found) for name, found in self._clips.items()}

    def __getitem__(self, name: str) -> Sequence[Clip]:
        return self._clips[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._clips)

    def __len__(self) -> int:
        return len(self._clips)

    def of_song(self, name: str, group: str) -> Sequence[Clip]:
        """The clips of a class that belong to a song; of no song, none."""
        return self._songs[name].get(group, ()) if group else ()

    def draw(self, name: str, count: int, rng: np.random.Generator) -> list[Clip]:
        """By their chances: the draws of ``rng.choice``, in a time that does not grow with the library."""
        return [self._clips[name][i] for i in self._rungs[name].searchsorted(rng.random(count), side="right")]


def _rungs(clips: Sequence[Clip]) -> NDArray[np.float64]:
    sums = np.cumsum([clip.chance for clip in clips], dtype=np.float64)
    return np.asarray(sums / sums[-1])


def _by_group(clips: Iterable[Clip]) -> dict[str, list[Clip]]:
    groups: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        groups[clip.group].append(clip)
    return dict(groups)


def cache_dir() -> Path:
    return Path(os.environ.get("SEPSTREAM_CACHE", Path.home() / ".cache" / "sepstream")) / "audio"


def cached_library(entries: Sequence[Entry], leaves: Iterable[str], rate_hz: int, channels: int = 1) -> Library:
    """What the entries name, decoded and resampled if the cache has it not. ``channels``: 1, or 2 to keep stereo.

    Raises DataError for a file that is no sound.
    """
    jobs = [(_decoded_path(entry, rate_hz, channels), partial(_decode, entry, rate_hz, channels)) for entry in entries]
    _fill_cache(jobs)
    clips = (Clip(cached, entry.group) for entry, (cached, _) in zip(entries, jobs, strict=True))
    return gathered((Named(entry.name, clip, entry.track) for entry, clip in zip(entries, clips, strict=True)), leaves)


def is_cached(entry: Entry, rate_hz: int, channels: int) -> bool:
    return _decoded_path(entry, rate_hz, channels).is_file()


def gathered(clips: Iterable[Named], leaves: Iterable[str]) -> Library:
    """Clips by class, each as likely as the others of its class; those of tracks once more by track."""
    of_class: dict[str, list[Clip]] = {leaf: [] for leaf in leaves}
    of_track: dict[str, list[Named]] = defaultdict(list)
    for named in clips:
        if named.name in of_class:
            of_class[named.name].append(named.clip)
        if named.track:
            of_track[named.clip.group].append(named)
    return Library(
        {name: _scaled(found, 1 / max(1, len(found))) for name, found in of_class.items()},
        [_track(group, members, of_class) for group, members in of_track.items()],
    )


def _track(group: str, members: Iterable[Named], leaves: Iterable[str]) -> Track:
    found: dict[str, list[Clip]] = {leaf: [] for leaf in leaves}
    sums = {}
    for name, clip, _ in members:
        if name in found:
            found[name].append(clip)
        else:
            sums[name] = clip
    return Track(group, found, sums)


def generate_library(
    names: Iterable[str], split: str, rate_hz: int, *, count: int, seconds: float, engine: str = "auto"
) -> Library:
    """``count`` clips of each class from the generator. Clip n of every instrument comes from song n of ``split``.

    Raises DataError for a class or engine that the generator does not know.
    """
    names = list(names)
    takes = [Take(name, split, number, seconds, rate_hz, engine) for name in names for number in range(count)]
    _fill_cache((take.cached, take.perform) for take in takes)
    return gathered((Named(take.name, Clip(take.cached, take.group)) for take in takes), names)


def blend(one: Library, other: Library, share: float) -> Library:
    """The clips of both; one of ``other`` is drawn with probability ``share``. The tracks of ``one``."""
    return Library({name: [*_scaled(one[name], 1 - share), *_scaled(other[name], share)] for name in one}, one.tracks)


def _scaled(clips: Sequence[Clip], factor: float) -> list[Clip]:
    return [replace(clip, chance=clip.chance * factor) for clip in clips]


# ---- a data set's sounds ----------------------------------------------------------------------------------------------


def _decoded_path(entry: Entry, rate_hz: int, channels: int) -> Path:
    """Where the decoded sound is kept; the key holds path, size and time, so a changed file is read anew."""
    try:
        stat = entry.path.stat()
    except OSError as error:
        raise DataError(f"'{entry.path}' cannot be read as sound ({error.strerror}); remove it from the data set") from None
    kind = [entry.part] * bool(entry.part) + ["stereo"] * (channels == 2)
    return _cache_path("|".join(map(str, (entry.path.resolve(), stat.st_size, stat.st_mtime_ns, rate_hz, *kind))))


def _decode(entry: Entry, rate_hz: int, channels: int) -> F32:
    """An entry -> (samples,) or (samples, 2) at ``rate_hz``."""
    try:
        samples, source_hz = entry.read()
        return resampled(samples, source_hz, rate_hz, channels)
    except (OSError, ValueError, soundfile.SoundFileError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"'{entry.path}' cannot be read as sound ({reason}); remove it from the data set") from None


def resampled(samples: F32, from_hz: int, to_hz: int, channels: int) -> F32:
    """(samples, any) -> two channels as they are if ``channels`` is 2, otherwise their mean. ValueError for no numbers."""
    if not samples.size or not np.isfinite(samples).all():
        raise ValueError("no samples, or samples that are no numbers")
    kept = samples if channels == samples.shape[1] == 2 else samples.mean(axis=1)
    out: F32 = soxr.resample(kept, from_hz, to_hz)
    return out


def encoded(samples: F32) -> NDArray[Any]:
    """int16, of which 32768 is full scale; float32 as they are where that would clip them."""
    if np.abs(samples).max(initial=0.0) > 1:
        return samples
    return np.clip(np.rint(samples * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


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
        return f"{self.split} song {self.number}" if self.name in PARTS else ""

    @property
    def cached(self) -> Path:
        """The key holds the generator's source and whether programs play: what changes the sound changes the key."""
        return _cache_path("|".join(map(str, (_generator_version(), missing_package(self.name), *self))))

    def perform(self) -> F32:
        seed = [int(self.split == "valid"), self.number]
        if self.name in PARTS:
            song = compose(np.random.default_rng(seed))
            return synthetic.play(song, self.name, self.seconds, self.rate_hz, engine=self.engine)
        rng = np.random.default_rng([*seed, *self.name.encode()])  # two voices of one number say different things
        return synthetic.generate(self.name, self.seconds, self.rate_hz, rng, engine=self.engine)


@cache
def _generator_version() -> str:
    sources = sorted(Path(synthetic.__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


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
    """Samples -> .npy, whole or not at all: another run may be reading."""
    samples = encoded(make())
    cached.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=cached.parent, suffix=".part", delete=False) as part:
        np.save(part, samples)
    Path(part.name).replace(cached)
