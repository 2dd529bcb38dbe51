"""Training sounds that are read from shards while they are needed: a window of decoded units that moves on.

What a reader (one worker of one rank) reads is a function of the seed, its place among the readers and the number of the
unit. So a run goes on exactly where it was, with as many ranks and workers as before; with others it hears the same data
in another order. Memory: ``data.window`` units of decoded sound for each worker, and a block of them encoded.
"""

import io
import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from sepstream.errors import DataError

from .entries import Wanted, check_classes
from .library import Held, Library, Named, Track, blend, encoded, gathered, resampled
from .shards import Meta, Unit, entries, listed_units, read_sound, shards_of, streamed_units

BLOCK = 64  # units that are shuffled together, not yet decoded


class Window(NamedTuple):
    """What may be drawn from at one moment; and the unit that is about to leave, if it is a track."""

    library: Library
    leaving: Track | None


@dataclass(frozen=True)
class Stream:
    """Units of ``shards`` for ever, decoded at ``rate_hz`` in 1 or 2 ``channels``, in an order that ``seed`` decides.

    ``beside`` (the generator's clips) is drawn from with probability ``share``.
    """

    shards: tuple[Path, ...]
    wanted: Wanted
    rate_hz: int
    channels: int
    seed: int
    beside: Library | None = None
    share: float = 0.0

    def windows(self, reader: int, readers: int, first: int, size: int) -> Iterator[Window]:
        """Window n holds the units n to n + ``size`` - 1 of a reader, so the n-th leaves it next; from window ``first`` on.

        Raises DataError for more readers than shards, and for what is no archive or no sound.
        """
        held: deque[list[Named]] = deque(maxlen=size)
        for unit in self.units(reader, readers, first):
            held.append(unit)
            if len(held) == size:
                yield self._window(held)

    def units(self, reader: int, readers: int, skip: int = 0) -> Iterator[list[Named]]:
        """The clips of one unit after another, but for the first ``skip``. Every epoch has its own order of shards, dealt out
        to the readers in turn, so that together they see each unit once; units are shuffled in blocks within a shard."""
        if readers > len(self.shards):
            raise DataError(
                f"{len(self.shards)} shards cannot be shared by {readers} readers (ranks x data.workers); "
                "write smaller shards, or use fewer workers"
            )
        count = cache(self._count)  # counted once, and only what is skipped
        for epoch in itertools.count():
            for number in self.order(epoch, reader, readers):
                if skip and skip >= count(number):
                    skip -= count(number)
                else:
                    yield from map(self._decoded, itertools.islice(self._shuffled(epoch, number), skip, None))
                    skip = 0

    def holds_tracks(self) -> bool:
        return any(entry.track for entry in entries(self.wanted))

    def order(self, epoch: int, reader: int, readers: int) -> list[int]:
        """Places in ``shards``: what a reader reads in an epoch."""
        order: list[int] = np.random.default_rng([self.seed, epoch]).permutation(len(self.shards)).tolist()
        return order[reader::readers]

    def _count(self, number: int) -> int:
        return sum(1 for _ in listed_units(self.shards[number], self.wanted))

    def _shuffled(self, epoch: int, number: int) -> Iterator[Unit]:
        rng = np.random.default_rng([self.seed, epoch, number])
        units = streamed_units(self.shards[number], self.wanted)
        while block := list(itertools.islice(units, BLOCK)):
            yield from (block[i] for i in rng.permutation(len(block)))

    def _decoded(self, unit: Unit) -> list[Named]:
        """Without a track's own sums: training adds its leaves up."""
        return [Named(name, self._held(*member), member.meta.track) for name, member in unit if name in self.wanted.names]

    def _held(self, key: str, meta: Meta, data: bytes) -> Held:
        try:
            samples, rate_hz = read_sound(io.BytesIO(data), meta.gain)
            held = encoded(resampled(samples, rate_hz, self.rate_hz, self.channels))
        except (ValueError, soundfile.SoundFileError) as error:
            raise DataError(f"'{key}' in '{self.wanted.root}' cannot be read as sound ({error}); write the shard anew") from None
        return Held(Path(key), meta.group, held=held)

    def _window(self, held: Iterable[list[Named]]) -> Window:
        units = list(held)
        library = gathered(itertools.chain.from_iterable(units), self.wanted.names)
        leaving = gathered(units[0], self.wanted.names).tracks
        mixed = blend(library, self.beside, self.share) if self.beside is not None else library
        return Window(mixed, leaving[0] if leaving else None)


def open_stream(wanted: Wanted, rate_hz: int, channels: int, seed: int) -> Stream:
    """Raises DataError where there is no shard of the split, or no clip of a class in any of them."""
    check_classes(wanted, "shards", (entry.name for entry in entries(wanted)))
    return Stream(tuple(shards_of(wanted)), wanted, rate_hz, channels, seed)
