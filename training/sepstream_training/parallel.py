"""One run on several devices: what it runs on, and what its processes share beside their gradients."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.plugins import LayerSync, MixedPrecision
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sepstream.errors import DataError

from .processes import STARTED_BY_US, Machines
from .recipe import TrainSpec


def trainer_arguments(machines: Machines, spec: TrainSpec) -> dict[str, Any]:
    """``machines`` and the precision of ``spec`` as arguments of a Trainer.

    Raises DataError for more GPUs than there are, or a precision they lack.
    """
    gpus = torch.cuda.device_count() if machines.accelerator != "cpu" else 0
    if machines.accelerator == "gpu" and not gpus:
        raise DataError("--accelerator gpu: torch finds no GPU on this machine; use --accelerator cpu, or another torch")
    if gpus and machines.devices > gpus:
        raise DataError(f"--devices {machines.devices}: this machine has {gpus} GPU(s); expected so many, or --accelerator cpu")
    if spec.precision == "16-mixed" and not gpus:
        raise DataError("recipe key 'train.precision' is '16-mixed'; expected 32-true or bf16-mixed on a machine without a GPU")
    places: dict[str, Any] = {"accelerator": machines.accelerator, "devices": machines.devices, "num_nodes": machines.nodes}
    places |= {"plugins": _scaled(spec)} if spec.precision == "16-mixed" else {"precision": spec.precision}
    if machines.processes == 1:
        return places
    plugins = [*places.get("plugins", []), SharedNorms(), *([LightningEnvironment()] if STARTED_BY_US in os.environ else [])]
    unused = machines.strategy == "ddp_find_unused_parameters_true"
    strategy = DDPStrategy(find_unused_parameters=unused, broadcast_buffers=False, gradient_as_bucket_view=True)
    return places | {"strategy": strategy, "plugins": plugins, "use_distributed_sampler": False}


def _scaled(spec: TrainSpec) -> list[Any]:
    """16 bits, with the recipe's scale of gradients."""
    return [MixedPrecision("16-mixed", "cuda", torch.amp.GradScaler("cuda", init_scale=spec.grad_scale))]


class Sum(torch.autograd.Function):
    """The sum over all processes; so is its gradient."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


class _Shared(_BatchNorm):
    """Batch normalisation over the batches of all processes, which then see what one with the whole batch would see.

    nn.SyncBatchNorm is the same for GPUs alone: it refuses the CPU, where this is proven.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(rows, features, ...) -> the same."""
        if not self.training:
            return super().forward(x)
        axes = [axis for axis in range(x.dim()) if axis != 1]
        wide = x.double()
        rows = torch.full((1,), x.numel() / x.shape[1], dtype=wide.dtype, device=x.device)
        total, squares, count = Sum.apply(torch.cat([wide.sum(axes), wide.square().sum(axes), rows])).split(  # type: ignore[no-untyped-call]
            [x.shape[1], x.shape[1], 1]
        )
        mean = total / count
        variance = (squares / count - mean.square()).clamp_min(0)
        self._remember(mean.detach(), (variance * count / (count - 1)).detach())
        shape = (1, -1, *[1] * (x.dim() - 2))
        gain = (variance + self.eps).rsqrt().to(x.dtype) * self.weight
        y: Tensor = (x - mean.to(x.dtype).view(shape)) * gain.view(shape) + self.bias.view(shape)
        return y

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var), self.momentum)


class SharedNorm(_Shared, nn.BatchNorm1d):
    """Of rows of features."""


class SharedNorm2d(_Shared, nn.BatchNorm2d):
    """Of channels of planes."""


SHARED: dict[type[_BatchNorm], type[_BatchNorm]] = {nn.BatchNorm1d: SharedNorm, nn.BatchNorm2d: SharedNorm2d}


class SharedNorms(LayerSync):
    """Puts a shared norm in the place of every one of a single process, with the same parameters and buffers, and takes it away
    again."""

    def apply(self, model: nn.Module) -> nn.Module:
        return _replace(model, SHARED)

    def revert(self, model: nn.Module) -> nn.Module:
        return _replace(model, {shared: single for single, shared in SHARED.items()})


def _replace(model: nn.Module, kinds: Mapping[type[_BatchNorm], type[_BatchNorm]]) -> nn.Module:
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm) and type(child) in kinds:
                other = kinds[type(child)](child.num_features, child.eps, child.momentum)
                other.train(child.training)
                for key in _tensors(child):
                    setattr(other, key, getattr(child, key))
                setattr(parent, name, other)
    return model


def _tensors(module: nn.Module) -> Sequence[str]:
    return [name for name, _ in (*module.named_parameters(), *module.named_buffers())]
