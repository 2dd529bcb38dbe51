"""Mixtures of isolated events with weak labels, written as a data set of the layout ``weak_labels``.

    python -m sepstream_training.data.remix EVENTS OUT [--mixtures N] [--seconds S] [--overlap] [--seed N] ...

EVENTS is a folder of the layout ``events``. Each mixture is 1 to ``--most-events`` events, drawn from all files alike, one
after the other with silence of random lengths between, or (``--overlap``) anywhere; and white noise. Events of one split are
in no mixture of another. A folder holds ``mix.flac`` and what it is the sum of, to the last bit: a file for each class
that sounds, and the noise. The same seed gives the same data set.
"""

import argparse
import csv
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

from sepstream.errors import DataError, SepstreamError

from .entries import F32, SUFFIXES, read_file
from .events import SPLIT_NAMES, events_by_class, split_events
from .library import resampled
from .weak_labels import LABELS, MIXTURE, NOISE, SOUND

I32 = NDArray[np.int32]

STEPS = 32767  # of full scale, the peak of every mixture
MOST_SECONDS = 3600.0


@dataclass(frozen=True)
class RemixSpec:
    """``noise`` is the energy of the white noise against that of all events (0.1: 10 dB below them)."""

    seconds: float = 10.0
    most_events: int = 4
    overlap: bool = False
    noise: float = 0.1
    rate_hz: int = 16000
    mixtures: int = 2000
    train: float = 0.8  # of the events of each class, and of the mixtures
    valid: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name, holds, expected in (
            ("seconds", 0 < self.seconds <= MOST_SECONDS, f"more than 0, {MOST_SECONDS:g} at most"),
            ("most_events", self.most_events >= 1, "1 or more"),
            ("noise", 0 <= self.noise < np.inf, "0 or more"),
            ("rate_hz", 1000 <= self.rate_hz <= 768000, "1000 to 768000"),
            ("mixtures", self.mixtures >= 1, "1 or more"),
            ("train", 0 < self.train <= 1, "more than 0, 1 at most"),
            ("valid", 0 <= self.valid <= 1 - self.train + 1e-9, "0 or more, and no more than train leaves"),
            ("seed", self.seed >= 0, "0 or more"),
        ):
            if not holds:
                raise DataError(f"--{name.replace('_', '-')} is {getattr(self, name)}; expected {expected}")

    @property
    def counts(self) -> tuple[int, int, int]:
        """Mixtures for training, validation and testing."""
        train, valid = (int(share * self.mixtures + 1e-9) for share in (self.train, self.valid))
        return train, valid, self.mixtures - train - valid


class Event(NamedTuple):
    name: str  # its class
    samples: F32


class Remix(NamedTuple):
    """What a mixture is the sum of, in whole 16-bit steps (samples,): each class that sounds, and the noise."""

    sources: Mapping[str, I32]
    noise: I32

    @property
    def mix(self) -> I32:
        return np.asarray(sum(self.sources.values(), self.noise))


def draw_remix(events: Sequence[Event], spec: RemixSpec, rng: np.random.Generator) -> Remix:
    """One mixture; a class that sounds twice is one source."""
    length = round(spec.seconds * spec.rate_hz)
    chosen = [events[i] for i in rng.integers(len(events), size=rng.integers(1, spec.most_events + 1))]
    place = _anywhere if spec.overlap else _one_after_another
    sources: dict[str, F32] = {}
    for event, start, piece in place(chosen, length, rng):
        source = sources.setdefault(event.name, np.zeros(length, np.float32))
        source[start : start + len(piece)] += piece
    noise = rng.standard_normal(length).astype(np.float32)
    clean = np.sum(list(sources.values()), axis=0)
    noise *= np.float32(np.sqrt(spec.noise * np.square(clean).sum() / np.square(noise).sum()))
    peak = float(np.abs(clean + noise).max())
    scale = (STEPS - len(sources) - 1) / peak if peak > 0 else 0.0  # each rounding may add half a step
    return Remix({name: _steps(source * scale) for name, source in sorted(sources.items())}, _steps(noise * scale))


Placed = tuple[Event, int, F32]  # where it starts, and as much of it as is heard


def _one_after_another(events: Sequence[Event], length: int, rng: np.random.Generator) -> list[Placed]:
    """With a gap of random length before each; or, where they are too long for that, with none: the first that does not fit
    is cut from a random place on, those after it are left out."""
    total = sum(len(event.samples) for event in events)
    spare = length - total
    silence = rng.integers(spare + 1) if spare > 0 else 0
    gaps = np.floor(rng.dirichlet(np.ones(len(events))) * silence).astype(int)
    placed, at = [], 0
    for event, gap in zip(events, gaps, strict=True):
        start, left = at + gap, length - at - gap
        if left <= 0:
            break
        cut = rng.integers(len(event.samples) - left) if len(event.samples) > left else 0
        placed.append((event, int(start), event.samples[cut : cut + left]))
        at = start + len(event.samples)
    return placed


def _anywhere(events: Sequence[Event], length: int, rng: np.random.Generator) -> list[Placed]:
    pieces = [event.samples[:length] for event in events]
    return [(e, int(rng.integers(length - len(p) + 1)), p) for e, p in zip(events, pieces, strict=True)]


def _steps(sound: F32) -> I32:
    return np.rint(sound).astype(np.int32)


# ---- a data set of them -----------------------------------------------------------------------------------------------


def write_remixes(root: Path, out: Path, spec: RemixSpec) -> None:
    """Write the data set, all of it or nothing. Raises DataError where ``out`` is there, where ``root`` has no sounds, and
    where a split that gets mixtures has no events; OSError where the disk does."""
    if out.exists():
        raise DataError(f"'{out}' exists; expected a new folder; choose another place")
    if not root.is_dir():
        raise DataError(f"'{root}' is no folder; expected isolated sounds (layout events), such as cough07.wav")
    of_class = events_by_class(root)
    if not of_class:
        raise DataError(f"'{root}' holds no sounds; expected isolated events such as cough07.wav ({', '.join(sorted(SUFFIXES))})")
    parts = split_events(of_class, (spec.train, spec.valid), spec.seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        fresh = Path(scratch) / out.name
        for number, (split, count) in enumerate(zip(SPLIT_NAMES, spec.counts, strict=True)):
            _write_split(fresh / split, _events(root, parts[split], spec, count), list(of_class), spec, (number, count))
        fresh.rename(out)


def _events(root: Path, of_class: Mapping[str, Sequence[Path]], spec: RemixSpec, count: int) -> list[Event]:
    events = [Event(name, _read(path, spec.rate_hz)) for name, files in of_class.items() for path in files] if count else []
    if count and not events:
        raise DataError(f"'{root}' has too few sounds of each class for every split; add some, or change --train and --valid")
    return events


def _read(path: Path, rate_hz: int) -> F32:
    try:
        return resampled(*read_file(path), rate_hz, 1)
    except (OSError, ValueError, soundfile.SoundFileError) as error:
        raise DataError(f"'{path}' cannot be read as sound ({error}); remove it from the data set") from None


def _write_split(folder: Path, events: Sequence[Event], names: Sequence[str], spec: RemixSpec, part: tuple[int, int]) -> None:
    """Mixture n depends on the seed, the split and n alone."""
    split, count = part
    folder.mkdir(parents=True)
    with (folder / LABELS).open("w", newline="", encoding="utf8") as file:
        table = csv.writer(file)
        table.writerow(["filename", *names])
        for index in range(count):
            remix = draw_remix(events, spec, np.random.default_rng([spec.seed, split, index]))
            track = folder / f"{index:06d}"
            track.mkdir()
            for name, sound in {**remix.sources, NOISE: remix.noise, MIXTURE: remix.mix}.items():
                soundfile.write(track / f"{name}{SOUND}", sound.astype(np.int16), spec.rate_hz, subtype="PCM_16")
            table.writerow([f"{track.name}/{MIXTURE}{SOUND}", *(int(name in remix.sources) for name in names)])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="remix", description="Write mixtures of isolated events, with weak labels.")
    parser.add_argument("events", metavar="EVENTS", type=Path, help="a folder of isolated sounds, such as cough07.wav")
    parser.add_argument("out", metavar="OUT", type=Path, help="a new folder")
    usual = RemixSpec()
    for flag, kind, text in (
        ("seconds", float, "length of a mixture"),
        ("most-events", int, "events in a mixture, at most"),
        ("noise", float, "energy of the white noise against that of the events"),
        ("rate-hz", int, "sample rate"),
        ("mixtures", int, "how many mixtures, in all splits"),
        ("train", float, "share of the events and mixtures that are for training"),
        ("valid", float, "share that is for validation; the rest is for testing"),
        ("seed", int, "of everything that is drawn"),
    ):
        value = getattr(usual, flag.replace("-", "_"))
        parser.add_argument(f"--{flag}", type=kind, default=value, metavar="N", help=f"{text} (default {value})")
    parser.add_argument("--overlap", action="store_true", help="events may sound together")
    flags = vars(parser.parse_args(argv))
    root, out = flags.pop("events"), flags.pop("out")
    try:
        spec = RemixSpec(**flags)
        write_remixes(root, out, spec)
    except SepstreamError as error:
        print(f"remix: {error}", file=sys.stderr)
        return 2
    except (OSError, soundfile.SoundFileError) as error:  # the second is what its writer calls a full disk
        print(f"remix: '{out}' cannot be written ({' '.join(str(error).split())}); choose another place", file=sys.stderr)
        return 2
    print(f"{out}: {', '.join(f'{count} {split}' for split, count in zip(SPLIT_NAMES, spec.counts, strict=True))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
