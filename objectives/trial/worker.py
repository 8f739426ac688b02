"""Inside a trial's process: reads one request, carries it out, and answers with plain data.

This is the only place where every exception is caught. Measurements are reported as they are made, so that they survive the
process. Running out of memory, wherever it happens, is told from any other error here and nowhere else.
"""

import os
import socket
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from tradeoff.objectives.device.base import Device, MemoryLimitExceededError
from tradeoff.objectives.device.out_of_memory import out_of_memory_details
from tradeoff.objectives.device.registry import device_class, see_one_device, start_device
from tradeoff.objectives.job import sent_function
from tradeoff.objectives.job.arguments import job_of
from tradeoff.objectives.job.jobs import TextClassificationJob, parse_job
from tradeoff.objectives.measurements.outcome import Completed, Failed, Measurements, OutOfMemory
from tradeoff.objectives.trainers.preparation import prepare_workload
from tradeoff.objectives.trainers.workloads import load_workload
from tradeoff.objectives.trial.messages import Answer, Channel, Finished, Refusal
from tradeoff.objectives.trial.probe import probe
from tradeoff.objectives.trial.ranks import Ranks
from tradeoff.objectives.trial.reporter import Reporter
from tradeoff.objectives.trial.session import TrialSession
from tradeoff.objectives.trial.training import train
from tradeoff.searchspace import Knobs, TrialParameters

_ESTIMATE_NICENESS = 10
# Characters of an error, which can be as long as a program makes it.
_MAX_REASON = 4000


def answer(channel: Channel[dict[str, Any]], listener: socket.socket | None = None) -> int:
    """Read the request from the channel, carry it out and send the reply.

    Args:
        channel: The channel to the parent.
        listener: If this is the first of several ranks, the socket on which the others find it.

    Returns:
        The exit status of the process: 0 if a reply was sent.
    """
    request = channel.receive()
    if request.get("sends_function"):
        sent_function.receive(channel.receive_function())
    if folder := request.get("folder"):
        # Libraries and the user's code keep files under fixed names there, which another user may have taken in a shared one.
        os.environ["TMPDIR"] = tempfile.tempdir = folder
    reporter = Reporter(channel)
    if request["task"] != "describe" and request.get("num_ranks", 1) == 1:
        see_one_device()
    try:
        if request["task"] == "describe":
            reporter.finish(Answer(answer=start_device().info.as_dict()))
        elif request["task"] == "check_power_limits":
            reporter.finish(_check_power_limits(request["limits_w"]))
        elif request["task"] == "prepare":
            reporter.finish(_prepare(request, reporter))
        elif request["task"] == "estimate_memory":
            reporter.finish(_estimate_memory(request))
        else:
            outcome = run_trial(request, reporter, listener)
            reporter.finish(Finished(outcome=outcome, at_s=time.monotonic()))
    except ConnectionError:
        return 1  # the parent is gone
    return 0


def _check_power_limits(limits_w: list[float]) -> Answer | Refusal:
    try:
        start_device().check_power_limits(limits_w)
    except ValueError as error:
        return Refusal(error=str(error))
    return Answer(answer={})


def _prepare(request: dict[str, Any], reporter: Reporter) -> Answer | Refusal:
    reporter.enter("data")
    try:
        answer = prepare_workload(
            parse_job(request["job"]),
            Path(request["cache_folder"]),
            request.get("searched"),
            request.get("conditions"),
            measures_baselines=request.get("measures_baselines", False),
            on_attempt=lambda: reporter.enter("probe"),
        )
    except ValueError as error:
        traceback.print_exc()
        return Refusal(error=str(error)[:_MAX_REASON])
    except OSError as error:
        traceback.print_exc()
        where, why = error.filename or request["cache_folder"], error.strerror or str(error)
        remedy = "mend that, or set TRADEOFF_CACHE to another directory for prepared data"
        return Refusal(error=f"{where} must be readable, and {request['cache_folder']} writable, and failed ({why}); {remedy}")
    return Answer(answer=answer)


def _estimate_memory(request: dict[str, Any]) -> Answer | Refusal:
    from tradeoff.objectives.memory_estimator.job import estimate_for_search

    if not device_class(request["device"]).uses_host_processors:
        os.nice(_ESTIMATE_NICENESS)  # trials run meanwhile, and come first
    notices: list[str] = []
    knobs = Knobs(request["changes"])
    try:
        made = estimate_for_search(
            TextClassificationJob(**request["job"]),
            [TrialParameters(knobs, **parameters) for parameters in request["configurations"]],
            device=request["device"],
            memory_limit_mib=request["memory_limit_mib"],
            longest=request["longest"],
            cache_folder=Path(request["cache_folder"]),
            say=notices.append,
        )
    except (ValueError, OSError) as error:
        traceback.print_exc()
        return Refusal(error=str(error))
    return Answer(answer={"estimates": made.as_dict(), "notices": notices})


def run_trial(
    request: dict[str, Any], reporter: Reporter, listener: socket.socket | None = None
) -> Completed | OutOfMemory | Failed:
    """Run the stages of a request to an outcome.

    Args:
        request: `job`, `parameters`, `data_folders`, `stages` (of "probe" and "train"), `memory_limit_mib` or None, whether
            the limit is `enforced` by more than the meter, whether a probe `measures_power`, and `folder` for what the Trainer
            writes; with several processes also `num_ranks`, the `rank` of this one, and the `port` of the first one.
        reporter: Receives progress and partial measurements.
        listener: The socket of that port, in the first process.
    """
    begin_s = time.perf_counter()
    device: Device | None = None
    session: TrialSession | None = None
    try:
        ranks = Ranks.of(request, listener)
        device = start_device(index=ranks.rank, connect=ranks.connect)
        reporter.enter("data")
        parameters = TrialParameters(**request["parameters"])
        job = job_of(parse_job(request["job"]), parameters)
        session = TrialSession(
            job=job,
            parameters=parameters,
            workload=load_workload(job, request["data_folders"]),
            device=device,
            memory_limit_mib=request["memory_limit_mib"],
            reporter=reporter,
            folder=request["folder"],
            begin_s=begin_s,
            measures_power=request.get("measures_power", False),
            ranks=ranks,
        )
        if request["memory_limit_mib"] is not None and request.get("enforced", True):
            device.enforce_memory_limit(request["memory_limit_mib"])
        if "probe" in request["stages"]:
            probe(session)
        else:
            device.lift_memory_limit()
        if "train" in request["stages"]:
            train(session)
        completed = Completed(measurements=session.finish())
        ranks.leave()
        return completed
    except BaseException as error:  # noqa: BLE001  the process boundary: everything becomes an outcome
        details = out_of_memory_details(error)
        free_mib = None if details is None else details.free_mib
        if device is not None:
            if details is not None and free_mib is None:
                free_mib = device.left_in_limit_mib()
            device.lift_memory_limit()  # the answer itself needs a little memory
        measurements = Measurements() if session is None else session.finish()
        if details is not None:
            return OutOfMemory(
                stage=reporter.stage,
                reason=details.message,
                shortfall_mib=_shortfall_mib(error, details.requested_mib, free_mib),
                requested_mib=details.requested_mib,
                free_mib=free_mib,
                measurements=measurements,
            )
        reason = f"{type(error).__name__}: {str(error).strip() or 'no message'}".splitlines()[0][:_MAX_REASON]
        text = "".join(traceback.format_exception(error))
        return Failed(stage=reporter.stage, reason=reason, traceback=text[-8000:], measurements=measurements)


def _shortfall_mib(error: BaseException, requested_mib: float | None, free_mib: float | None) -> float:
    """Return a lower bound of the memory that was missing."""
    if isinstance(error, MemoryLimitExceededError):
        return error.shortfall_mib
    # What was requested and was not free is missing; without figures, any positive number says that it does not fit.
    return 1.0 if requested_mib is None else max(1.0, requested_mib - (free_mib or 0.0))
