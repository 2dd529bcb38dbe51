"""What all that is trained has in common: one step after the other, from seed to checkpoint, whatever the losses are of."""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from .callbacks import Diverged
from .recipe import Recipe, recipe_to_tree
from .schedule import RECURRENT
from .share import Share


class Task(L.LightningModule, ABC):
    """A recipe's networks (attributes of a subclass) and their ``losses``. A batch is stems (B, leaves, C, samples), or what
    else a subclass knows how to learn from."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.save_hyperparameters({"recipe": recipe_to_tree(recipe)})
        self.recipe = recipe
        self.share, self.first_step = Share(), 0  # where this run begins
        self.step_losses: list[Tensor] = []  # of the step's batches

    # ---- what is learned

    @abstractmethod
    def losses(self, batch: Any) -> dict[str, Tensor]:
        """``loss``, and the terms that it is made of."""

    @property
    def monitor(self) -> str:
        """The figure by which the best checkpoints are kept, the lower the better."""
        return "valid/loss"

    def callbacks(self) -> list[L.Callback]:
        """What looks at this task's validations."""
        return []

    def shipped(self) -> nn.Module:
        """What a bundle of it holds."""
        return self

    def check_start(self) -> None:
        """Raises DataError where what this run begins with is of no use to it."""

    def training_step(self, batch: Any, index: int) -> Tensor:
        """Dropout depends on the numbers of the mixtures alone: a resumed run is the same run."""
        torch.manual_seed((self.recipe.seed << 32) + self.numbers(len(self.step_losses))[0])
        losses = self.losses(batch)
        self.step_losses.append(losses["loss"].detach())
        self.log_losses("train", losses, prog_bar=True)
        return losses["loss"]

    def validation_step(self, batch: Any, index: int) -> Any:
        self.log_losses("valid", self.losses(batch), batch_size=float(len(batch)))

    def log_losses(self, stage: str, losses: dict[str, Tensor], **options: Any) -> None:
        """``batch_size`` is a float: gloo cuts the mean of whole numbers over processes to a whole one."""
        named = {f"{stage}/{name}": value for name, value in losses.items()}
        self.log_dict(named, sync_dist=self.trainer.world_size > 1, **options)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Rate and decay are set before each step, by schedule.py; recurrent layers have a rate of their own where they
        are told to."""
        layers = [module for module in self.modules() if isinstance(module, nn.RNNBase)]
        own = {id(each) for layer in layers for each in layer.parameters()} if self.recipe.train.recurrent_factor != 1 else set()
        groups: list[dict[str, Any]] = [{"params": [each for each in self.learning() if id(each) not in own]}]
        if own:
            groups.append({"params": [each for each in self.learning() if id(each) in own], RECURRENT: True})
        return torch.optim.AdamW(groups, lr=self.recipe.train.rate, weight_decay=0.0)

    def learning(self) -> list[Tensor]:
        """The parameters that a step changes."""
        return [value for value in self.parameters() if value.requires_grad]

    # ---- what is no number

    def configure_gradient_clipping(self, optimizer: Any, gradient_clip_val: Any = None, *_: Any, **__: Any) -> None:
        """Clip, and stop here if there is no number: the weights are still those of the last good step."""
        norm = torch.nn.utils.clip_grad_norm_(self.learning(), gradient_clip_val)
        losses = torch.stack(self.step_losses)
        self.step_losses.clear()
        if not torch.isfinite(norm):
            self._explain(float(norm), losses)

    def _explain(self, norm: float, own_losses: Tensor) -> None:
        """Raise Diverged with the numbers of the mixtures; a gradient that 16 bits cannot hold is left to the scaler."""
        gathered: Any = self.all_gather(own_losses)
        losses = gathered.view(-1, len(own_losses))  # (processes, batches)
        bad = (~torch.isfinite(losses)).nonzero().tolist()
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler and not bad and scaler.get_scale() > 1:
            return
        what = f"loss is {float(losses[tuple(bad[0])])}" if bad else f"gradient is {norm}"
        ranks = [replace(self.share, rank=rank) for rank in range(self.share.count)]
        culprits = bad or [[rank, batch] for rank in range(len(losses)) for batch in range(losses.shape[1])]
        numbers = sorted(n for rank, batch in culprits for n in self.numbers(batch, ranks[rank]))
        raise Diverged(
            f"the {what} at step {self.global_step}, mixtures {', '.join(map(str, numbers))} of seed {self.recipe.seed}; "
            "lower train.rate, and go on from the last good state with --resume auto"
        )

    def numbers(self, batch: int, share: Share | None = None) -> range:
        """The mixtures of the step's ``batch``, counted from 0, in this process or in that of ``share``."""
        spec = self.recipe.train
        return (share or self.share).batch((self.global_step - self.first_step) * spec.accumulate + batch, spec.batch)

    # ---- where it goes on

    def begin(self, share: Share, first_step: int) -> None:
        """The run goes on after ``first_step`` steps, with the mixtures of ``share``."""
        self.share, self.first_step = share, first_step

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        spec = self.recipe.train
        new = (int(checkpoint["global_step"]) - self.first_step) * spec.accumulate * spec.batch * self.share.count
        checkpoint["mixtures"] = self.share.done + new

    def restore(self, checkpoint: dict[str, Any]) -> None:
        """What ``on_save_checkpoint`` put beside the weights, for those who use what was trained."""

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A step is whole or it was not taken: Lightning counts batches, also of a step that was broken off."""
        batches = int(checkpoint["global_step"]) * self.recipe.train.accumulate
        for count in ("total", "current"):
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"][count]
            progress.update(dict.fromkeys(progress, batches))
