"""A recipe: everything that makes a training run, as frozen values read from YAML and dotted overrides."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from sepstream.contract import StftSpec, geometry
from sepstream.errors import DataError, nearest

from .data.mixing import MixSpec

RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class DataSpec:
    """Where the sounds are. ``root`` is a folder, or ``synthetic`` for sources that need no data."""

    root: str = "synthetic"
    folders: Mapping[str, str] = field(default_factory=dict)  # class -> folder; a class without an entry is its own
    workers: int = 1
    valid_mixtures: int = 24
    synthetic_share: float = 0.0  # of clips drawn from the generator beside the folder's own
    synthetic_clips: int = 8  # per class, made once and cached


@dataclass(frozen=True)
class ModelSpec:
    """``kind`` names the network, ``options`` are its constructor's arguments."""

    kind: str = "band_split"
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LossSpec:
    """Weights of the terms of losses.py."""

    mask: float = 1.0
    sdr: float = 0.0


@dataclass(frozen=True)
class TrainSpec:
    """The run. The rate warms up, stays, and falls linearly to zero over the last ``decay_steps``."""

    batch: int = 10
    steps: int = 4000
    rate: float = 2e-3
    warmup_steps: int = 100
    decay_steps: int = 1000
    clip: float = 5.0
    ema: float = 0.998
    validate_every: int = 250
    threads: int = 0  # 0: as many as torch likes


@dataclass(frozen=True)
class Recipe:
    name: str
    classes: Mapping[str, list[str]]
    geometry: str = "live"
    sample_rate_hz: int = 48000
    divisor: int = 2  # training runs at sample_rate / divisor: same bins, the band above is empty
    band_bins: int = 342  # bins the network looks at, from 0 Hz up
    follow_hz: tuple[float, float] = (6000.0, 8000.0)  # the band that the bins above follow
    seed: int = 1
    data: DataSpec = DataSpec()
    mix: MixSpec = MixSpec()
    model: ModelSpec = ModelSpec()
    loss: LossSpec = LossSpec()
    train: TrainSpec = TrainSpec()

    @property
    def stft(self) -> StftSpec:
        """The geometry the engine runs."""
        return geometry(self.geometry)

    @property
    def training_stft(self) -> StftSpec:
        """The same bins and windows at the training rate."""
        s, d = self.stft, self.divisor
        return StftSpec(s.analysis_samples // d, s.synthesis_samples // d, s.hop_samples // d)

    @property
    def training_rate_hz(self) -> int:
        return self.sample_rate_hz // self.divisor

    @property
    def leaves(self) -> list[str]:
        return [leaf for members in self.classes.values() for leaf in members]

    @property
    def class_names(self) -> list[str]:
        """Parents, then leaves: the order of masks everywhere."""
        return [*self.classes, *self.leaves]

    @property
    def levels(self) -> list[slice]:
        """The rows of each level of the class tree; the masks of a level sum to one."""
        parents = len(self.classes)
        return [slice(0, parents), slice(parents, parents + len(self.leaves))]


def load_recipe(name_or_path: str, overrides: list[str] = []) -> Recipe:
    """A shipped recipe by name, or a YAML file; ``overrides`` are dotted assignments such as train.steps=100."""
    path = Path(name_or_path)
    if not path.is_file():
        shipped = {p.stem: p for p in RECIPES.glob("*.yaml")}
        if name_or_path not in shipped:
            raise DataError(f"recipe '{name_or_path}' is neither a file nor shipped; {nearest(name_or_path, sorted(shipped))}")
        path = shipped[name_or_path]
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf8"))
        changes = [override.partition("=") for override in overrides]
        for key, sign, value in changes:
            if not sign:
                raise DataError(f"override '{key}' has no value; expected KEY=VALUE, for example train.steps=100")
            _set(tree, key.split("."), yaml.safe_load(value))
    except yaml.YAMLError as error:
        raise DataError(f"recipe '{path}' is not YAML: {' '.join(str(error).split())}") from None
    return recipe_from_tree(tree)


def recipe_from_tree(tree: Mapping[str, Any]) -> Recipe:
    """A plain mapping (YAML, checkpoint) to a Recipe; an unknown key is an error that names the nearest."""
    return _build(Recipe, tree, "")


def recipe_to_tree(recipe: Recipe) -> dict[str, Any]:
    return asdict(recipe)


def _set(tree: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise DataError(f"override '{'.'.join(keys)}': '{key}' is a value, not a group")
    tree[keys[-1]] = value


def _build(kind: type, tree: Any, where: str) -> Any:
    if not isinstance(tree, Mapping):
        raise DataError(f"recipe {where or 'file'}: expected keys and values, got {tree!r}")
    known = {f.name: f for f in fields(kind)}
    values: dict[str, Any] = {}
    for key, value in tree.items():
        if key not in known:
            raise DataError(f"recipe key '{where}{key}' is unknown; {nearest(str(key), known)}")
        default = known[key].default
        if is_dataclass(default) and not isinstance(default, type):
            values[key] = _build(type(default), value, f"{where}{key}.")
        else:
            values[key] = _scalar(value, default, where + key)
    try:
        return kind(**values)
    except TypeError as error:
        raise DataError(f"recipe {where or 'file'}: {error}") from None


def _scalar(value: Any, default: Any, where: str) -> Any:
    """Numbers keep the kind of the default: 1e-3 read as text, or 2 for 2.0, are what people write."""
    if isinstance(default, bool) or not isinstance(default, int | float):
        return tuple(value) if isinstance(default, tuple) else value
    try:
        return type(default)(value)
    except (TypeError, ValueError):
        raise DataError(f"recipe key '{where}' is {value!r}; expected a {type(default).__name__}") from None
