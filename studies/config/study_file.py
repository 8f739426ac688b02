"""Study files: a study from a YAML file, a preset and `--set` overrides, with one sentence for what is wrong in it."""

import difflib
import json
import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from tradeoff.objectives.job.jobs import JOBS, kind_of_job
from tradeoff.objectives.job.settings import TASKS
from tradeoff.studies.config.presets import PRESETS
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.errors import TradeoffError

# A study file has a hundred lines.
MAX_CHARACTERS = 1_000_000
MAX_VALUES = 100_000
MAX_DIGITS = 100
MAX_DEPTH = 50
# Keys of version 0.1.0 by the names that they have now.
RENAMED_KEYS = {"plan": "memory_estimate"}
# What a user can do about a problem, in place of pydantic's words: at a key, and at any key.
_WORDS = {
    ("name", "string_pattern_mismatch"): "a name has no slash, backslash or control character",
    ("", "tuple_type"): "must be a list",
}
# Control characters that a text of several lines has.
_SPACES = str.maketrans("", "", "\t\n\r")


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe YAML in which a duplicate key is an error instead of silently replacing the first."""


def _unique_mapping(loader: _UniqueKeyLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    met = set()
    for key in keys:
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(None, None, f"a key must be text, got {key!r}", node.start_mark)
        if key in met:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is written twice", node.start_mark)
        met.add(key)
    values = [loader.construct_object(value, deep=True) for _, value in node.value]
    return dict(zip(keys, values, strict=True))


def _scalar(loader: _UniqueKeyLoader, node: yaml.ScalarNode) -> Any:
    kind = node.tag.removeprefix(_TAGS)
    try:
        value = yaml.SafeLoader.yaml_constructors[node.tag](loader, node)
    except (AttributeError, IndexError, KeyError, ValueError):  # of a tag that is written out, such as `!!bool x`
        raise yaml.constructor.ConstructorError(None, None, f"{node.value!r} is no {kind}", node.start_mark) from None
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise yaml.constructor.ConstructorError(None, None, "a whole number must fit into 64 bits", node.start_mark)
    return value


_TAGS = "tag:yaml.org,2002:"
_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)
for _kind in ("bool", "int", "float", "timestamp"):
    _UniqueKeyLoader.add_constructor(_TAGS + _kind, _scalar)
for _kind in ("binary", "set", "omap", "pairs"):  # no key takes one
    del _UniqueKeyLoader.yaml_constructors[_TAGS + _kind]


def _load(text: str) -> Any:
    """Read YAML, and refuse aliases that expand to more than a study needs: a few lines can name billions of values."""
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"it may have at most {MAX_CHARACTERS:,} characters")
    loader = _UniqueKeyLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        size, depth = _size(node, {})
        if size > MAX_VALUES:
            raise ValueError(f"it may hold at most {MAX_VALUES:,} values with its aliases written out, got {size:,}")
        if depth > MAX_DEPTH:
            raise ValueError(f"it may be nested at most {MAX_DEPTH} levels deep, got {depth}")
        return loader.construct_document(node)
    except RecursionError:
        raise ValueError(f"it may be nested at most {MAX_DEPTH} levels deep") from None
    finally:
        loader.dispose()


def _size(node: yaml.Node, sizes: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Return the number of values in a node with its aliases written out, and the levels of nesting."""
    if sizes.get(id(node)) == (0, 0):
        raise ValueError("what an alias names must not contain the alias")
    if id(node) not in sizes:
        if isinstance(node, yaml.ScalarNode) and node.tag.endswith((":int", ":float")) and len(node.value) > MAX_DIGITS:
            # In base 60, which YAML has, the time to read one grows with the square of its length.
            raise ValueError(f"a number may have at most {MAX_DIGITS} characters")
        sizes[id(node)] = 0, 0
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        children = [_size(child, sizes) for part in parts for child in (part if isinstance(part, tuple) else (part,))]
        sizes[id(node)] = 1 + sum(size for size, _ in children), 1 + max((depth for _, depth in children), default=0)
    return sizes[id(node)]


def load_config(
    study_file: Path | None,
    *,
    preset: str | None = None,
    overrides: Sequence[str] = (),
    presets: Mapping[str, Callable[[], StudyConfig]] = PRESETS,
    **top_level: Any,
) -> StudyConfig:
    """Build a study from its parts: the preset first, then the file, then the overrides.

    Args:
        study_file: A YAML file; None for a preset alone.
        preset: The name of a preset; default: `embedded` without a file, none with one.
        overrides: Values for keys, such as `job.epochs=1`, read as YAML.
        presets: The presets to choose from, by name.
        top_level: Top-level keys of the study; None leaves a key unchanged.

    Raises:
        TradeoffError: A part can't be used; the message names the key and the remedy.
    """
    if preset is None and study_file is None:
        preset = "embedded"
    if preset is not None and preset not in presets:
        raise TradeoffError(f"--preset must be one of {', '.join(presets)}, got {preset!r}")
    data = presets[preset]().plain() if preset is not None else {}
    if study_file is not None:
        data = _merged(data, read_yaml(study_file))
        if "name" not in data or preset is not None:
            data.setdefault("name", study_file.stem)
    for override in overrides:
        path, value = _override(override)
        if path == ["job", "task"] and value in TASKS and value != kind_of_job(data.get("job")):
            raise TradeoffError(
                f"--set job.task: {value} is a job of other keys; write it in a study file, or choose a --preset"
            )
        _assign(data, path, value)
    data |= {key: value for key, value in top_level.items() if value is not None}
    where = str(study_file) if study_file is not None else "the study"
    return config_of(data, where=where, folder=Path() if study_file is None else study_file.parent)


def config_of(data: Mapping[str, Any], *, where: str, folder: Path | None) -> StudyConfig:
    """Return the study that a user has written as keys and values.

    Args:
        data: The keys and values.
        where: Where they stand, for errors.
        folder: The directory from which `job.python_path` starts; None if that needs no change.

    Raises:
        TradeoffError: It is none; the message names the key and the remedy.
    """
    if (why := _unstorable(data)) is not None:
        raise TradeoffError(f"{where}: {why}")
    if "early_stopping" in data:
        raise TradeoffError(
            f"{where}: there is no key 'early_stopping' any more, since every training runs to its end; leave it out"
        )
    job = data.get("job")
    if folder is not None and isinstance(job, Mapping) and kind_of_job(job) == "custom":
        python_path = job.get("python_path")
        if python_path is None or isinstance(python_path, str):
            data = {**data, "job": {**job, "python_path": str((folder / (python_path or "")).resolve())}}
    return validated(data, where=where)


def _unstorable(value: Any, path: str = "") -> str | None:
    """Return in a sentence why a value can't be stored, shown and read back as it is, or None."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{path}: a number must be finite, got {value}; give another one, or text"
    if isinstance(value, date):
        return f"{path}: what looks like a date must be in quotes to be text, got {value}"
    if isinstance(value, str) and any(unicodedata.category(letter) in ("Cc", "Cs") for letter in value.translate(_SPACES)):
        return f"{path}: text must not hold control characters, got {_one_line(repr(value))}; leave them out"
    parts = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    inner = (_unstorable(key, path) or _unstorable(part, f"{path}.{key}".lstrip(".")) for key, part in parts)
    return next((why for why in inner if why is not None), None)


def validated(data: Mapping[str, Any], *, where: str) -> StudyConfig:
    """Validate plain data as a study.

    Raises:
        TradeoffError: The data is not a study; the message names the first problem and the number of others.
    """
    try:
        return StudyConfig.model_validate(dict(data))
    except ValidationError as error:
        raise TradeoffError(f"{where}: {explain(error, StudyConfig)}") from None


def read_yaml(path: Path, *, what: str = "the study file") -> dict[str, Any]:
    """Read a YAML mapping, of bounded size.

    Args:
        path: The file.
        what: What it is to the user, for the error.

    Raises:
        TradeoffError: The file is missing, unreadable, not YAML or not a mapping.
    """
    try:
        with path.open(encoding="utf-8") as file:
            data = _load(file.read(MAX_CHARACTERS + 1))
    except FileNotFoundError:
        raise TradeoffError(f"{what} must exist, and there is no {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise TradeoffError(f"{what} {path} can't be read: {error}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise TradeoffError(f"{what} {path} must be YAML: {_one_line(str(error))}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise TradeoffError(f"{what} {path} must hold keys and values, got {type(data).__name__}")
    return data


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object, of bounded size.

    Raises:
        OSError: The file is missing or can't be read.
        ValueError: It is not JSON, not an object, or larger than a study needs.
    """
    with path.open(encoding="utf-8") as file:
        text = file.read(MAX_CHARACTERS + 1)
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"it may have at most {MAX_CHARACTERS:,} characters")
    try:
        data = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(data, dict):
        raise ValueError(f"it must hold keys and values, got {type(data).__name__}")
    return data


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Return the first problem of a validation in a sentence, and the number of others."""
    problems = error.errors(include_url=False)
    first = problems[0]
    # Which of the two jobs it is has no key in the file.
    path = _one_line(".".join(str(part) for part in first["loc"] if part not in JOBS))
    if first["type"] == "extra_forbidden":
        allowed = _keys_at(model, first["loc"][:-1])
        close = difflib.get_close_matches(str(first["loc"][-1]), allowed, n=1)
        meant = RENAMED_KEYS.get(path, close[0] if close else None)
        hint = f"the keys there are {', '.join(allowed)}" if meant is None else f"did you mean {meant!r}?"
        text = f"unknown key {path!r}; {hint}"
    else:
        words = _WORDS.get((path, first["type"])) or _WORDS.get(("", first["type"]))
        message = words or _one_line(first["msg"].removeprefix("Value error, "), most=800)
        # Our own messages name the value; pydantic's do not.
        got = "" if first["type"] in ("value_error", "missing") else f", got {_one_line(repr(first['input']))}"
        text = f"{path}: {message}{got}" if path else f"{message}{got}"
    return text + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "")


def _keys_at(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    for part in path:
        if str(part) in JOBS:
            model = JOBS[str(part)]
        else:  # `job.lora` may be null
            kind = model.model_fields[str(part)].annotation
            below = (each for each in (kind, *get_args(kind)) if isinstance(each, type) and issubclass(each, BaseModel))
            model = next(below, model)
    return list(model.model_fields)


def _override(text: str) -> tuple[list[str], Any]:
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise TradeoffError(f"--set must be KEY=VALUE, such as job.epochs=1, got {text!r}")
    try:
        return key.strip().split("."), _load(value)
    except (yaml.YAMLError, ValueError) as error:
        raise TradeoffError(f"--set {key}: the value must be YAML: {_one_line(str(error))}") from None


def _assign(data: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        below = data.setdefault(part, {})
        if not isinstance(below, dict):
            raise TradeoffError(f"--set {'.'.join(path)}: {part!r} is a value and has no keys")
        data = below
    data[path[-1]] = value


def _merged(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` updated by `over`. Sections are merged; a range of values is one value and replaces what was there."""
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), dict)
        # Of a job of another kind nothing is kept: what it does not say itself are its own defaults.
        merges = both and key in {"job", "space", "limits"} and (key != "job" or _is_of_kind(result[key], value))
        result[key] = _merged(result[key], value) if merges else value
    return result


def _one_line(text: str, *, most: int = 200) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 3] + "..."


def _is_of_kind(base: Mapping[str, Any], over: Mapping[str, Any]) -> bool:
    """Return True if a job says nothing of its kind, or the same as another one."""
    return not over.keys() & {"build", "task"} or kind_of_job(base) == kind_of_job(over)
