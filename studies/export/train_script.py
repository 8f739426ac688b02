"""The exported `train.py`: the job's own steps, written out for transformers and datasets alone.

Only what the job needs is written: one way to read the data, one way to build the model. What it does mirrors
`objectives/trainers/` and `objectives/trial/session.py`, so that it reaches the accuracy that the study measured.
"""

import json
from pathlib import Path

from tradeoff.objectives.job.arguments import job_of_data, padding
from tradeoff.objectives.job.settings import EMBEDDED, RANDOM_TOKENS, TextClassificationJob
from tradeoff.searchspace import TrialParameters

# As `tradeoff.objectives.trainers.models` tells a folder with weights, which is not imported because it imports torch.
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "*.safetensors.index.json")

_HEAD = '''"""Trains the configuration that tradeoff chose: {title}.

Needs transformers and datasets. Reads training_args.json beside it, writes the model into the folder `model` beside it.

    {command}
"""

import json
{imports}
FOLDER = Path(__file__).resolve().parent
{processes}{deterministic}'''

_PROCESSES = """
# With another number the effective batch, and with it the accuracy, would be another one.
if os.environ.get("WORLD_SIZE") != "{num}":
    raise SystemExit("this configuration trains on {num} devices together: {command}")
"""

_ONE_PROCESS = """
# With more devices the effective batch, and with it the accuracy, would be another one: Trainer uses all that it sees.
if os.environ.get("WORLD_SIZE", "1") != "1":
    raise SystemExit("this configuration trains on one device: {command}")
os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
"""

DETERMINISTIC = """
# As in the study: kernels that repeat their results, where torch has them.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
torch.use_deterministic_algorithms(True, warn_only=True)
torch.utils.deterministic.fill_uninitialized_memory = False
"""

_EMBEDDED_DATA = """
train = Dataset.from_list([json.loads(line) for line in (FOLDER / "train.jsonl").open(encoding="utf-8")])
"""
_EMBEDDED_EVAL = """\
evaluation = Dataset.from_list([json.loads(line) for line in (FOLDER / "eval.jsonl").open(encoding="utf-8")])
"""

_READERS = {
    "hub": """

def read(split):
    return load_dataset({dataset}, {config}, split=split)
""",
    ".csv": """

def read(path):
    # Only an empty field is missing: a text may well say "None" or "N/A".
    return Dataset.from_pandas(pd.read_csv(path, dtype={{{text}: str}}, keep_default_na=False, na_values=[""]))
""",
    ".json": """

def read(path):
    lines = Path(path).read_text(encoding="utf-8").strip()
    rows = json.loads(lines) if lines.startswith("[") else [json.loads(line) for line in lines.split("\\n") if line.strip()]
    return Dataset.from_list([{{name: row[name] for name in ({text}, {label})}} for row in rows])
""",
    ".parquet": """

def read(path):
    return Dataset.from_parquet(path, columns=[{text}, {label}])
""",
}

_LABELS = """
# Labels count from 0 or, as stars, from 1; both parts of the data tell which.
labels = {{int(float(label)) for part in parts for label in part.unique({label})}}
first = 1 if 0 not in labels and {num_labels} in labels else 0
parts = [part.shuffle(seed={data_seed}) for part in parts]
"""

_ENCODE = """

def encode(batch):
    columns = dict(tokenizer(batch[{text}], truncation=True, max_length={max_length}, padding={padding}))
    return columns | {{"labels": {labels}}}


train = train.map(encode, batched=True, remove_columns=train.column_names)
"""

_COMPUTE_METRICS = """

def compute_metrics(prediction):
    logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
    return {"accuracy": float((logits.argmax(-1) == prediction.label_ids).mean())}

"""

_TRAIN = """
settings = json.loads((FOLDER / "training_args.json").read_text(encoding="utf-8"))
trainer = Trainer(
    model=model,
    args=TrainingArguments(**(settings | {{"output_dir": str(FOLDER / "model")}})),
    train_dataset=train,
    data_collator={collator},{evaluation}
)
trainer.train()
trainer.save_model()
trainer.save_state()
if trainer.is_world_process_zero():
    tokenizer.save_pretrained(trainer.args.output_dir)
"""

_SHOW = """\
    # The last epoch's evaluation{expected}.
    print("accuracy", next(line["eval_accuracy"] for line in reversed(trainer.state.log_history) if "eval_accuracy" in line))
"""


def on_devices(num_processes: int) -> str:
    """What a script says first: that it trains on as many devices as the trial did."""
    text = _ONE_PROCESS if num_processes == 1 else _PROCESSES
    return text.format(num=num_processes, command=launch_command(num_processes))


def launch_command(num_processes: int) -> str:
    """How `train.py` is started."""
    return "python train.py" if num_processes == 1 else f"torchrun --nproc_per_node {num_processes} train.py"


def train_script(
    job: TextClassificationJob, parameters: TrialParameters, *, title: str, expected: str | None, num_processes: int = 1
) -> str:
    """The text of `train.py`.

    Args:
        job: The job of the study.
        parameters: What was chosen; most of it is in `training_args.json`, padding and attention are not.
        title: What was chosen, in words.
        expected: The study's accuracy and where it comes from, in words; None where it has none.
        num_processes: Devices that train together.

    Raises:
        ValueError: The job's data are random tokens, from which nothing can be learned.
    """
    if job.dataset == RANDOM_TOKENS:
        raise ValueError("random tokens measure time and memory and teach nothing: there is no train.py for them")
    is_padded_later = job_of_data(job, parameters.as_dict()).padding != "max_length"
    names = ("text", "label") if job.dataset == EMBEDDED else (job.text_column, job.label_column)
    text, label = _literal(names[0]), _literal(names[1])
    parts = [
        _HEAD.format(
            title=title.replace("\\", "").replace('"', "'"),
            command=launch_command(num_processes),
            imports=_imports(job, is_padded_later=is_padded_later),
            processes=on_devices(num_processes),
            deterministic=DETERMINISTIC if job.deterministic else "",
        ),
        _data(job, text, label),
        _model(job, text, attention=parameters.attn_implementation),
        _ENCODE.format(
            text=text,
            max_length=job.max_length,
            padding=False if is_padded_later else _literal("max_length"),
            labels=f"batch[{label}]" if job.dataset == EMBEDDED else f"[int(float(label)) - first for label in batch[{label}]]",
        ),
    ]
    if job.evaluates:
        parts += [
            "evaluation = evaluation.map(encode, batched=True, remove_columns=evaluation.column_names)\n",
            _COMPUTE_METRICS,
        ]
    parts.append(
        _TRAIN.format(
            collator=_collator(job, parameters) if is_padded_later else "default_data_collator",
            evaluation="\n    eval_dataset=evaluation,\n    compute_metrics=compute_metrics," if job.evaluates else "",
        )
    )
    if job.evaluates:
        parts.append(_SHOW.format(expected="" if expected is None else f"; the study has {expected}"))
    return "".join(parts)


def embedded_module() -> str:
    """The module that makes the embedded model and its tokenizer, to stand beside `train.py`."""
    # Read and not imported, since it imports transformers. Its default texts are the one thing that it has from elsewhere,
    # and train.py always names texts.
    source = Path(__file__).parents[2].joinpath("objectives", "trainers", "embedded.py").read_text(encoding="utf-8")
    lines = [line for line in source.splitlines(keepends=True) if not line.startswith("from objectives.")]
    return "".join(lines)


def _collator(job: TextClassificationJob, parameters: TrialParameters) -> str:
    kept = "" if padding(job, parameters) == "longest" else f', padding="max_length", max_length={job.max_length}'
    return f"DataCollatorWithPadding(tokenizer{kept})"


def _imports(job: TextClassificationJob, *, is_padded_later: bool) -> str:
    is_csv = job.is_local_file and Path(job.dataset).suffix.lower() == ".csv"
    from_datasets = "load_dataset" if not job.is_local_file and job.dataset != EMBEDDED else "Dataset"
    names = ["AutoModelForSequenceClassification", "Trainer", "TrainingArguments", "set_seed"]
    names.append("DataCollatorWithPadding" if is_padded_later else "default_data_collator")
    if job.model != EMBEDDED:
        names.append("AutoTokenizer")
        names += ["AutoConfig"] if _has_no_weights(job) else []
    lines = ["import os\n", "from pathlib import Path\n", "\n"]
    lines += ["import pandas as pd\n"] if is_csv else []
    lines += ["import torch\n", f"from datasets import {from_datasets}\n"]
    lines += ["from embedded_model import embedded_model_config, embedded_tokenizer\n"] if job.model == EMBEDDED else []
    lines.append("from transformers import (\n" + "".join(f"    {name},\n" for name in sorted(names)) + ")\n")
    return "".join(lines)


def _data(job: TextClassificationJob, text: str, label: str) -> str:
    """Reads `train` and, where the job evaluates, `evaluation`: the samples that the study picked."""
    if job.dataset == EMBEDDED:
        return _EMBEDDED_DATA + (_EMBEDDED_EVAL if job.evaluates else "")
    if job.is_local_file:
        suffix = Path(job.dataset).suffix.lower()
        reader = _READERS[".json" if suffix == ".jsonl" else suffix]
        sources = [_absolute(name) for name in (job.dataset, job.eval_dataset if job.evaluates else None) if name is not None]
    else:
        reader = _READERS["hub"]
        sources = [job.train_split, *([job.eval_split] if job.evaluates and job.eval_split != job.train_split else [])]
    lines = [
        reader.format(dataset=_literal(job.dataset), config=_literal(job.dataset_config), text=text, label=label),
        f"\n\nparts = [{', '.join(f'read({_literal(source)})' for source in sources)}]",
        _LABELS.format(label=label, num_labels=job.num_labels, data_seed=job.data_seed),
    ]
    if len(sources) == 2:
        lines.append(f"train = parts[0]{_first(job.train_samples)}\nevaluation = parts[1]{_first(job.eval_samples)}\n")
        return "".join(lines)
    if job.train_samples is not None:
        lines.append(f"num_train = {job.train_samples}\n")
    else:
        lines.append(f"num_train = max(1, len(parts[0]) - {job.eval_samples or 0})\n")
    lines.append("train = parts[0].select(range(num_train))\n")
    if job.evaluates:
        end = "len(parts[0])" if job.eval_samples is None else f"num_train + {job.eval_samples}"
        lines.append(f"evaluation = parts[0].select(range(num_train, {end}))\n")
    return "".join(lines)


# As in a trial (`objectives.trainers.models.build_model`): the loss of accumulated micro-batches is a mean and not a sum.
_LOSS_SCALING = "model.accepts_loss_kwargs = False  # huggingface/transformers#47688\n"


def _model(job: TextClassificationJob, text: str, *, attention: str | None) -> str:
    """Builds `tokenizer` and `model`."""
    chosen = "" if attention is None else f", attn_implementation={_literal(attention)}"
    seed = f"set_seed({job.seed})  # weights that are not loaded are drawn from this seed\n"
    if job.model == EMBEDDED:
        sizes = f"vocab_size=len(tokenizer), max_length={job.max_length}, num_labels={job.num_labels}"
        return (
            f"\ntokenizer = embedded_tokenizer(train[{text}])\nconfig = embedded_model_config({sizes})\n{seed}"
            f"model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32{chosen})\n{_LOSS_SCALING}"
        )
    local = Path(job.model).expanduser()
    name = _literal(str(local.resolve()) if local.is_dir() else job.model)
    trust = ", trust_remote_code=True" if job.trust_remote_code else ""
    options = f"num_labels={job.num_labels}, pad_token_id=tokenizer.pad_token_id{trust}"
    model = f"AutoModelForSequenceClassification.from_pretrained({name}, dtype=torch.float32, {options}{chosen})"
    if _has_no_weights(job):
        config = f"config = AutoConfig.from_pretrained({name}, {options})\n"
        model = f"AutoModelForSequenceClassification.from_config(config, dtype=torch.float32{trust}{chosen})"
    else:
        config = ""
    return (
        f"\ntokenizer = AutoTokenizer.from_pretrained({name}{trust})\n"
        "if tokenizer.pad_token is None:\n    tokenizer.pad_token = tokenizer.eos_token\n"
        f"{config}{seed}model = {model}\n{_LOSS_SCALING}"
    )


def _has_no_weights(job: TextClassificationJob) -> bool:
    """Whether the model is a local folder with a configuration alone, whose weights are drawn from the seed."""
    folder = Path(job.model).expanduser()
    return folder.is_dir() and not any(next(folder.glob(pattern), None) for pattern in _WEIGHTS)


def _literal(value: str | None) -> str:
    """The value as Python source, in double quotes."""
    return "None" if value is None else json.dumps(value, ensure_ascii=False)


def _first(num_samples: int | None) -> str:
    return "" if num_samples is None else f".select(range({num_samples}))"


def _absolute(name: str) -> str:
    """A local file's path as it can be found from anywhere; as it was written where it is not here."""
    path = Path(name).expanduser()
    return str(path.resolve()) if path.exists() else name
