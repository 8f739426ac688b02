"""The files of a model: its weights and its tokenizer."""

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import hf_hub_download, snapshot_download
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from tradeoff.objectives.data.contents import file_fingerprint, short_hash
from tradeoff.objectives.data.hub import hub_access
from tradeoff.objectives.device.out_of_memory import out_of_memory_details
from tradeoff.objectives.device.temporary_folder import put_in_place, temporary_folder
from tradeoff.objectives.job.settings import gguf_file

WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "*.safetensors.index.json")
# What tokenizers are saved as: the fast ones as one file, the others as a vocabulary.
_TOKENIZERS = ("tokenizer.json", "vocab.*", "vocab", "merges.txt", "*.model", "*.tiktoken", "tekken.json", "*-vocab.*")
_LONGEST_REASON = 240
_REMEDY = "save it there with tokenizer.save_pretrained"


class JobFault(ValueError):
    """A job is not as its user has to write it: a sentence with the rule, the value and the remedy."""


class LengthFault(JobFault):
    """A model does not take as many tokens as a job asks for, or they are too few to learn anything from.

    Attributes:
        reason: Why, as the end of a line.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def first_line(error: BaseException) -> str:
    """Return the first line of a library's error, as the reason in a sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    said = " ".join(lines[: 2 if lines[0].endswith(":") else 1]).rstrip(".")
    return f"{type(error).__name__}: {said if len(said) <= _LONGEST_REASON else said[:_LONGEST_REASON] + '...'}"


def check_files(name: str, revision: str | None) -> None:
    """Refuse a model with weights of which a file is not complete; a file's beginning and its size tell.

    Args:
        name: A directory, or a name on the hub whose files are in its cache.
        revision: The hub's commit.

    Raises:
        JobFault: A file is damaged or missing.
    """
    folder = Path(name) if revision is None else Path(snapshot_download(name, revision=revision, local_files_only=True))
    weights = sorted(path for pattern in WEIGHTS for path in folder.glob(pattern))
    if not all(path.suffix == ".bin" for path in weights):
        weights = [path for path in weights if path.suffix != ".bin"]  # as transformers prefers them
    for path in (folder / "config.json", *(weights or [folder / "model.safetensors"])):
        try:
            if path.suffix == ".safetensors":
                with safe_open(path, framework="pt"):
                    pass
            elif path.suffix == ".bin":
                torch.load(path, map_location="meta", weights_only=True)
            else:
                plain = json.loads(path.read_text(encoding="utf-8"))
                shards = {*plain.get("weight_map", {} if path.name == "config.json" else None).values()}
                if missing := [shard for shard in sorted(shards) if not (folder / shard).is_file()]:
                    raise FileNotFoundError(f"{missing[0]} is not beside it")
        except Exception as error:  # of any type, as the libraries have it
            raise JobFault(
                f"the model's file {path} must be complete, and can't be read ({first_line(error)}); save or download it again"
            ) from error


def is_whole(name: str, revision: str | None = None) -> bool:
    """Return True if `check_files` would refuse none of a model's files."""
    try:
        check_files(name, revision)
    except JobFault:
        return False
    return True


def read_gguf(model: str, cache_folder: Path) -> tuple[Path, str]:
    """Return the directory of a GGUF file's model in full precision, and the file's fingerprint.

    Reading such a file takes half a minute of each 100 MB, so it is done once, and not by each trial.

    Args:
        model: The job's name for it.
        cache_folder: The directory that holds that directory.

    Raises:
        JobFault: The file can't be read.
    """
    if importlib.util.find_spec("gguf") is None or not hasattr(transformers, "GgufConfig"):
        raise JobFault(
            f"model {model!r} is a GGUF file, for which transformers needs the package gguf and its own version 5.23 or later;"
            " pip install -U gguf transformers"
        )
    found = gguf_file(model)
    assert found is not None
    path = Path(*found)
    if model.endswith(f":{path.name}"):
        with hub_access("model", model):
            path = Path(hf_hub_download(*found))
    elif not os.path.isfile(path):
        raise JobFault(f"the model file must exist, got {model}; a relative path starts at {Path.cwd()}")
    content = file_fingerprint(path)
    final = cache_folder / f"gguf-{short_hash({'file': content, 'version': transformers.__version__})}"
    if is_whole(str(final)):
        return final, content
    with temporary_folder(".preparing-", cache_folder) as folder:
        plain = transformers.GgufConfig(dequantize=True)
        try:
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
            read, loaded = AutoModelForCausalLM.from_pretrained(
                path.parent, gguf_file=path.name, dtype=torch.float32, quantization_config=plain, output_loading_info=True
            )
            if missing := sorted(loaded["missing_keys"]):  # they would be random
                raise ValueError(f"it lacks {missing[0]}")
        except Exception as error:  # of any type, as the libraries have it
            if out_of_memory_details(error) is not None:
                raise
            raise JobFault(
                f"model {model!r} must be the GGUF file of a language model that transformers knows, and can't be read"
                f" ({first_line(error)}); name another file, or a directory that save_pretrained has written"
            ) from error
        for part in (tokenizer, read):
            part.save_pretrained(folder / "whole")
        put_in_place(folder / "whole", final, lambda each: is_whole(str(each)))
    return final, content


def load_tokenizer(name: str, *, trust_remote_code: bool = False) -> Any:
    """Load a model's tokenizer.

    Without its files most classes build an empty one, to which every word is unknown.

    Args:
        name: A directory, or a name on the hub.
        trust_remote_code: Whether code that comes with it may run.

    Raises:
        JobFault: A directory has no files of a tokenizer, or such as can't be read.
        OSError: The hub can't be reached, or has no such model.
    """
    folder = Path(name)
    if not folder.is_dir():
        return AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
    has_files = any(next(folder.glob(pattern), None) is not None for pattern in _TOKENIZERS)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
    except Exception as error:  # of any type: the Rust library raises Exception itself
        if has_files:
            raise JobFault(
                f"the tokenizer in {folder} can't be read ({first_line(error)}); {_REMEDY} by this version of transformers"
            ) from error
        raise _without_tokenizer(folder) from error
    # Some read characters or bytes, and have no files.
    if not has_files and type(tokenizer).vocab_files_names:
        raise _without_tokenizer(folder)
    return tokenizer


def _without_tokenizer(folder: Path) -> JobFault:
    return JobFault(
        f"a model directory must hold its tokenizer, got {folder} without tokenizer.json or a vocabulary; {_REMEDY}"
    )
