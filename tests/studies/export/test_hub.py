"""The model card as the Hub's own library reads it, and the upload, against a Hub on this machine."""

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from exported_studies import TINY, made_up
from huggingface_hub import ModelCard, constants
from stored_studies import params, record

from tradeoff.objectives.job.jobs import TextClassificationJob
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.export.export import export
from tradeoff.studies.export.hub import check_push, write_model_card
from tradeoff.studies.results.selection import Selection, choose

HUB = TextClassificationJob(model="google/bert-tiny", dataset="Yelp/yelp_review_full", eval_split="test", train_samples=100)
CHOSEN = record(3, (0.71, 10.0, 1000.0), params(8), accuracy_std=0.01)


def exported(folder: Path, job: TextClassificationJob = HUB, **changed: Any) -> Path:
    results = replace(made_up(CHOSEN, job=job), **changed)
    export(results, choose(results, Selection(trial=3)), folder)
    return folder


def test_the_hub_reads_the_model_the_data_and_the_measured_values_of_the_card(tmp_path: Path) -> None:
    card = ModelCard.load(exported(tmp_path / "chosen") / "README.md").data
    assert (card.base_model, card.datasets) == ("google/bert-tiny", ["Yelp/yelp_review_full"])
    (result,) = card.eval_results
    assert (card.model_name, result.task_type, result.metric_type) == ("stars", "text-classification", "accuracy")
    assert (result.metric_value, result.dataset_type, result.dataset_split) == (0.71, "Yelp/yelp_review_full", "test")


def test_generated_and_local_data_has_results_without_a_name_of_the_hub(tmp_path: Path) -> None:
    card = ModelCard.load(exported(tmp_path / "chosen", TINY, name="a study <b>") / "README.md").data
    assert (card.model_name, card.eval_results[0].dataset_type) == ("a-study-b-", "generated")


def test_the_card_of_a_trained_model_has_what_its_own_training_measured(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    write_model_card(exported(tmp_path / "chosen"), tmp_path / "model", {"accuracy": 0.66}, ["accuracy 0.660 (expected 0.710)"])
    card = ModelCard.load(tmp_path / "model" / "README.md")
    assert card.data.eval_results[0].metric_value == 0.66
    assert "- accuracy 0.660 (expected 0.710)" in card.text
    assert "train.py" not in card.text


def test_run_classification_reads_its_file_as_it_is(tmp_path: Path) -> None:
    from transformers import HfArgumentParser, TrainingArguments

    @dataclass
    class ModelArguments:  # the script's, as far as an export sets them
        model_name_or_path: str = field()
        trust_remote_code: bool = False

    @dataclass
    class DataTrainingArguments:
        dataset_name: str | None = None
        train_split_name: str | None = None
        validation_split_name: str | None = None
        text_column_names: str | None = None
        label_column_name: str | None = None
        max_seq_length: int = 128
        pad_to_max_length: bool = True
        shuffle_train_dataset: bool = False
        shuffle_seed: int = 42
        max_train_samples: int | None = None
        max_eval_samples: int | None = None

    folder = exported(tmp_path / "chosen")
    parser = HfArgumentParser((ModelArguments, DataTrainingArguments, TrainingArguments))
    model, data, training = parser.parse_json_file(str(folder / "run_classification.json"))
    assert (model.model_name_or_path, data.dataset_name) == (HUB.model, HUB.dataset)
    assert (data.train_split_name, data.validation_split_name, data.max_train_samples) == (None, "test", 100)
    assert (training.do_train, training.do_eval, training.per_device_train_batch_size) == (True, True, 8)
    (alone,) = HfArgumentParser(TrainingArguments).parse_json_file(str(folder / "training_args.json"))
    assert (alone.do_train, alone.do_eval) == (True, True)


def test_what_run_classification_has_no_option_for_has_no_file_for_it(tmp_path: Path) -> None:
    assert not (exported(tmp_path / "a", TINY) / "run_classification.json").exists()
    assert not (exported(tmp_path / "b", HUB.model_copy(update={"dropout": 0.2})) / "run_classification.json").exists()


@pytest.mark.parametrize("repo", ["", "a/b/c", "-x", "a b"])
def test_a_name_that_no_repository_can_have_is_refused(repo: str) -> None:
    with pytest.raises(TradeoffError, match=r"^--push must be the name of a repository"):
        check_push(repo)


def test_without_a_login_or_a_hub_nothing_is_trained_to_be_uploaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    with pytest.raises(TradeoffError, match=r"^--push needs a login to the Hub"):
        check_push("ada/reviews")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(TradeoffError, match=r"^--push needs the Hub, and HF_HUB_OFFLINE"):
        check_push("ada/reviews")


class Hub(BaseHTTPRequestHandler):
    """What an upload asks of the Hub; every file is a small one."""

    requests: ClassVar[list[tuple[str, bytes]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.requests.append((self.path, body))
        here = f"http://{self.headers['Host']}"
        answer: dict[str, Any] = {}
        if self.path == "/api/repos/create":
            answer = {"url": f"{here}/ada/reviews", "name": "ada/reviews", "id": "1"}
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            answer = {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]}
        elif "/commit/" in self.path:
            answer = {"commitUrl": f"{here}/ada/reviews/commit/1", "commitOid": "1", "success": True}
        self.reply(200, answer)

    def do_GET(self) -> None:
        self.reply(404, {"error": "not found"})

    def reply(self, status: int, answer: Any) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    Hub.requests = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def pushed(folder: Path, endpoint: str) -> subprocess.CompletedProcess[str]:
    code = "from pathlib import Path; from tradeoff.studies.export.hub import check_push, push; check_push('ada/reviews')\n"
    code += f"print(push(Path({str(folder)!r}), 'ada/reviews', leave_out=['secret.json']))"
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_TOKEN": "hf_made_up", "HF_HUB_DISABLE_XET": "1"}
    environment.pop("HF_HUB_OFFLINE", None)
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


def test_a_model_is_uploaded_to_a_private_repository(tmp_path: Path, endpoint: str) -> None:
    for name in ("model.safetensors", "README.md", "secret.json"):
        (tmp_path / name).write_text(f"{name} of the model\n" if name != "README.md" else "---\nlicense: mit\n---\n")
    done = pushed(tmp_path, endpoint)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{endpoint}/ada/reviews/commit/1"
    made = next(json.loads(body) for path, body in Hub.requests if path == "/api/repos/create")
    assert made["visibility"] == "private"
    lines = next(body for path, body in Hub.requests if "/commit/" in path).decode().splitlines()
    files = {each["value"]["path"]: each["value"]["content"] for each in map(json.loads, lines) if each["key"] == "file"}
    assert files.keys() == {"model.safetensors", "README.md"}
    assert base64.b64decode(files["model.safetensors"]) == b"model.safetensors of the model\n"


def test_a_hub_that_can_not_be_reached_leaves_the_model_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("weights")
    done = pushed(tmp_path, "http://127.0.0.1:9")
    assert "could not be uploaded to ada/reviews" in done.stderr
    assert f"hf upload ada/reviews {tmp_path}" in done.stderr
