"""The model and the tokenizer of a job: from the hub, from a local directory, or the embedded ones.

The hub is asked only once, when the data is prepared. From then on the revision is fixed and trials load it from disk: no trial
waits for a network, and all trials of a study start from the same weights.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from json import JSONDecodeError
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub import constants, snapshot_download
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    set_seed,
)

from tradeoff.objectives.data.contents import folder_fingerprint
from tradeoff.objectives.data.hub import hub_access
from tradeoff.objectives.device.out_of_memory import out_of_memory_details
from tradeoff.objectives.job.jobs import CausalLMJob, TextClassificationJob
from tradeoff.objectives.job.settings import EMBEDDED, RANDOM_TOKENS, BuiltInJob, gguf_file, local_path
from tradeoff.objectives.trainers.embedded import (
    embedded_chat_tokenizer,
    embedded_llama_config,
    embedded_model_config,
    embedded_tokenizer,
)
from tradeoff.objectives.trainers.model_files import (
    WEIGHTS,
    JobFault,
    LengthFault,
    first_line,
    load_tokenizer,
    read_gguf,
)
from tradeoff.objectives.trainers.samples.reviews_tokenizer import reviews_tokenizer
from tradeoff.objectives.trainers.trained_parts import adapted, four_bit, freeze, set_dropout, untrained_modules
from tradeoff.searchspace.choices import FLASH_ATTENTION


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
        content: What the model is, whatever its name: the hub's commit, or a hash of a directory's files.
        attention: The attention implementations that the model's class supports; None for code from the hub.
        has_checkpointing: Whether the class can compute activations again; None for code from the hub.
        end_token_id: The token that must end each sample, and be in it once: encoder-decoders classify by it. None for others.
        notice: What the user should know of it, in a line; None for nothing.
    """

    name_or_folder: str
    revision: str | None
    has_weights: bool
    module: str | None
    vocab_size: int
    pad_token_id: int | None
    content: str
    attention: tuple[str, ...] | None = None
    has_checkpointing: bool | None = None
    end_token_id: int | None = None
    notice: str | None = None


def resolve_model(
    job: BuiltInJob, texts: Iterable[str], folder: Path, cache_folder: Path | None = None
) -> tuple[ModelSource, Any]:
    """Find a job's model and tokenizer, and save into `folder` what is not saved anywhere else.

    Args:
        job: The job.
        texts: The training texts, from which the embedded tokenizer takes its words; without any, generated reviews.
        folder: The directory for the tokenizer and the embedded model's configuration.
        cache_folder: Holds what is made of the GGUF file of a language model.

    Returns:
        The source, and the tokenizer, which is None if the job has no texts.

    Raises:
        ValueError: The model can't be used as the job says.
    """
    if job.model == EMBEDDED:
        # Random tokens have no texts.
        tokenizer, config = _embedded(job, list(texts))
        config.save_pretrained(folder)
        name, revision, has_weights, content = str(folder), None, False, EMBEDDED
    elif gguf_file(job.model) is not None:
        if cache_folder is None:
            raise JobFault(f"a GGUF file is read for task causal_lm, got model {job.model}; name a directory or a Hub model")
        whole, content = read_gguf(job.model, cache_folder)
        name, revision, has_weights = str(whole), None, True
        config, tokenizer = AutoConfig.from_pretrained(name), _tokenizer(name, job)
    elif os.path.isdir(local := local_path(job.model)):
        if not (local / "config.json").is_file():
            raise ValueError(f"a model directory must hold a config.json, got {local} without one")
        name, revision = str(local.resolve()), None
        has_weights = any(next(local.glob(pattern), None) is not None for pattern in WEIGHTS)
        try:
            config = AutoConfig.from_pretrained(name, trust_remote_code=job.trust_remote_code)
        except Exception as error:  # of any type: of values of every kind, in classes of every kind
            raise ValueError(
                f"the config.json in {local} must be that of a transformers model, and can't be read as one"
                f" ({first_line(error)}); name a directory that save_pretrained has written"
            ) from error
        tokenizer = _tokenizer(name, job)
        content = folder_fingerprint(local)
    elif job.model.startswith((".", "/", "~")) or job.model.count("/") > 1:
        raise ValueError(f"the model directory must exist, got {job.model}; a relative path starts at {Path.cwd()}")
    else:
        name, has_weights = job.model, True
        with hub_access("model", name):
            config, tokenizer, revision = _from_hub(job)
        content = f"{name} {revision}"
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    longest = max(job.max_length, getattr(job, "eval_max_length", None) or 0)
    if positions is not None and 0 < positions < longest:  # XLNet has -1: any number
        key = "max_length" if positions < job.max_length else "eval_max_length"
        others = " and job.eval_max_length" if key == "max_length" and isinstance(job, CausalLMJob) else ""
        raise LengthFault(
            f"{key} must not exceed the {positions} positions of model {job.model!r}, got {longest};"
            f" set job.{key}{others} to {positions} or less",
            reason=f"the model {job.model!r} has {positions} positions",
        )
    text_config = config.get_text_config()  # of a model that reads images too, the part that reads text
    pad_token_id = getattr(text_config, "pad_token_id", None)
    if tokenizer is not None:
        if tokenizer.pad_token is None:
            if tokenizer.eos_token is None:
                raise ValueError(f"the tokenizer of model {job.model!r} must have a padding token; choose another model")
            tokenizer.pad_token = tokenizer.eos_token
        pad_token_id = tokenizer.pad_token_id
        tokenizer.save_pretrained(folder)
    elif pad_token_id is None:
        pad_token_id = 0  # a decoder reads the last token that is no padding, and random tokens have no padding of their own
    model_class = _model_class(config, job)
    source = ModelSource(
        name_or_folder=name,
        revision=revision,
        has_weights=has_weights,
        module=None if model_class is None else str(model_class.__module__),
        vocab_size=text_config.vocab_size,
        pad_token_id=pad_token_id,
        content=content,
        attention=None if model_class is None else _attention(model_class),
        notice=_head_notice(job, config) if has_weights else None,
        has_checkpointing=None if model_class is None else bool(model_class.supports_gradient_checkpointing),
        end_token_id=config.eos_token_id if config.is_encoder_decoder else None,
    )
    return source, tokenizer


def _embedded(job: BuiltInJob, texts: list[str]) -> tuple[Any, Any]:
    """Return the tokenizer and the configuration of the embedded model."""
    if isinstance(job, CausalLMJob):
        tokenizer = embedded_chat_tokenizer(texts)
        longest = max(job.max_length, job.eval_max_length or 0)
        return tokenizer, embedded_llama_config(vocab_size=len(tokenizer), max_length=longest)
    assert isinstance(job, TextClassificationJob)
    tokenizer = embedded_tokenizer(texts) if texts else reviews_tokenizer()  # random tokens have no texts
    config = embedded_model_config(vocab_size=len(tokenizer), max_length=job.max_length, num_labels=job.num_labels)
    return tokenizer, config


def _auto_class(job: BuiltInJob) -> Any:
    return AutoModelForCausalLM if isinstance(job, CausalLMJob) else AutoModelForSequenceClassification


def _head(job: BuiltInJob, source: ModelSource) -> dict[str, Any]:
    """Return what the configuration of a model's head depends on."""
    if not isinstance(job, TextClassificationJob):
        return {"pad_token_id": source.pad_token_id}
    # A checkpoint of a regression, or of several labels at a time, would bring its own loss.
    of_classifier = {"num_labels": job.num_labels, "problem_type": "single_label_classification"}
    return of_classifier | {"pad_token_id": source.pad_token_id}


def _from_hub(job: BuiltInJob) -> tuple[Any, Any, str]:
    """Return a model's configuration, tokenizer and commit, with all its files in the hub's cache, where trials find them.

    Raises:
        JobFault: They are there, and can't be read.
        OSError: They are not.
    """
    try:
        config = AutoConfig.from_pretrained(job.model, trust_remote_code=job.trust_remote_code)
        tokenizer = _tokenizer(job.model, job)
        of_head = {"num_labels": job.num_labels} if isinstance(job, TextClassificationJob) else {}
        _auto_class(job).from_pretrained(
            job.model, trust_remote_code=job.trust_remote_code, ignore_mismatched_sizes=True, **of_head
        )
        return config, tokenizer, Path(snapshot_download(job.model, local_files_only=True)).name
    except Exception as error:  # of any type, as the libraries have it
        if isinstance(error, OSError) and not isinstance(error.__context__, JSONDecodeError | UnicodeDecodeError):
            raise
        remedy = f"if that is damage, remove it from {constants.HF_HUB_CACHE} to download it again; else choose another model"
        if "trust_remote_code" in str(error):
            remedy = "set job.trust_remote_code to true if you trust its authors"
        raise JobFault(
            f"the files of model {job.model!r} must be readable, and are not ({first_line(error)}); {remedy}"
        ) from error


def _tokenizer(name: str, job: BuiltInJob) -> Any:
    if job.dataset == RANDOM_TOKENS:
        return None
    return load_tokenizer(name, trust_remote_code=job.trust_remote_code)


def _model_class(config: Any, job: BuiltInJob) -> Any:
    """Return the class with the head of the job's task; None for code from the hub."""
    if getattr(config, "auto_map", None) and job.trust_remote_code:
        return None
    writes = isinstance(job, CausalLMJob)
    classes = MODEL_FOR_CAUSAL_LM_MAPPING if writes else MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    if type(config) not in classes or (writes and not _is_decoder(config)):
        must = "write text" if writes else "classify sequences"
        raise ValueError(f"model {job.model!r} must {must}, and {config.model_type} models can't; choose another")
    return classes[type(config)]


def _is_decoder(config: Any) -> bool:
    """Return False for an encoder, such as BERT, whose class for causal models reads what it should predict."""
    return not config.is_encoder_decoder and getattr(config, "is_decoder", None) is not False


def _attention(model_class: Any) -> tuple[str, ...]:
    support = {"eager": True, "sdpa": model_class._supports_sdpa, FLASH_ATTENTION: model_class._supports_flash_attn}
    return tuple(name for name, is_supported in support.items() if is_supported)


def build_model(
    job: BuiltInJob, source: ModelSource, *, attention: str | None = None, compute_dtype: torch.dtype = torch.float32
) -> Any:
    """Build a new model in full precision; weights that the source lacks are initialised with the job's seed.

    Args:
        job: The job.
        source: The model.
        attention: The attention implementation. Default: transformers' choice.
        compute_dtype: What weights of 4 bits are computed with.

    Raises:
        JobFault: The model can't be used as the job says.
    """
    set_seed(job.seed)
    known: dict[str, Any] = {"trust_remote_code": job.trust_remote_code}
    if attention is not None:
        known["attn_implementation"] = attention
    if source.revision is not None:
        known |= {"revision": source.revision, "local_files_only": True}
    config = AutoConfig.from_pretrained(
        source.name_or_folder,
        **_head(job, source),
        **known,
    )
    if job.dropout is not None:
        set_dropout(config, job.dropout, name=job.model)
    if isinstance(job, CausalLMJob) and job.load_in_4bit:
        if not source.has_weights or gguf_file(job.model) is not None:
            raise JobFault(f"load_in_4bit needs a model with weights in a directory or on the Hub, got {job.model!r}")
        known["quantization_config"] = four_bit(compute_dtype)
    fresh: list[str] = []
    # Mixed precision keeps full-precision weights, whatever the checkpoint was saved in.
    if source.has_weights:
        try:
            model, loaded = _auto_class(job).from_pretrained(
                source.name_or_folder,
                config=config,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **known,
            )
        except (OSError, SafetensorError, UnpicklingError, EOFError) as error:
            if out_of_memory_details(error) is not None:
                raise
            raise JobFault(
                f"the weights of model {job.model!r} must be complete files, and can't be read ({first_line(error)});"
                " save or download them again"
            ) from error
        _check_weights(job, model, loaded)
        fresh = untrained_modules(loaded["missing_keys"])
    else:
        kept = {name: known[name] for name in ("trust_remote_code", "attn_implementation") if name in known}
        model = _auto_class(job).from_config(config, dtype=torch.float32, **kept)
    writes = isinstance(job, CausalLMJob)
    if not writes:
        # If a model's `forward` has **kwargs, the Trainer assumes that it divides its loss by the accumulation steps itself.
        # Classifiers have them and don't: without this, accumulation multiplies the loss (huggingface/transformers#47688).
        model.accepts_loss_kwargs = False
    if job.lora is not None:
        return adapted(
            model, **job.lora.settings(), frozen_layers=job.frozen_layers, fresh=fresh, writes=writes, name=job.model
        )
    freeze(model, job.frozen_layers, name=job.model)
    return model


def name_labels(model: Any, names: Sequence[str] | None) -> None:
    """Give a classifier the names of its classes, if they have some."""
    if names is not None:
        model.config.id2label = dict(enumerate(names))
        model.config.label2id = {name: number for number, name in enumerate(names)}


def _check_weights(job: BuiltInJob, model: Any, loaded: Mapping[str, Any]) -> None:
    """Refuse weights of which more than the head was left out: that would be a model with random weights.

    Raises:
        JobFault: They are those of another configuration.
    """
    body = f"{model.base_model_prefix}."
    others = sorted(
        (key, tuple(stored), tuple(asked)) for key, stored, asked in loaded["mismatched_keys"] if key.startswith(body)
    )
    if others:
        key, stored, asked = others[0]
        raise JobFault(
            f"the weights of model {job.model!r} must have the sizes of its config.json, and {key} is {stored} where that says"
            f" {asked}; save model and configuration together with save_pretrained"
        )
    missing = sorted(key for key in loaded["missing_keys"] if key.startswith(body) and ".pooler." not in key)
    if len(missing) > len(list(model.base_model.parameters())) // 2:
        raise JobFault(
            f"the weights of model {job.model!r} must be those of {type(model).__name__}, and {len(missing)} of its parameters,"
            f" {missing[0]} for one, are not among them; save model and configuration together with save_pretrained"
        )


def check_sizes(job: BuiltInJob, model: Any, *, highest_token: int) -> None:
    """Refuse token ids and positions that a model has no embedding for: on a GPU they would end the process in native code.

    Args:
        job: The job.
        model: The model, built.
        highest_token: The highest token id of the data.

    Raises:
        JobFault: There are such.
    """
    words = model.get_input_embeddings()
    if isinstance(words, torch.nn.Embedding) and highest_token >= words.num_embeddings:
        raise JobFault(
            f"the token ids of model {job.model!r} must be below {words.num_embeddings}, the rows of its embedding, and its"
            f" tokenizer gives {highest_token}; use the tokenizer that the model was trained with"
        )
    for name, module in model.named_modules():
        # RoBERTa and its kin number positions from behind the one that stands for padding.
        if not isinstance(module, torch.nn.Embedding) or "position_embeddings" not in name or module.padding_idx is None:
            continue
        if job.max_length > (usable := module.num_embeddings - module.padding_idx - 1):
            raise LengthFault(
                f"max_length must not exceed the {usable} positions of model {job.model!r} that tokens can take (of"
                f" {module.num_embeddings}, the first {module.padding_idx + 1} are for padding), got {job.max_length};"
                f" set job.max_length to {usable} or less",
                reason=f"the model {job.model!r} has {usable} positions that tokens can take",
            )


def _head_notice(job: BuiltInJob, config: Any) -> str | None:
    """Return a line if the checkpoint's head is for another number of labels, so that a new one is trained."""
    if not isinstance(job, TextClassificationJob):
        return None
    is_classifier = "ForSequenceClassification" in str(config.architectures)
    if not is_classifier or config.num_labels == job.num_labels:
        return None
    return (
        f"the head of model {job.model!r} is for {config.num_labels} label{'s' * (config.num_labels > 1)} and not for"
        f" {job.num_labels}: a new one is trained, from random weights"
    )
