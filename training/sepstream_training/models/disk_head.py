"""The hyperbolic classifier: a tangent vector per bin in, class logits out, on the hyperboloid.

The multinomial logistic regression of Ganea, Becigneul, Hofmann 2018 (Hyperbolic Neural Networks, eq. 25)
in the lifted form of Shimizu, Mukuta, Harada 2021 (Hyperbolic Neural Networks++, sec. 3.1): each class is a
geodesic hyperplane, given by a normal and a signed offset, so no parameter lives on a manifold and an
ordinary optimiser will do. Everything is kept in curvature-1 coordinates: ``u = sqrt(c) v``.
"""

import math

import torch
from torch import Tensor, nn

MAX_RADIUS = math.atanh(0.999)  # of u: the embedding stays inside 0.999 of the disk, so float32 is enough


class DiskHead(nn.Module):
    """(..., dim, bins) tangent vectors v -> (..., classes, bins) logits and (..., dim, bins) embedding u.

    ``curvature`` c > 0 is the (negated) curvature of the ball; 0 is Euclid, the limit c -> 0.
    ``trainable_curvature`` makes c one shared positive parameter.
    """

    def __init__(self, classes: int, dim: int = 2, curvature: float = 1.0, trainable_curvature: bool = False) -> None:
        super().__init__()
        if dim < 2 or curvature < 0 or (trainable_curvature and curvature == 0):
            raise ValueError(f"dim {dim}, curvature {curvature}; expected dim >= 2 and curvature > 0, or 0 and not trainable")
        self.euclidean = curvature == 0.0
        angle = 2 * math.pi * torch.arange(classes) / classes
        normal = torch.randn(classes, dim) * 0.1
        normal[:, :2] += torch.stack([angle.cos(), angle.sin()], dim=1)  # spread, so that no two classes start alike
        self.normal = nn.Parameter(normal)
        self.offset = nn.Parameter(torch.zeros(classes))
        log_curvature = torch.tensor(0.0 if self.euclidean else math.log(curvature))
        if trainable_curvature:
            self.log_curvature = nn.Parameter(log_curvature)
        else:
            self.register_buffer("log_curvature", log_curvature)

    def curvature(self) -> float:
        return 0.0 if self.euclidean else float(self.log_curvature.detach().exp())

    def vectors(self) -> Tensor:
        """(classes, dim + 1): logit = scale * asinh(<X, w>), or scale * <X, w> in Euclid; X leads with its time part."""
        direction = self.normal / self.normal.norm(dim=1, keepdim=True).clamp_min(1e-12)
        if self.euclidean:
            return torch.cat([-self.offset[:, None], direction], dim=1)
        return torch.cat([-self.offset.sinh()[:, None], self.offset.cosh()[:, None] * direction], dim=1)

    def scale(self) -> Tensor:
        """(classes,): steepness of each class, 2|a| at curvature 1 and 4|a| in Euclid."""
        steep: Tensor = self.normal.norm(dim=1)
        return 4 * steep if self.euclidean else 2 * steep * torch.exp(-0.5 * self.log_curvature)

    def forward(self, v: Tensor) -> tuple[Tensor, Tensor]:
        if torch.is_autocast_enabled(v.device.type):  # 16 bits end here: X reaches 1000, and differences decide
            with torch.autocast(v.device.type, enabled=False):
                return self.forward(v.float())
        u, lifted = self.lift(v)
        inner = torch.matmul(self.vectors(), lifted)
        distance = inner if self.euclidean else _asinh(inner)
        return self.scale()[:, None] * distance, u

    def lift(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """(..., dim, bins) v -> embedding u (clipped at MAX_RADIUS) and its lift X (..., dim + 1, bins)."""
        if self.euclidean:
            return v, torch.cat([torch.ones_like(v[..., :1, :]), v], dim=-2)
        u = v * torch.exp(0.5 * self.log_curvature)
        radius = (u.square().sum(dim=-2, keepdim=True) + 1e-12).sqrt()
        direction = u / radius
        radius = radius.clamp(max=MAX_RADIUS)
        grow, shrink = torch.exp(2 * radius), torch.exp(-2 * radius)  # no cosh, sinh: the CUDA provider has none
        return direction * radius, torch.cat([(grow + shrink) / 2, direction * (grow - shrink) / 2], dim=-2)


def _asinh(x: Tensor) -> Tensor:
    """asinh by log and sqrt, exact for both signs (ONNX Runtime's own is scalar on the CPU, absent on CUDA)."""
    size = x.abs()
    return torch.sign(x).mul(torch.log(size + (size.square() + 1).sqrt()))
