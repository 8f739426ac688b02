"""Thousands of inputs that nobody would write on purpose: each is a valid value or one sentence, never a traceback."""

import contextlib
import json
import math
import random
import string
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tradeoff.objectives.job.jobs import CustomJob, TextClassificationJob
from tradeoff.objectives.measurements.outcome import (
    Completed,
    Evaluation,
    Failed,
    Interrupted,
    Measurements,
    Memory,
    OutOfMemory,
    TimedOut,
    TrainingResult,
    from_json,
    to_json,
)
from tradeoff.searchspace import KNOBS
from tradeoff.searchspace.space import MAX_STRUCTURES
from tradeoff.studies.config.presets import PRESETS
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.config.study_file import load_config
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.results.criteria import Limit, Within, parse_weights

NUM_FUZZED = 1500
FAST = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))

# What a slip of the hand, or of a program, puts where something else belongs.
ODDITIES = [
    "", "null", "~", "true", "off", "0", "-1", "1e400", ".nan", "-.inf", "0x" + "f" * 40, "9" * 5000, "1_000", "0o17",
    "2020-01-01", "[]", "{}", "[[1]]", "{low: 1}", "{low: 1, high: 1000000000}", "{low: 2, high: 1}", "[1, 1]",
    "{powers_of_two: [1, 3]}", "{powers_of_two: 8}", "'..'", "'a/b'", "\"\\ud800\"", "'\\x00'", "é" * 300, "&a [*a]",
    "*nobody", "!!python/name:os.system", "<<: 1", "!!binary aGk=", "{? [1] : 2}", "|\n  x", "- 1", "\t", "%", "@", "`",
    "# x", "...", "---", "{{", "]", ":", "!!set {a}",
]  # fmt: skip


def is_answered(path: Path) -> str | None:
    """The sentence with which a file is refused, or None where it is a study that can be stored and read back."""
    try:
        config = load_config(path)
    except TradeoffError as error:
        return str(error)
    assert StudyConfig.model_validate(json.loads(json.dumps(config.plain()))) == config
    return None


def refusal(read: Callable[[], object]) -> str:
    """The sentence with which something is refused; empty where it is taken."""
    try:
        read()
    except TradeoffError as error:
        return str(error)
    return ""


def mutated(text: str, chance: random.Random) -> str:
    """The text with a few things wrong."""
    for _ in range(chance.randint(1, 4)):
        lines, at = text.split("\n"), chance.randrange(max(1, len(text)))
        row = chance.randrange(len(lines))
        match chance.randrange(7):
            case 0:
                text = text[:at] + chance.choice(string.printable) + text[at:]
            case 1:
                text = text[:at] + text[at + chance.randint(1, 12) :]
            case 2:
                key, colon, _ = lines[row].partition(":")
                lines[row] = f"{key}{colon} {chance.choice(ODDITIES)}"
                text = "\n".join(lines)
            case 3:
                lines.insert(chance.randrange(len(lines)), lines[row])
                text = "\n".join(lines)
            case 4:
                lines[row] = " " * chance.randint(0, 6) + lines[row].lstrip()
                text = "\n".join(lines)
            case 5:
                text = text[:at]
            case _:
                text = text[:at] + chance.choice(ODDITIES) + text[at:]
    return text


def test_no_damaged_study_file_ends_in_a_traceback_or_takes_forever(tmp_path: Path) -> None:
    chance = random.Random(0)
    seeds = [yaml.safe_dump(preset().plain(), sort_keys=False) for preset in PRESETS.values()]
    path = tmp_path / "study.yaml"
    answers: dict[bool, int] = {True: 0, False: 0}
    slowest_s = 0.0
    for _ in range(NUM_FUZZED):
        path.write_text(mutated(chance.choice(seeds), chance), encoding="utf-8", errors="replace")
        begin_s = time.process_time()
        sentence = is_answered(path)
        slowest_s = max(slowest_s, time.process_time() - begin_s)
        answers[sentence is None] += 1
        assert sentence is None or ("\n" not in sentence and len(sentence) < 1000), sentence
    assert min(answers.values()) > NUM_FUZZED / 50, answers
    assert slowest_s < 5


@FAST
@given(st.binary(max_size=300))
def test_no_file_of_bytes_ends_in_a_traceback(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.yaml"
    path.write_bytes(data)
    is_answered(path)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(
    ["name", "job", "space", "limits", "objectives", "sampler", "reuse", "trials", "sampler_seed", "memory_estimate"]
)


@FAST
@given(st.dictionaries(KEYS, PLAIN, max_size=4))
def test_no_value_of_any_key_ends_in_a_traceback(tmp_path_factory: pytest.TempPathFactory, data: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "values.yaml"
    path.write_text(yaml.safe_dump(data, allow_unicode=True), encoding="utf-8", errors="replace")
    is_answered(path)


NASTY = [
    ".nan", ".inf", "-.inf", "1.0e+400", "-0.0", "-1", "1e-320", "9223372036854775807", "1" + "0" * 30, "true", "''", "' '",
    '"\\x00"', '"\\e[31m"', '"\\x9b"', '"\\ud800"', "[]", "[[4]]", "[[]]", "[{}]", "[null]", "[.nan, .nan]", "{}",
    "{low: .nan, high: 1}", "{low: 0, high: .inf}", "{powers_of_two: [[1], 4]}", "null", "2026-01-01", "!!binary aGk=",
    "!!set {a}", "!!omap [a: 1]", "!!python/object/apply:os.system [x]", "!!timestamp x", "!!bool x", "!!int x",
    "!!float 'nan'", "&a [*a]", "{<<: {a: 1}}", "=", "{a: 1, a: 2}", "[" * 60 + "]" * 60,
]  # fmt: skip
CUSTOM = "job.build=m:f"
EVERY_KEY = [
    *(([], key) for key in StudyConfig.model_fields),
    *(([], f"job.{key}") for key in TextClassificationJob.model_fields),
    *(([CUSTOM], f"job.{key}") for key in (*CustomJob.model_fields, "kwargs.x")),
    *(([], f"space.{key}") for key in KNOBS),
    *(([], f"limits.{key}") for key in ("peak_memory_mib", "trial_time_s", "effective_batch_size.min")),
]


@pytest.mark.parametrize(("before", "key"), EVERY_KEY)
def test_a_nasty_value_of_any_key_is_refused_by_the_name_of_the_key_or_can_be_resumed(before: list[str], key: str) -> None:
    for value in NASTY:
        overrides = [*before, f"{key}={value}"]
        if (sentence := refusal(lambda overrides=overrides: load_config(None, overrides=overrides))) != "":
            assert key.rpartition(".")[2] in sentence, value
            assert sentence.isprintable(), value
            assert len(sentence) < 1000, value
        else:
            config = load_config(None, overrides=overrides)
            assert StudyConfig.model_validate(json.loads(json.dumps(config.plain(), allow_nan=False))) == config, value


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("job.epochs=.inf", "job.epochs: a number must be finite, got inf"),
        ("job.epochs='inf'", "job.epochs: Input should be a finite number, got 'inf'"),
        ("space.learning_rate=[1e400]", "must be a finite number, got '1e400'"),
        ("space.learning_rate={low: 1.0e-320, high: 1}", "must be 0 or a number from 1e-30 to 1e+30, got 1e-320"),
        ("job.learning_rate=1.0e+300", "job.learning_rate: Input should be less than or equal to 1"),
        ("job.seed=4294967296", "job.seed: Input should be less than 4294967296"),
        ("job.lr_scheduler_type=cosin", "lr_scheduler_type must be a name that transformers has, got 'cosin'; did you mean"),
        (
            "job.lr_scheduler_type=warmup_stable_decay",
            "needs arguments of its own, which only your own Trainer (build) can be given; choose another",
        ),
        ("job={lr_scheduler_type: greedy, eval_samples: 0}", "'greedy' follows an evaluation: set job.eval_samples above 0"),
        ("job.train_samples=2000000000", "may be at most 1,000,000 of generated data, got 2,000,000,000"),
        ("limits.trial_time_s=3000000", "limits.trial_time_s: Input should be less than or equal to 2000000"),
        ("space.dataloader_num_workers=2000", "must be a whole number of at most 1,000, got 2,000"),
        ("name=2026-01-01", "name: what looks like a date must be in quotes to be text, got 2026-01-01"),
        ("job={build: 'm:f', python_path: [1]}", "job.python_path: Input should be a valid string"),
    ],
)
def test_what_would_fail_in_every_trial_is_refused(override: str, sentence: str) -> None:
    assert sentence in refusal(lambda: load_config(None, overrides=[override]))


@FAST
@given(st.text(max_size=40) | st.from_regex(r"[a-z_.]{1,20}=.{0,20}", fullmatch=True))
def test_no_override_ends_in_a_traceback(text: str) -> None:
    assert "\n" not in refusal(lambda: load_config(None, overrides=[text]))


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(12)),
        "objectives: &a [" + ",".join(["1"] * 300) + "]\nspace: {precision: [" + ",".join(["*a"] * 400) + "]}",
        "x" * 1_000_001,
    ],
    ids=("billion laughs", "quadratic", "long"),
)
def test_a_file_that_would_grow_without_bound_is_refused_at_once(text: str, tmp_path: Path) -> None:
    (tmp_path / "bomb.yaml").write_text(text)
    begin_s = time.process_time()
    with pytest.raises(TradeoffError, match=r"it may (have|hold) at most"):
        load_config(tmp_path / "bomb.yaml")
    assert time.process_time() - begin_s < 5


def test_a_space_that_would_take_forever_to_look_at_is_refused() -> None:
    with pytest.raises(TradeoffError, match="at most 1,000 values, got 1,000,000,000; use a step or powers_of_two"):
        load_config(None, overrides=["space.per_device_train_batch_size={low: 1, high: 1000000000}"])
    many = ["space.per_device_train_batch_size={low: 1, high: 1000}", "space.gradient_accumulation_steps={low: 1, high: 1000}"]
    with pytest.raises(TradeoffError, match="grid tries every combination, at most 100,000, got 2,000,000"):
        load_config(None, overrides=[*many, "space.precision=[fp32]", "sampler=grid"])
    space = load_config(None, overrides=many).search_space()
    assert len(space.structures) == MAX_STRUCTURES


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@FAST
@given(st.sampled_from(["accuracy", "peak_memory_mib", "_x9"]), st.sampled_from(["<=", ">=", "<", ">", "=="]), NUMBERS)
def test_a_limit_reads_what_was_written(name: str, comparison: str, bound: float) -> None:
    limit = Limit.parse(f" {name} {comparison} {bound!r} ")
    assert (limit.name, limit.comparison, limit.bound) == (name, comparison, bound)


@FAST
@given(st.text(max_size=40) | st.from_regex(r"[a-z_]{0,9}[<>=:%]{0,3}[-+.0-9e%]{0,9}", fullmatch=True))
def test_a_selection_is_read_or_refused_in_a_sentence(text: str) -> None:
    for read in (Limit.parse, Within.parse, lambda text: parse_weights([text])):
        assert "\n" not in refusal(lambda read=read: read(text))


FIGURES = st.none() | st.floats()
TEXTS = st.text(max_size=40)
STAGES = st.sampled_from(["start", "data", "model", "probe", "train", "end"])
CURVES = st.lists(
    st.builds(Evaluation, epoch=st.floats(0, 9), num_samples=st.integers(0, 10**9), train_time_s=st.floats(0, 9),
              eval_loss=FIGURES, metrics=st.dictionaries(TEXTS, st.floats(), max_size=3)),
    max_size=3,
)  # fmt: skip
TRAININGS = st.builds(
    TrainingResult, memory=st.builds(Memory, peak_memory_mib=FIGURES), train_time_s=st.floats(), eval_time_s=st.floats(),
    num_steps=st.integers(0, 9), num_samples=st.integers(0, 9), samples_per_s=st.floats(), train_loss=FIGURES, curve=CURVES,
    memory_samples=st.lists(st.tuples(st.floats(), st.floats()), max_size=2),
)  # fmt: skip
MEASURED = st.builds(Measurements, probe=st.none(), training=st.none() | TRAININGS, trial_time_s=FIGURES)
OUTCOMES = st.one_of(
    st.builds(Completed, measurements=MEASURED),
    st.builds(OutOfMemory, stage=STAGES, reason=TEXTS, shortfall_mib=st.floats(), requested_mib=FIGURES, measurements=MEASURED),
    st.builds(TimedOut, stage=STAGES, reason=TEXTS, limit_s=st.floats(), measurements=MEASURED),
    st.builds(Failed, stage=STAGES, reason=TEXTS, traceback=TEXTS, measurements=MEASURED),
    st.builds(Interrupted, stage=STAGES, measurements=MEASURED),
)


def same(a: Any, b: Any) -> bool:
    """Equal, where NaN equals itself."""
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@FAST
@given(OUTCOMES)
def test_an_outcome_travels_as_one_line_of_json_and_comes_back_as_it_was(outcome: Any) -> None:
    line = to_json(outcome)
    assert "\n" not in line
    again = from_json(line)
    assert type(again) is type(outcome)
    assert same(json.loads(to_json(again)), json.loads(line))


@FAST
@given(st.text(max_size=60) | PLAIN.map(json.dumps))
def test_what_is_no_outcome_is_refused_as_a_value(text: str) -> None:
    with contextlib.suppress(ValueError):
        from_json(text)
