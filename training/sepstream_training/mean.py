"""The mean of checkpoints: python -m sepstream_training.mean A.ckpt B.ckpt --shares 2 1 --out C.ckpt

Runs that went on from the same weights end in one valley, and between them lies a network that hears unseen sounds as well as
either, or better: Wortsman et al. 2022, "Model soups" (arXiv 2203.05482); of a network and its own fine-tuned form, Wortsman et
al. 2022, "Robust fine-tuning of zero-shot models" (arXiv 2109.01903). The (averaged) weights are meant, those that are shipped;
everything else but the licences is the first checkpoint's, and a run that resumes goes on from the weights that it had.
"""

import argparse
import math
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sepstream.errors import DataError, SepstreamError

from . import checkpoints


def mean(paths: Sequence[Path], shares: Sequence[float]) -> dict[str, Any]:
    """The first checkpoint, as ``checkpoints.read`` gives it, with the weighted mean of the weights of all, in their own dtypes,
    and all their licences; ``shares`` need not sum to one.

    Raises DataError for a checkpoint of another network or with weights that are no numbers, and for shares that make no mean.
    """
    if len(shares) != len(paths) or not all(0 <= share < math.inf for share in shares) or not 0 < sum(shares) < math.inf:
        raise DataError(f"shares are {list(shares)}; expected {len(paths)} numbers from 0, not all 0, one for each checkpoint")
    states = [checkpoints.read(path) for path in paths]
    weights: list[dict[str, Tensor]] = [state["state_dict"] for state in states]
    for path, state, theirs in zip(paths, states, weights, strict=True):
        if _network(state) != _network(states[0]) or _shapes(theirs) != _shapes(weights[0]):
            raise DataError(f"checkpoint '{path}' is another network than '{paths[0]}'; expected one that shares its beginning")
        if not all(value.isfinite().all() for value in theirs.values()):
            raise DataError(f"checkpoint '{path}' holds weights that are no numbers; expected those of a run that went well")
    total = sum(shares)
    for name, first in weights[0].items():
        if first.is_floating_point():  # in float64, so that the mean of equals is what they are
            parts = (share / total * each[name].double() for share, each in zip(shares, weights, strict=True))
            weights[0][name] = torch.stack(list(parts)).sum(0).to(first.dtype)
    heard = {licence: None for state in states if (licence := _data(state)["licence"])}
    _data(states[0])["licence"] = "; ".join(heard)
    return states[0]


def _data(state: dict[str, Any]) -> dict[str, Any]:
    data: dict[str, Any] = state["hyper_parameters"]["recipe"]["data"]
    return data


def _network(state: dict[str, Any]) -> tuple[Any, ...]:
    recipe = checkpoints.recipe_of(state)
    rate = recipe.sample_rate_hz, recipe.divisor
    return *rate, recipe.geometry, recipe.lookahead_hops, recipe.band_bins, recipe.class_names, recipe.classes, recipe.model


def _shapes(weights: dict[str, Tensor]) -> dict[str, Any]:
    return {name: value.shape for name, value in weights.items()}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="mean", description="Write the mean of the weights of checkpoints.")
    parser.add_argument("checkpoints", metavar="CKPT", type=Path, nargs="+", help="of runs that began from the same weights")
    parser.add_argument("--shares", metavar="N", type=float, nargs="+", help="how much of each (default: as much of each)")
    parser.add_argument("--out", metavar="CKPT", type=Path, required=True, help="a new file")
    flags = parser.parse_args(argv)
    part = Path(f"{flags.out}.{uuid.uuid4().hex[:8]}.part")
    try:
        if flags.out.exists():
            raise DataError(f"'{flags.out}' exists; choose another file with --out")
        state = mean(flags.checkpoints, flags.shares or [1.0] * len(flags.checkpoints))
        torch.save(state, part)
        part.replace(flags.out)
    except SepstreamError as error:
        print(f"mean: {error}", file=sys.stderr)
        return 2
    except (OSError, RuntimeError) as error:  # the second is what torch calls a folder that is not there, or a full disk
        print(f"mean: '{flags.out}' cannot be written ({' '.join(str(error).split())}); choose another place", file=sys.stderr)
        return 2
    finally:
        part.unlink(missing_ok=True)
    print(f"{flags.out}: the mean of {len(flags.checkpoints)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
