"""The model card of a trained model, and its upload to the Hugging Face Hub, which happens only where the user asks for it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import shorten

from tradeoff.studies.errors import TradeoffError

CARD = "README.md"
# The export's card ends with how it is trained, which is not about the model.
_END = "\n## Training again\n"


def write_model_card(
    export: Path, output: Path, measured: Mapping[str, float], lines: Sequence[str], *, is_merged: bool = False
) -> None:
    """Write the card of an export beside a model that was trained from it, with what that training measured.

    Args:
        export: The directory that `tradeoff export` wrote; without a card, none is written.
        output: The model's directory.
        measured: The measurements of the training, by name.
        lines: The same beside what was expected, in words.
        is_merged: True if the adapters that the export speaks of are a part of the model now.
    """
    from huggingface_hub import ModelCard

    if not (export / CARD).is_file():
        return
    text = (export / CARD).read_text(encoding="utf-8").partition(_END)[0]
    text += "\n## Measured in this training\n\n" + "".join(f"- {line}\n" for line in lines)
    card = ModelCard(text, ignore_metadata_errors=True)
    for result in getattr(card.data, "eval_results", None) or ():
        for name in (result.metric_type, f"eval_{result.metric_type}"):
            if name in measured:
                result.metric_value = measured[name]
    if is_merged:
        card.data["library_name"] = "transformers"
        card.data.pop("tags", None)
    card.save(output / CARD)


def check_push(repo: str) -> None:
    """Check that a model could be uploaded, before it is trained.

    Raises:
        TradeoffError: The name is none of a repository, the Hub is switched off, or nobody is logged in.
    """
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise TradeoffError(f"--push must be the name of a repository, such as ada/reviews, got {repo!r}: {error}") from None
    if constants.is_offline_mode():
        raise TradeoffError("--push needs the Hub, and HF_HUB_OFFLINE switches it off; unset that, or leave --push out")
    if get_token() is None:
        raise TradeoffError("--push needs a login to the Hub, and there is none; run hf auth login, or set HF_TOKEN")


def push(output: Path, repo: str, *, leave_out: Sequence[str]) -> str:
    """Upload a model to a repository of the Hub, which is made if it does not exist, private.

    Args:
        output: The model's directory.
        repo: The repository.
        leave_out: Files that stay here.

    Returns:
        The address of the upload.

    Raises:
        TradeoffError: The Hub refuses it, or can't be reached; the model stays where it is.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        name = api.create_repo(repo, private=True, exist_ok=True).repo_id
        done = api.upload_folder(
            repo_id=name, folder_path=output, ignore_patterns=list(leave_out), commit_message="Trained by tradeoff"
        )
    except Exception as error:
        reason = shorten(f"{type(error).__name__}: {error}", 300)
        raise TradeoffError(
            f"the model is in {output}, and could not be uploaded to {repo} ({reason}); hf upload {repo} {output} does it later"
        ) from error
    return str(done.commit_url)
