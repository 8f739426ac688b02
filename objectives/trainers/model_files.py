"""The files of a model: its weights and its tokenizer."""

import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open
from transformers import AutoTokenizer

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
