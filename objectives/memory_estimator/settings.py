"""The settings of a memory estimate, besides the model and the searched parameters."""

from dataclasses import dataclass, field
from typing import Literal

from tradeoff.objectives.job.settings import Lora
from tradeoff.objectives.memory_estimator.blas import BlasWorkspace
from tradeoff.searchspace import Precision

# `sft` is a causal language model with the loss of TRL's SFTTrainer, which never holds all logits.
# `own` is a Trainer of the user's own, which brings its model and its rows.
Task = Literal["sequence-classification", "causal-lm", "sft", "own"]
Attention = Literal["eager", "sdpa"]
Loop = Literal["trainer", "plain"]
# FSDP's: all is spread over the devices, or weights are whole between forward and backward. DeepSpeed calls these ZeRO 3 and 2.
Sharding = Literal["full_shard", "shard_grad_op"]
# Names of `TrainingArguments.optim`.
OPTIMIZERS_OF_8_BITS = ("adamw_8bit", "adamw_bnb_8bit")
OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "adafactor", "sgd", *OPTIMIZERS_OF_8_BITS)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepClass:
    """The searched parameters that decide the sequence of allocations, apart from the batch size."""

    gradient_checkpointing: bool
    precision: Precision


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceSettings:
    """The settings of a training that decide what is allocated.

    Attributes:
        sequence_length: Tokens of each sequence: the longest that the run will see.
        eval_length: Tokens of each sequence of an evaluation; None for `sequence_length`.
        task: The head on the model, and the loss.
        loop: `trainer` is the Trainer's; `plain` one that keeps the model's outputs, caches included, until the next forward
            pass, and neither clips gradients nor evaluates.
        num_labels: Classes of a classification head; None for the number in the model's configuration.
        attention: `eager` keeps the attention weights, `sdpa` runs torch's scaled dot product attention; None for
            transformers' choice.
        padded: Whether batches hold padding, so that the attention mask can't be left out.
        packed: Whether a batch of `sft` is one row of many texts, with their positions and without a mask.
        lora: The adapters that are trained instead of the model's weights.
        four_bit: Whether the weights beside the adapters have 4 bits (QLoRA).
        frozen_layers: The first layers that are not trained, and the embeddings with them.
        num_devices: Devices that train together; each of several holds the buckets in which gradients are exchanged.
        sharding: How these spread weights, gradients and the optimizer's state among them (FSDP2); None if each holds all.
        optimizer: One of `OPTIMIZERS`.
        foreach: Whether AdamW and SGD update all parameters at once, torch's default on a GPU.
        weight_decay: As in `TrainingArguments`; SGD adds it to a copy of the gradients.
        max_grad_norm: The norm that gradients are clipped to; 0 for no clipping.
        weights_dtype: The type in which the weights are stored and trained; mixed precision keeps them in float32.
        flash_attention: Whether the GPU has it: compute capability 8.0 (Ampere) or newer.
        blas: The GPU's cuBLAS workspaces.
        target: `cpu` traces what the CPU itself would do, to compare with measurements there.

    Raises:
        ValueError: A value is out of range.
    """

    sequence_length: int
    eval_length: int | None = None
    task: Task = "sequence-classification"
    loop: Loop = "trainer"
    num_labels: int | None = None
    attention: Attention | None = None
    padded: bool = True
    packed: bool = False
    lora: Lora | None = None
    four_bit: bool = False
    frozen_layers: int = 0
    num_devices: int = 1
    sharding: Sharding | None = None
    optimizer: str = "adamw_torch"
    foreach: bool = True
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    weights_dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    flash_attention: bool = True
    blas: BlasWorkspace = field(default_factory=BlasWorkspace)
    target: Literal["cuda", "cpu"] = "cuda"

    def __post_init__(self) -> None:
        if self.sequence_length < 1:
            raise ValueError(f"sequence_length must be at least 1, got {self.sequence_length}")
        if self.attention not in ("eager", "sdpa", None):
            raise ValueError(f"attention must be eager or sdpa, got {self.attention!r}")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"memory estimates require one of the optimizers {', '.join(OPTIMIZERS)}, got {self.optimizer!r}")
        if self.sharding is not None and self.num_devices < 2:
            raise ValueError("sharding spreads a model over the devices of a trial: set devices_per_trial to 2 or more")
        if self.max_grad_norm < 0:
            raise ValueError(f"max_grad_norm must be at least 0, got {self.max_grad_norm}")
