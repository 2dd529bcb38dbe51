"""Which numbered mixtures a process takes. Mixture n is a function of the seed and n alone, so this is all that
distinguishes one process of a run from another, and a resumed run from a fresh one."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """What follows on the first ``done`` mixtures, dealt out in turn: process ``rank`` of ``count`` takes every count-th.

    Iterating gives the numbers of its training mixtures, for ever.
    """

    done: int = 0
    rank: int = 0
    count: int = 1

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.done + self.rank, self.count)

    def batch(self, index: int, size: int) -> range:
        """The numbers in this process's batch ``index``, counted from 0."""
        first = self.done + index * size * self.count + self.rank
        return range(first, first + size * self.count, self.count)

    def of(self, total: int) -> range:
        """This process's part of the numbers below ``total``, whatever was done: for validation."""
        return range(self.rank, total, self.count)
