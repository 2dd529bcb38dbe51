"""The hyperbolic classifier: a tangent vector per bin in, class logits out, on the hyperboloid.

The multinomial logistic regression of Ganea, Becigneul, Hofmann 2018 (Hyperbolic Neural Networks, eq. 25)
in the lifted form of Shimizu, Mukuta, Harada 2021 (Hyperbolic Neural Networks++, sec. 3.1): each class is a
geodesic hyperplane, given by a normal and a signed offset, so no parameter lives on a manifold and an
ordinary optimiser will do. Measured against points of the ball with geoopt's Riemannian Adam, as the reference system has
them (tests/bench/bench_class_points.py, dim 2, the same start, three seeds): losses are level, well within their spread over
seeds, and a step costs 0.68 to 0.84 times as much. So this form stays: nothing to project, and averages and clipping mean
what they say. Everything is kept in curvature-1 coordinates: ``u = sqrt(c) v``.
"""

import math

import torch
from torch import Tensor, nn

RIM = 0.999  # of the disk: the embedding ends here, so float32 is enough
MAX_RADIUS = math.atanh(RIM)  # of u


class DiskHead(nn.Module):
    """(..., dim + detail, bins) tangent vectors v -> (..., classes, bins) logits and (..., dim, bins) embedding u.

    ``curvature`` c > 0 is the (negated) curvature of the ball; 0 is Euclid, the limit c -> 0.
    ``trainable_curvature`` makes c one shared positive parameter. ``embedding_curvature`` is for a checkpoint of the
    reference system whose trained curvature has left that of its classes: v is mapped to the ball with the one, and that
    point classified in the ball with the other. ``temperature`` divides the logits; training leaves it at one.

    A place in two dimensions cannot say every share that five sources have in a bin. ``detail`` numbers beside it add a
    linear form to the logits: the disk decides what a bin is (``of_embedding``), the detail how much of it is heard.
    """

    temperature = 1.0

    def __init__(
        self,
        classes: int,
        dim: int = 2,
        curvature: float = 1.0,
        trainable_curvature: bool = False,
        embedding_curvature: float | None = None,
        *,
        detail: int = 0,
    ) -> None:
        super().__init__()
        if dim < 2 or not 0 <= curvature < math.inf or (trainable_curvature and curvature == 0):
            raise ValueError(f"dim {dim}, curvature {curvature}; expected dim >= 2 and curvature > 0, or 0 and not trainable")
        if detail < 0:
            raise ValueError(f"detail {detail}; expected 0 or more")
        if embedding_curvature is not None and (trainable_curvature or not min(curvature, embedding_curvature) > 0):
            raise ValueError(f"embedding_curvature {embedding_curvature}; expected two fixed curvatures above 0, or none")
        self.dim, self.detail, self.euclidean = dim, detail, curvature == 0.0
        self.drift = 1.0 if embedding_curvature is None else embedding_curvature / curvature
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
        if detail:
            self.refine = nn.Parameter(torch.zeros(classes, detail))  # at first the disk alone

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
        return (4 * steep if self.euclidean else 2 * steep * torch.exp(-0.5 * self.log_curvature)) / self.temperature

    def forward(self, v: Tensor) -> tuple[Tensor, Tensor]:
        if torch.is_autocast_enabled(v.device.type):  # 16 bits end here: X reaches 1000, and differences decide
            with torch.autocast(v.device.type, enabled=False):
                return self.forward(v.float())
        u = self.embed(v[..., : self.dim, :])
        logits = self.of_embedding(u)
        if self.detail:
            logits = logits + torch.matmul(self.refine, v[..., self.dim :, :]) / self.temperature
        return logits, u

    def of_embedding(self, u: Tensor) -> Tensor:
        """(..., dim, bins) embedding -> (..., classes, bins) logits of the disk alone."""
        inner = torch.matmul(self.vectors(), self.lift(u))
        distance = inner if self.euclidean else _asinh(inner)
        return self.scale()[:, None] * distance

    def embed(self, v: Tensor) -> Tensor:
        """(..., dim, bins) v -> embedding u, clipped at MAX_RADIUS."""
        if self.euclidean:
            return v
        u = v * torch.exp(0.5 * self.log_curvature)
        radius = _length(u)
        clipped = self._other_ball(radius) if self.drift != 1.0 else radius.clamp(max=MAX_RADIUS)
        return u * (clipped / radius)

    def lift(self, u: Tensor) -> Tensor:
        """(..., dim, bins) u -> X (..., dim + 1, bins) on the hyperboloid, time first."""
        if self.euclidean:
            return torch.cat([torch.ones_like(u[..., :1, :]), u], dim=-2)
        radius = _length(u)
        grow, shrink = torch.exp(2 * radius), torch.exp(-2 * radius)  # no cosh, sinh: the CUDA provider has none
        return torch.cat([(grow + shrink) / 2, u * ((grow - shrink) / (2 * radius))], dim=-2)

    def _other_ball(self, radius: Tensor) -> Tensor:
        """Radius in this ball of the point that a radius of v gives in the ball of ``embedding_curvature``; both end at RIM."""
        root = math.sqrt(self.drift)
        norm = (torch.tanh((root * radius).clamp(max=MAX_RADIUS)) / root).clamp(max=RIM)
        return 0.5 * torch.log((1 + norm) / (1 - norm))


def hyperplanes(points: Tensor, normals: Tensor, curvature: float) -> tuple[Tensor, Tensor]:
    """(classes, dim) points p and normals a of a hyperbolic MLR on the Poincare ball -> ``normal`` and ``offset`` of DiskHead.

    The hyperplane of Ganea et al. (eq. 22) through p with normal a is, lifted, <X, w> = 0 with
    w = (-2 sqrt(c) <p, a>, (1 - c |p|^2) a + 2 c <p, a> p) / ((1 - c |p|^2) |a|); its signed distance from the centre is the
    arsinh of minus the time part. In Euclid it is <p, a> / |a|.
    """
    length = normals.norm(dim=1, keepdim=True)
    inner = (points * normals).sum(dim=1, keepdim=True)
    if curvature == 0:
        return normals, (inner / length)[:, 0]
    depth = 1 - curvature * points.square().sum(dim=1, keepdim=True)
    space = (depth * normals + 2 * curvature * inner * points) / (depth * length)
    offset = torch.asinh(2 * math.sqrt(curvature) * inner / (depth * length))[:, 0]
    return length * space / space.norm(dim=1, keepdim=True), offset


def _length(u: Tensor) -> Tensor:
    """Of vectors along the last axis but one; never zero, for its gradient."""
    length: Tensor = (u.square().sum(dim=-2, keepdim=True) + 1e-12).sqrt()
    return length


def _asinh(x: Tensor) -> Tensor:
    """asinh by log and sqrt, exact for both signs (ONNX Runtime's own is scalar on the CPU, absent on CUDA)."""
    size = x.abs()
    return torch.sign(x).mul(torch.log(size + (size.square() + 1).sqrt()))
