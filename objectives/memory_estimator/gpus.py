"""Cards, and how much memory of theirs training can use.

Memory is the total that `nvidia-smi` prints, which is a little below the size on the box: the driver keeps a part, and so does
error correction. Compute capabilities: https://developer.nvidia.com/cuda-gpus.
"""

from dataclasses import dataclass

from tradeoff.objectives.memory_estimator.blas import HOPPER_BLAS, BlasWorkspace


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """A card's memory and what it can compute."""

    name: str
    memory_mib: int
    compute_capability: tuple[int, int]

    @property
    def has_bf16(self) -> bool:
        """Whether it computes in bfloat16 natively, and has torch's flash attention: Ampere or newer."""
        return self.compute_capability >= (8, 0)

    @property
    def blas(self) -> BlasWorkspace:
        """What cuBLAS takes on it."""
        return HOPPER_BLAS if self.compute_capability[0] in (9, 10, 12) else BlasWorkspace()


CARDS: tuple[Card, ...] = (
    Card(name="Tesla P4", memory_mib=7611, compute_capability=(6, 1)),
    Card(name="RTX 4060", memory_mib=8188, compute_capability=(8, 9)),
    Card(name="RTX 3080", memory_mib=10240, compute_capability=(8, 6)),
    Card(name="RTX 2080 Ti", memory_mib=11264, compute_capability=(7, 5)),
    Card(name="RTX 3060", memory_mib=12288, compute_capability=(8, 6)),
    Card(name="Tesla T4", memory_mib=15360, compute_capability=(7, 5)),
    # The figure in transformers' guide to training on one GPU of 2022.
    Card(name="Tesla V100 16 GB", memory_mib=16160, compute_capability=(7, 0)),
    Card(name="RTX 4080", memory_mib=16376, compute_capability=(8, 9)),
    Card(name="A10G", memory_mib=23028, compute_capability=(8, 6)),
    Card(name="L4", memory_mib=23034, compute_capability=(8, 9)),
    Card(name="RTX 4090", memory_mib=24564, compute_capability=(8, 9)),
    Card(name="RTX 3090", memory_mib=24576, compute_capability=(8, 6)),
    Card(name="A100 40 GB", memory_mib=40960, compute_capability=(8, 0)),
    Card(name="L40S", memory_mib=46068, compute_capability=(8, 9)),
    Card(name="RTX A6000", memory_mib=49140, compute_capability=(8, 6)),
    Card(name="H100 80 GB", memory_mib=81559, compute_capability=(9, 0)),
    Card(name="A100 80 GB", memory_mib=81920, compute_capability=(8, 0)),
    Card(name="H200", memory_mib=143771, compute_capability=(9, 0)),
)
