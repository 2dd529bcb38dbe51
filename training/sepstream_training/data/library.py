"""Isolated sounds by class, decoded once, at the training rate, in a cache that the next run finds."""

import csv
import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from sepstream.errors import DataError

SUFFIXES = {".wav", ".flac", ".ogg", ".mp3", ".aiff"}


@dataclass(frozen=True)
class Clip:
    """One file of one class; clips of the same ``group`` are the same bars of the same song, sample-aligned."""

    path: Path
    group: str
    samples: NDArray[np.int16]


Library = Mapping[str, list[Clip]]


def cache_dir() -> Path:
    return Path(os.environ.get("SEPSTREAM_CACHE", Path.home() / ".cache" / "sepstream")) / "audio"


def load_library(root: Path, split: str, folders: Mapping[str, str], rate_hz: int) -> Library:
    """Every clip of ``split`` under ``root``, by class name. ``folders`` names the folder of each class.

    ``root/manifest.csv`` (columns path, split, cls, group) is read where it exists, otherwise
    ``root/split/folder/*``. Samples are int16 mono at ``rate_hz``, memory-mapped from the cache.
    Raises DataError for a missing folder, a class without files or a file that is no sound.
    """
    entries = list(_entries(root, split, folders))
    with ProcessPoolExecutor() as pool:
        caches = list(pool.map(partial(_decode, rate_hz=rate_hz), [path for _, path, _ in entries], chunksize=8))
    library: dict[str, list[Clip]] = defaultdict(list)
    for (name, path, group), cached in zip(entries, caches, strict=True):
        library[name].append(Clip(path, group, np.load(cached, mmap_mode="r")))
    for name, folder in folders.items():
        if name not in library:
            raise DataError(f"class '{name}' has no files in {root / split / folder}; expected sound files {sorted(SUFFIXES)}")
    return dict(library)


def _entries(root: Path, split: str, folders: Mapping[str, str]) -> Iterable[tuple[str, Path, str]]:
    if not root.is_dir():
        raise DataError(f"data folder '{root}' does not exist; set data.root=FOLDER or data.root=synthetic")
    manifest = root / "manifest.csv"
    by_folder = {folder: name for name, folder in folders.items()}
    if manifest.is_file():
        with manifest.open(newline="", encoding="utf8") as rows:
            for row in csv.DictReader(rows):
                if row["split"] == split and row["cls"] in by_folder:
                    yield by_folder[row["cls"]], root / row["path"], row.get("group", "")
        return
    for name, folder in folders.items():
        for path in sorted((root / split / folder).rglob("*")):
            if path.suffix.lower() in SUFFIXES:
                yield name, path, ""


def _decode(path: Path, rate_hz: int) -> Path:
    """Decode, mix to mono, resample, cache; the key holds path, size and time, so a changed file is read anew."""
    try:
        stat = path.stat()
        key = hashlib.sha256(f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{rate_hz}".encode()).hexdigest()[:24]
        cached = cache_dir() / f"{key}.npy"
        if cached.is_file():
            return cached
        audio, source_hz = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.LibsndfileError) as error:
        raise DataError(f"'{path}' cannot be read as sound ({error}); remove it from the data set") from None
    mono = soxr.resample(audio.mean(axis=1), source_hz, rate_hz)
    cached.parent.mkdir(parents=True, exist_ok=True)
    partial_file = cached.with_suffix(f".{os.getpid()}.part.npy")
    np.save(partial_file, np.clip(np.rint(mono * 32767), -32768, 32767).astype(np.int16))
    partial_file.replace(cached)  # atomic: a reader never sees half a file
    return cached
