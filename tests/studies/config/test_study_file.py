import pytest

from tradeoff.objectives.job.jobs import CausalLMJob
from tradeoff.studies.config.presets import embedded
from tradeoff.studies.config.study_file import load_config
from tradeoff.studies.errors import TradeoffError


@pytest.fixture
def write(tmp_path):
    def write(text, name="mine.yaml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_without_a_file_the_embedded_preset_is_run():
    assert load_config(None) == embedded()


def test_a_file_stands_alone_and_gives_its_name(write):
    config = load_config(write("job: {epochs: 1}\n"))
    assert (config.name, config.job.epochs) == ("mine", 1)
    assert config.limits.peak_memory_mib is None


def test_a_file_is_laid_over_a_preset(write):
    config = load_config(write("job: {epochs: 1}\nspace: {precision: [fp32]}\n"), preset="embedded")
    assert config.job.epochs == 1
    assert config.job.train_samples == embedded().job.train_samples
    assert config.space.precision == ["fp32"]


def test_a_file_that_says_nothing_of_the_task_keeps_that_of_its_preset(write):
    config = load_config(write("job: {epochs: 1}\n"), preset="embedded-lm")
    assert (type(config.job), config.job.epochs) == (CausalLMJob, 1)
    with pytest.raises(TradeoffError, match=r"--set job\.task: causal_lm is a job of other keys"):
        load_config(None, overrides=["job.task=causal_lm"])


def test_overrides_win_and_are_read_as_yaml():
    overrides = ["job.epochs=1", "space.precision=[fp32]", "space.learning_rate={low: 1e-5, high: 1e-3, log: true}"]
    config = load_config(None, overrides=overrides, trials=3, name="other")
    assert (config.job.epochs, config.space.precision, config.trials, config.name) == (1, ["fp32"], 3, "other")
    assert config.search_space().domains["learning_rate"].low == 1e-5


def test_a_range_replaces_a_range_instead_of_mixing_with_it(write):
    path = write("space: {per_device_train_batch_size: {low: 1, high: 4}}")
    config = load_config(path, overrides=["space.per_device_train_batch_size={powers_of_two: [1, 8]}"])
    assert config.search_space().domains["per_device_train_batch_size"].values() == (1, 2, 4, 8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("jop: {}", "unknown key 'jop'; did you mean 'job'?"),
        ("job: {epoch: 1}", r"unknown key 'job.epoch'; did you mean 'epochs'\?"),
        ("job: {lora: {rank: 8}}", r"unknown key 'job.lora.rank'; the keys there are r, alpha, target_modules, dropout"),
        ("job: {task: causal_lm, lora: {lora_alpha: 8}}", r"unknown key 'job.lora.lora_alpha'; did you mean 'alpha'\?"),
        ("space: {zzz: 1}", "unknown key 'space.zzz'; a parameter is a field of TrainingArguments"),
        ("plan: off", r"unknown key 'plan'; did you mean 'memory_estimate'\?"),
        (
            "early_stopping: false",
            "there is no key 'early_stopping' any more, since every training runs to its end; leave it out",
        ),
        ("trials: none", "trials: Input should be a valid integer.*got 'none'"),
        ("space: {per_device_train_batch_size: 0}", "per_device_train_batch_size must be at least 1, got 0"),
        ("a: 1\na: 2", "the key 'a' is written twice"),
        ("1: 2", "a key must be text, got 1"),
        ("[1, 2]", "must hold keys and values, got list"),
        ("a: [", "must be YAML"),
        ("!!python/object/apply:os.system ['true']", "must be YAML"),
        ("job: 3", "job: Input should be a valid dictionary"),
    ],
)
def test_a_mistake_is_one_sentence(write, text, message):
    with pytest.raises(TradeoffError, match=message) as caught:
        load_config(write(text))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(TradeoffError, match=r"there is no .*absent\.yaml"):
        load_config(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epochs", "KEY=VALUE"),
        ("=1", "KEY=VALUE"),
        ("job.epochs=[", "must be YAML"),
        ("trials.more=1", "'trials' is a value"),
        ("job.beauty=1", "unknown key 'job.beauty'"),
    ],
)
def test_a_bad_override_is_one_sentence(override, message):
    with pytest.raises(TradeoffError, match=message):
        load_config(None, overrides=[override])


def test_an_unknown_preset_names_those_there_are():
    with pytest.raises(TradeoffError, match="one of embedded, embedded-lm, yelp-bert, dummy-bert, got 'mine'"):
        load_config(None, preset="mine")
