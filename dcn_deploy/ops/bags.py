"""Products with a sparse matrix of sampling weights: ``embedding_bag`` over the rows of a feature table.

The matrix S has a fixed number of entries a row. Its last column, by convention, belongs to a row of zeros in the
table: entries that must not count point there, so that an infinite feature elsewhere can't leak in as 0·inf.
"""

from __future__ import annotations

from dcn_deploy._lazy import require

require("torch", "dcn_deploy.ops")
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor  # noqa: E402


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type of weights and accumulation for features of a storage type."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def bag(index: Tensor, table: Tensor, weights: Tensor) -> Tensor:
    """S · table, [rows, channels], from the entries' columns and values [rows, entries]."""
    return F.embedding_bag(index, table, mode="sum", per_sample_weights=weights)


def bag_transposed(index: Tensor, weights: Tensor, grad: Tensor, table_rows: int) -> Tensor:
    """Sᵀ · grad: [table_rows, channels], summed in a fixed order."""
    flat = index.reshape(-1)
    target, order = torch.sort(flat, stable=True)
    starts = torch.searchsorted(target, torch.arange(table_rows, device=flat.device))
    return F.embedding_bag(
        order // index.shape[1], grad, starts, mode="sum", per_sample_weights=weights.reshape(-1)[order]
    )
