"""The bundle of a checkpoint of latent.py's second run: graphs of encoder, decoder, tables and priors, and their proof."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from sepstream.contract import OFFLINE, BandSpec, Bundle, ClassSpec, GraphSpec, LatentSpec, TensorSpec
from sepstream.errors import BundleError
from sepstream.latent import LatentPipeline, RememberingPrior
from sepstream.sampler import sum_table
from sepstream.selection import Selection
from sepstream.separator import Call
from sepstream_training.draw import colour
from sepstream_training.latent import Continuation
from sepstream_training.models.lqvae import Autoencoder
from sepstream_training.models.prior import Prior

from .graph import OPSET, onnx_bytes

IR_VERSION = 10  # of ONNX files written without torch
MOST_ELEMENTS = 1 << 21  # counts in a bundle, the most frequent ones
CODES_APART = 0.01  # share of codes that may differ: a sound between two codes goes to either
LOGITS_LIMIT = 1e-3
SOUND_LIMIT_DB = 60.0
REST_LIMIT_DB = 80.0

Graphs = list[tuple[bytes, GraphSpec]]


class Encode(nn.Module):
    """sound (1, margin + chunk + margin) -> codes (1, chunk)."""

    def __init__(self, codec: Autoencoder, spec: LatentSpec) -> None:
        super().__init__()
        self.codec, self.inside = codec, slice(spec.margin_codes, spec.margin_codes + spec.chunk_codes)

    def forward(self, sound: Tensor) -> Tensor:
        vectors = self.codec.encoder(sound[:, None])[..., self.inside].transpose(1, 2)
        return self.codec.quantiser.nearest(vectors).to(torch.float32)


class Decode(nn.Module):
    """codes (1, lead + chunk) -> sound."""

    def __init__(self, codec: Autoencoder) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, codes: Tensor) -> Tensor:
        return self.codec.decode(codes.to(torch.int64))


class Step(nn.Module):
    """One more code of a source: see LatentSpec."""

    codebook: Tensor

    def __init__(self, prior: Prior, codebook: Tensor) -> None:
        super().__init__()
        self.prior = prior
        self.register_buffer("codebook", codebook)

    def forward(self, code: Tensor, ages: Tensor, caches: list[Tensor]) -> tuple[Tensor, ...]:
        whole = code.to(torch.int64), ages.to(torch.int64)
        logits, keys, values = self.prior.step(*whole, caches[0::2], caches[1::2], self.codebook)
        newest = [each for pair in zip(keys.unbind(), values.unbind(), strict=True) for each in pair]
        return logits, *newest


def graphs(task: Continuation, spec: LatentSpec) -> Graphs:
    """In the order of LatentSpec."""
    codec, chunk = task.codec, spec.chunk_codes
    heard = torch.zeros(1, (chunk + 2 * spec.margin_codes) * spec.hop_samples)
    told = torch.zeros(1, chunk + spec.lead_codes)
    tables = {"codebook": codec.quantiser.codebook}
    if spec.sampling.likelihood == "counts":
        tables["counts"] = _counts(task)
    return [
        _graph("encoder.onnx", Encode(codec, spec), chunk, (heard,), ["sound"], ["codes"]),
        _graph("decoder.onnx", Decode(codec), told.shape[1], (told,), ["codes"], ["sound"]),
        _tables("tables.onnx", tables),
        *(_prior(leaf, prior, task, spec) for leaf, prior in zip(task.recipe.leaves, task.priors, strict=True)),
    ]


def _tables(file: str, tables: Mapping[str, Tensor]) -> tuple[bytes, GraphSpec]:
    """A graph of constants: nothing -> what does not depend on the sound."""
    arrays = {name: table.numpy().astype(np.float32) for name, table in tables.items()}
    nodes = [helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array)) for name, array in arrays.items()]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "tables", [], outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    specs = tuple(TensorSpec(name, array.shape) for name, array in arrays.items())
    return bytes(model.SerializeToString()), GraphSpec(file, "", 1, (), specs, ())


def _prior(leaf: str, prior: Any, task: Continuation, spec: LatentSpec) -> tuple[bytes, GraphSpec]:
    caches = [torch.zeros(shape) for shape in [prior.cache_shape(spec.draws)] * 2 * len(prior.layers)]
    start = torch.full((spec.draws,), float(spec.codes))
    ages = torch.full((spec.context_codes,), float(spec.context_codes + 1))
    names = [f"{what}{layer}" for layer in range(len(prior.layers)) for what in ("keys", "values")]
    new = [f"new_{name}" for name in names]
    step = Step(prior, task.codec.quantiser.codebook)
    made = _graph(f"prior-{leaf}.onnx", step, 1, (start, ages, caches), ["code", "ages", *names], ["logits", *new])
    return made[0], replace(made[1], states=tuple(zip(names, new, strict=True)))


def _graph(  # noqa: PLR0917
    file: str, module: nn.Module, hops: int, example: tuple[Any, ...], names_in: list[str], names_out: list[str]
) -> tuple[bytes, GraphSpec]:
    module = module.eval()
    with torch.no_grad():
        found = module(*example)
    given = [each for group in example for each in (group if isinstance(group, list) else [group])]
    outputs = [found] if isinstance(found, Tensor) else found
    spec = GraphSpec(
        file=file,
        sha256="",
        hops=hops,
        inputs=tuple(TensorSpec(name, tuple(each.shape)) for name, each in zip(names_in, given, strict=True)),
        outputs=tuple(TensorSpec(name, tuple(each.shape)) for name, each in zip(names_out, outputs, strict=True)),
        states=(),
    )
    return onnx_bytes(module, example, names_in, names_out), spec


def _counts(task: Continuation) -> Tensor:
    """(n, 4), the most frequent ones. Raises BundleError where there are none."""
    if not len(task.counts):
        raise BundleError("the checkpoint holds no counts; expected those of a run of the priors; train it on with --resume")
    most = task.counts[:, 3].topk(min(MOST_ELEMENTS // 4, len(task.counts))).indices.sort().values
    return task.counts[most]


def spec_of(task: Continuation) -> LatentSpec:
    """With ``sigma`` as it is measured on the counts where the recipe leaves it open: the root mean square of what the code of
    a sum and the sum of codes lie apart, per dimension, which is what makes those pairs likeliest."""
    spec = task.latent()
    if "sigma" in task.options.sampling or not len(task.counts):
        return spec
    codebook = task.codec.quantiser.codebook
    table = torch.from_numpy(sum_table(codebook.numpy())).long()
    first, second, mixture, amount = task.counts.unbind(dim=1)
    apart = (codebook[table[first, second]] - codebook[mixture]).double().square().mean(dim=1)
    sigma = float((apart * amount).sum() / amount.sum()) ** 0.5
    return replace(spec, sampling=replace(spec.sampling, sigma=float(f"{min(max(sigma, 1e-3), 1e3):.4g}")))


def manifest(task: Continuation, spec: LatentSpec, name: str, made: Graphs) -> Bundle:
    recipe = task.recipe
    bin_hz = recipe.sample_rate_hz / recipe.stft.analysis_samples
    low, high = (min(round(hz / bin_hz), recipe.band_bins) for hz in recipe.follow_hz)
    return Bundle(
        name=name,
        kind=OFFLINE,
        sample_rate_hz=recipe.sample_rate_hz,
        stft=recipe.stft,
        lookahead_hops=0,
        band=BandSpec(recipe.band_bins, low, high),
        classes=tuple(ClassSpec(leaf, None, colour(number)) for number, leaf in enumerate(recipe.leaves)),
        disk=None,
        graphs=tuple(each for _, each in made),
        opset=OPSET,
        card_sha256="",
        training={}, scores={}, parity={}, licence={},
        folder=Path(),
        latent=spec,
    )  # fmt: skip


@dataclass(frozen=True)
class LatentParity:
    """Share of codes that differ from torch's, on noise of all levels; the sound of the decoder above its difference from
    torch's, in dB; the largest difference of logits, drawn one by one with what is remembered, from torch's on the whole
    sequence, twice as long as what is remembered; and the mixture above its difference from the sum of all that is found."""

    codes: float
    decoder_snr_db: float
    logits: float
    sum_snr_db: float

    def as_dict(self) -> dict[str, float]:
        return {name: float(f"{value:.3g}") for name, value in asdict(self).items()}

    @property
    def holds(self) -> bool:
        """False for NaN, too."""
        agrees = self.codes <= CODES_APART and self.logits <= LOGITS_LIMIT
        return agrees and self.decoder_snr_db >= SOUND_LIMIT_DB and self.sum_snr_db >= REST_LIMIT_DB


def measure(task: Continuation, bundle: Bundle) -> LatentParity:
    """Run every graph against torch. Raises BundleError where they part."""
    assert bundle.latent is not None
    spec, rng = bundle.latent, np.random.default_rng(5)
    encoder, decoder, _, *priors = (Call(bundle, graph, "cpu") for graph in bundle.graphs)
    sound = rng.standard_normal(encoder.graph.inputs[0].shape) * np.geomspace(1e-3, 0.3, encoder.graph.inputs[0].shape[1])
    codes = rng.integers(0, spec.codes, decoder.graph.inputs[0].shape)
    with torch.no_grad():
        whole = task.codec.encode(torch.from_numpy(sound).float())
        inside = whole[:, spec.margin_codes : spec.margin_codes + spec.chunk_codes].numpy()
        told = task.codec.decode(torch.from_numpy(codes)).numpy()
    parity = LatentParity(
        codes=float((encoder(sound.astype(np.float32))[0] != inside).mean()),
        decoder_snr_db=_snr_db(told, decoder(codes.astype(np.float32))[0]),
        logits=max(_logits_apart(task, prior, call, spec, rng) for prior, call in zip(task.priors, priors, strict=True)),
        sum_snr_db=_sum_snr_db(bundle, rng),
    )
    if not parity.holds:
        raise BundleError(f"torch and the bundle part: {parity.as_dict()}; report it with the checkpoint's recipe")
    return parity


def _logits_apart(task: Continuation, prior: Any, call: Call, spec: LatentSpec, rng: np.random.Generator) -> float:
    length = 2 * spec.context_codes
    codes = rng.integers(0, spec.codes, (spec.draws, length)).astype(np.int32)
    with torch.no_grad():
        wanted = prior(torch.from_numpy(codes).long(), task.codec.quantiser.codebook).numpy()
    stepped = RememberingPrior(call, spec)
    apart = 0.0
    for t in range(length):
        apart = max(apart, float(np.abs(stepped.step() - wanted[:, t]).max()))
        stepped.take(codes[:, t])
    return apart


def _sum_snr_db(bundle: Bundle, rng: np.random.Generator) -> float:
    pipeline = LatentPipeline(bundle, Selection.stems(bundle, "all"), 1, provider="cpu")
    late = pipeline.latency_samples
    mixture = (0.1 * rng.standard_normal((1, pipeline.block_samples))).astype(np.float32)
    heard = pipeline.process(np.pad(mixture, ((0, 0), (0, late))))[:, :, late:]
    return _snr_db(mixture, heard.sum(axis=0))


def _snr_db(wanted: Any, heard: Any) -> float:
    error = np.square(np.asarray(heard, np.float64) - wanted).sum()
    return float(10 * np.log10(np.square(np.asarray(wanted, np.float64)).sum() / max(float(error), 1e-30)))
