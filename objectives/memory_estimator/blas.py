"""The workspaces of cuBLAS on a GPU; a module of its own, as it does not need torch."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

KIB = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class BlasWorkspace:
    """The memory that cuBLAS keeps, and that one call of cuBLASLt uses.

    torch gives every cuBLAS handle a workspace at its first use and never frees it. The forward and the backward pass run in
    two threads, each with a handle of its own, so there are two.

    Attributes:
        cublas_bytes: aten/src/ATen/cuda/CublasHandlePool.cpp: `:4096:2:16:8`, 2 x 4 MiB + 8 x 16 KiB.
        cublaslt_bytes: aten/src/ATen/cuda/CUDABlas.cpp, `_parseChosenWorkspaceSize`: 1 MiB, while a biased product runs.
    """

    cublas_bytes: int = 2 * 4096 * KIB + 8 * 16 * KIB
    cublaslt_bytes: int = 1024 * KIB

    @classmethod
    def of_environment(cls, environment: Mapping[str, str]) -> "BlasWorkspace":
        """Return the workspaces under these environment variables; `CUBLAS_WORKSPACE_CONFIG` lists `:SIZE:COUNT`, in KiB."""
        sizes = re.findall(r":(\d+):(\d+)", environment.get("CUBLAS_WORKSPACE_CONFIG", ""))
        if not sizes:
            return cls()
        return cls(cublas_bytes=sum(int(size) * int(count) for size, count in sizes) * KIB)


# Compute capability 9, 10 and 12 in aten/src/ATen/cuda/CublasHandlePool.cpp: 8 x 4 MiB.
HOPPER_BLAS = BlasWorkspace(cublas_bytes=8 * 4096 * KIB)
