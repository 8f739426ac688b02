"""Creates a study or resumes one, and refuses to mix measurements that can't be compared."""

import warnings
from collections.abc import Mapping
from typing import Any

import optuna

from tradeoff.objectives.data.contents import BUILD, named
from tradeoff.objectives.device.registry import device_class
from tradeoff.objectives.job.jobs import CustomJob
from tradeoff.objectives.job.settings import EMBEDDED, is_local_data
from tradeoff.objectives.measurements.goals import GOALS
from tradeoff.studies.config.study import StudyConfig, differences
from tradeoff.studies.environment import library_versions, tradeoff_version
from tradeoff.studies.errors import OtherDeviceError, TradeoffError
from tradeoff.studies.storage.opening import SCHEMA, SCHEMA_ATTRIBUTE, check_schema
from tradeoff.studies.storage.retrying import RetryingStorage
from tradeoff.studies.storage.stored_study import StoredStudy

# What trials of one study must share for its front to mean anything.
FIXED_KEYS = ("job", "space", "objectives", "devices_per_trial")
FIXED_LIMITS = ("peak_memory_mib", "effective_batch_size")
# The study's user attribute that holds the fingerprints of its data and its model.
CONTENTS = "contents"


def open_study(
    config: StudyConfig, storage: RetryingStorage, device: Mapping[str, Any], contents: Mapping[str, str] | None = None
) -> StoredStudy:
    """Create the study of `config` in `storage`, or load it to resume it.

    Args:
        config: The study.
        storage: Where it is stored.
        device: What it is measured on.
        contents: The fingerprints of what its data and its model hold; None where nothing was read.

    Raises:
        TradeoffError: A study of this name exists with another job, space, objectives, memory limit, device or content of its
            data; the sentence lists the differences. Or another version of tradeoff created it, which stored trials in
            another way.
    """
    directions = [GOALS[name].direction for name in config.objectives]
    optuna.create_study(study_name=config.name, storage=storage, directions=directions, load_if_exists=True)
    study = StoredStudy(config.name, storage)
    stored = study.user_attrs
    if "config" in stored:
        _check_same(config, stored)
        check_device(config.name, stored["device"], device)
        if contents is not None:
            check_contents(study, config, contents)
    elif study.get_trials(deepcopy=False) or [direction.name.lower() for direction in study.directions] != directions:
        raise TradeoffError(f"the study {config.name!r} was not created by tradeoff; choose another name")
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(list(config.objectives))
        study.set_user_attr("device", dict(device))
        study.set_user_attr("versions", library_versions())
        study.set_user_attr("tradeoff_version", tradeoff_version())
        study.set_user_attr(SCHEMA_ATTRIBUTE, SCHEMA)
        study.set_user_attr(CONTENTS, dict(contents or {}))
    # Written last: a study that holds it is complete. The number of trials and the sampler may change from run to run.
    study.set_user_attr("config", config.plain())
    return study


def stored_device(config: StudyConfig, storage: RetryingStorage) -> Mapping[str, Any] | None:
    """Return the device that the study of `config` was measured on; None if there is no such study yet.

    Raises:
        TradeoffError: The study was created with another job, space, objectives or memory limit.
    """
    if config.name not in optuna.get_all_study_names(storage):
        return None
    stored = StoredStudy(config.name, storage).user_attrs
    if "config" not in stored:
        return None  # it is just being created, or was not created by tradeoff
    _check_same(config, stored)
    device: Mapping[str, Any] = stored["device"]
    return device


def _check_same(config: StudyConfig, stored: Mapping[str, Any]) -> None:
    check_schema(config.name, stored)
    # What it was stored without, it has by default.
    old, new = StudyConfig.model_validate(stored["config"]).plain(), config.plain()
    lines = differences(_fixed(old), _fixed(new))
    lines += differences(
        {"limits": {key: old["limits"][key] for key in FIXED_LIMITS}},
        {"limits": {key: new["limits"][key] for key in FIXED_LIMITS}},
    )
    if lines:
        raise TradeoffError(
            f"the study {config.name!r} exists with other settings; choose another name, or set these back: " + "; ".join(lines)
        )


def check_device(name: str, measured_on: Mapping[str, Any], device: Mapping[str, Any]) -> None:
    """Refuse a device whose measurements can't be compared with those of a study.

    Raises:
        OtherDeviceError: It is another model, or on a CPU a trial has another number of processors.
    """
    if (ours := device["name"]) != (theirs := measured_on["name"]):
        raise OtherDeviceError(
            f"the study {name!r} was measured on {theirs}, and this machine has {ours}: times and memory can't be compared;"
            " choose another name"
        )
    if device.get("memory_measure", 1) != measured_on.get("memory_measure", 1):
        raise OtherDeviceError(
            f"the study {name!r} was measured by another version of tradeoff, which counts memory differently: the old and the"
            " new can't be compared; choose another name"
        )
    ours, theirs = device.get("num_cpus"), measured_on.get("num_cpus")
    if device_class(device).uses_host_processors and None not in (ours, theirs) and ours != theirs:
        processors = "1 processor" if theirs == 1 else f"{theirs} processors"
        raise OtherDeviceError(
            f"the study {name!r} was measured with {processors} per trial, and here a trial has {ours}: times can't be"
            " compared; set --workers to match, or choose another name"
        )


def check_contents(study: StoredStudy, config: StudyConfig, contents: Mapping[str, str]) -> None:
    """Refuse data or a model whose content is not that which a study has measured.

    Args:
        study: The study.
        config: Its configuration, which names the files.
        contents: The fingerprints of what is here, by part: `train`, `eval`, `model`, or `kwargs.NAME` of a custom job. Those
            that the study lacks are stored with it.

    Raises:
        TradeoffError: A part differs; the sentence names it.
    """
    stored = study.user_attrs.get(CONTENTS, {})
    for part, found in contents.items():
        if part != BUILD and (before := stored.get(part, found)) != found:
            raise TradeoffError(
                f"the content of {named(config.job, part)} ({part}) must be that which the study {config.name!r} has measured,"
                f" and it has changed from {_short(before)} to {_short(found)}: choose another name, or put the old one back"
            )
    if contents.keys() - stored.keys():
        study.set_user_attr(CONTENTS, {**contents, **stored})


def changed_code(study: StoredStudy, config: StudyConfig, contents: Mapping[str, str]) -> str | None:
    """Return a line if the user's module is not the one that earlier trials ran; mending it must not cost the study."""
    before = study.user_attrs.get(CONTENTS, {}).get(BUILD)
    if not isinstance(config.job, CustomJob) or before in (None, contents.get(BUILD)):
        return None
    return (
        f"the code of {config.job.build} has changed since earlier trials of this study: if what it trains has changed,"
        " choose another name"
    )


def _short(fingerprint: str) -> str:
    rest, _, digest = fingerprint.rpartition(" ")
    return f"{rest} {digest[:12]}"


def _fixed(config: Mapping[str, Any]) -> dict[str, Any]:
    # A directory or a file that has moved holds the same; `check_contents` compares what it holds.
    job = {key: value for key, value in config["job"].items() if key != "python_path"}
    if is_local_data(job.get("dataset", EMBEDDED)):
        job |= {key: "a local file" for key in ("dataset", "eval_dataset") if job[key] is not None}
    return {key: config[key] for key in FIXED_KEYS} | {"job": job}
