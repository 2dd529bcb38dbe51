"""The networks, one file per system; ``build`` makes one from a recipe."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sepstream.errors import DataError, nearest

from .band_split import BandSplit
from .hyper_unmix import hyper_unmix
from .streaming import Network, StreamingNetwork

__all__ = ["KINDS", "Network", "StreamingNetwork", "build"]

KINDS: dict[str, Callable[..., Network]] = {"band_split": BandSplit, "hyper_unmix": hyper_unmix}


def build(kind: str, classes: int, options: Mapping[str, Any], tied: Sequence[int] = ()) -> Network:
    """The network ``kind`` with ``classes`` masks; ``tied`` counts the leaves of each parent, if their masks are to be tied.

    Raises DataError for an unknown kind or option.
    """
    if kind not in KINDS:
        raise DataError(f"model.kind '{kind}' is unknown; {nearest(kind, KINDS)}")
    try:
        network = KINDS[kind](classes, **options)
    except (TypeError, ValueError, RuntimeError) as error:  # an option that is unknown, or of no use
        raise DataError(f"model.options of '{kind}': {error}") from None
    if tied and network.independent:
        raise DataError(f"model.tied is true; expected false: the masks of '{kind}' are independent, none is a share of another")
    network.tied = tuple(tied)
    return network
