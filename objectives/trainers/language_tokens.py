"""The tokens of a language model's data, as TRL makes them: its chat templates, and labels on the answers alone.

An export holds this file for its `train.py`, so nothing of ours is imported here.
"""

import tempfile
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM

# A label that is no part of the loss.
IGNORED = -100


def all_words(samples: Any) -> list[str]:
    """Return the texts of samples, whatever their columns."""
    found = []
    for name in samples.column_names:
        for value in samples[name]:
            found += [value] if isinstance(value, str) else [message["content"] for message in value or ()]
    return found


def with_answers_apart(samples: Any, tokenizer: Any) -> tuple[Any, bool]:
    """Return samples of which TRL can tell the answers, and whether it can tell every answer of a conversation.

    To train on each turn of the assistant, a chat template must mark it; TRL knows how for many. Of other templates the last
    turn alone is the answer, and all before it is the prompt.

    Args:
        samples: With the columns `text`, `prompt` and `completion`, or `messages`.
        tokenizer: The model's.
    """
    if "messages" not in samples.column_names:
        return samples, True
    from trl import get_training_chat_template

    try:
        get_training_chat_template(tokenizer)
    except ValueError:
        apart = samples.map(
            lambda row: {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]},
            remove_columns="messages",
            keep_in_memory=True,
        )
        return apart, False
    return samples, True


def tokenised(samples: Any, tokenizer: Any) -> Any:
    """Return the tokens of samples and the labels that count, at full length.

    Args:
        samples: What `with_answers_apart` returned.
        tokenizer: The model's.

    Returns:
        Columns `input_ids` and `labels`, of which those outside an answer are `IGNORED`.

    Raises:
        ValueError: The chat template can't render them.
    """
    from trl import SFTConfig, SFTTrainer

    with tempfile.TemporaryDirectory(prefix="tradeoff-") as folder:
        arguments = SFTConfig(
            output_dir=folder,
            max_length=None,
            bf16=False,
            gradient_checkpointing=False,
            assistant_only_loss="messages" in samples.column_names,
            report_to="none",
        )
        # TRL tokenises in a Trainer, and its model is not looked at: the smallest that there can be.
        size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
        model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **size))
        trainer = SFTTrainer(model=model, args=arguments, train_dataset=samples, processing_class=tokenizer)
        return trainer.train_dataset.select_columns(["input_ids", "labels"])


def cut(samples: Any, max_length: int) -> Any:
    """Return samples of at most `max_length` tokens, with a column `length`."""
    table = samples.with_format(None).data.table.combine_chunks()
    columns = {name: _first(table[name], max_length) for name in ("input_ids", "labels")}
    return Dataset(pa.table(columns | {"length": pc.list_value_length(columns["input_ids"])}))


def _first(lists: Any, most: int) -> Any:
    array = lists.combine_chunks() if isinstance(lists, pa.ChunkedArray) else lists
    return pc.list_slice(array.cast(pa.list_(pa.int64())), 0, most)


def packed(samples: Any, max_length: int) -> Any:
    """Return the samples put together into sequences of at most `max_length` tokens, which don't see each other there."""
    from trl import pack_dataset

    together = pack_dataset(samples.select_columns(["input_ids", "labels"]), max_length, "bfd")
    return together.add_column("length", [sum(lengths) for lengths in together["seq_lengths"]])


def num_counted(samples: Any) -> list[int]:
    """Return the number of tokens of each sample whose prediction counts: labelled, and not the first one."""
    return [sum(label != IGNORED for label in labels[1:]) for labels in samples.with_format(None)["labels"]]


def num_characters(samples: Any, tokenizer: Any) -> int:
    """Return the number of characters of the text whose prediction counts."""
    texts = ([label for label in labels[1:] if label != IGNORED] for labels in samples.with_format(None)["labels"])
    return sum(len(tokenizer.decode(tokens, skip_special_tokens=True)) for tokens in texts)
