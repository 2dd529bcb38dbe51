"""A checkpoint of the reference system, hyper-unmix (arXiv 2212.05008), becomes one of ours: the same masks, tested.

It is a Lightning file whose ``hyper_parameters`` are its YAML and whose weights are called model.lstm.LSTM.* (all layers in one
module), model.lstm.norm_layer.*, model.mask_layer.linear.* (outputs ordered bins, then dim) and model.mask_layer.mlr.{p_k, a_k}:
points and normals on the Poincare ball. The head's curvature is stored as softplus^-1 (isp_c); a trained one (tp.c) maps to the
ball and has, after training, left that of the head. Nothing in the file is executed.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sepstream.errors import DataError

from .models import build
from .models.disk_head import hyperplanes
from .recipe import Recipe, load_recipe, recipe_from_tree, recipe_to_tree

CLASSES = {"music": ["bass", "drums", "guitar"], "speech": ["male", "female"]}  # in the order of its logits
RATE_HZ = 16000  # nowhere in the file
FLOOR = 1e-8  # under its logarithm; nor is this
SAME = 1e-5  # relative: a curvature that went through softplus and float32
POINTS = "model.mask_layer.mlr.p_k"
LICENCE = "that of the imported checkpoint; hyper-unmix publishes its weights under AGPL-3.0-or-later"


def is_reference(checkpoint: Path) -> bool:
    """Whether ``import_reference`` is the one to read this file; False for one that cannot be read at all."""
    try:
        return POINTS in torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    except Exception:  # torch raises many kinds for a file that is none of its own; who reads it in earnest says which
        return False


def import_reference(checkpoint: Path, out: Path) -> Path:
    """Write the checkpoint of ours, ``out``, that ``load_network`` and sep-export read. Raises DataError in one line for a file
    of another form, or one whose masks this network cannot make."""
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        recipe, weights = _convert(state["state_dict"], state["hyper_parameters"])
        steps = int(state["global_step"])
    except DataError as error:
        raise DataError(f"checkpoint '{checkpoint}': {error}") from None
    except Exception as error:  # torch raises many kinds, and a file of another form may break anywhere
        reason = " ".join((str(error) or type(error).__name__).split())[:200]
        raise DataError(
            f"checkpoint '{checkpoint}' is not of the reference's form ({type(error).__name__}: {reason}); "
            "expected hyper_parameters, and a state_dict with model.lstm.* and model.mask_layer.*"
        ) from None
    named = {f"network.{name}": value for name, value in weights.items()}
    torch.save({"state_dict": named, "hyper_parameters": {"recipe": recipe_to_tree(recipe)}, "global_step": steps}, out)
    return out


def _convert(given: Mapping[str, Any], configuration: Mapping[str, Any]) -> tuple[Recipe, dict[str, Tensor]]:
    """-> the recipe, and the weights of its network."""
    weights = {name.removeprefix("model."): torch.as_tensor(value) for name, value in given.items()}
    model = configuration["model"]
    bins, dim = int(model["n_freq_bins"]), int(model["hyperbolic_dim"])
    options: dict[str, Any] = {
        "bidirectional": bool(model["bidirectional"]),
        "bins": bins,
        "units": int(model["hidden_dim"]),
        "layers": int(model["n_layers"]),
        "dropout": float(model["dropout"]),
        "dim": dim,
        "floor": FLOOR,
        **_curvatures(weights, float(model["hyperbolic_k"])),
    }
    recipe = _recipe(configuration, options)
    network = build(recipe.model.kind, len(recipe.class_names), options)
    ours = _body(weights, options) | _head(weights, options["curvature"])
    if weights:
        raise DataError(f"it holds {sorted(weights)[0]!r}, which its hyper_parameters have no place for; expected a whole file")
    network.load_state_dict(ours)  # every shape is checked here
    if not all(bool(value.isfinite().all()) for value in network.state_dict().values()):
        raise DataError("it holds weights that are no numbers; expected a network that was trained")
    return recipe, network.state_dict()


def _curvatures(weights: dict[str, Tensor], configured: float) -> dict[str, float]:
    """The head's own curvature, and that of the map to the ball where it is another; their weights are used up."""
    if configured <= 0:
        return {"curvature": 0.0}
    own = math.log1p(math.exp(float(weights.pop("mask_layer.mlr.ball.isp_c"))))
    mapped = float(weights.pop("mask_layer.tp.c", torch.tensor(configured)))
    if not mapped > 0:
        raise DataError(f"its trained curvature is {mapped:g}; expected a positive one, for the network has no masks otherwise")
    return {"curvature": own} if abs(mapped / own - 1) < SAME else {"curvature": own, "embedding_curvature": mapped}


def _recipe(configuration: Mapping[str, Any], options: Mapping[str, Any]) -> Recipe:
    """What there is to know of how it was made."""
    model, features = configuration["model"], configuration["features"]
    leaves = sum(map(len, CLASSES.values()))
    if int(model["n_sources"]) != len(CLASSES) + leaves:
        raise DataError(f"it has {model['n_sources']} sources; expected the 7 of the reference system, whose names are known")
    if not features["normalize"]:
        raise DataError("its window is not normalized; expected features.normalize true")
    samples = {"analysis": "fft_size", "synthesis": "window_length", "hop": "hop_length"}
    data, published = configuration["data"], recipe_to_tree(load_recipe("hyper_unmix"))
    return recipe_from_tree(
        published
        | {
            "name": "imported",
            "classes": CLASSES,
            "sample_rate_hz": RATE_HZ,
            "geometry": {part: int(features[name]) for part, name in samples.items()},
            "band_bins": options["bins"],
            "model": {"kind": "hyper_unmix", "options": dict(options)},
            "data": published["data"] | {"root": "LSX", "licence": "LSX (made of LibriSpeech and Slakh2100); see the checkpoint"},
            "mix": published["mix"] | {"seconds": float(data["train_chunk_sec"]), "mix_low_db": -20.0, "mix_high_db": -17.0},
            "train": published["train"] | {"batch": int(data["train_batch_size"])},
        }
    )


def _body(weights: dict[str, Tensor], options: Mapping[str, Any]) -> dict[str, Tensor]:
    """Everything below the head; what is taken is used up."""
    names = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    ours = {f"norm.{name}": weights.pop(f"lstm.norm_layer.{name}") for name in names}
    for layer in range(options["layers"]):
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            for way in ("", "_reverse") if options["bidirectional"] else ("",):
                ours[f"layers.{layer}.cell.{name}_l0{way}"] = weights.pop(f"lstm.LSTM.{name}_l{layer}{way}")
    for name in ("weight", "bias"):
        value = weights.pop(f"mask_layer.linear.{name}")
        by_bins = value.reshape(options["bins"], options["dim"], *value.shape[1:])
        ours[f"linear.{name}"] = by_bins.transpose(0, 1).reshape(value.shape)
    return ours


def _head(weights: dict[str, Tensor], curvature: float) -> dict[str, Tensor]:
    points, normals = (weights.pop(f"mask_layer.mlr.{name}").double() for name in ("p_k", "a_k"))
    if curvature * float(points.square().sum(dim=1).max()) >= 1 or float(normals.norm(dim=1).min()) == 0:
        raise DataError("a class of its head has a point outside of the ball or no normal; expected a network that was trained")
    normal, offset = hyperplanes(points, normals, curvature)
    log_curvature = math.log(curvature) if curvature else 0.0
    return {
        "head.normal": normal.float(),
        "head.offset": offset.float(),
        "head.log_curvature": torch.tensor(log_curvature),
    }
