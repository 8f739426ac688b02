"""The samples of a language model: texts or conversations in its tokens, cut to length, and packed where that is asked for."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tradeoff.objectives.data.conversations import language_texts
from tradeoff.objectives.job.jobs import CausalLMJob
from tradeoff.objectives.trainers.language_tokens import (
    all_words,
    cut,
    num_characters,
    num_counted,
    packed,
    tokenised,
    with_answers_apart,
)
from tradeoff.objectives.trainers.model_files import JobFault, LengthFault, first_line
from tradeoff.objectives.trainers.models import resolve_model
from tradeoff.objectives.trainers.samples.samples import Samples


def language_samples(job: CausalLMJob, model_folder: Path, cache_folder: Path) -> Samples:
    """Load, check and tokenise a job's texts.

    Args:
        job: The job.
        model_folder: Where what belongs to the model is saved, such as its tokenizer.
        cache_folder: Holds what is made of a GGUF file.

    Raises:
        ValueError: The data or the model can't be used as the job says.
    """
    texts = language_texts(job)
    source, tokenizer = resolve_model(job, all_words(texts.train), model_folder, cache_folder)
    if not isinstance(texts.train[0][texts.train.column_names[0]], str) and not tokenizer.chat_template:
        raise JobFault(
            f"the tokenizer of model {job.model!r} must have a chat template for conversations, and has none; choose a model"
            " that was trained on conversations, or give it `text`, or a `prompt` and a `completion` that are texts"
        )
    whole: dict[str, Any] = {}
    notices = list(texts.notices)
    for name, part in (("train", texts.train), ("eval", texts.eval)):
        if part is None:
            continue
        apart, tells_all = with_answers_apart(part, tokenizer)
        try:
            whole[name] = tokenised(apart, tokenizer)
        except Exception as error:  # of any type: a template is a program that a model's authors have written
            raise JobFault(
                f"the chat template of model {job.model!r} must render every conversation, and fails ({first_line(error)});"
                " check the roles that it knows and their order"
            ) from error
        if not tells_all and name == "train":
            notices.append(
                f"the chat template of model {job.model!r} does not mark answers: only the last one of a conversation counts"
            )
    parts = {"train": cut(whole["train"], job.max_length)}
    notices += _check_counted(num_counted(parts["train"]), "training", "max_length", job.max_length)
    if "eval" in whole:
        longest = job.eval_max_length or job.max_length
        evaluated = cut(whole["eval"], longest)
        counted = num_counted(evaluated)
        notices += _check_counted(counted, "evaluation", "eval_max_length", longest)
        parts["eval"] = evaluated.select([row for row, number in enumerate(counted) if number])
    facts: dict[str, Any] = {"notices": notices}
    if "eval" in parts:
        facts["num_characters"] = num_characters(parts["eval"], tokenizer)
        facts["longest_eval"] = max(map(len, whole["eval"].with_format(None)["input_ids"]))
    if job.packing:
        parts["packed"] = packed(parts["train"], job.max_length)
        facts["num_packed"] = len(parts["packed"])
    return Samples(model=source, parts=parts, contents=texts.contents, facts=facts)


def _check_counted(counted: Sequence[int], name: str, key: str, max_length: int) -> list[str]:
    """Refuse samples that are cut before any answer begins; return a line if some are."""
    lost = sum(number == 0 for number in counted)
    if lost == len(counted):
        raise LengthFault(
            f"{key} must leave some of an answer in the {name} samples, and no answer begins within {max_length} tokens;"
            " raise it",
            reason=f"no answer of the {name} samples begins within {max_length} tokens",
        )
    if lost:
        return [f"{lost} of {len(counted)} {name} samples are cut at {max_length} tokens before their answer begins"]
    return []
