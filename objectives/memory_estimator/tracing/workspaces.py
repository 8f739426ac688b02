"""Memory that CUDA kernels allocate for themselves, not visible as a tensor of the program: formulas with their source.

All of it comes from torch's caching allocator. cuDNN's workspaces for convolutions, chosen at run time, are not included.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from tradeoff.objectives.memory_estimator.blas import BlasWorkspace

MATRIX_PRODUCTS = frozenset(
    {"aten::addmm", "aten::mm", "aten::bmm", "aten::baddbmm", "aten::addbmm", "aten::mv", "aten::addmv"}
)


def kernel_workspace(name: str, arguments: Sequence[Any], blas: BlasWorkspace) -> list[int]:
    """Return the sizes in bytes of what an operator allocates while it runs, besides its results."""
    if name in MATRIX_PRODUCTS:
        return _matrix_copies(arguments) + ([blas.cublaslt_bytes] if name == "aten::addmm" else [])
    formula = _FORMULAS.get(name)
    return formula(arguments) if formula is not None else []


def _matrix_copies(arguments: Sequence[Any]) -> list[int]:
    """Blas.cpp, prepare_matrix_for_cublas: rows and columns that cuBLAS can't read, as an expanded gradient's, are copied."""
    matrices = [each for each in arguments if isinstance(each, torch.Tensor) and each.dim() >= 2]
    return [each.numel() * each.element_size() for each in matrices if not _is_readable(each)]


def _is_readable(matrix: torch.Tensor) -> bool:
    (num_rows, num_columns), (row, column) = matrix.shape[-2:], matrix.stride()[-2:]
    if 1 in (num_rows, num_columns) and 0 not in (row, column):
        return True
    return (row == 1 and column >= max(1, num_rows)) or (column == 1 and row >= max(1, num_columns))


def _embedding_backward(arguments: Sequence[Any]) -> list[int]:
    """EmbeddingBackwardKernel.cu: indices sorted with their origin (twice, as sorting needs), and partial sums in float32."""
    gradient, indices = arguments[0], arguments[1]
    index_bytes = indices.numel() * indices.element_size()
    return [index_bytes] * 4 + [indices.numel() * gradient.size(-1) * 4]


def _flash_backward(arguments: Sequence[Any]) -> list[int]:
    """flash_attn/flash_api.cpp, mha_bwd: row sums, and the query's gradient accumulated in float32, rows padded to 128."""
    query, key = arguments[1], arguments[2]
    batch, heads, rows, size = query.shape
    rows, size = _round_up(rows, 128), _round_up(size, 32)
    sizes = [batch * heads * rows * 4, batch * heads * rows * size * 4]
    if heads != key.size(1):
        # Grouped queries: gradients of key and value for every query head, summed afterwards.
        expanded = batch * heads * key.size(2) * _round_up(key.size(3), 8) * key.element_size()
        sizes += [expanded, expanded]
    return sizes


def _efficient_backward(arguments: Sequence[Any]) -> list[int]:
    """attention_backward.cu: row sums; in half precision the query's gradient is accumulated in float32."""
    query = arguments[1]
    batch, heads, rows, size = query.shape
    sizes = [batch * heads * rows * 4]
    if query.dtype is not torch.float32:
        sizes.append(batch * heads * rows * _round_up(size, 64) * 4)
    return sizes


def _norms(arguments: Sequence[Any]) -> list[int]:
    """ForeachReduceOp.cu: a partial norm for each of 64 Ki elements of the longest tensor, for every tensor."""
    tensors = arguments[0]
    chunks = max(math.ceil(tensor.numel() / 65536) for tensor in tensors)
    return [len(tensors) * chunks * 4]


def _four_bit_product(arguments: Sequence[Any]) -> list[int]:
    """bitsandbytes/backends/cuda/ops.py, `_dequant_linear_fallback`: a weight's scales twice, the weight in its input's type.

    Small batches do without on some GPUs.
    """
    rows, packed = arguments[0], arguments[1]
    scales = -(-2 * packed.numel() // arguments[4]) * 4
    return [scales, scales, 2 * packed.numel() * rows.element_size()]


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


_FORMULAS: dict[str, Callable[[Sequence[Any]], list[int]]] = {
    "aten::embedding_dense_backward": _embedding_backward,
    "aten::_scaled_dot_product_flash_attention_backward": _flash_backward,
    "aten::_scaled_dot_product_efficient_attention_backward": _efficient_backward,
    "aten::_foreach_norm": _norms,
    "bitsandbytes::gemm_4bit": _four_bit_product,
}
