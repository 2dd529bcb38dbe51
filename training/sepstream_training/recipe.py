"""A recipe: everything that makes a training run, as frozen values read from YAML and dotted overrides."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from sepstream.contract import StftSpec, geometry
from sepstream.errors import DataError, nearest

from .data.lsx import read_tree
from .data.mixing import MixSpec

RECIPES = Path(__file__).parent / "recipes"
EXPECTED = {str: "a name", bool: "true or false", list: "a list", tuple: "a list", Mapping: "keys and values"}
BASE = "base"  # the key of a YAML file that names the recipe it changes


def _expect(holds: bool, key: str, value: Any, expected: str) -> None:
    if not holds:
        raise DataError(f"recipe key '{key}' is {value!r}; expected {expected}")


@dataclass(frozen=True)
class DataSpec:
    """Where the sounds are. ``root`` is a data set of some ``layout`` (a file of that name in ``data`` says what it is), or
    ``synthetic`` for sources that need no data.

    ``folders`` says what a class goes by there: a name (of a folder, a file, an instrument) or a list of names, and ``*`` for
    whatever no other class goes by; without an entry it is the class's own. Of premixed data, the part ``as_is`` of the
    training mixtures are tracks as they stand, the others are drawn from their stems at random; validation hears the tracks.
    Of shards, each worker holds ``window`` units (clips, or pieces of tracks) to draw from, and after ``draws`` mixtures takes
    the next one for the oldest.

    The generator's clips are made once, then cached: ``synthetic_clips`` of each class, for each split. Beside a
    folder's own sounds, a training clip is one of them with probability ``synthetic_share``.
    """

    root: str = "synthetic"
    layout: str = "auto"  # one of layouts.LAYOUTS, or a layout of clips with labels; auto: as the data set looks
    folders: Mapping[str, Any] = field(default_factory=dict)
    tree: str = ""  # layout lsx: a TOML file that names the files of a track
    channels: int = 1  # 2: stereo stays stereo; 1: the mean of the channels, panned when it is mixed
    as_is: float = 0.0
    window: int = 64
    draws: int = 4
    licence: str = ""  # licences and attribution that the card of a model must carry
    workers: int = 1
    valid_mixtures: int = 24
    synthetic_share: float = 0.0
    synthetic_clips: int = 8
    synthetic_seconds: float = 30.0
    synthetic_engine: str = "auto"  # programs, numpy, or auto: programs where they are installed

    def __post_init__(self) -> None:
        for leaf in self.folders:
            _expect(bool(self.names(leaf)), f"data.folders.{leaf}", self.folders[leaf], "a name or a list of names")
        _expect(self.channels in (1, 2), "data.channels", self.channels, "1 or 2")
        _expect(0 <= self.as_is <= 1, "data.as_is", self.as_is, "0 to 1")
        _expect(self.window >= 1, "data.window", self.window, "1 or more")
        _expect(self.draws >= 1, "data.draws", self.draws, "1 or more")
        _expect(self.workers >= 0, "data.workers", self.workers, "0 or more")
        _expect(self.valid_mixtures >= 1, "data.valid_mixtures", self.valid_mixtures, "1 or more")
        _expect(0 <= self.synthetic_share <= 1, "data.synthetic_share", self.synthetic_share, "0 to 1")
        _expect(self.synthetic_clips >= 1, "data.synthetic_clips", self.synthetic_clips, "1 or more")

    def names(self, leaf: str) -> list[str]:
        """What a class goes by in the data set; nothing where ``folders`` says something that is no name."""
        named = self.folders.get(leaf, leaf)
        names = named if isinstance(named, list) else [named]
        return names if all(isinstance(name, str) and name for name in names) else []


@dataclass(frozen=True)
class ModelSpec:
    """``kind`` names the network, ``options`` are its constructor's arguments.

    ``tied``: a leaf's mask is a share of its parent's; otherwise each level of the class tree is decided on its own.
    """

    kind: str = "band_split"
    options: Mapping[str, Any] = field(default_factory=dict)
    tied: bool = False


WINDOW_TERMS = ("distortion", "sdr_like", "dsr", "ldsr", "nsdr", "ncs", "nlcs")
SPECTRA_TERMS = ("spectra_l1", "spectra_mse", "waveform_mse", *WINDOW_TERMS)  # of networks that are asked
SHARE_TERMS = ("mask", "spectrogram", "spectral_si_sdr", "l1", "l2", "rmse", "ratio", "component", "kl")  # of networks of masks
TERMS = ("waveform", "si_sdr", "sdr", *SHARE_TERMS, *SPECTRA_TERMS)


@dataclass(frozen=True)
class LossSpec:
    """Weights of the terms of losses.py, and how some of them are meant.

    ``magnitude_weights``: the mask term weighs bins by the mixture's magnitude. ``ratio_power`` is that of the ratio term's
    distance, 1 or 2. ``alpha`` and ``beta`` are the shares of the component term that ask for little of the rest, and for the
    shape of what little there is. ``kl`` is a term of the network's own. ``best_permutation``: sources are told apart, but not
    by name; of all assignments the one with the least loss counts. The terms from ``spectra_l1`` on are for networks that are
    asked, and ``window_s`` is how long the pieces are that those from ``distortion`` on compare (0: all in one).

    With ``tags`` above 0, training hears of each clip only which classes are in it (tags.py), and no other term but ``absent``,
    the mean mask of classes that are not, has a say.
    """

    mask: float = 1.0
    magnitude_weights: bool = True
    spectrogram: float = 0.0
    waveform: float = 0.0
    si_sdr: float = 0.0
    sdr: float = 0.0
    spectral_si_sdr: float = 0.0
    l1: float = 0.0
    l2: float = 0.0
    rmse: float = 0.0
    ratio: float = 0.0
    ratio_power: int = 1
    component: float = 0.0
    alpha: float = 0.2
    beta: float = 0.2
    kl: float = 0.0
    best_permutation: bool = False
    spectra_l1: float = 0.0
    spectra_mse: float = 0.0
    waveform_mse: float = 0.0
    distortion: float = 0.0
    sdr_like: float = 0.0
    dsr: float = 0.0
    ldsr: float = 0.0
    nsdr: float = 0.0
    ncs: float = 0.0
    nlcs: float = 0.0
    window_s: float = 0.0
    tags: float = 0.0
    absent: float = 0.0

    def __post_init__(self) -> None:
        weights = {name: getattr(self, name) for name in (*TERMS, "tags", "absent")}
        _expect(min(weights.values()) >= 0 and sum(weights.values()) > 0, "loss", weights, "weights of 0 or more, not all 0")
        _expect(self.window_s >= 0, "loss.window_s", self.window_s, "0 or more")
        _expect(self.ratio_power in (1, 2), "loss.ratio_power", self.ratio_power, "1 or 2")
        shares = (self.alpha, self.beta)
        _expect(min(shares) >= 0 and sum(shares) < 1, "loss.alpha, loss.beta", shares, "0 or more, together below 1")
        wrong = [name for name in ("mask", "kl") if self.best_permutation and getattr(self, name)]
        _expect(not wrong, f"loss.{wrong[0] if wrong else ''}", 1, "0 with loss.best_permutation, for it has no single sources")

    @property
    def needs_waveforms(self) -> bool:
        """Some term compares waveforms, so that it takes every frame of a signal."""
        return self.waveform > 0 or self.si_sdr > 0 or self.waveform_mse > 0 or self.compares_windows

    @property
    def compares_windows(self) -> bool:
        return any(getattr(self, name) > 0 for name in WINDOW_TERMS)


@dataclass(frozen=True)
class AskedSpec:
    """What a conditioned network is asked for in training: ``targets`` of each mixture, at random; with these probabilities one
    or two classes in part (``blended``), ``everything`` or ``nothing``, and otherwise a class."""

    targets: int = 1
    blended: float = 0.0
    everything: float = 0.0
    nothing: float = 0.0

    def __post_init__(self) -> None:
        _expect(self.targets >= 1, "asked.targets", self.targets, "1 or more")
        shares = {name: getattr(self, name) for name in ("blended", "everything", "nothing")}
        _expect(min(shares.values()) >= 0 and sum(shares.values()) <= 1, "asked", shares, "probabilities, 1 at most together")


@dataclass(frozen=True)
class WindowSpec:
    """How a network that hears both ways is packed for files: in windows of ``past`` + ``hops`` + ``future`` frames.

    Each call takes ``hops`` new frames and gives the masks of as many, ``future`` frames back; it computes the whole window,
    so a second of sound costs (past + hops + future) / hops times as much as in one piece. Memory is constant.

    Measured with 2 layers of 96 units after 200 steps, on four mixtures of 16 s: against the network in one piece, 64 + 256
    + 64 frames lose 0.005 dB of SI-SDR (the sounds differ by -39 dB), 16 + 256 + 16 lose 0.008 dB, 128 + 256 + 128 lose 0.003 dB.
    The card of a bundle says what its own windows change.
    """

    past: int = 64
    hops: int = 256
    future: int = 64

    def __post_init__(self) -> None:
        _expect(1 <= self.hops <= 4096, "window.hops", self.hops, "1 to 4096")
        _expect(0 <= self.past <= 4096, "window.past", self.past, "0 to 4096")
        _expect(1 <= self.future <= 1000, "window.future", self.future, "1 to 1000")

    @property
    def context(self) -> int:
        """Frames that a call gets of those before."""
        return self.past + self.future


@dataclass(frozen=True)
class TagSpec:
    """How masks become the probabilities of clip labels: a ``head`` of models/pooling.py, its ``options``, and whether its
    answer is ``rescaled``. Clips of a cache are scaled by a number drawn between ``quietest`` and 1. ``threshold``: from
    which probability on a class counts as found, for F1."""

    head: str = "rank"
    options: Mapping[str, Any] = field(default_factory=dict)
    rescaled: bool = False
    quietest: float = 1.0
    threshold: float = 0.5

    def __post_init__(self) -> None:
        _expect(0 < self.quietest <= 1, "tags.quietest", self.quietest, "more than 0, 1 at most")
        _expect(0 < self.threshold < 1, "tags.threshold", self.threshold, "between 0 and 1")


MOST_ALIKE = 6  # sources that are told apart by the best of their permutations, of which there are 720
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
SCHEDULES = ("constant-decay", "plateau")


@dataclass(frozen=True)
class TrainSpec:
    """The run. A step is ``accumulate`` batches of every process; ``patience`` counts validations (0: no early stop), and
    ``max_plateaus`` plateaus: the run ends with that many (0: it does not). Recurrent layers learn at ``rate`` times
    ``recurrent_factor``. ``grad_scale`` is what 16-mixed begins to multiply losses with, so that 16 bits hold the gradients.

    The rate warms up, and then, by ``schedule``: ``constant-decay`` stays and falls linearly to zero over the last
    ``decay_steps`` (0: it stays); ``plateau`` is multiplied by ``plateau_factor`` whenever more than
    ``plateau_patience`` validations in a row have brought no loss that is lower by ``plateau_delta``.

    To go on longer with a larger ``steps``, resume from a checkpoint that was written before the fall.
    """

    batch: int = 10  # mixtures, of one process
    accumulate: int = 1
    steps: int = 4000
    rate: float = 2e-3
    schedule: str = "constant-decay"
    warmup_steps: int = 100
    decay_steps: int = 1000
    plateau_factor: float = 0.5
    plateau_patience: int = 10
    plateau_delta: float = 0.0
    max_plateaus: int = 0
    recurrent_factor: float = 1.0
    grad_scale: float = 65536.0
    weight_decay: float = 0.0  # apart from the gradient, as in AdamW
    clip: float = 5.0
    ema: float = 0.998
    precision: str = "32-true"
    validate_every: int = 250
    patience: int = 0
    keep: int = 2  # checkpoints, the best by valid/sdr (of networks without masks: valid/loss), beside the last
    views: int = 2  # validation mixtures that TensorBoard shows and plays
    views_every_s: float = 900.0  # at most that often
    views_closely: bool = False  # and beside each class the truth, waveforms, and what is left without it
    parameters_every: int = 0  # steps between histograms and norms of weights and gradients; 0: none are taken
    threads: int = 0  # 0: as many as torch likes

    def __post_init__(self) -> None:
        for name in ("batch", "accumulate", "steps", "validate_every"):
            _expect(getattr(self, name) >= 1, f"train.{name}", getattr(self, name), "1 or more")
        for name in (
            *("warmup_steps", "decay_steps", "plateau_patience", "weight_decay", "patience", "keep"),
            *("views", "views_every_s", "threads", "plateau_delta", "max_plateaus", "parameters_every"),
        ):
            _expect(getattr(self, name) >= 0, f"train.{name}", getattr(self, name), "0 or more")
        for name in ("rate", "clip", "recurrent_factor", "grad_scale"):
            _expect(getattr(self, name) > 0, f"train.{name}", getattr(self, name), "more than 0")
        _expect(0 <= self.ema < 1, "train.ema", self.ema, "0 to 1, without 1")
        _expect(0 < self.plateau_factor < 1, "train.plateau_factor", self.plateau_factor, "between 0 and 1")
        for name, known in (("precision", PRECISIONS), ("schedule", SCHEDULES)):
            _expect(getattr(self, name) in known, f"train.{name}", getattr(self, name), f"one of {', '.join(known)}")

    def rate_factor(self, step: int, cuts: int = 0) -> float:
        """What ``rate`` is multiplied with at ``step``, counted from 0, after so many ``cuts`` of a plateau."""
        warm = (step + 1) / self.warmup_steps if self.warmup_steps else 1.0
        if self.schedule == "plateau":
            return min(1.0, warm) * self.plateau_factor**cuts
        left = max(0, self.steps - step) / self.decay_steps if self.decay_steps else 1.0
        return min(1.0, warm, left)


@dataclass(frozen=True)
class Recipe:
    """``classes`` are the leaves of each parent; a YAML file may list them without parents, which is kept as a tree in which
    every class is its own and only leaf. ``targets`` are those that the network has masks of (empty: all); the others are what
    it is trained to leave out.
    """

    name: str
    classes: Mapping[str, list[str]]
    targets: list[str] = field(default_factory=list)
    geometry: str | Mapping[str, int] = "live"  # a name, or {analysis: 512, synthesis: 512, hop: 256} in samples
    sample_rate_hz: int = 48000
    divisor: int = 2  # training runs at sample_rate / divisor: same bins, the band above is empty
    band_bins: int = 342  # bins the network looks at, from 0 Hz up
    follow_hz: tuple[float, float] = (6000.0, 8000.0)  # the band that the bins above follow
    lookahead_hops: int = 0  # how much later a live network decides on a frame than it hears it
    seed: int = 1
    data: DataSpec = DataSpec()
    mix: MixSpec = field(default_factory=MixSpec)
    model: ModelSpec = ModelSpec()
    loss: LossSpec = LossSpec()
    tags: TagSpec = field(default_factory=TagSpec)
    train: TrainSpec = TrainSpec()
    window: WindowSpec = WindowSpec()
    asked: AskedSpec = AskedSpec()

    def __post_init__(self) -> None:
        _expect(self.sample_rate_hz >= 1, "sample_rate_hz", self.sample_rate_hz, "1 or more")
        _expect(self.divisor >= 1, "divisor", self.divisor, "1 or more")
        _expect(self.is_flat or all(self.classes.values()), "classes", dict(self.classes), "a leaf or more for each parent")
        _expect(len(self.leaves) > 1, "classes", dict(self.classes), "a list of leaves for each parent, two or more in all")
        _expect(len(set(self.class_names)) == len(self.class_names), "classes", self.class_names, "different names")
        _expect(not (self.is_flat and self.model.tied), "model.tied", True, "false, for the classes have no parents")
        chosen = set(self.targets)
        known = self.is_flat and len(chosen) == len(self.targets) and chosen <= set(self.leaves)
        _expect(not chosen or known, "targets", self.targets, "some of the classes, each once, and classes without parents")
        alike = self.is_flat and not chosen and len(self.leaves) <= MOST_ALIKE
        wanted = f"false: it takes all of at most {MOST_ALIKE} classes without parents"
        _expect(alike or not self.loss.best_permutation, "loss.best_permutation", True, wanted)
        _expect(self.stft.hop_samples % self.divisor == 0, "divisor", self.divisor, f"a divisor of {self.stft.hop_samples}")
        bins, top_hz = self.training_stft.bins, self.band_bins * self.sample_rate_hz / self.stft.analysis_samples
        _expect(1 <= self.band_bins <= bins, "band_bins", self.band_bins, f"1 to {bins}, half the training rate")
        _expect(0 <= self.lookahead_hops <= 1000, "lookahead_hops", self.lookahead_hops, "0 to 1000")
        shortest = 2 * self.stft.analysis_samples / self.sample_rate_hz
        _expect(self.mix.seconds >= shortest, "mix.seconds", self.mix.seconds, f"{shortest:.3g} or more, two frames")
        low, high = self.follow_hz
        _expect(0 <= low < high <= top_hz, "follow_hz", self.follow_hz, f"low < high <= {top_hz:g}, the top of the band")

    @property
    def stft(self) -> StftSpec:
        """The geometry the engine runs."""
        if isinstance(self.geometry, str):
            return geometry(self.geometry)
        parts = ("analysis", "synthesis", "hop")
        expected = f"a name, or {{{', '.join(f'{part}: SAMPLES' for part in parts)}}}"
        _expect(set(self.geometry) == set(parts), "geometry", dict(self.geometry), expected)
        return StftSpec(*(self.geometry[part] for part in parts))

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
    def is_flat(self) -> bool:
        """No class has a parent."""
        return all(list(members) == [name] for name, members in self.classes.items())

    @property
    def parents(self) -> list[str]:
        return [] if self.is_flat else list(self.classes)

    @property
    def class_names(self) -> list[str]:
        """Parents, then leaves, or the targets: the order of masks everywhere."""
        return list(self.targets) or [*self.parents, *self.leaves]

    @property
    def others(self) -> list[str]:
        """What is in the mixtures and has no mask."""
        return [leaf for leaf in self.leaves if self.targets and leaf not in self.targets]

    @property
    def kept(self) -> list[int] | None:
        """The places of the targets among the leaves; None where all classes have masks."""
        return [self.leaves.index(target) for target in self.targets] or None

    @property
    def families(self) -> list[list[int]]:
        """The places of each parent's leaves among the leaves."""
        return [[self.leaves.index(leaf) for leaf in self.classes[parent]] for parent in self.parents]

    @property
    def tied(self) -> list[int]:
        """How many leaves share each parent's mask; empty where they do not."""
        return [len(members) for members in self.classes.values()] if self.model.tied else []

    @property
    def levels(self) -> list[slice]:
        """The rows of each level of the class tree; the masks of a level sum to one, unless masks are independent."""
        parents, count = len(self.parents), len(self.class_names)
        return [slice(0, parents), slice(parents, count)][self.is_flat :]


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """A shipped recipe by name, or a YAML file; ``overrides`` are dotted assignments such as train.steps=100.

    A file may name a ``base``, a shipped recipe, and hold only what differs.
    """
    tree = _read_tree(_find(name_or_path))
    if BASE in tree:
        base = _read_tree(_find_shipped(str(tree.pop(BASE))))
        _expect(BASE not in base, BASE, base.get(BASE), "a recipe that stands on its own")
        tree = _merged(base, tree)
    for override in overrides:
        _set(tree, override)
    return recipe_from_tree(_with_classes(tree))


def recipe_from_tree(tree: Mapping[str, Any]) -> Recipe:
    """A plain mapping (YAML, checkpoint) to a Recipe; an unknown key is an error that names the nearest."""
    classes = tree.get("classes")
    if isinstance(classes, list) and all(isinstance(name, str) for name in classes):
        tree = {**tree, "classes": {name: [name] for name in classes}}
    recipe: Recipe = _build(Recipe, tree, "")
    return recipe


def changed(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """``recipe`` with dotted assignments, as ``load_recipe`` takes them."""
    tree = recipe_to_tree(recipe)
    for override in overrides:
        _set(tree, override)
    return recipe_from_tree(tree)


def recipe_to_tree(recipe: Recipe) -> dict[str, Any]:
    """The plain values that ``recipe_from_tree`` reads, every default written out."""
    return asdict(recipe)


def recipe_to_yaml(recipe: Recipe) -> str:
    """The text that ``load_recipe`` reads, every default written out."""
    return str(yaml.safe_dump(recipe_to_tree(recipe), sort_keys=False, default_flow_style=None, width=100))


def _with_classes(tree: dict[str, Any]) -> dict[str, Any]:
    """A recipe that has no classes of its own takes those of the class tree that its data names."""
    data = tree.get("data")
    named = data.get("tree") if isinstance(data, Mapping) else None
    return {**tree, "classes": read_tree(Path(named).expanduser()).families} if named and "classes" not in tree else tree


def _find(name_or_path: str) -> Path:
    return Path(name_or_path) if Path(name_or_path).is_file() else _find_shipped(name_or_path)


def _find_shipped(name: str) -> Path:
    shipped = {path.stem: path for path in RECIPES.glob("*.yaml")}
    if name not in shipped:
        raise DataError(f"recipe '{name}' is neither a file nor shipped; {nearest(name, sorted(shipped))}")
    return shipped[name]


def _read_tree(path: Path) -> dict[str, Any]:
    try:
        tree = _yaml(path.read_text(encoding="utf8"), f"recipe '{path}'")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"recipe '{path}' cannot be read ({error}); expected a YAML file") from None
    if not isinstance(tree, dict):
        raise DataError(f"recipe '{path}' holds {tree!r}; expected keys and values")
    return tree


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``changes`` over ``base``, group by group; other classes are other classes, not some more."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict) and key != "classes"
        merged[key] = _merged(base[key], value) if both else value
    return merged


def _set(tree: dict[str, Any], override: str) -> None:
    """Apply one KEY=VALUE in place; groups that are not written yet are made."""
    key, sign, value = override.partition("=")
    if not sign or not key:
        raise DataError(f"override '{override}' is no assignment; expected KEY=VALUE, for example train.steps=100")
    *groups, last = key.split(".")
    for group in groups:
        tree = tree.setdefault(group, {})
        if not isinstance(tree, dict):
            raise DataError(f"override '{override}': '{group}' is a value, not a group")
    tree[last] = _yaml(value, f"override '{override}'")


def _yaml(text: str, what: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise DataError(f"{what} is not YAML: {' '.join(str(error).split())}") from None


def _build(kind: Any, tree: Any, where: str) -> Any:
    """The dataclass ``kind`` from a mapping; ``where`` is its dotted place in the recipe, for errors."""
    if not isinstance(tree, Mapping):
        raise DataError(f"recipe key '{where.rstrip('.')}' is {tree!r}; expected keys and values")
    hints = get_type_hints(kind)
    for key in tree:
        if key not in hints:
            raise DataError(f"recipe key '{where}{key}' is unknown; {nearest(str(key), hints)}")
    try:
        return kind(**{key: _value(value, hints[key], f"{where}{key}") for key, value in tree.items()})
    except TypeError as error:  # a key without a default is missing
        raise DataError(f"recipe {where or 'file'}: {error}") from None


def _value(value: Any, hint: Any, where: str) -> Any:
    """``value`` as the type that the field declares."""
    if get_origin(hint) is UnionType:  # a name or a group
        name, group = get_args(hint)
        hint = group if isinstance(value, Mapping) else name
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if hint is Any:
        return value
    if is_dataclass(kind):
        return _build(kind, value, f"{where}.")
    if kind is int or kind is float:
        return _number(value, kind, where)
    _expect(isinstance(value, (list, tuple) if kind in (list, tuple) else kind), where, value, EXPECTED[kind])
    if kind is Mapping:
        return {str(key): _value(item, inner[1], f"{where}.{key}") for key, item in value.items()}
    if kind is tuple:
        _expect(len(value) == len(inner), where, value, f"{len(inner)} values")
    return value if kind in (str, bool) else kind(_value(item, inner[0], where) for item in value)


def _number(value: Any, kind: type[int] | type[float], where: str) -> int | float:
    """YAML reads 1e-3 as text, and people write 2 for 2.0."""
    try:
        number = float("no" if isinstance(value, bool) else value)
        whole = int(number)  # raises for infinity and NaN, which no recipe wants
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"recipe key '{where}' is {value!r}; expected a number") from None
    _expect(kind is float or whole == number, where, value, "a whole number")
    return kind(number)
