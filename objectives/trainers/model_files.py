"""The files of a model: its weights and its tokenizer."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "*.safetensors.index.json")
# What tokenizers are saved as: the fast ones as one file, the others as a vocabulary.
_TOKENIZERS = ("tokenizer.json", "vocab.*", "vocab", "merges.txt", "*.model", "*.tiktoken", "tekken.json", "*-vocab.*")
_REMEDY = "save it there with tokenizer.save_pretrained"


class JobFault(ValueError):
    """A job is not as its user has to write it: a sentence with the rule, the value and the remedy."""


def first_line(error: BaseException) -> str:
    """Return the first line of a library's error, as the reason in a sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__


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
