"""Checkpoints as they are read back: plain tensors and values, nothing executed; what does not fit is said in one line."""

import logging
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn

from sepstream.errors import DataError

from .recipe import Recipe, recipe_from_tree

KEYS = {"state_dict", "hyper_parameters", "global_step"}
OF_A_RUN = {"loops", "callbacks", "optimizer_states", "lr_schedulers"}  # what Lightning goes on from

log = logging.getLogger(__name__)


def read(checkpoint: Path) -> dict[str, Any]:
    """What sep-train wrote. Raises DataError for anything else."""
    try:
        state: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
        whole = state.keys() >= KEYS and "recipe" in state["hyper_parameters"] and isinstance(state["global_step"], int)
        reason = "" if whole else "no recipe in it, or no steps"
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        reason = str(error.strerror)
    except Exception:  # torch raises many kinds for a file that is none of its own, with advice that nobody should follow
        reason = "it is damaged, or holds something else than weights and plain values"
    if reason:
        raise DataError(f"checkpoint '{checkpoint}' cannot be read ({reason}); expected one written by sep-train")
    return state


def read_run(checkpoint: Path) -> dict[str, Any]:
    """The same, of a run that can go on. Raises DataError."""
    state = read(checkpoint)
    if lacking := sorted(OF_A_RUN - state.keys()):
        raise DataError(
            f"checkpoint '{checkpoint}' lacks {', '.join(lacking)}, so no run goes on from it; begin one with --start"
        )
    return state


def recipe_of(state: dict[str, Any]) -> Recipe:
    return recipe_from_tree(state["hyper_parameters"]["recipe"])


def mixtures_heard(state: dict[str, Any]) -> int:
    """By all processes; a checkpoint that does not say so is from the time of single ones."""
    return int(state.get("mixtures", state["global_step"] * recipe_of(state).train.batch))


def load(module: nn.Module, recipe: Recipe, checkpoint: Path) -> None:
    """The (averaged) weights into ``module``. Raises DataError where they are another network's."""
    state = read(checkpoint)
    _check_bins(recipe, state, checkpoint)
    _check_classes(recipe, state, checkpoint)
    _fill(module, state["state_dict"], checkpoint)


def start_from(module: nn.Module, recipe: Recipe, checkpoint: Path) -> None:
    """The (averaged) weights for a new run; what the checkpoint lacks is named, and keeps its initialisation.

    Raises DataError for a parameter of another shape, or one that ``module`` lacks.
    """
    state = read(checkpoint)
    _check_bins(recipe, state, checkpoint)
    _check_classes(recipe, state, checkpoint)
    new = {name: value for name, value in module.state_dict().items() if name not in state["state_dict"]}
    _fill(module, {**new, **state["state_dict"]}, checkpoint)
    if new:
        names = shorten(", ".join(name.removeprefix("network.") for name in new), 400)
        log.info("not in '%s', so they start as they are made: %d tensors, %s", checkpoint, len(new), names)


def start_partly(module: nn.Module, recipe: Recipe, checkpoint: Path) -> None:
    """What fits of the (averaged) weights for a new run of the same kind of network, with other bins, classes or sizes. The
    rest is named, and keeps its initialisation. Raises DataError for another kind of network."""
    state, ours = read(checkpoint), module.state_dict()
    theirs, kind = state["state_dict"], recipe_of(state).model.kind
    if kind != recipe.model.kind:
        raise DataError(f"checkpoint '{checkpoint}' is a network of kind {kind}; expected {recipe.model.kind}, as in the recipe")
    _check_classes(recipe, state, checkpoint)
    fits = {name for name, value in ours.items() if name in theirs and theirs[name].shape == value.shape}
    module.load_state_dict({name: theirs[name] if name in fits else value for name, value in ours.items()})
    names = ", ".join(name.removeprefix("network.") for name in ours if name not in fits)
    log.info("%d of %d tensors are from '%s'; as they are made: %s", len(fits), len(ours), checkpoint, names or "none")


def _check_classes(recipe: Recipe, state: dict[str, Any], checkpoint: Path) -> None:
    """As many classes in another order: the weights would fit, and each class would sound like another."""
    ours, theirs = recipe.class_names, recipe_of(state).class_names
    if len(ours) == len(theirs) and any(one in theirs and one != other for one, other in zip(ours, theirs, strict=True)):
        raise DataError(
            f"checkpoint '{checkpoint}' has the classes in another order, {', '.join(theirs)}; the recipe has {', '.join(ours)}; "
            "list them in its order"
        )


def _fill(module: nn.Module, weights: dict[str, Tensor], checkpoint: Path) -> None:
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        reason = shorten(str(error).splitlines()[1], 200)  # the first says only that there are errors
        raise DataError(
            f"checkpoint '{checkpoint}' is another network's ({reason}); use the recipe it was trained with"
        ) from None


def _check_bins(recipe: Recipe, state: dict[str, Any], checkpoint: Path) -> None:
    """Bins of the same number are other frequencies at another rate: the weights would fit, and mean nothing."""
    other = recipe_of(state)
    ours, theirs = (r.sample_rate_hz / r.stft.analysis_samples for r in (recipe, other))
    if ours != theirs:
        raise DataError(
            f"checkpoint '{checkpoint}' has bins of {theirs:g} Hz ({other.sample_rate_hz} Hz, {other.geometry}), the recipe of "
            f"{ours:g} Hz ({recipe.sample_rate_hz} Hz, {recipe.geometry}); use its sample_rate_hz and geometry"
        )
