"""Functions for `job.build`: trainings of other tasks than the built-in ones, on tiny models and random data."""

import functools

import numpy as np
import torch
from datasets import Dataset
from transformers import (
    BertConfig,
    BertForTokenClassification,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    ViTConfig,
    ViTForImageClassification,
)

WORDS, TAGS, LENGTH, ROWS = 500, 7, 64, 24


@functools.cache
def texts(*columns):
    """Rows of random tokens, each column shorter with every row."""
    rows = np.random.default_rng(0).integers(1, WORDS, (ROWS, LENGTH)).tolist()
    return Dataset.from_list([dict.fromkeys(columns, tokens[: LENGTH - index]) for index, tokens in enumerate(rows)])


def padded(rows, **fills):
    """A batch of rows as long as their longest."""
    longest = max(len(row["input_ids"]) for row in rows)
    return {
        name: torch.tensor([row[name] + [fill] * (longest - len(row[name])) for row in rows]) for name, fill in fills.items()
    }


def tags(args):
    """Token classification, whose evaluation keeps the tags' scores of every token."""
    config = BertConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=256, vocab_size=WORDS, num_labels=TAGS
    )
    data = texts("input_ids", "attention_mask", "labels").map(
        lambda row: {"labels": [token % TAGS for token in row["labels"]], "attention_mask": [1] * len(row["labels"])}
    )
    return Trainer(
        model=BertForTokenClassification(config),
        args=args,
        train_dataset=data,
        eval_dataset=data,
        data_collator=functools.partial(padded, input_ids=0, attention_mask=0, labels=-100),
        compute_metrics=lambda prediction: {"right": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())},
    )


def translation(args):
    """A sequence to sequence model, with a Trainer and arguments of their own classes."""
    config = T5Config(
        d_model=64, d_kv=32, d_ff=256, num_layers=2, num_heads=2, vocab_size=WORDS, decoder_start_token_id=0, pad_token_id=0
    )
    return Seq2SeqTrainer(
        model=T5ForConditionalGeneration(config),
        args=Seq2SeqTrainingArguments(**args.to_dict()),
        train_dataset=texts("input_ids", "labels"),
        data_collator=functools.partial(padded, input_ids=0, labels=-100),
    )


class Weighted(Trainer):
    """A loss of its own, in which half of the classes count twice."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return the weighted loss."""
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        weights = torch.ones(outputs.logits.size(-1)).index_fill_(0, torch.arange(2), 2.0)
        loss = torch.nn.functional.cross_entropy(outputs.logits, labels, weight=weights)
        return (loss, outputs) if return_outputs else loss


@functools.cache
def pixels():
    """The values of random images."""
    return torch.rand(ROWS, 3, 32, 32)


def images(args):
    """Images, which have no length."""
    config = ViTConfig(
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=512,
        image_size=32,
        patch_size=8,
        num_labels=4,
    )
    return Weighted(
        model=ViTForImageClassification(config),
        args=args,
        train_dataset=[{"pixel_values": pixels()[row], "labels": row % 4} for row in range(ROWS)],
    )


def by_value(args):
    """A loss that depends on the values of the data."""
    trainer = images(args)

    class ByValue(Weighted):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            loss = super().compute_loss(model, inputs, False, num_items_in_batch)
            return loss if loss.item() > 0 else 2 * loss

    return ByValue(model=trainer.model, args=args, train_dataset=trainer.train_dataset)


def broken(args):
    """A function that fails."""
    raise RuntimeError("no such data")
