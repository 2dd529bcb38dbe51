"""A look-ahead is a shift: what is decided n hops late is scored, heard and exported as a decision on its own frame."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sepstream.errors import DataError
from sepstream.pipeline import Pipeline
from sepstream.selection import Selection
from sepstream_export.package import export
from sepstream_training.hearing import Hearing
from sepstream_training.models import Network
from sepstream_training.recipe import Recipe, load_recipe
from sepstream_training.separation import Separation
from training_runs import SHORT, run

BANDS = "bands: [[10, 3], [6, 8], [5, 18], [3, 58]], width: 6, units: 5, blocks: 1"


class Decided(Network):
    """A network that has decided before it hears: on frame ``t`` what ``logits`` (B, T, K, bins) say, ``late`` frames later."""

    def __init__(self, logits: Tensor, late: int) -> None:
        super().__init__()
        self.head, self.bins, self.dilation = None, logits.shape[-1], 1
        self.logits = torch.cat([1e3 * torch.randn_like(logits[:, :late]), logits], dim=1)

    def forward(self, magnitude: Tensor, chains: int | None = None) -> tuple[Tensor, Tensor]:
        found = self.logits[:, : magnitude.shape[1]]
        return found, found[:, :, :0]


def recipe_of(hops: int, dilation: int, *overrides: str) -> Recipe:
    return load_recipe("tiny", [f"lookahead_hops={hops}", f"model.options={{{BANDS}, dilation: {dilation}}}", *overrides])


def decided(recipe: Recipe, logits: Tensor, late: int) -> Any:
    module = Separation(recipe)
    module.network = Decided(logits, late)
    return module


@pytest.mark.parametrize("loss", ["loss.sdr=0.05", "loss.waveform=1"])
@pytest.mark.parametrize(("dilation", "hops"), [(1, 1), (1, 4), (3, 3), (3, 6)])
def test_late_decisions_score_as_the_same_decisions_in_time(dilation: int, hops: int, loss: str) -> None:
    late, plain = recipe_of(hops, dilation, loss), recipe_of(0, dilation, loss)
    stft, stride = late.training_stft, 1 if "waveform" in loss else dilation
    frames = 20
    samples = stft.analysis_samples + (frames - 1) * stride * stft.hop_samples
    generator = torch.Generator().manual_seed(5)
    stems = torch.randn(2, len(late.leaves), 1, samples, generator=generator)
    logits = torch.randn(2, frames, len(late.class_names), late.band_bins, generator=generator)
    heard = frames - hops // stride
    known = stems[..., : stft.analysis_samples + (heard - 1) * stride * stft.hop_samples]
    found = decided(late, logits, hops // stride).losses(stems)
    wanted = decided(plain, logits[:, :heard], 0).losses(known)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, msg=name)


def test_late_decisions_are_heard_as_the_same_decisions_in_time() -> None:
    late, plain = recipe_of(6, 3), recipe_of(0, 3)
    generator = torch.Generator().manual_seed(6)
    stems = torch.randn(len(late.leaves), 2, 5000, generator=generator)
    logits = torch.randn(1, 60, len(late.class_names), late.band_bins, generator=generator)
    for one, other in zip(Hearing(late)(Decided(logits, 6), stems), Hearing(plain)(Decided(logits, 0), stems), strict=True):
        torch.testing.assert_close(one, other)


def test_a_look_ahead_is_in_the_bundle_and_in_its_sound(tmp_path: Path) -> None:
    options = f"model.options={{{BANDS}, dilation: 3}}"
    assert run(tmp_path / "run", "lookahead_hops=6", options, *SHORT) == 0
    bundle = export(tmp_path / "run" / "last.ckpt", tmp_path / "bundle", name="late")  # proves parity, of sound too
    spec = bundle.stft
    assert bundle.lookahead_hops == 6 and bundle.latency_samples == spec.synthesis_samples + 6 * spec.hop_samples
    pipeline = Pipeline(bundle, Selection.stems(bundle, "parents"), 1, provider="cpu", hops=1)
    sound = np.random.default_rng(7).standard_normal((1, 100 * spec.hop_samples)).astype(np.float32)
    everything = pipeline.process(sound).sum(axis=0)
    at = pipeline.latency_samples
    np.testing.assert_allclose(everything[:, at:], sound[:, :-at], atol=1e-4)


def test_a_look_ahead_between_the_frames_of_training_is_refused() -> None:
    with pytest.raises(DataError, match="'lookahead_hops' is 4; expected a multiple of 3"):
        Separation(recipe_of(4, 3))


def test_a_network_that_hears_both_ways_has_a_window_instead() -> None:
    with pytest.raises(DataError, match=r"'lookahead_hops' is 3.*window\.future"):
        Separation(load_recipe("hyper_unmix", ["lookahead_hops=3"]))
