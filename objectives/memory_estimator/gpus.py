"""Known GPUs and their memory.

Memory is the total that `nvidia-smi` prints, a little below the advertised size: the driver and error correction keep a part.
Compute capabilities: https://developer.nvidia.com/cuda-gpus.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """A GPU's memory and compute capability."""

    name: str
    memory_mib: int
    compute_capability: tuple[int, int]

    @property
    def has_bf16(self) -> bool:
        """True if it computes in bfloat16 natively: Ampere or newer."""
        return self.compute_capability >= (8, 0)


GPUS: tuple[Gpu, ...] = (
    Gpu(name="Tesla P4", memory_mib=7611, compute_capability=(6, 1)),
    Gpu(name="RTX 4060", memory_mib=8188, compute_capability=(8, 9)),
    Gpu(name="RTX 3080", memory_mib=10240, compute_capability=(8, 6)),
    Gpu(name="RTX 2080 Ti", memory_mib=11264, compute_capability=(7, 5)),
    Gpu(name="RTX 3060", memory_mib=12288, compute_capability=(8, 6)),
    Gpu(name="Tesla T4", memory_mib=15360, compute_capability=(7, 5)),
    # The figure in transformers' guide to training on one GPU of 2022.
    Gpu(name="Tesla V100 16 GB", memory_mib=16160, compute_capability=(7, 0)),
    Gpu(name="RTX 4080", memory_mib=16376, compute_capability=(8, 9)),
    Gpu(name="A10G", memory_mib=23028, compute_capability=(8, 6)),
    Gpu(name="L4", memory_mib=23034, compute_capability=(8, 9)),
    Gpu(name="RTX 4090", memory_mib=24564, compute_capability=(8, 9)),
    Gpu(name="RTX 3090", memory_mib=24576, compute_capability=(8, 6)),
    Gpu(name="A100 40 GB", memory_mib=40960, compute_capability=(8, 0)),
    Gpu(name="L40S", memory_mib=46068, compute_capability=(8, 9)),
    Gpu(name="RTX A6000", memory_mib=49140, compute_capability=(8, 6)),
    Gpu(name="H100 80 GB", memory_mib=81559, compute_capability=(9, 0)),
    Gpu(name="A100 80 GB", memory_mib=81920, compute_capability=(8, 0)),
    Gpu(name="H200", memory_mib=143771, compute_capability=(9, 0)),
)
