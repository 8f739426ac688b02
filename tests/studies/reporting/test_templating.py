import ast

import pytest
from jinja2 import DictLoader, UndefinedError

from tradeoff.studies.reporting import templating
from tradeoff.studies.reporting.templating import python_comment, python_literal


def rendered(monkeypatch: pytest.MonkeyPatch, source: str, *, is_html: bool = False, **values: object) -> str:
    """A template's text; `part` is a template that others include, with a macro of its own."""
    part = "{% macro twice(x) %}{{ x|plain }}{{ x|plain }}{% endmacro %}{{ twice(name) }}"
    monkeypatch.setattr(templating, "PackageLoader", lambda package: DictLoader({"whole": source, "part": part}))
    templating._environment.cache_clear()
    try:
        return (templating.render_html if is_html else templating.render)("anything", "whole", **values)
    finally:
        templating._environment.cache_clear()


def test_a_text_without_a_filter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TypeError, match="shows 'a', which no filter has quoted"):
        rendered(monkeypatch, "{{ name }}", name="a")
    with pytest.raises(TypeError, match="no filter has quoted"):
        rendered(monkeypatch, "{{ name|upper }}", name="a")


def test_numbers_filtered_texts_macros_and_included_templates_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    text = rendered(monkeypatch, '{{ 3 }} {{ name|plain }} {% include "part" %} {{ name|python }}', name="a*<b")
    assert text == "a\\*&lt;b".join(("3 ", " ", "", ' "a*<b"'))


def test_a_missing_value_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UndefinedError):
        rendered(monkeypatch, "{% if nmae %}x{% endif %}", name="a")


def test_html_is_escaped_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rendered(monkeypatch, "<p title='{{ name }}'>", is_html=True, name="<'\"&") == "<p title='&lt;&#39;&#34;&amp;'>"


@pytest.mark.parametrize("value", ["a", "it's", 'a "b"', "both ' and \"", "a\n\\b\0", "é\u2028", None, 3])
def test_a_literal_is_read_back_as_the_value(value: str | int | None) -> None:
    assert ast.literal_eval(python_literal(value)) == value


def test_strings_are_quoted_as_ruff_quotes_them() -> None:
    assert [python_literal(text) for text in ("a", "it's", 'a "b"')] == ['"a"', '"it\'s"', "'a \"b\"'"]


def test_a_comment_is_one_line_that_ends_no_docstring() -> None:
    assert python_comment('a\nb\r\u2028c\x0c """d\\"\0') == "a b c '''d'"
