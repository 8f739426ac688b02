import re
from pathlib import Path

import pytest
from transformers import BertConfig, DistilBertConfig, GPT2Config, RobertaConfig

from tradeoff.objectives.data.contents import folder_fingerprint
from tradeoff.objectives.data.reviews import generate_reviews
from tradeoff.objectives.job.arguments import job_of, name_of_data
from tradeoff.objectives.job.jobs import TextClassificationJob
from tradeoff.objectives.job.settings import EMBEDDED
from tradeoff.objectives.trainers.embedded import embedded_tokenizer
from tradeoff.objectives.trainers.preparation import prepare_workload
from tradeoff.objectives.trainers.prepared_data import load
from tradeoff.objectives.trainers.workloads import load_workload

WORDS = embedded_tokenizer([review.text for review in generate_reviews(100, seed=1)])
FEW_WORDS = embedded_tokenizer([review.text for review in generate_reviews(20, seed=1)])
SMALL = {
    "vocab_size": len(WORDS), "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8
}  # fmt: skip
JOB = TextClassificationJob(train_samples=16, eval_samples=8, max_length=16, eval_batch_size=4)


@pytest.fixture
def saved(tmp_path):
    def save(name, config, tokenizer=WORDS):
        config.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return save


@pytest.fixture
def prepare(tmp_path):
    def prepared(job=JOB, **searched):
        return prepare_workload(job, tmp_path / "cache", {"per_device_train_batch_size": [2]} | searched)

    return prepared


def of(facts, **searched):
    """The prepared data of one model and length."""
    return load(Path(facts["folders"][name_of_data(job_of(JOB, searched))]))


def test_each_model_and_length_reads_the_same_texts_in_tokens_of_its_own(saved, prepare):
    small, few = saved("small", BertConfig(**SMALL)), saved("few", BertConfig(**SMALL), FEW_WORDS)
    facts = prepare(model=[EMBEDDED, small, few], max_length=[8, 16])
    assert facts["lacks"] == []
    data = {}
    for model in (EMBEDDED, small, few):
        for length in (8, 16):
            data[model, length] = of(facts, model=model, max_length=length)
    assert len(data) == 6
    first = data[small, 16]
    for (_, length), each in data.items():
        assert (each.num_train, each.num_eval, each.label_counts) == (first.num_train, first.num_eval, first.label_counts)
        assert list(each.train["labels"]) == list(first.train["labels"])
        assert {len(ids) for ids in each.train["input_ids"]} == {length}
    assert first.train["input_ids"][0] != data[few, 16].train["input_ids"][0]
    assert first.train["input_ids"][0][:7] == data[small, 8].train["input_ids"][0][:7]
    assert facts["longest"].keys() == facts["folders"].keys()


def test_each_models_content_is_told_by_its_own_name(saved, prepare, tmp_path):
    small, other = (
        saved("small", BertConfig(**SMALL)),
        saved("other", DistilBertConfig(vocab_size=len(WORDS), dim=8, n_heads=2)),
    )
    contents = prepare(model=[small, other])["contents"]
    assert contents == {
        f"model {small}": folder_fingerprint(tmp_path / "small"), f"model {other}": folder_fingerprint(tmp_path / "other")
    }  # fmt: skip
    assert prepare(model=[small])["contents"] == {"model": folder_fingerprint(tmp_path / "small")}


@pytest.mark.parametrize(
    "short",
    [BertConfig(**SMALL, max_position_embeddings=8), RobertaConfig(**SMALL, max_position_embeddings=10, pad_token_id=1)],
)
def test_a_length_that_one_model_does_not_take_is_left_out_with_it(short, saved, prepare):
    tokenizer = FEW_WORDS
    short, long = saved("short", short, tokenizer), saved("long", BertConfig(**SMALL))
    facts = prepare(model=[short, long], max_length=[8, 16])
    assert [lack["values"] for lack in facts["lacks"]] == [{"model": short, "max_length": 16}]
    assert re.search(r"short' has \d+ positions", facts["lacks"][0]["reason"])
    assert len(facts["folders"]) == 3


def test_a_length_that_no_model_takes_and_a_model_that_takes_none_are_left_out_alone(saved, prepare):
    short = saved("short", BertConfig(**SMALL, max_position_embeddings=8))
    long = saved("long", BertConfig(**SMALL, max_position_embeddings=16))
    lacks = prepare(model=[short, long], max_length=[12, 32])["lacks"]
    assert [lack["values"] for lack in lacks] == [{"max_length": 32}, {"model": short}]


def test_a_length_that_the_only_model_does_not_take_is_left_out(saved, prepare):
    short = saved("short", BertConfig(**SMALL, max_position_embeddings=8))
    facts = prepare(JOB.model_copy(update={"model": short}), max_length=[8, 16])
    assert [lack["values"] for lack in facts["lacks"]] == [{"max_length": 16}]


def test_lengths_that_the_only_model_does_not_take_are_one_sentence(saved, prepare):
    short = saved("short", BertConfig(**SMALL, max_position_embeddings=8))
    with pytest.raises(ValueError, match="max_length must not exceed the 8 positions of model"):
        prepare(JOB.model_copy(update={"model": short}), max_length=[16, 32])


def test_what_one_model_lacks_is_left_out_with_it_and_what_all_lack_alone(saved, prepare):
    bert = saved("bert", BertConfig(**SMALL))
    two_layers = saved("two", BertConfig(**SMALL | {"num_hidden_layers": 2}))
    lacks = prepare(model=[bert, two_layers], frozen_layers=[0, 2, 3])["lacks"]
    assert [lack["values"] for lack in lacks] == [{"frozen_layers": 2, "model": bert}, {"frozen_layers": 3}]
    assert "1 layers" in lacks[1]["reason"]
    assert "2 layers" in lacks[1]["reason"]


def test_a_model_without_a_padding_token_pads_with_its_last_one(saved, prepare):
    tokenizer = embedded_tokenizer([review.text for review in generate_reviews(100, seed=1)])
    tokenizer.pad_token, tokenizer.eos_token = None, "[SEP]"
    decoder = saved("decoder", GPT2Config(vocab_size=len(WORDS), n_embd=8, n_layer=1, n_head=1), tokenizer)
    facts = prepare(model=[EMBEDDED, decoder])
    data = of(facts, model=decoder)
    assert data.model.pad_token_id == WORDS.convert_tokens_to_ids("[SEP]")


def test_adapters_for_layers_that_a_model_lacks_are_left_out(prepare):
    lacks = prepare(lora_rank=[None, 2, 4], lora_target_modules=["query,value", "nowhere"])["lacks"]
    assert [lack["values"] for lack in lacks] == [{"lora_target_modules": "nowhere"}]
    assert "layers that it has" in lacks[0]["reason"]
    with pytest.raises(ValueError, match="the adapters of model 'embedded' must go to layers that it has"):
        prepare(lora_rank=[2], lora_target_modules=["nowhere"])


def test_arguments_that_the_scheduler_does_not_take_are_left_out(prepare):
    wrong, right = '{"num_circles": 2}', '{"num_cycles": 2}'
    lacks = prepare(lr_scheduler_type=["cosine_with_restarts"], lr_scheduler_kwargs=[None, wrong, right])["lacks"]
    assert [lack["values"] for lack in lacks] == [{"lr_scheduler_kwargs": wrong}]
    assert "num_circles" in lacks[0]["reason"]


def test_a_trial_reads_the_data_of_its_own_model_and_length(prepare):
    facts = prepare(max_length=[8, 16])
    workload = load_workload(job_of(JOB, {"max_length": 8}), facts["folders"])
    with pytest.raises(KeyError):
        load_workload(job_of(JOB, {"max_length": 9}), facts["folders"])
    assert workload is not None


def test_too_many_lengths_are_refused_before_any_is_prepared(prepare):
    with pytest.raises(ValueError, match="at most 32 in all, got 100; search fewer"):
        prepare(max_length=list(range(4, 104)))
