"""Clips with weak labels: which classes are in a clip, but not where. What a layout of such data answers, and the cache of it.

    python -m sepstream_training.data.tagged ROOT OUT --recipe weak [--noise-snr-db DB] [KEY=VALUE ...]

writes ``OUT/SPLIT.h5`` of a data set of any layout: what the recipe's network hears of each clip, and its labels. A run
with data.root=OUT trains on these alone. A cache records what its figures depend on, and is refused where that is not the
recipe's. A layout of clips is a file of this folder with ``found(wanted)`` and ``clips(wanted, seconds)``; of any other data
set the tracks are taken, or of isolated sounds mixtures drawn; a class is there where its stem is heard.
"""
# ruff: noqa: PLC0415 - h5py and torch's data sets are for those who train

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

from sepstream.contract import StftSpec
from sepstream.errors import DataError, SepstreamError

from .entries import F32, Sound, Wanted
from .library import resampled
from .mixing import hear

if TYPE_CHECKING:
    import h5py

    from ..recipe import Recipe

SUFFIX = ".h5"
SPLITS = ("train", "valid", "test")
FORMAT = 1
HEARD_DB = -50.0  # of a stem against its mixture: below this a class is not there


@dataclass(frozen=True)
class TaggedClip:
    """``labels`` are the classes that are in it, and for how many seconds (NaN where nobody knows).

    ``read`` gives the mixture and raises OSError, ValueError or SoundFileError for what is none."""

    name: str
    read: Callable[[], Sound]
    labels: Mapping[str, float]


class Tagged(NamedTuple):
    """What training hears of clips: magnitudes (B, T, F), and which leaves are there (B, leaves), 0 or 1."""

    magnitude: Any
    labels: Any


@dataclass(frozen=True)
class Parameters:
    """All that the figures of a cache depend on, beside the sounds."""

    sample_rate_hz: int
    analysis_samples: int
    synthesis_samples: int
    hop_samples: int
    bins: int
    seconds: float
    classes: tuple[str, ...]
    noise_snr_db: float | None = field(default=None, compare=False)  # a choice of the cache, not of the recipe
    format: int = FORMAT

    @property
    def frames(self) -> int:
        return (self.samples - self.analysis_samples) // self.hop_samples + 1

    @property
    def samples(self) -> int:
        return round(self.seconds * self.sample_rate_hz)


def parameters_of(recipe: "Recipe", noise_snr_db: float | None = None) -> Parameters:
    stft = recipe.training_stft
    return Parameters(
        recipe.training_rate_hz, stft.analysis_samples, stft.synthesis_samples, stft.hop_samples,
        recipe.band_bins, recipe.mix.seconds, tuple(recipe.leaves), noise_snr_db,
    )  # fmt: skip


def magnitudes(sound: F32, asked: Parameters) -> F32:
    """(samples,) -> (T, bins): whole frames from the first sample on, where a full-scale sine reads 0.5."""
    spec = StftSpec(asked.analysis_samples, asked.synthesis_samples, asked.hop_samples)
    window = spec.windows().analysis * spec.magnitude_scale
    frames = np.lib.stride_tricks.sliding_window_view(sound, asked.analysis_samples)[:: asked.hop_samples]
    return np.abs(np.fft.rfft(frames * window)[:, : asked.bins]).astype(np.float32)


# ---- writing ----------------------------------------------------------------------------------------------------------


def write_cache(clips: Iterable[TaggedClip], asked: Parameters, path: Path, seed: int = 0) -> int:
    """Write the cache of ``clips``, whole or not at all, and return how many there are. Longer clips are cut into pieces of
    the asked length only where their layout does so; here they are cut off, shorter ones end in silence.

    Raises DataError for a clip that is no sound, and where there is none."""
    import h5py

    part = path.with_suffix(".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with h5py.File(part, "w") as file:
            count = _fill(file, clips, asked, seed)
            if not count:
                raise DataError(f"'{path.stem}' has no clips; expected some with the classes {', '.join(asked.classes)}")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return count


def _fill(file: "h5py.File", clips: Iterable[TaggedClip], asked: Parameters, seed: int) -> int:
    import h5py

    shape = (asked.frames, asked.bins)
    classes = len(asked.classes)
    heard = file.create_dataset("magnitudes", (0, *shape), "f4", maxshape=(None, *shape), chunks=(1, *shape))
    labels = file.create_dataset("labels", (0, classes), "f4", maxshape=(None, classes), chunks=(256, classes))
    durations = file.create_dataset("durations", (0, classes), "f4", maxshape=(None, classes), chunks=(256, classes))
    names = file.create_dataset("names", (0,), h5py.string_dtype(), maxshape=(None,), chunks=(256,))
    file.attrs["parameters"] = json.dumps(_as_dict(asked))
    count = 0
    for count, clip in enumerate(clips, 1):
        for rows in (heard, labels, durations, names):
            rows.resize(count, axis=0)
        sound = _noisy(_read(clip, asked), asked.noise_snr_db, np.random.default_rng([seed, count]))
        heard[-1] = magnitudes(sound, asked)
        labels[-1] = [name in clip.labels for name in asked.classes]
        durations[-1] = [clip.labels.get(name, 0.0) for name in asked.classes]
        names[-1] = clip.name
    return count


def _as_dict(asked: Parameters) -> dict[str, Any]:
    return {**vars(asked), "classes": list(asked.classes)}


def _read(clip: TaggedClip, asked: Parameters) -> F32:
    """Mono, at the asked rate and length."""
    try:
        sound = resampled(*clip.read(), asked.sample_rate_hz, 1)[: asked.samples]
    except (OSError, ValueError, soundfile.SoundFileError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"'{clip.name}' cannot be read as sound ({reason}); remove it from the data set") from None
    return np.pad(sound, (0, asked.samples - len(sound)))


def _noisy(sound: F32, snr_db: float | None, rng: np.random.Generator) -> F32:
    if snr_db is None:
        return sound
    noise = rng.standard_normal(len(sound))
    gain = np.sqrt(np.square(sound).sum() / np.square(noise).sum() * 10 ** (-snr_db / 10))
    return np.asarray(sound + gain * noise, np.float32)


# ---- reading ----------------------------------------------------------------------------------------------------------


class TaggedClips:
    """The clips of a cache: number -> Tagged, every clip once an epoch. ``quietest``: training clips are scaled by a number
    drawn between it and 1.

    Raises DataError for a file that is no such cache, or one of other parameters."""

    def __init__(self, path: Path, asked: Parameters, seed: int, *, shuffled: bool, quietest: float = 1.0) -> None:
        self.path, self.seed, self.shuffled, self.quietest = path, seed, shuffled, quietest
        with _opened(path) as file:
            _check(path, file, asked)
            self.labels: F32 = file["labels"][:]
        self._file: h5py.File | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, number: int) -> Tagged:
        epoch, place = divmod(number, len(self))
        index = int(_order(len(self), self.seed, epoch)[place]) if self.shuffled else place
        self._file = self._file or _opened(self.path)  # here: each worker opens its own
        gain = np.random.default_rng([self.seed, 3, number]).uniform(self.quietest, 1.0) if self.shuffled else 1.0
        return Tagged(self._file["magnitudes"][index] * np.float32(gain), self.labels[index])

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_file": None}


@lru_cache(maxsize=8)
def _order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(count)


def found(wanted: Wanted) -> bool:
    return any((wanted.root / f"{split}{SUFFIX}").is_file() for split in SPLITS)


def open_cache(recipe: "Recipe", split: str) -> TaggedClips:
    root, training = Path(recipe.data.root).expanduser(), split == "train"
    quietest = recipe.tags.quietest if training else 1.0
    return TaggedClips(root / f"{split}{SUFFIX}", parameters_of(recipe), recipe.seed, shuffled=training, quietest=quietest)


def _opened(path: Path) -> "h5py.File":
    import h5py

    try:
        return h5py.File(path, "r")
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise DataError(f"cache '{path}' cannot be read ({reason}); write it with sepstream_training.data.tagged") from None


def _check(path: Path, file: "h5py.File", asked: Parameters) -> None:
    try:
        recorded = json.loads(file.attrs["parameters"])
        shapes = [file[name].shape for name in ("magnitudes", "labels")]
    except (KeyError, ValueError, TypeError):
        raise DataError(f"cache '{path}' is no cache of clips; write it with sepstream_training.data.tagged") from None
    for name, value in _as_dict(asked).items():
        if name != "noise_snr_db" and recorded.get(name) != value:
            raise DataError(f"cache '{path}' has {name} {recorded.get(name)}; expected {value}, the recipe's; write it anew")
    count = shapes[0][0]
    expected = [(count, asked.frames, asked.bins), (count, len(asked.classes))]
    if not count or shapes != expected:
        raise DataError(f"cache '{path}' holds arrays of {shapes}; expected {expected} and at least one clip; write it anew")


# ---- from any data set ------------------------------------------------------------------------------------------------


def clips_of(recipe: "Recipe", split: str, drawn: int = 0) -> Iterator[TaggedClip]:
    """The clips of a recipe's data set: those of a layout of clips, or of its tracks, cut into pieces of the recipe's length; of
    isolated sounds, the first ``drawn`` mixtures that a run with this recipe hears."""
    from . import segments, tut_rare, weak_labels
    from .layouts import layout_of, read_library, wanted_by

    wanted, name = wanted_by(recipe, split), recipe.data.layout
    for module in (weak_labels, tut_rare, segments):
        if name == module.__name__.rpartition(".")[2] or (name == "auto" and module.found(wanted)):
            yield from module.clips(wanted, recipe.mix.seconds)
            return
    library = read_library(wanted, recipe.training_rate_hz, layout=layout_of(wanted, name))
    length = round(recipe.mix.seconds * recipe.training_rate_hz)
    for track in library.tracks:
        for start in range(0, max(1, track.length - length + 1), length):
            heard = hear(track, recipe.classes, start, length)
            yield _clip(f"{track.name}@{start}", heard.mix, heard.leaves, recipe)
    if not library.tracks:
        from .loader import Mixtures

        mixtures = Mixtures(library, recipe, split)
        for number in range(drawn):
            stems = mixtures[number].numpy()
            yield _clip(f"mixture {number}", stems.sum(axis=0), stems, recipe)


def _clip(name: str, mix: F32, stems: F32, recipe: "Recipe") -> TaggedClip:
    """(2, samples), (leaves, 2, samples) -> a clip whose labels are those of its stems."""
    labels = {leaf: float("nan") for leaf, there in zip(recipe.leaves, sounding(stems), strict=True) if there}
    sound = Sound(np.ascontiguousarray(mix.T), recipe.training_rate_hz)
    return TaggedClip(name, lambda: sound, labels)


def sounding(stems: F32) -> NDArray[np.bool_]:
    """(leaves, ...) stems -> (leaves,) whether each is heard in the mixture."""
    power = np.square(stems, dtype=np.float64).reshape(len(stems), -1).sum(axis=1)
    whole = np.square(stems.sum(axis=0, dtype=np.float64)).sum()
    return np.asarray((power > 0) & (power > whole * 10 ** (HEARD_DB / 10)))


def main(argv: Sequence[str] | None = None) -> int:
    from ..recipe import load_recipe

    parser = argparse.ArgumentParser(prog="tagged", description="Write what a recipe's network hears of clips, and their labels.")
    parser.add_argument("root", metavar="ROOT", help="a data set of any layout")
    parser.add_argument("out", metavar="OUT", type=Path, help="a folder; its caches are written anew")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="recipe values")
    parser.add_argument("--recipe", default="weak", metavar="NAME", help="whose classes and spectra (default weak)")
    parser.add_argument("--mixtures", type=int, default=2000, metavar="N", help="to draw of isolated sounds (default 2000)")
    parser.add_argument("--noise-snr-db", type=float, default=None, metavar="DB", help="add white noise, so far below each clip")
    flags = parser.parse_intermixed_args(argv)
    try:
        recipe = load_recipe(flags.recipe, [f"data.root={flags.root}", *flags.overrides])
        asked = parameters_of(recipe, flags.noise_snr_db)
        for split in SPLITS:
            clips = clips_of(recipe, split, flags.mixtures if split == "train" else recipe.data.valid_mixtures)
            first = next(clips, None)
            if first or split != "test":  # not every data set has a third part
                some = itertools.chain([first] if first else [], clips)
                count = write_cache(some, asked, flags.out / f"{split}{SUFFIX}", recipe.seed)
                print(f"{flags.out / split}{SUFFIX}: {count} clips", flush=True)
    except SepstreamError as error:
        print(f"tagged: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"tagged: '{error.filename or flags.out}' cannot be used ({error.strerror}); choose another place", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
