"""The reference of the study file, from the model that validates it: `python -m tradeoff.studies.config.reference`.

Nothing here knows a key: sections, types, bounds, defaults and descriptions are read from the model, so a key that is added
there is documented by its own description.
"""

import inspect
import types
from collections.abc import Iterator
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tradeoff.searchspace import KNOBS, kinds
from tradeoff.studies.config.presets import PRESETS
from tradeoff.studies.config.study import SpaceConfig, StudyConfig

COMMAND = "python -m tradeoff.studies.config.reference > docs/reference/study-file.md"

_HEAD = f"""# The study file

Written by `{COMMAND}`, from the model that validates a study: change the model, not this
page.

A study is a YAML file, and every key has a default. A key that does not exist is refused by its path, and the nearest one that
does is named. `--set job.epochs=1` on the command line overrides any key; its value is read as YAML. `--preset` starts from a
whole study instead of the defaults below: {", ".join(f"`{name}`" for name in PRESETS)}.
"""

_SPACE = """
Each parameter is written in one of these forms:

```
{forms}
```

A parameter without values is not searched: the job's own value holds, or transformers' default. What a device or an
installation lacks (a precision, the package of an optimizer, flash attention, a compiler) is left out before the study starts,
with a line that says so. These parameters take names:

{names}
"""

_NUMBERS = {int: "whole number", float: "number", str: "text", bool: "true or false"}
_BOUNDS = {
    annotated_types.Ge: ("ge", "at least {}"),
    annotated_types.Gt: ("gt", "above {}"),
    annotated_types.Le: ("le", "at most {}"),
    annotated_types.Lt: ("lt", "below {}"),
    annotated_types.MaxLen: ("max_length", "at most {} characters"),
}


def reference(model: type[BaseModel] = StudyConfig) -> str:
    """The page, in Markdown.

    Args:
        model: What a study file is validated by.
    """
    parts = [_HEAD, _table(model, ""), *_sections(model, "")]
    return "\n".join(parts).rstrip() + "\n"


def _sections(model: type[BaseModel], path: str) -> Iterator[str]:
    """A section for each model below, whatever key or union holds it."""
    for name, field in model.model_fields.items():
        below = _models(field.annotation)
        for one in below:
            title = f"{path}{name}"
            yield f"\n## {title}\n" if len(below) == 1 else f"\n## {title}: {_kind(one)}\n"
            yield _describe(one) + "\n"
            yield _table(one, f"{path}{name}.")
            if one is SpaceConfig:
                yield _space()
            yield from _sections(one, f"{path}{name}.")


def _table(model: type[BaseModel], path: str) -> str:
    lines = ["| key | value | default | |", "|---|---|---|---|"]
    own = vars(model).get("__annotations__", {})
    # What is a model's own comes before what it shares with others.
    for name, field in sorted(model.model_fields.items(), key=lambda item: item[0] not in own):
        below = _models(field.annotation)
        kind = f"see [{path}{name}](#{_anchor(path + name, below)})" if below else _type(field)
        about = field.description or (_describe(below[0]).splitlines()[0] if below else "")
        lines.append(f"| `{name}` | {_cell(kind)} | {_default(field, bool(below))} | {_cell(about)} |")
    return "\n".join(lines)


def _space() -> str:
    forms = (inspect.getdoc(kinds) or "").split("\n\n", 1)[1]
    listed = []
    for knob in KNOBS.values():
        if not isinstance(knob.kind, kinds.Names):
            continue
        by_package: dict[str | None, list[str]] = {}
        for name in knob.kind.names:
            need = knob.needs(name)
            by_package.setdefault(None if need is None else need.package, []).append(f"`{name}`")
        parts = [(f"with {package} " if package else "") + ", ".join(names) for package, names in by_package.items()]
        listed.append(f"- `{knob.name}`: {'; '.join(parts)}")
    return _SPACE.format(forms=forms, names="\n".join(listed))


def _type(field: FieldInfo) -> str:
    words = [_words(field.annotation)]
    for constraint in field.metadata:
        attribute, text = _BOUNDS.get(type(constraint), ("", ""))
        if attribute:
            words.append(text.format(getattr(constraint, attribute)))
    return ", ".join(word for word in words if word)


def _words(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(arguments[0])
    if origin in (Union, types.UnionType):
        kinds = [_words(each) for each in arguments if each is not type(None)]
        return " or ".join([*kinds, *(["null"] if type(None) in arguments else [])])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (tuple, list):
        return f"list of {_words(arguments[0])}"
    if origin is dict:
        return "keys and values"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return ", ".join(f"`{member.value}`" for member in annotation)
    if annotation is Any:
        return "values, see below"
    return _NUMBERS.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _default(field: FieldInfo, is_section: bool) -> str:
    if is_section:
        return ""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, tuple):
        value = list(value)
    text = yaml.safe_dump(value, default_flow_style=True, width=1000).strip().removesuffix("...").strip()
    return f"`{text}`"


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models that a key may hold: one, several of a union, or none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, types.UnionType, Annotated):
        return [model for each in get_args(annotation) for model in _models(each)]
    return []


def _kind(model: type[BaseModel]) -> str:
    """What a model of a union is, in words: `TextClassificationJob` is a text classification job."""
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in model.__name__).strip()


def _anchor(path: str, below: list[type[BaseModel]]) -> str:
    """The heading's anchor as GitHub makes it: the first of several."""
    title = path if len(below) <= 1 else f"{path}: {_kind(below[0])}"
    return "".join(letter for letter in title.lower() if letter.isalnum() or letter in " _-").replace(" ", "-")


def _describe(model: type[BaseModel]) -> str:
    return inspect.getdoc(model) or ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    print(reference(), end="")
