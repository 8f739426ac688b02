"""What a prediction holds fixed, besides the model and the searched parameters."""

from dataclasses import dataclass, field
from typing import Literal

from tradeoff.objectives.memory_estimator.blas import BlasWorkspace
from tradeoff.searchspace import Precision

Task = Literal["sequence-classification", "causal-lm"]
Attention = Literal["eager", "sdpa"]
# Names of `TrainingArguments.optim`; `adamw_hf` as it was up to transformers 4.45.
OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "adamw_hf", "adafactor", "sgd")
TorchRelease = Literal["current", "2.0", "1.13", "1.10"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseTraits:
    """What older releases of torch did otherwise than today's, as far as it takes memory.

    Attributes:
        adamw_copies_denominator: The foreach AdamW holds a second list of temporaries (torch/optim/adamw.py of 2.0).
        keeps_gradients: `zero_grad` fills gradients with zeros instead of dropping them (`set_to_none` was off before 2.0).
        softmax_saves_input: The backward pass of softmax keeps its input too (tools/autograd/derivatives.yaml up to 1.10).
    """

    adamw_copies_denominator: bool = False
    keeps_gradients: bool = False
    softmax_saves_input: bool = False


RELEASES: dict[TorchRelease, ReleaseTraits] = {
    "current": ReleaseTraits(),
    "2.0": ReleaseTraits(adamw_copies_denominator=True),
    "1.13": ReleaseTraits(keeps_gradients=True),
    "1.10": ReleaseTraits(keeps_gradients=True, softmax_saves_input=True),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class StepClass:
    """What decides the sequence of allocations besides the batch and the settings that are fixed."""

    gradient_checkpointing: bool
    precision: Precision


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceSettings:
    """How training runs, as far as it decides what is allocated.

    Attributes:
        sequence_length: Tokens of each sequence: the longest that the run will see.
        task: The head on the model.
        num_labels: Classes of a classification head; None for what the configuration says.
        attention: `eager` keeps the attention weights, `sdpa` runs torch's scaled dot product attention; None for what
            transformers chooses for the model.
        padded: Whether batches hold padding, so that the attention mask can't be left out.
        optimizer: One of `OPTIMIZERS`.
        foreach: Whether AdamW and SGD handle all parameters at once, torch's default on a card.
        weight_decay: As in `TrainingArguments`; SGD adds it to a copy of the gradients.
        max_grad_norm: Gradients are clipped to it; 0 for no clipping.
        weights_dtype: The type in which the weights are held and trained; mixed precision works on float32.
        flash_attention: Whether the card has it: compute capability 8.0 (Ampere) or newer.
        torch_release: The release to predict for, where an older one took more: see `RELEASES`.
        blas: The card's cuBLAS workspaces.
        target: `cpu` traces what the CPU itself would do, to compare with measurements there.

    Raises:
        ValueError: A value is out of range.
    """

    sequence_length: int
    task: Task = "sequence-classification"
    num_labels: int | None = None
    attention: Attention | None = None
    padded: bool = True
    optimizer: str = "adamw_torch"
    foreach: bool = True
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    weights_dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    flash_attention: bool = True
    torch_release: TorchRelease = "current"
    blas: BlasWorkspace = field(default_factory=BlasWorkspace)
    target: Literal["cuda", "cpu"] = "cuda"

    def __post_init__(self) -> None:
        if self.sequence_length < 1:
            raise ValueError(f"sequence_length must be at least 1, got {self.sequence_length}")
        if self.attention not in ("eager", "sdpa", None):
            raise ValueError(f"attention must be eager or sdpa, got {self.attention!r}")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"the optimizer must be one of {', '.join(OPTIMIZERS)} to be predicted, got {self.optimizer!r}")
        if self.torch_release not in RELEASES:
            raise ValueError(f"torch_release must be one of {', '.join(RELEASES)}, got {self.torch_release!r}")
        if self.max_grad_norm < 0:
            raise ValueError(f"max_grad_norm must be at least 0, got {self.max_grad_norm}")
