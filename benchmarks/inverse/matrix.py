"""The projector's matrix, written down: Joseph's method (1982) for parallel rays, entry by entry."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def joseph(side: int, angles: Tensor, bins: int) -> Tensor:
    """Return the matrix as torch's CSR, (angles x bins, side x side), float32."""
    parts = [_rays(side, float(angle), bins, index * bins) for index, angle in enumerate(angles)]
    places, weights = torch.cat([place for place, _ in parts], 1), torch.cat([weight for _, weight in parts])
    shape = (len(angles) * bins, side * side)
    return torch.sparse_coo_tensor(places, weights.float(), shape).coalesce().to_sparse_csr()


def _rays(side: int, angle: float, bins: int, first: int) -> tuple[Tensor, Tensor]:
    """One angle's entries: each ray crosses every line of pixels once, between two neighbours of the line."""
    cos, sin = math.cos(angle), math.sin(angle)
    along_rows = abs(cos) >= abs(sin)
    middle = (side - 1) / 2
    line = torch.arange(side, dtype=torch.float64)[:, None]
    s = torch.arange(bins, dtype=torch.float64)[None] - (bins - 1) / 2
    # s = (column - middle) cos + (middle - row) sin; the line is a row or a column
    at = (
        middle + (s - (middle - line) * sin) / cos
        if along_rows
        else middle - (s - (line - middle) * cos) / sin
    )
    step = 1 / max(abs(cos), abs(sin))
    found = []
    for neighbour in (0, 1):
        pixel = at.floor() + neighbour
        weight = (1 - (at - pixel).abs()) * step
        inside = (pixel >= 0) & (pixel < side) & (weight > 0)
        lines, rays = inside.nonzero(as_tuple=True)
        across = pixel[inside].long()
        column = lines * side + across if along_rows else across * side + lines
        found.append((torch.stack([first + rays, column]), weight[inside]))
    return torch.cat([place for place, _ in found], 1), torch.cat([weight for _, weight in found])
