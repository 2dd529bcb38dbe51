"""What is learned from clip labels alone: masks are pooled to the probability of each class, and that is all that is compared.

A clip is stems, of which only who sounds is used, or a row of a cache (data/tagged.py). After Kong, Xu, Wang, Plumbley 2018
(arXiv 1711.03037): binary cross-entropy, and optionally the mean mask of every class that is not in the clip.

    python -m sepstream_training.tags CHECKPOINT [--split test] [--json] [KEY=VALUE ...]

tells how well the classes of a checkpoint's data are found.
"""
# ruff: noqa: PLC0415 - loading torchmetrics takes a while

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor, nn

from sepstream.errors import DataError, SepstreamError

from .data.tagged import HEARD_DB, Tagged
from .losses import class_masks
from .models import Network
from .models.mask_cnn import MaskCnn
from .models.pooling import build_head
from .recipe import Recipe

FIGURES = ("roc_auc", "average_precision", "f1")


class Answer(NamedTuple):
    """(B, classes) probabilities, and the labels they should be."""

    probabilities: Tensor
    labels: Tensor


class Tagger(nn.Module):
    """The head of a recipe over the masks of ``network``, which it does not own. Raises DataError where they do not fit."""

    def __init__(self, recipe: Recipe, network: Network) -> None:
        super().__init__()
        if not recipe.is_flat:
            raise DataError(
                "loss.tags is above 0, and classes are a tree; expected a list of classes (data.folders may join some)"
            )
        stft, self.levels = recipe.training_stft, network.shares(recipe.levels)
        self.late = 0 if isinstance(network, MaskCnn) else recipe.lookahead_hops // network.dilation
        step = network.dilation * stft.hop_samples
        frames = (round(recipe.mix.seconds * recipe.training_rate_hz) - stft.analysis_samples) // step + 1 - self.late
        bands = network.bands if isinstance(network, MaskCnn) else network.bins
        spec = recipe.tags
        self.head = build_head(spec.head, len(recipe.leaves), bands, frames, spec.options, rescaled=spec.rescaled)
        self.weights = recipe.loss

    def forward(self, network: Network, magnitude: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Answer]:
        """(B, T, bins) of clips, every ``dilation``-th frame, and (B, classes) labels -> the losses, and what was answered."""
        masks = self.masks(network, magnitude)
        with torch.autocast(magnitude.device.type, enabled=False):
            masks = masks.float()
            found = self.head(masks).clamp(0, 1)
            losses = {"tags": nn.functional.binary_cross_entropy(found, labels)}
            if self.weights.absent:
                losses["absent"] = absent_loss(masks, labels)
        loss = torch.stack([getattr(self.weights, name) * value for name, value in losses.items()]).sum()
        return {"loss": loss, **losses}, Answer(found.detach(), labels)

    def masks(self, network: Network, magnitude: Tensor) -> Tensor:
        """(B, classes, bands, T)."""
        if isinstance(network, MaskCnn):
            return network.stretch(magnitude)
        logits, _ = network(magnitude, 1)
        return class_masks(logits[:, self.late :], self.levels).permute(0, 2, 3, 1)


def absent_loss(masks: Tensor, labels: Tensor) -> Tensor:
    """The mean of all masks (B, classes, bands, T) whose class is not in its clip; 0 where every class is."""
    gone = 1 - labels
    return (masks.mean(dim=(2, 3)) * gone).sum() / gone.sum().clamp_min(1)


def labels_of(stems: Tensor) -> Tensor:
    """(B, leaves, C, samples) stems -> (B, leaves): 1 for those that are heard in their mixture (data.tagged.sounding)."""
    power = stems.square().sum(dim=(2, 3))
    whole = stems.sum(dim=1).square().sum(dim=(1, 2))[:, None]
    return ((power > 0) & (power > whole * 10 ** (HEARD_DB / 10))).float()


# ---- how well they are found ------------------------------------------------------------------------------------------


def figures(answer: Answer, names: Sequence[str], threshold: float) -> dict[str, dict[str, float | int | None]]:
    """ROC-AUC, average precision and F1 of each class, their mean (``macro``) and their mean by how often a class is there
    (``weighted``). None for a class that is in every clip or in none: there is nothing to be found."""
    from torchmetrics.functional.classification import binary_auroc, binary_average_precision, binary_f1_score

    rows: dict[str, dict[str, float | int | None]] = {}
    for index, name in enumerate(names):
        found, there = answer.probabilities[:, index], answer.labels[:, index].int()
        count = int(there.sum())
        measured: Iterable[float | None] = (None,) * len(FIGURES)
        if 0 < count < len(there):
            measured = (
                float(binary_auroc(found, there)),
                float(binary_average_precision(found, there)),
                float(binary_f1_score(found, there, threshold)),
            )
        rows[name] = {**dict(zip(FIGURES, measured, strict=True)), "clips": count}
    return rows | _means(rows, len(answer.labels))


def _means(rows: Mapping[str, Mapping[str, Any]], clips: int) -> dict[str, dict[str, float | int | None]]:
    scored = [row for row in rows.values() if row["roc_auc"] is not None]
    total = sum(row["clips"] for row in scored)
    macro = {name: sum(row[name] for row in scored) / len(scored) if scored else None for name in FIGURES}
    weighted = {name: sum(row[name] * row["clips"] for row in scored) / total if scored else None for name in FIGURES}
    return {"macro": {**macro, "clips": clips}, "weighted": {**weighted, "clips": clips}}


class TagScores(L.Callback):
    """``valid/FIGURE_CLASS`` and ``valid/FIGURE`` (weighted) over all validation clips, of all processes."""

    def on_validation_epoch_start(self, trainer: L.Trainer, module: Any) -> None:
        from torchmetrics import CatMetric

        self.gathered = [CatMetric().to(module.device) for _ in Answer._fields]

    def on_validation_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, *_: Any) -> None:
        for metric, values in zip(self.gathered, outputs, strict=True):
            metric.update(values)

    def on_validation_epoch_end(self, trainer: L.Trainer, module: Any) -> None:
        answer = Answer(*(metric.compute() for metric in self.gathered))
        rows = figures(answer, module.class_names, module.recipe.tags.threshold)
        rows[""] = rows.pop("weighted")
        named = {
            f"valid/{figure}{'_' * bool(name)}{name}": float(row[figure])  # type: ignore[arg-type]  # it is not None
            for name, row in rows.items()
            for figure in FIGURES
            if row[figure] is not None
        }
        module.log_dict(named, sync_dist=trainer.world_size > 1)  # the same in all processes; Lightning warns otherwise


def evaluate(checkpoint: Path, split: str = "valid", overrides: Sequence[str] = ()) -> dict[str, dict[str, float | int | None]]:
    """``figures`` of a checkpoint on the data of its recipe, changed by ``overrides``. Raises DataError for one without tags,
    and for data that do not fit."""
    from .data.loader import sounds, validation_batches
    from .train import load_separation

    module = load_separation(checkpoint, overrides)
    if module.tagger is None:
        raise DataError(f"checkpoint '{checkpoint}' was not trained on clip labels; expected one with loss.tags above 0")
    answers = []
    with torch.no_grad():
        for batch in validation_batches(sounds(module.recipe, split), module.recipe):
            clips = batch if isinstance(batch, Tensor) else Tagged(*batch)
            answers.append(module.answer(clips)[1])
    whole = Answer(*(torch.cat(each) for each in zip(*answers, strict=True)))
    return figures(whole, module.recipe.leaves, module.recipe.tags.threshold)


def table(rows: Mapping[str, Mapping[str, float | int | None]]) -> str:
    """``figures`` as Markdown."""

    def cell(value: float | int | None) -> str:
        return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)

    head = f"| class | ROC-AUC | average precision | F1 | clips |\n|{'---|' * 5}\n"
    return head + "\n".join(
        f"| {name} | {' | '.join(cell(row[key]) for key in (*FIGURES, 'clips'))} |" for name, row in rows.items()
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tags", description="How well a checkpoint finds which classes are in a clip.")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="trained on clip labels by sep-train")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="recipe values, such as data.root=FOLDER")
    parser.add_argument("--split", choices=("train", "valid", "test"), default="valid", help="of the data (default valid)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a Markdown table")
    flags = parser.parse_intermixed_args(argv)
    try:
        rows = evaluate(flags.checkpoint, flags.split, flags.overrides)
    except SepstreamError as error:
        print(f"tags: {error}", file=sys.stderr)
        return 2
    print(json.dumps(rows) if flags.json else table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
