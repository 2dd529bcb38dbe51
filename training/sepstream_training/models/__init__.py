"""The networks, one file per system; ``build`` makes one from a recipe."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from inspect import signature
from typing import Any

from torch import nn

from sepstream.errors import DataError, nearest

from .band_split import BandSplit
from .hyper_unmix import hyper_unmix
from .lasaft import Conditioned, StreamingLaSaft, lasaft
from .mask_cnn import mask_cnn
from .mask_unet import mask_unet
from .streaming import Network, StreamingNetwork

__all__ = ["KINDS", "Conditioned", "Network", "StreamingLaSaft", "StreamingNetwork", "build"]

KINDS: dict[str, Callable[..., Network]] = {
    "band_split": BandSplit,
    "hyper_unmix": hyper_unmix,
    "mask_cnn": mask_cnn,
    "mask_unet": mask_unet,
    "lasaft": lasaft,
}


def build(kind: str, classes: int, options: Mapping[str, Any], tied: Sequence[int] = ()) -> Network:
    """The network ``kind`` with ``classes`` masks; ``tied`` counts the leaves of each parent, if their masks are to be tied.

    Raises DataError for an unknown kind or option.
    """
    if kind not in KINDS:
        raise DataError(f"model.kind '{kind}' is unknown; {nearest(kind, KINDS)}")
    try:
        network = KINDS[kind](classes, **options)
    except (TypeError, ValueError, RuntimeError) as error:  # an option that is unknown, or of no use
        raise DataError(f"model.options of '{kind}': {error}{_hint(str(error))}") from None
    if tied and network.independent:
        raise DataError(f"model.tied is true; expected false: the masks of '{kind}' are independent, none is a share of another")
    network.tied = tuple(tied)
    return network


def _hint(message: str) -> str:
    """The names that there are, where Python's own complaint is about one that there is not."""
    found = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", message)
    made = [each for each in _below(nn.Module) if found and each.__name__ == found[1]]
    if not found or not made:
        return ""
    return f"; {nearest(found[2], [name for name in signature(made[0]).parameters if name != 'classes'])}"


def _below(kind: type) -> Iterator[type]:
    each: type
    for each in kind.__subclasses__():
        yield each
        yield from _below(each)
