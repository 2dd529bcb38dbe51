"""The layout ``shards``: a data set as tar archives that can be read from front to back, in the form of WebDataset.

A clip is two members of an archive, ``KEY.flac`` (or another sound) and ``KEY.json``: {"cls": class, "group": song or "",
"track": whether the group is complete, "gain": what full scale stands for}; the last three may be left out. Clips of a
group follow one another in one archive: they are a unit, and so is a clip without a group. Archives are named
``SPLIT-*.tar`` or lie in a folder of that name; paths are local, nothing is downloaded.

    python -m sepstream_training.data.shards ROOT OUT [--recipe NAME] [KEY=VALUE ...]

writes those of a data set of any layout. Training streams them (``stream``); for validation and scores, which want any clip
at any time, all of a split are read like files.
"""
# ruff: noqa: PLC0415 - webdataset brings torch along, and scores are computed without it

import argparse
import glob
import io
import itertools
import json
import math
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import soundfile

from sepstream.errors import DataError, SepstreamError

from .entries import MIX, SUFFIXES, Entry, Sound, Wanted
from .library import Clip, Library

if TYPE_CHECKING:
    from ..recipe import Recipe

SUFFIX = ".tar"
PLACES = (f"*{SUFFIX}", f"*/*{SUFFIX}")  # of archives in a folder
END = bytes(1024)  # what an archive ends with
MOST_JSON_BYTES = 1 << 16
MIB = 1 << 20


class Meta(NamedTuple):
    """What the JSON beside a sound says of it."""

    cls: str
    group: str = ""
    track: bool = False
    gain: float = 1.0


class Member(NamedTuple):
    """A clip in an archive; ``sound`` is its bytes, or the tarfile.TarInfo that says where they are."""

    key: str
    meta: Meta
    sound: Any


Unit = list[tuple[str, Member]]  # by class


def found(wanted: Wanted) -> bool:
    return wanted.root.suffix == SUFFIX or any(any(wanted.root.glob(pattern)) for pattern in PLACES)


def entries(wanted: Wanted) -> Iterator[Entry]:
    """All clips of the split, each where it lies in its archive."""
    for shard in shards_of(wanted):
        for name, (key, meta, at) in itertools.chain.from_iterable(listed_units(shard, wanted)):
            read = partial(_read_member, shard, at.offset_data, at.size, meta.gain)
            yield Entry(name, shard, read, meta.group, meta.track, part=f"{key} {at.offset_data}+{at.size}")


def shards_of(wanted: Wanted) -> list[Path]:
    """The archives of the split: of a folder, or of a pattern with ``*``, ``{a,b}`` and ``{000..123}``.

    Raises DataError where the pattern names none, and for one that does not end as an archive does.
    """
    from braceexpand import braceexpand

    root = str(wanted.root)
    patterns = [f"{glob.escape(root)}/{place}" for place in PLACES] if wanted.root.is_dir() else list(braceexpand(root))
    paths = sorted({Path(path) for pattern in patterns for path in glob.glob(pattern)})  # noqa: PTH207 - patterns are absolute
    if not paths:
        raise DataError(
            f"'{root}' names no archives; expected a folder of *{SUFFIX}, or a pattern such as train-{{000..099}}{SUFFIX}"
        )
    prefixes = tuple(f"{name}-" for name in wanted.split_names)
    shards = [path for path in paths if path.parent.name in wanted.split_names or path.name.startswith(prefixes)]
    for shard in shards:
        _check_end(shard)
    return shards


def listed_units(shard: Path, wanted: Wanted) -> Iterator[Unit]:
    """The units of an archive, without reading their sounds."""
    return _units(_listed(shard), wanted)


def streamed_units(shard: Path, wanted: Wanted) -> Iterator[Unit]:
    """The units of an archive from front to back, each sound as its bytes."""
    return _units(_streamed(shard), wanted)


def read_sound(file: Path | io.BytesIO, gain: float) -> Sound:
    """Raises ValueError or SoundFileError for what is no sound."""
    samples, rate_hz = soundfile.read(file, dtype="float32", always_2d=True)
    return Sound(samples if gain == 1 else samples * np.float32(gain), rate_hz)


# ---- reading ----------------------------------------------------------------------------------------------------------


def _units(members: Iterable[Member], wanted: Wanted) -> Iterator[Unit]:
    """Neighbours of the same group, as far as they are wanted; a clip without a group is alone."""
    neighbours = itertools.groupby(members, key=lambda member: (member.meta.group, member.meta.group or member.key))
    return (unit for _, group in neighbours if (unit := _classes(wanted, group)))


def _classes(wanted: Wanted, members: Iterable[Member]) -> Unit:
    """By class; a track's own sums only where every sound that they are the sum of is wanted."""
    sums = {MIX, *wanted.families} - set(wanted.names)
    named = [(_class_of(wanted, member.meta, sums), member) for member in members]
    whole = all(name for name, _ in named)
    return [(name, member) for name, member in named if name and (whole or name not in sums)]


def _class_of(wanted: Wanted, meta: Meta, sums: set[str]) -> str | None:
    return meta.cls if meta.cls in wanted.names or (meta.track and meta.cls in sums) else wanted.class_of(meta.cls)


def _listed(shard: Path) -> Iterator[Member]:
    with _named(shard), tarfile.open(shard, "r:") as tar:
        files = (at for at in tar if at.isreg() and not at.name.startswith("__"))
        for key, group in itertools.groupby(files, key=lambda at: _key_and_suffix(at.name)[0]):
            by_suffix = {_key_and_suffix(at.name)[1]: at for at in group}
            yield _member(shard, key, by_suffix, partial(_bytes, tar))


def _streamed(shard: Path) -> Iterator[Member]:
    from webdataset.tariterators import group_by_keys, tar_file_iterator

    with _named(shard), shard.open("rb") as file:
        files = ({**member, "__url__": str(shard)} for member in tar_file_iterator(file))
        for sample in group_by_keys(files, keys=_key_and_suffix):
            by_suffix = {suffix: data for suffix, data in sample.items() if not suffix.startswith("__")}
            yield _member(shard, sample["__key__"], by_suffix, lambda data: data)


def _key_and_suffix(name: str) -> tuple[str, str]:
    """Of a member's name, as WebDataset has it: the first point of the file name divides them."""
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    return folder + slash + stem, suffix.lower()


def _member(shard: Path, key: str, by_suffix: Mapping[str, Any], read: Callable[[Any], bytes]) -> Member:
    sound = next((part for suffix, part in by_suffix.items() if f".{suffix}" in SUFFIXES), None)
    if sound is None or "json" not in by_suffix:
        raise DataError(f"shard '{shard}': '{key}' is {', '.join(sorted(by_suffix))}; expected a sound and its .json")
    return Member(key, _meta(f"shard '{shard}': '{key}.json'", read(by_suffix["json"])), sound)


def _meta(what: str, text: bytes) -> Meta:
    try:
        if len(text) > MOST_JSON_BYTES:
            raise ValueError(f"{len(text)} bytes long")
        facts = json.loads(text)
        meta = Meta(str(facts["cls"]), str(facts.get("group") or ""), bool(facts.get("track")), float(facts.get("gain", 1)))
        if not math.isfinite(meta.gain) or (meta.track and not meta.group):
            raise ValueError("a gain that is no number, or a track without a group")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f'{what} cannot be used ({error}); expected {{"cls": NAME, "group": NAME, ...}}') from None
    return meta


def _bytes(tar: tarfile.TarFile, at: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(at)
    return file.read(MOST_JSON_BYTES + 1) if file else b""


def _read_member(shard: Path, start: int, size: int, gain: float) -> Sound:
    with shard.open("rb") as file:
        file.seek(start)
        return read_sound(io.BytesIO(file.read(size)), gain)


def _check_end(shard: Path) -> None:
    """Archives end in zeros; without them the last members are missing, and nobody else would notice."""
    with _named(shard), shard.open("rb") as file:
        file.seek(-min(len(END), shard.stat().st_size), io.SEEK_END)
        if file.read() != END:
            raise tarfile.ReadError("it does not end as an archive does")


@contextmanager
def _named(shard: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, OSError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"shard '{shard}' is truncated or no tar archive ({reason}); copy or write it anew") from None


# ---- writing ----------------------------------------------------------------------------------------------------------


class Piece(NamedTuple):
    """A stretch of some clips, to be written as one unit."""

    clips: list[tuple[str, Clip]]  # by class
    group: str
    track: bool
    start: int
    stop: int


Sample = dict[str, Any]  # what webdataset writes: __key__, and the bytes of each suffix


def write_shards(
    library: Library, out: Path, split: str, rate_hz: int, *, seconds: float = 0.0, mib: float = 256.0, seed: int = 1
) -> list[Path]:
    """``out/SPLIT-000000.tar`` and on, of about ``mib`` each, of a library that was read at ``rate_hz``.

    Longer units are cut into equal pieces of at most ``seconds`` (0: not at all). Units are shuffled such that every
    stretch has its share of every class. Raises DataError for a folder that holds shards of the split already.
    """
    out.mkdir(parents=True, exist_ok=True)
    if any(out.glob(f"{split}-*{SUFFIX}")):
        raise DataError(f"'{out}' holds shards of split '{split}' already; choose another folder")
    pieces = [piece for unit in _whole_units(library) for piece in _cut(unit, round(seconds * rate_hz))]
    units = (_samples(number, piece, rate_hz) for number, piece in enumerate(_mixed(pieces, seed)))
    return [_write(out / f"{split}-{n:06d}{SUFFIX}", samples) for n, samples in enumerate(_packed(units, round(mib * MIB)))]


def _whole_units(library: Library) -> Iterator[Piece]:
    """Tracks, then songs that are none, then clips that are alone."""
    for track in library.tracks:
        leaves = [(name, clip) for name, clips in track.leaves.items() for clip in clips]
        yield _whole([*leaves, *track.sums.items()], track.name, track=True)
    done = {track.name for track in library.tracks} - {""}
    songs: dict[str, list[tuple[str, Clip]]] = {}
    for name, clips in library.items():
        for clip in clips:
            if clip.group not in done:
                songs.setdefault(clip.bars, []).append((name, clip))
    for song in songs.values():
        yield _whole(song, song[0][1].group, track=False)


def _whole(clips: list[tuple[str, Clip]], group: str, *, track: bool) -> Piece:
    return Piece(clips, group, track, 0, max(len(clip.samples) for _, clip in clips))


def _cut(unit: Piece, most: int) -> Iterator[Piece]:
    """Equal pieces, each a group of its own: what is cut apart is not aligned any more."""
    count = -(-unit.stop // most) if most else 1
    edges = np.linspace(0, unit.stop, count + 1).round().astype(int).tolist()
    for number, (start, stop) in enumerate(itertools.pairwise(edges)):
        clips = [(name, clip) for name, clip in unit.clips if len(clip.samples) > start]
        yield unit._replace(
            clips=clips, group=f"{unit.group}@{number}" if unit.group and count > 1 else unit.group, start=start, stop=stop
        )


def _mixed(pieces: list[Piece], seed: int) -> list[Piece]:
    """Shuffled within each kind (the classes a piece begins with), and the kinds spread evenly over the whole."""
    rng = np.random.default_rng(seed)
    kinds: dict[tuple[bool, str], list[Piece]] = {}
    for piece in pieces:
        kinds.setdefault((piece.track, piece.clips[0][0]), []).append(piece)
    placed: list[tuple[float, Piece]] = []
    for kind in kinds.values():
        places = ((np.arange(len(kind)) + rng.random(len(kind))) / len(kind)).tolist()
        placed += zip(places, (kind[i] for i in rng.permutation(len(kind))), strict=True)
    return [piece for _, piece in sorted(placed, key=lambda pair: pair[0])]


def _samples(number: int, piece: Piece, rate_hz: int) -> list[Sample]:
    return [_sample(f"{number:08d}-{i}-{_plain(name)}", name, clip, piece, rate_hz) for i, (name, clip) in enumerate(piece.clips)]


def _plain(name: str) -> str:
    """Letters and digits: a point would end the key, and tar takes no others."""
    return "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in name)


def _sample(key: str, name: str, clip: Clip, piece: Piece, rate_hz: int) -> Sample:
    """FLAC of 16 bits; what is over full scale is scaled down, in 24."""
    samples = clip.samples[piece.start : piece.stop]
    gain, subtype = 1.0, "PCM_16"
    if samples.dtype != np.int16:
        gain, subtype = float(np.abs(samples).max(initial=1.0)), "PCM_24"
        samples = samples / np.float32(gain)
    flac = io.BytesIO()
    soundfile.write(flac, samples, rate_hz, format="FLAC", subtype=subtype)
    meta = Meta(name, piece.group, piece.track, gain)
    return {"__key__": key, "flac": flac.getvalue(), "json": json.dumps(meta._asdict()).encode()}


def _packed(units: Iterable[list[Sample]], most_bytes: int) -> Iterator[list[Sample]]:
    """The samples of one archive after another; a unit is never divided."""
    packed: list[Sample] = []
    size = 0
    for unit in units:
        added = sum(len(sample["flac"]) for sample in unit)
        if packed and size + added > most_bytes:
            yield packed
            packed, size = [], 0
        packed += unit
        size += added
    if packed:
        yield packed


def _write(path: Path, samples: list[Sample]) -> Path:
    """Whole or not at all, and the same bytes each time."""
    from webdataset import TarWriter

    part = path.with_suffix(".part")
    with part.open("wb") as file, TarWriter(file, encoder=False, mtime=0, user="", group="") as tar:
        for sample in samples:
            tar.write(sample)
    return part.replace(path)


def main() -> None:
    from ..recipe import load_recipe

    parser = argparse.ArgumentParser(description="Write a data set of any layout as shards: tar archives for streaming.")
    parser.add_argument("root", metavar="ROOT", help="the data set; its layout is found out, or set data.layout=NAME")
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder for SPLIT-000000.tar and on")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="of the recipe, which says what classes and which rate")
    parser.add_argument("--recipe", default="live", help="a shipped recipe or a YAML file (default: live)")
    parser.add_argument("--seconds", type=float, default=30.0, help="longest piece of a training sound (default 30; 0: whole)")
    parser.add_argument("--mib", type=float, default=256.0, help="size of a shard (default 256)")
    flags = parser.parse_intermixed_args()
    try:
        recipe = load_recipe(flags.recipe, [*flags.overrides, f"data.root={json.dumps(flags.root)}"])
        for line in convert(recipe, flags.out, seconds=flags.seconds, mib=flags.mib):
            print(line)
    except (SepstreamError, OSError) as error:
        raise SystemExit(f"shards: {error}") from None


def convert(recipe: "Recipe", out: Path, *, seconds: float, mib: float) -> Iterator[str]:
    """Every split of a recipe's data set -> what was written, a line each. Only sounds for training are cut."""
    from .layouts import has_split, read_library, wanted_by

    rate_hz, layout, channels = recipe.training_rate_hz, recipe.data.layout, recipe.data.channels
    splits = [split for split in ("train", "valid", "test") if has_split(wanted_by(recipe, split), layout)]
    if not splits:
        raise DataError(
            f"'{recipe.data.root}' has no sounds of a class of recipe '{recipe.name}'; set data.layout or data.folders"
        )
    for split in splits:
        library = read_library(wanted_by(recipe, split), rate_hz, layout=layout, channels=channels)
        longest = seconds if split == "train" else 0.0
        shards = write_shards(library, out, split, rate_hz, seconds=longest, mib=mib, seed=recipe.seed)
        yield f"{out}: {split}, {sum(map(len, library.values()))} sounds in {len(shards)} shards"


if __name__ == "__main__":
    main()
