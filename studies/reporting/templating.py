"""Texts made from templates, into which no value gets by itself.

In Markdown and in Python every inserted value must go through a filter that quotes it; without one, rendering fails. In HTML
jinja2 escapes every value. So a name or an error that stands in a study's database is shown, and never becomes code or markup.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tradeoff.studies.reporting.markdown import code, code_block, markdown_table, plain
from tradeoff.studies.results.tables import capitalized
from tradeoff.studies.visible import visible


def python_literal(value: str | float | list[str] | None) -> str:
    """Return a value as Python source; a string in double quotes where it holds none."""
    if isinstance(value, list):
        return f"[{', '.join(python_literal(each) for each in value)}]"
    if isinstance(value, str) and '"' not in value and (text := repr(value)).startswith("'"):
        return f'"{text[1:-1]}"'
    return repr(value)


def python_comment(text: str) -> str:
    """Return text that stays within a comment or a docstring: one line of printable characters, no quote, no backslash."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split()).translate(_UNQUOTED)


def yaml_text(value: Any) -> str:
    """Return a value as YAML, in ASCII where it holds letters that can't be seen."""
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120)
    return text if visible(text, keep="\n") == text else yaml.safe_dump(value, sort_keys=False, width=120)


_UNQUOTED = str.maketrans({"\\": None, '"': "'"})
_QUOTING: dict[str, Callable[..., str]] = {
    "python": python_literal,
    "comment": python_comment,
    "plain": plain,
    "code": code,
    "code_block": code_block,
    "table": lambda table, **options: markdown_table(table.header, table.rows, **options),
    "yaml": lambda value: yaml_text(value),
}


def render(package: str, template: str, **values: Any) -> str:
    """Fill in a template of Markdown or Python.

    Args:
        package: The package whose directory `templates` holds the template.
        template: The template's file name.
        **values: The template's values.

    Raises:
        TypeError: The template shows a text that no filter has quoted.
        jinja2.UndefinedError: The template names a value that was not given.
    """
    return _environment(package, is_html=False).get_template(template).render(values)


def render_html(package: str, template: str, **values: Any) -> str:
    """Fill in a template of HTML; see `render`."""
    return _environment(package, is_html=True).get_template(template).render(values)


@cache
def _environment(package: str, *, is_html: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader(package),
        undefined=StrictUndefined,
        autoescape=True,
        finalize=_seen if is_html else _quoted,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    if not is_html:
        environment.filters |= {name: _marking(quote) for name, quote in _QUOTING.items()}
    environment.filters["capitalized"] = capitalized
    return environment


def _quoted(value: Any) -> Any:
    # Numbers need no quotes; Markup is what our filters, macros and includes return.
    if isinstance(value, int | Markup):
        return value
    raise TypeError(f"a template shows {value!r}, which no filter has quoted")


def _seen(value: Any) -> Any:
    return visible(value, keep="\n\t") if isinstance(value, str) and not isinstance(value, Markup) else value


def _marking(quote: Callable[..., str]) -> Callable[..., Markup]:
    def filtered(value: Any, **options: Any) -> Markup:
        # A filter's block hands on Markup, whose own methods would escape what they add.
        return Markup(quote(str(value) if isinstance(value, Markup) else value, **options))

    return filtered
