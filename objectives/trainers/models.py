"""The model and the tokenizer of a job: from the hub, from a local directory, or the embedded ones.

The hub is asked only once, when the data is prepared. From then on the revision is fixed and trials load it from disk: no trial
waits for a network, and all trials of a study start from the same weights.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    set_seed,
)

from tradeoff.objectives.data.hub import hub_access
from tradeoff.objectives.job.settings import EMBEDDED, RANDOM_TOKENS, TextClassificationJob
from tradeoff.objectives.trainers.embedded import embedded_model_config, embedded_tokenizer
from tradeoff.objectives.trainers.reviews_tokenizer import reviews_tokenizer
from tradeoff.searchspace.choices import FLASH_ATTENTION

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "*.safetensors.index.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSource:
    """The source of a trial's model.

    Attributes:
        name_or_folder: A name on the hub, or a directory with a `config.json`.
        revision: The hub's commit, so that a model that changes there does not change within a study.
        has_weights: True if there are weights to start from; otherwise they are initialised with the job's seed.
        module: The module that defines the model's class, to be imported in advance; None for code from the hub.
        vocab_size: All token ids are below it.
        pad_token_id: The token id of padding.
        attention: The attention implementations that the model's class supports; None for code from the hub.
    """

    name_or_folder: str
    revision: str | None
    has_weights: bool
    module: str | None
    vocab_size: int
    pad_token_id: int | None
    attention: tuple[str, ...] | None = None


def resolve_model(job: TextClassificationJob, texts: Iterable[str], folder: Path) -> tuple[ModelSource, Any]:
    """Find a job's model and tokenizer, and save into `folder` what is not saved anywhere else.

    Args:
        job: The job.
        texts: The training texts, from which the embedded tokenizer takes its words; without any, generated reviews.
        folder: The directory for the tokenizer and the embedded model's configuration.

    Returns:
        The source, and the tokenizer, which is None if the job has no texts.

    Raises:
        ValueError: The model can't be used as the job says.
    """
    if job.model == EMBEDDED:
        # Random tokens have no texts.
        known = list(texts)
        tokenizer = embedded_tokenizer(known) if known else reviews_tokenizer()
        config = embedded_model_config(vocab_size=len(tokenizer), max_length=job.max_length, num_labels=job.num_labels)
        config.save_pretrained(folder)
        name, revision, has_weights = str(folder), None, False
    elif (local := Path(job.model).expanduser()).is_dir():
        if not (local / "config.json").is_file():
            raise ValueError(f"a model directory must hold a config.json, got {local} without one")
        name, revision = str(local.resolve()), None
        has_weights = any(next(local.glob(pattern), None) is not None for pattern in _WEIGHTS)
        config = AutoConfig.from_pretrained(name, trust_remote_code=job.trust_remote_code)
        tokenizer = _tokenizer(name, job)
    elif job.model.startswith((".", "/", "~")) or job.model.count("/") > 1:
        raise ValueError(f"the model directory must exist, got {job.model}; a relative path starts at {Path.cwd()}")
    else:
        name, has_weights = job.model, True
        with hub_access("model", name):
            config = AutoConfig.from_pretrained(name, trust_remote_code=job.trust_remote_code)
            tokenizer = _tokenizer(name, job)
            revision = getattr(config, "_commit_hash", None)
            # Fetches the weights, so that a trial finds them in the cache.
            AutoModelForSequenceClassification.from_pretrained(
                name, revision=revision, num_labels=job.num_labels, trust_remote_code=job.trust_remote_code
            )
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and job.max_length > positions:
        raise ValueError(f"max_length must not exceed the {positions} positions of model {job.model!r}, got {job.max_length}")
    pad_token_id = config.pad_token_id
    if tokenizer is not None:
        if tokenizer.pad_token is None:
            if tokenizer.eos_token is None:
                raise ValueError(f"the tokenizer of model {job.model!r} must have a padding token; choose another model")
            tokenizer.pad_token = tokenizer.eos_token
        pad_token_id = tokenizer.pad_token_id
        tokenizer.save_pretrained(folder)
    source = ModelSource(
        name_or_folder=name,
        revision=revision,
        has_weights=has_weights,
        module=_module(config, job),
        vocab_size=config.vocab_size,
        pad_token_id=pad_token_id,
        attention=_attention(config, job),
    )
    return source, tokenizer


def _tokenizer(name: str, job: TextClassificationJob) -> Any:
    if job.dataset == RANDOM_TOKENS:
        return None
    return AutoTokenizer.from_pretrained(name, trust_remote_code=job.trust_remote_code)


def _module(config: Any, job: TextClassificationJob) -> str | None:
    if getattr(config, "auto_map", None) and job.trust_remote_code:
        return None
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise ValueError(f"model {job.model!r} must classify sequences, and {config.model_type} models can't; choose another")
    return str(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)].__module__)


def _attention(config: Any, job: TextClassificationJob) -> tuple[str, ...] | None:
    if getattr(config, "auto_map", None) and job.trust_remote_code:
        return None
    model_class = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
    support = {"eager": True, "sdpa": model_class._supports_sdpa, FLASH_ATTENTION: model_class._supports_flash_attn}
    return tuple(name for name, is_supported in support.items() if is_supported)


def build_model(job: TextClassificationJob, source: ModelSource, *, attention: str | None = None) -> Any:
    """Build a new model in full precision; weights that the source lacks are initialised with the job's seed.

    Args:
        job: The job.
        source: The model.
        attention: The attention implementation. Default: transformers' choice.
    """
    set_seed(job.seed)
    options: dict[str, Any] = {
        "num_labels": job.num_labels,
        "pad_token_id": source.pad_token_id,
        "trust_remote_code": job.trust_remote_code,
    }
    if attention is not None:
        options["attn_implementation"] = attention
    if source.revision is not None:
        options |= {"revision": source.revision, "local_files_only": True}
    # Mixed precision keeps full-precision weights, whatever the checkpoint was saved in.
    if source.has_weights:
        model = AutoModelForSequenceClassification.from_pretrained(source.name_or_folder, dtype=torch.float32, **options)
    else:
        config = AutoConfig.from_pretrained(source.name_or_folder, **options)
        kept = {name: options[name] for name in ("trust_remote_code", "attn_implementation") if name in options}
        model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32, **kept)
    # If a model's `forward` has **kwargs, the Trainer assumes that it divides its loss by the accumulation steps itself.
    # Classifiers have them and don't: without this, accumulation multiplies the loss (huggingface/transformers#47688).
    model.accepts_loss_kwargs = False
    return model
