"""What a conditioned network is asked for while it learns: conditions, and the answers that would be right.

A class at a time as Choi et al. 2021 (arXiv 2010.11631) draw them, and as many blends, wholes and nothings as the recipe says,
after Meseguer-Brocal & Peeters 2019 (arXiv 1907.01277, sec. 4): so that what lies between the classes is learned, too.
"""

import torch
from torch import Tensor

from .recipe import AskedSpec


def draw(spec: AskedSpec, batch: int, classes: int) -> Tensor:
    """(B, targets, classes) random wishes: a class; or one or two in part; or all of the mixture; or none of it."""
    rows = batch * spec.targets
    order = torch.rand(rows, classes).argsort(dim=1)
    first, second = (torch.nn.functional.one_hot(order[:, index], classes).float() for index in (0, 1))
    lot, shares, is_pair = torch.rand(rows, 1), torch.rand(2, rows, 1), torch.rand(rows, 1) < 0.5
    wishes = torch.where(lot < spec.blended, shares[0] * first + shares[1] * second * is_pair, first)
    lot = lot - spec.blended
    wishes = torch.where((lot >= 0) & (lot < spec.everything), torch.ones(()), wishes)
    lot = lot - spec.everything
    wishes = torch.where((lot >= 0) & (lot < spec.nothing), torch.zeros(()), wishes)
    return wishes.view(batch, spec.targets, classes)


def granted(leaves: Tensor, wishes: Tensor) -> Tensor:
    """(B, C, T, classes, F) spectra, (B, targets, classes) -> (B, C, T, targets, F): the weighted sums that were wished for."""
    return torch.einsum("bctkf,bwk->bctwf", leaves, wishes.to(leaves.dtype))
