"""Reads a model's configuration, all that an estimate needs of a model."""

from collections.abc import Mapping
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PretrainedConfig


def load_config(source: "str | Path | Mapping[str, Any] | PretrainedConfig") -> PretrainedConfig:
    """Return a model's configuration.

    Args:
        source: A name on the hub, a directory with a `config.json`, such a file, its contents, or the configuration itself.

    Raises:
        ValueError: There is none, or transformers doesn't know its model type.
    """
    if isinstance(source, PretrainedConfig):
        return source
    try:
        if isinstance(source, Mapping):
            settings = dict(source)
            return AutoConfig.for_model(settings.pop("model_type", "none given"), **settings)
        return AutoConfig.from_pretrained(str(source))
    except Exception as error:  # of any type: of values of every kind, in classes of every kind
        if isinstance(error, OSError) and not isinstance(error.__context__, JSONDecodeError | UnicodeDecodeError):
            raise ValueError(
                f"no model configuration at {str(source)!r}: give a directory with a config.json, or a model's name on the hub"
            ) from error
        raise ValueError(
            f"transformers can't read the model configuration {source!r}: {first_line(error)}; save it with save_pretrained"
        ) from error


def first_line(error: Exception) -> str:
    """Return an error's first line, as part of a sentence."""
    return str(error).strip().split("\n")[0].rstrip(".:")
