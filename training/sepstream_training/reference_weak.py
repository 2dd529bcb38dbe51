"""A checkpoint of Audio_blind_source_separation (weakly labelled, EPFL 2018) becomes one of ours: the same masks, tested.

It is a torch file with ``config``, a flat mapping of every option (and the features' ``shift`` and ``scaling``), and
``model_state_dict``, whose masks are made by mask_model.net.{convolutions, batch_norms}.N. What it holds of numbers is read as
numbers; nothing in the file is executed. Its classifier stays behind, as those of ours do: masks need none.

Its window was a Hamming window, the engine's is the root of a Hann window: of the same magnitudes the masks are the same.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sepstream.errors import DataError

from .models import build
from .recipe import Recipe, load_recipe, recipe_from_tree, recipe_to_tree

LICENCE = "that of the imported checkpoint; its authors publish theirs under MIT"
KEYS = {"model_state_dict", "config"}
MASKS = "mask_model.net."
TUT = "ICASSP2018JointSeparationClassificationDataSet"
TUT_CLASSES = ["babycry", "glassbreak", "gunshot", "background"]  # in the order of its masks; nowhere in the file
FEATURES = {
    "log-mel": ("log1p", 1e-8),
    "log-mel_no_shift": ("log", 1e-15),
    "mel": ("mel", 1e-8),
    "spectrogram": ("spectrogram", 1e-8),
}
ACTIVATIONS = {"lr": "leaky", "relu": "relu", "sig": "sigmoid", "softmax": "softmax"}
POOLINGS = {"none": "none", "max": "max", "avg": "mean"}
DROPOUTS = {"1D": "bins", "2D": "channels"}
HEADS = {"GlobalMaxPooling2d": "max", "GlobalAvgPooling2d": "mean"}  # every other is told as rank pooling
NUMBER_KINDS = "fiub"  # of NumPy types


def is_reference(checkpoint: Path) -> bool:
    """Whether ``import_reference`` is the one to read this file; False for one that cannot be read at all."""
    try:
        return _read(checkpoint).keys() >= KEYS
    except Exception:  # torch raises many kinds for a file that is none of its own; who reads it in earnest says which
        return False


def import_reference(checkpoint: Path, out: Path) -> Path:
    """Write the checkpoint of ours, ``out``, that ``load_network`` and sep-export read. Raises DataError in one line for a file
    of another form, or one whose masks this network cannot make."""
    try:
        state = _read(checkpoint)
        recipe, weights = _convert(state["model_state_dict"], state["config"])
    except DataError as error:
        raise DataError(f"checkpoint '{checkpoint}': {error}") from None
    except Exception as error:  # torch raises many kinds, and a file of another form may break anywhere
        reason = " ".join((str(error) or type(error).__name__).split())[:200]
        raise DataError(
            f"checkpoint '{checkpoint}' is not of the expected form ({type(error).__name__}: {reason}); "
            "expected config, and a model_state_dict with mask_model.net.*"
        ) from None
    named = {f"network.{name}": value for name, value in weights.items()}
    tree = {"recipe": recipe_to_tree(recipe)}
    torch.save({"state_dict": named, "hyper_parameters": tree, "global_step": 0, "mixtures": 0}, out)
    return out


def _read(checkpoint: Path) -> dict[str, Any]:
    with _numbers_of_numpy():
        state: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
    return state


@contextmanager
def _numbers_of_numpy() -> Iterator[None]:
    """Lets torch read NumPy's scalars, which such files are full of: types of numbers, and their bytes, nothing else."""
    kinds = {type(np.dtype(code)) for code in ("f4", "f8", "i4", "i8", "?")}
    scalar = [(_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    with torch.serialization.safe_globals([np.dtype, *kinds, *scalar]):
        yield


def _scalar(kind: np.dtype[Any], data: bytes) -> float:
    if kind.kind not in NUMBER_KINDS:
        raise ValueError(f"a value of type {kind}")
    return float(np.frombuffer(data, kind, count=1)[0])


def _convert(given: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[Recipe, dict[str, Tensor]]:
    """-> the recipe, and the weights of its network."""
    for key in ("train_pcen", "train_multi_pcen"):
        if config.get(key):
            raise DataError(f"its {key} is true; expected a network of mel features, whose normalisation is two numbers")
    weights = {name.removeprefix(MASKS): torch.as_tensor(value) for name, value in given.items() if name.startswith(MASKS)}
    shift, scaling = (float(torch.as_tensor(config[name]).flatten()[0]) for name in ("shift", "scaling"))
    if not scaling > 0:
        raise DataError(f"its scaling is {scaling:g}; expected a number above 0")
    ours = {"look.norm.running_mean": torch.tensor([shift]), "look.norm.running_var": torch.tensor([scaling**2])}
    ours["look.norm.num_batches_tracked"] = torch.tensor(0)
    for index in range(int(config["mask_n_blocks"])):
        for name in ("weight", "bias"):
            ours[f"blocks.{index}.conv.{name}"] = weights.pop(f"convolutions.{index}.{name}")
        if config["mask_use_batch_norm"]:
            for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
                ours[f"blocks.{index}.norm.{name}"] = weights.pop(f"batch_norms.{index}.{name}")
    if weights:
        raise DataError(f"it holds {sorted(weights)[0]!r}, which its config has no place for; expected a whole file")
    recipe = _recipe(config, _options(config))
    network = build(recipe.model.kind, len(recipe.class_names), recipe.model.options)
    network.load_state_dict(ours)  # every shape is checked here
    if not all(bool(value.isfinite().all()) for value in network.state_dict().values()):
        raise DataError("it holds weights that are no numbers; expected a network that was trained")
    return recipe, network.state_dict()


def _options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of our network."""
    blocks = int(config["mask_n_blocks"])

    def each(name: str) -> list[Any]:
        values = list(config[f"mask_{name}"])
        return values * blocks if len(values) == 1 else values[:blocks]

    kernels, pads = each("conv_k_t"), each("conv_p_t")
    if kernels != [2 * pad + 1 for pad in pads]:
        raise DataError(f"its mask_conv_p_t is {pads} with kernels of {kernels} frames; expected padding that keeps every frame")
    kind = ("log", 1e-8) if config["data_set_type"] == TUT else FEATURES.get(config["feature_type"])
    if kind is None:
        raise DataError(f"its feature_type is '{config['feature_type']}'; expected one of {', '.join(FEATURES)}")
    activations = [ACTIVATIONS[name] for name in each("activations")]
    pooling = POOLINGS[config["mask_pooling_type"]]
    frames = {"kernel": each("pool_k_t"), "stride": each("pool_s_t")}
    rate_hz = int(config["sampling_rate"])
    samples = _samples(config["STFT_frame_width_ms"], rate_hz)
    streams = all(stride == 1 for stride in each("conv_s_t")) and config["mask_conv_pad_type"] == "zero"
    return {
        "streaming": streams and (pooling == "none" or frames["kernel"] == frames["stride"] == [1] * blocks),
        "bins": samples // 2 + 1,
        "bin_hz": rate_hz / samples,
        "bands": int(config["n_Mel_filters"]),
        "low_hz": float(config["Mel_min_freq"]),
        "high_hz": float(config["Mel_max_freq"]),
        "feature": kind[0],
        "floor": kind[1],
        "channels": each("conv_o_c")[:-1],
        "kernel_bands": each("conv_k_f"),
        "kernel_frames": kernels,
        "stride_bands": each("conv_s_f"),
        "stride_frames": each("conv_s_t"),
        "pad_bands": each("conv_p_f"),
        "padding": config["mask_conv_pad_type"],
        "groups": each("conv_groups"),
        "activation": activations,
        "dropout": each("dropout_probs"),
        "dropout_of": DROPOUTS[config["mask_dropout_type"]],
        "batch_norm": bool(config["mask_use_batch_norm"]),
        "coordinates": bool(config.get("mask_freq_coord_conv", False)),
        "pooling": pooling,
        **({} if pooling == "none" else _pools(config, each)),
        "masks": activations[-1],
    }


def _pools(config: Mapping[str, Any], each: Any) -> dict[str, Any]:
    """Blocks may pool by different sizes there; ours pool alike."""
    kernels, strides = (list(zip(each(f"pool_{w}_f"), each(f"pool_{w}_t"), strict=True)) for w in ("k", "s"))
    if len(set(kernels)) > 1 or len(set(strides)) > 1:
        raise DataError(f"its blocks pool by {kernels}, strides {strides}; expected one size for all")
    if any(each("pool_p_t")):
        raise DataError(f"its mask_pool_p_t is {each('pool_p_t')}; expected 0, pooling without padding in time")
    pads = {"pool_pad_bands": each("pool_p_f"), "pool_padding": config["mask_pool_pad_type"]}
    return {"pool_kernel": list(kernels[0]), "pool_stride": list(strides[0]), **pads}


def _samples(ms: float, rate_hz: int) -> int:
    return round(ms * rate_hz / 1000)


def _recipe(config: Mapping[str, Any], options: Mapping[str, Any]) -> Recipe:
    """What there is to know of how it was made."""
    rate_hz = int(config["sampling_rate"])
    analysis, hop = (_samples(config[f"STFT_frame_{name}_ms"], rate_hz) for name in ("width", "shift"))
    names: Sequence[str] = TUT_CLASSES if config["data_set_type"] == TUT else config["classes"]
    usual = recipe_to_tree(load_recipe("weak"))
    absent = float(config["l1_loss_lambda"])
    head = HEADS.get(config["classifier_model_type"], "rank")
    seconds = (
        round(float(config["length_segments_s"]) * rate_hz / analysis) * analysis / rate_hz
        if "length_segments_s" in config
        else 4.0
    )
    return recipe_from_tree(
        usual
        | {
            "name": "imported",
            "classes": [str(name) for name in names],
            "sample_rate_hz": rate_hz,
            "geometry": {"analysis": analysis, "synthesis": 2 * hop, "hop": hop},
            "band_bins": options["bins"],
            "follow_hz": [0.75 * rate_hz / 2, rate_hz / 2],
            "lookahead_hops": sum(size // 2 for size in options["kernel_frames"]) if options["streaming"] else 0,
            "model": {"kind": "mask_cnn", "options": dict(options)},
            "data": usual["data"]
            | {"root": str(config["data_set_type"]), "folders": {}, "licence": "see the imported checkpoint"},
            "mix": usual["mix"] | {"seconds": seconds},
            "loss": usual["loss"] | {"tags": 1 - absent, "absent": absent},
            "tags": {
                "head": head,
                "options": {"decay": float(config["class_dc"])} if head == "rank" and "class_dc" in config else {},
            },
        }
    )
