"""Makes torch's CPU dispatch take the paths of CUDA, for tracing on fake CPU tensors.

A build of torch without CUDA can't make fake CUDA tensors that autograd accepts, and the CPU runs other code: dropout keeps its
mask as floats, autocast lowers layer norm and softmax as well, attention picks another kernel. So while a trace runs, the few
operators that depend on the device are replaced by what they do on CUDA; everything else is the same code.

Sources: torch/include/ATen/autocast_mode.h (lists of autocast), aten/src/ATen/native/Dropout.cpp, SoftMax.cpp and
transformers/attention.cpp with transformers/cuda/sdp_utils.cpp.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.library import Library

Operator = Callable[..., Any]

_AUTOCAST_KEYS = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)

# AT_FORALL_FP32: run in float32. Those that a release of torch lacks are left out.
_FP32 = """
    acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan pow.Tensor_Scalar pow.Tensor_Tensor
    pow.Scalar softplus layer_norm native_layer_norm rms_norm group_norm frobenius_norm.dim nuclear_norm nuclear_norm.dim
    cosine_similarity poisson_nll_loss cosine_embedding_loss nll_loss nll_loss2d hinge_embedding_loss kl_div l1_loss
    smooth_l1_loss huber_loss mse_loss margin_ranking_loss multilabel_margin_loss soft_margin_loss triplet_margin_loss
    multi_margin_loss binary_cross_entropy_with_logits dist pdist cdist renorm logsumexp
"""

# AT_FORALL_FP32_SET_OPT_DTYPE: the result in float32, unless the call names a type.
_FP32_RESULT = """
    prod prod.dim_int softmax.int log_softmax.int cumprod cumsum linalg_vector_norm linalg_matrix_norm
    linalg_matrix_norm.str_ord sum sum.dim_IntList
"""


@contextmanager
def cuda_dispatch(*, flash_attention: bool = True, operators: Mapping[str, Operator] | None = None) -> Iterator[None]:
    """Replace, within the block and for the whole process, what CUDA does differently from the CPU.

    Args:
        flash_attention: Whether the GPU has torch's flash attention (compute capability 8.0, Ampere, or newer).
        operators: Further operators to replace, by their name in `aten`; they take precedence.
    """
    replaced = {
        "dropout": _dropout,
        "softmax.int": softmax(torch.ops.aten._softmax.default),
        "log_softmax.int": softmax(torch.ops.aten._log_softmax.default),
        "scaled_dot_product_attention": _attention(flash_attention),
        "_grouped_mm": _grouped_product,
    }
    library: Any = Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    try:
        for name, operator in (replaced | dict(operators or {})).items():
            library.impl(name, operator, "AutogradCPU")
        for policy, names in ((_in_fp32, _FP32), (_with_fp32_result, _FP32_RESULT)):
            for name in names.split():
                operator = _operator(name)
                if operator is not None and not _is_registered(name):
                    library.impl(name, policy(operator), "AutocastCPU")
        yield
    finally:
        library._destroy()


def attention_kernel(query: Tensor, mask: Tensor | None, *, flash_attention: bool) -> str:
    """Return the kernel of scaled dot product attention that a GPU chooses: "flash", "efficient" or "math".

    Flash attention takes half precision, head sizes up to 256 and no mask; the memory-efficient one takes every precision,
    and a mask. See aten/src/ATen/native/transformers/cuda/sdp_utils.cpp.
    """
    half = query.dtype in (torch.float16, torch.bfloat16)
    if flash_attention and half and mask is None and query.size(-1) <= 256:
        return "flash"
    # The memory-efficient kernel reads rows of 16 bytes.
    aligned = query.size(-1) % (8 if half else 4) == 0
    return "efficient" if aligned and query.dim() == 4 else "math"


def _dropout(input: Tensor, p: float, train: bool) -> Tensor:
    # CUDA keeps one byte for each element as the mask; the CPU keeps noise of the input's own type.
    if not train or p == 0 or input.numel() == 0:
        return input
    return torch.native_dropout(input, p, train)[0]


class _GroupedProduct(torch.autograd.Function):
    """Products of groups of rows with a matrix each, whatever their type: fake tensors know those of bfloat16 alone."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, matrices: Tensor) -> Tensor:
        ctx.save_for_backward(rows, matrices)
        return rows.new_empty(rows.size(0), matrices.size(-1))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        return tuple(  # type: ignore[return-value]
            gradient.new_empty(saved.shape) if needed else None
            for saved, needed in zip(ctx.saved_tensors, ctx.needs_input_grad, strict=True)
        )


def _grouped_product(rows: Tensor, matrices: Tensor, offs: Tensor, bias: None = None, out_dtype: None = None) -> Any:
    # A mixture of experts; aten/src/ATen/native/cuda/GroupedBlas.cpp allocates nothing but the result.
    return _GroupedProduct.apply(rows, matrices)  # type: ignore[no-untyped-call]


def softmax(kernel: Operator) -> Operator:
    """Return softmax as CUDA runs it, by a kernel that takes the input, the dimension and whether it converts float16."""

    def operator(input: Tensor, dim: int, dtype: torch.dtype | None = None) -> Any:
        # CUDA's kernel converts float16, and float16 alone, to float32: there is no copy of the input.
        from_half = input.dtype is torch.float16 and dtype is torch.float32
        return kernel(input if dtype is None or from_half else input.to(dtype), dim, from_half)

    return operator


def _attention(flash_attention: bool) -> Operator:
    aten = torch.ops.aten

    def attention(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        kernel = attention_kernel(query, attn_mask, flash_attention=flash_attention)
        if kernel == "flash":
            size = query.size(-1)
            scale = scale if scale is not None else size**-0.5
            query, key, value = (_pad_last_dimension(tensor, 8) for tensor in (query, key, value))
            out: Tensor = aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, scale=scale)[0]
            return out if out.size(-1) == size else out[..., :size]
        if enable_gqa and query.size(-3) != key.size(-3):
            key, value = (tensor.repeat_interleave(query.size(-3) // tensor.size(-3), -3) for tensor in (key, value))
        if attn_mask is not None and attn_mask.dtype is torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(attn_mask.logical_not(), float("-inf"))
        if kernel == "efficient":
            bias = None
            if attn_mask is not None:
                bias = attn_mask.expand(query.size(0), query.size(1), query.size(2), key.size(2))
            gradients = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, value))
            efficient: Tensor = aten._scaled_dot_product_efficient_attention(
                query, key, value, bias, gradients, dropout_p, is_causal, scale=scale
            )[0]
            return efficient
        math: Tensor = aten._scaled_dot_product_attention_math(
            query, key, value, attn_mask, dropout_p, is_causal, None, scale=scale
        )[0]
        return math

    return attention


def _pad_last_dimension(tensor: Tensor, multiple: int) -> Tensor:
    missing = -tensor.size(-1) % multiple
    return tensor if missing == 0 else torch.nn.functional.pad(tensor, (0, missing))


def _in_fp32(operator: Operator) -> Operator:
    def run(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST_KEYS):
            return operator(*(_raised(arg) for arg in args), **{name: _raised(arg) for name, arg in kwargs.items()})

    return run


def _with_fp32_result(operator: Operator) -> Operator:
    def run(*args: Any, **kwargs: Any) -> Any:
        if (
            args[0].is_floating_point()
            and kwargs.get("dtype") is None
            and not any(isinstance(arg, torch.dtype) for arg in args)
        ):
            kwargs["dtype"] = torch.float32
        with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST_KEYS):
            return operator(*args, **kwargs)

    return run


def _raised(argument: Any) -> Any:
    if isinstance(argument, Tensor) and argument.dtype in (torch.float16, torch.bfloat16):
        return argument.to(torch.float32)
    return argument


def _operator(name: str) -> Any:
    base, _, overload = name.partition(".")
    packet = getattr(torch.ops.aten, base, None)
    return None if packet is None else getattr(packet, overload or "default", None)


def _is_registered(name: str) -> bool:
    # The CPU's own lists contain some of these already, with the same rule.
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", "AutocastCPU"))
