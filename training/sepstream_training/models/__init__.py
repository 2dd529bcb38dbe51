"""The networks, one file per system; ``build`` makes one from a recipe."""

from collections.abc import Mapping
from typing import Any

from sepstream.errors import DataError, nearest

from .band_split import BandSplit
from .hyper_unmix import HyperUnmix
from .streaming import StreamingNetwork

__all__ = ["KINDS", "StreamingNetwork", "build"]

KINDS: dict[str, type[StreamingNetwork]] = {"band_split": BandSplit, "hyper_unmix": HyperUnmix}


def build(kind: str, classes: int, options: Mapping[str, Any]) -> StreamingNetwork:
    """The network ``kind`` with ``classes`` masks. Raises DataError for an unknown kind or option."""
    if kind not in KINDS:
        raise DataError(f"model.kind '{kind}' is unknown; {nearest(kind, KINDS)}")
    try:
        return KINDS[kind](classes, **options)
    except (TypeError, ValueError, RuntimeError) as error:  # an option that is unknown, or of no use
        raise DataError(f"model.options of '{kind}': {error}") from None
