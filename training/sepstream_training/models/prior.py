"""What follows on a sequence of codes: a decoder-only transformer that hears its last ``context`` codes in each layer.

As in the LQ-VAE (Mancusi et al. 2021, arXiv 2110.05313) it reads the vectors of a codebook, not embeddings of its own, and its
layers are those of Jukebox (Dhariwal et al. 2020, arXiv 2005.00341): h = x + attention(norm x), y = h + mlp(norm h). Other than
there, a layer looks back over a sliding window with a learned bias for each distance, where Jukebox has three patterns of
blocks and absolute positions: any length goes, and one code after the other is exactly the whole sequence.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

NOTHING = -1e9  # the bias of a place in the cache that holds nothing
INIT_STD = 0.02


class Prior(nn.Module):
    """(B, T) codes -> (B, T, codes) logits: row t says which code stands at t, given those before.

    The ``codebook`` (codes, dim) is given with each call, for it is the autoencoder's. ``heads`` share the ``attention`` units;
    ``mlp`` is the width of the inner layer; ``context`` counts the codes before the newest one that a layer attends to.
    """

    def __init__(
        self,
        codes: int,
        dim: int,
        *,
        width: int = 192,
        layers: int = 4,
        heads: int = 4,
        attention: int = 192,
        mlp: int = 384,
        context: int = 256,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if min(width, layers, heads, attention, mlp, context) < 1 or attention % heads:
            raise ValueError(
                f"width {width}, layers {layers}, heads {heads}, attention {attention}, mlp {mlp}, context {context}; "
                "expected all > 0, and heads a divisor of attention"
            )
        self.codes, self.context = codes, context
        self.project = nn.Linear(dim, width, bias=False)
        self.start = nn.Parameter(torch.empty(width))
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            _Layer(width, heads=heads, attention=attention, mlp=mlp, context=context, dropout=dropout) for _ in range(layers)
        )
        self.logits = nn.Linear(width, codes, bias=False)
        self.apply(_initialise)
        nn.init.normal_(self.start, std=INIT_STD)

    def forward(self, codes: Tensor, codebook: Tensor) -> Tensor:
        x = self.dropout(self.table(codebook)[self._inputs(codes)])
        far = torch.arange(codes.shape[1], device=codes.device)
        far = far[:, None] - far
        for layer in self.layers:
            x = layer(x, far)
        logits: Tensor = self.logits(x)
        return logits

    def step(
        self, code: Tensor, ages: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor], codebook: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(B,) the last codes (``codes``: none yet), and what is remembered of those before -> (B, codes) logits of the next
        ones, and the newest keys and values (layers, B, heads, units).

        ``keys`` and ``values`` of each layer (B, heads, context, units) in any order: ``ages`` (context,) says how many
        codes ago each was new, from 1; context + 1 where there is nothing.
        """
        x, found = self.table(codebook)[code], []
        for layer, old_keys, old_values in zip(self.layers, keys, values, strict=True):
            assert isinstance(layer, _Layer)
            x, *newest = layer.step(x, ages, old_keys, old_values)
            found.append(newest)
        new_keys, new_values = (torch.stack(each) for each in zip(*found, strict=True))
        return self.logits(x), new_keys, new_values

    def table(self, codebook: Tensor) -> Tensor:
        """(codes + 1, width): what stands for each code, and for the beginning."""
        return torch.cat([self.project(codebook), self.start[None]])

    def cache_shape(self, rows: int) -> tuple[int, ...]:
        """Of the keys of a layer, and of its values, for so many sequences."""
        layer = self.layers[0]
        assert isinstance(layer, _Layer)
        return (rows, layer.heads, self.context, layer.units)

    def _inputs(self, codes: Tensor) -> Tensor:
        return torch.cat([torch.full_like(codes[:, :1], self.codes), codes[:, :-1]], dim=1)


class _Layer(nn.Module):
    def __init__(self, width: int, *, heads: int, attention: int, mlp: int, context: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.units, self.context = heads, attention // heads, context
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend = nn.Linear(width, 3 * attention)
        self.join = nn.Linear(attention, width)
        self.widen, self.narrow = nn.Linear(width, mlp), nn.Linear(mlp, width)
        self.dropout = nn.Dropout(dropout)
        self.bias = nn.Parameter(torch.zeros(heads, context + 1))  # of each distance, from 0

    def forward(self, x: Tensor, far: Tensor) -> Tensor:
        """(B, T, width), (T, T) distances -> (B, T, width)."""
        q, k, v = (each.transpose(1, 2) for each in self._split(x))  # (B, heads, T, units)
        bias = self.bias[:, far.clamp(0, self.context)].masked_fill((far < 0) | (far > self.context), NOTHING)
        heard = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q))
        return self._finish(x, heard.transpose(1, 2).flatten(2))

    def step(self, x: Tensor, ages: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self._split(x)  # (B, heads, units)
        biases = nn.functional.pad(self.bias, (0, 1), value=NOTHING)
        q = q * self.units**-0.5
        old = (keys @ q[..., None])[..., 0] + biases[:, ages]
        own = (q * k).sum(dim=-1, keepdim=True) + biases[:, :1]
        share = torch.cat([own, old], dim=-1).softmax(dim=-1)
        heard = share[..., :1] * v + (share[..., None, 1:] @ values)[..., 0, :]
        return self._finish(x, heard.flatten(1)), k, v

    def _split(self, x: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values, each (..., heads, units)."""
        found: tuple[Tensor, ...] = self.attend(self.before_attention(x)).unflatten(-1, (3, self.heads, self.units)).unbind(-3)
        return found

    def _finish(self, x: Tensor, heard: Tensor) -> Tensor:
        x = x + self.dropout(self.join(heard))
        inner = self.widen(self.before_mlp(x))
        y: Tensor = x + self.dropout(self.narrow(inner * torch.sigmoid(1.702 * inner)))  # quick GELU
        return y


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=INIT_STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
