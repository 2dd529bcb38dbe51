"""The layout ``musdb18``: MUSDB18 (``root/{train,test}/*.stem.mp4``) and MUSDB18-HQ (``root/{train,test}/TRACK/*.wav``).

The classes go by vocals, drums, bass and other. Validation is the part of the training folder that the package ``musdb`` names.
Its reader of .mp4 stems needs the program ffmpeg; the wave files need neither, so only the package's list is read for them.
"""

from collections.abc import Iterator
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import yaml

from sepstream.errors import DataError

from .entries import MIX, Entry, Sound, Wanted, check_root, file_entry, subfolders
from .stems import track_entries

STREAMS = {"drums": 1, "bass": 2, "other": 3, "vocals": 4}  # in a .stem.mp4; the first is the mixture
SUFFIX = ".stem.mp4"
WHOLE = "mixture.wav"


def found(wanted: Wanted) -> bool:
    if (wanted.root / "valid").is_dir():  # somebody's own split, which musdb does not know
        return False
    return any(
        any((wanted.root / subset).glob(pattern)) for subset in ("train", "test") for pattern in (f"*{SUFFIX}", f"*/{WHOLE}")
    )


def entries(wanted: Wanted) -> Iterator[Entry]:
    check_root(wanted.root)
    whole = all(wanted.class_of(name) for name in STREAMS)  # otherwise the mixture has sounds that no class has
    for track in _tracks(wanted):
        if track.is_dir():
            yield from track_entries(wanted, track)
            if whole and (track / WHOLE).is_file():
                yield file_entry(MIX, track / WHOLE, track.name, track=True)
        else:
            streams = {name: leaf for name in STREAMS if (leaf := wanted.class_of(name))}
            for name, leaf in streams.items():
                yield _stream_entry(leaf, track, STREAMS[name])
            if whole:
                yield _stream_entry(MIX, track, 0)


def _tracks(wanted: Wanted) -> list[Path]:
    """Folders, or .stem.mp4 files, of the split."""
    folder = wanted.root / ("test" if wanted.split == "test" else "train")
    if not folder.is_dir():
        return []
    tracks = [*subfolders(folder), *sorted(folder.glob(f"*{SUFFIX}"))]
    if wanted.split == "test":
        return tracks
    return [track for track in tracks if (track.name.removesuffix(SUFFIX) in _validation_tracks()) == (wanted.split == "valid")]


@cache
def _validation_tracks() -> frozenset[str]:
    """The list that musdb ships. The package itself cannot be imported where there is no ffmpeg."""
    spec = find_spec("musdb")
    if spec is None or spec.origin is None:
        raise DataError("the package 'musdb', which knows the split of MUSDB18, is missing; pip install 'sepstream[train]'")
    setup = yaml.safe_load((Path(spec.origin).parent / "configs" / "mus.yaml").read_text(encoding="utf8"))
    return frozenset(setup["validation_tracks"])


def _stream_entry(leaf: str, track: Path, stream: int) -> Entry:
    group = track.name.removesuffix(SUFFIX)
    return Entry(leaf, track, partial(_read_stream, track, stream), group, track=True, part=f"stream {stream}")


def _read_stream(track: Path, stream: int) -> Sound:
    try:
        from stempeg import read_stems  # noqa: PLC0415 - what musdb reads with; looks for ffmpeg at once
    except (ModuleNotFoundError, RuntimeError):
        raise DataError(f"'{track}' needs the package musdb and the program ffmpeg; install them, or use MUSDB18-HQ") from None
    try:
        samples, rate_hz = read_stems(str(track), stem_id=stream, dtype=np.float32)
    except Exception as error:  # whatever the program says of a broken file
        raise ValueError(f"ffmpeg: {(str(error).splitlines() or [''])[-1]}") from None
    return Sound(np.asarray(samples, np.float32), int(rate_hz))
