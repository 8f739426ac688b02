"""`tradeoff.hyperparameter_search`: the search of `Trainer.hyperparameter_search` for a script that calls that one."""

import inspect
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, fields
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution

from tradeoff.searchspace import ACCUMULATION, KNOBS, MICRO_BATCH
from tradeoff.searchspace.names import hint
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.python.progress import quiet_optuna
from tradeoff.studies.python.search import search

# The names of the Trainer's arguments in a job, where they are others there.
_OF_JOB = {"num_train_epochs": "epochs", "per_device_eval_batch_size": "eval_batch_size"}
_JOB_ARGUMENTS = (
    *_OF_JOB, "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm", "optim", "seed",
)  # fmt: skip
# What a trial sets itself, or what is about a run and not about what it learns.
_OF_THE_RUN = (
    "output_dir", "report_to", "run_name", "project", "log", "save", "eval_strategy", "eval_steps", "eval_delay",
    "eval_on_start", "push_to_hub", "hub_", "trackio", "resume", "deepspeed", "fsdp", "parallelism", "accelerator",
    "local_rank", "ddp_", "disable_tqdm", "do_", "max_steps", "use_cpu", "auto_find", "fp16", "bf16",
    "gradient_checkpointing", "warmup_ratio",
)  # fmt: skip
# What a trial sets even where nothing is searched, with the value that it has then.
_FIXED = {"dataloader_num_workers": 0, "train_sampling_strategy": "random"}
# What is a trial's own, whatever is searched.
_OF_TRIALS = {*_JOB_ARGUMENTS, *_FIXED, MICRO_BATCH, ACCUMULATION}
# What a Trainer is made of beside its model and its arguments.
_PARTS = (
    "data_collator", "train_dataset", "eval_dataset", "processing_class", "compute_metrics", "compute_loss_func",
    "preprocess_logits_for_metrics",
)  # fmt: skip
# A name for each direction: within a program a metric has one.
_METRICS = {"minimize": "objective", "maximize": "score"}
# hp_space is called as often, to see whether it always suggests the same.
_CALLS = 20


def hyperparameter_search(
    trainer: Any,
    hp_space: Callable[[optuna.Trial], Mapping[str, Any]] | None = None,
    compute_objective: Callable[[dict[str, float]], float] | None = None,
    n_trials: int = 20,
    direction: Literal["minimize", "maximize"] = "minimize",
    **settings: Any,
) -> Any:
    """Search as `trainer.hyperparameter_search` does, with training time and peak memory as further objectives.

    Each trial runs in a process of its own, so one that runs out of memory ends nothing else. `transformers` takes no backends
    but its own, so this is a function, with the arguments and the result of the method.

    Example:
        >>> best = tradeoff.hyperparameter_search(
        ...     trainer,
        ...     hp_space=lambda trial: {
        ...         "learning_rate": trial.suggest_float("learning_rate", 1e-3, 1e-1, log=True),
        ...         "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [8, 16]),
        ...     },
        ...     n_trials=2,
        ... )
        >>> for name, value in best.hyperparameters.items():
        ...     setattr(trainer.args, name, value)
        >>> set(best.run_summary.front["per_device_train_batch_size"]) <= {8, 16}
        True

    Args:
        trainer: A Trainer with `model_init`, whose arguments and data each trial gets.
        hp_space: Suggests the parameters and returns them by name, the same in each call. By default batch, accumulation,
            checkpointing, precision and learning rate.
        compute_objective: Returns the value from the metrics of an evaluation; as in `transformers`, by default the loss, or
            the sum of other metrics.
        n_trials: The study's total number of trials.
        direction: How that value is optimized.
        settings: As for `tradeoff.search`: `limits`, `name`, `storage`, `workers`, `timeout_s`, `progress`, ...

    Returns:
        A `transformers.trainer_utils.BestRun`: of the front, the run with the best value. Its `run_summary` is the
        `tradeoff.Result` with all of the front.

    Raises:
        TradeoffError: The Trainer has no `model_init`, or something else is not as it must be.
        StudyFailed, KeyboardInterrupt: As for `tradeoff.search`.
    """
    from transformers.trainer_utils import BestRun, default_compute_objective

    if getattr(trainer, "model_init", None) is None:
        raise TradeoffError("each trial needs a new model, and the Trainer has no model_init; build it with model_init=...")
    if not isinstance(direction, str) or direction not in _METRICS:
        raise TradeoffError(
            f"direction must be minimize or maximize, got {direction!r}; training time and peak memory are objectives anyway"
        )
    if "backend" in settings:
        raise TradeoffError("tradeoff.hyperparameter_search takes no backend, since it is one; leave backend out")
    metric = _METRICS[direction]
    found = f"eval_{metric}"
    space = _space(trainer.args, hp_space)
    if not inspect.signature(trainer.model_init).parameters:
        for name in space:
            if KNOBS[name].is_beside_arguments:
                raise TradeoffError(
                    f"hp_space suggests {name}, which is no training argument, and model_init takes no trial to read it from;"
                    f" {hint(name, function='model_init')}"
                )
    result = search(
        _Rebuilt.of(trainer, compute_objective or default_compute_objective, found, set_by_trials=_OF_TRIALS | space.keys()),
        source=trainer.model_init,
        job={**_job_of(trainer.args), "metric": metric, "direction": direction},
        space=space,
        trials=n_trials,
        **settings,
    )
    best = result.choose(maximize=found) if direction == "maximize" else result.choose(minimize=found)
    hyperparameters: dict[str, Any] = {}
    for name, value in best.params.items():
        knob = KNOBS[name]
        hyperparameters |= {name: value} if knob.is_beside_arguments else knob.as_arguments(value)
    return BestRun(str(best.trial), best.values[found], hyperparameters, result)


@dataclass(frozen=True, kw_only=True)
class _Rebuilt:
    """Builds a Trainer like another one, with a new model and the arguments of a trial.

    Attributes:
        kind: The Trainer's class.
        model_init: Makes a model.
        arguments: The other Trainer's arguments.
        parts: What else its class takes.
        compute_objective: Returns the value to optimize.
        found: The value's key in an evaluation.
        set_by_trials: The arguments that are a trial's own.
    """

    kind: type
    model_init: Callable[..., Any]
    arguments: Any
    parts: Mapping[str, Any]
    compute_objective: Callable[[dict[str, float]], float]
    found: str
    set_by_trials: Set[str]

    @classmethod
    def of(
        cls, trainer: Any, compute_objective: Callable[[dict[str, float]], float], found: str, *, set_by_trials: Set[str]
    ) -> "_Rebuilt":
        from transformers import EarlyStoppingCallback

        parts = {name: getattr(trainer, name) for name in _PARTS if getattr(trainer, name, None) is not None}
        callbacks = [
            each
            for each in trainer.callback_handler.callbacks
            if isinstance(each, EarlyStoppingCallback) or not type(each).__module__.startswith("transformers.")
        ]
        takes = inspect.signature(type(trainer)).parameters
        parts |= {"callbacks": callbacks} if callbacks else {}
        if not any(one.kind is one.VAR_KEYWORD for one in takes.values()):
            parts = {name: part for name, part in parts.items() if name in takes}
        return cls(
            kind=type(trainer),
            model_init=trainer.model_init,
            arguments=trainer.args,
            parts=parts,
            compute_objective=compute_objective,
            found=found,
            set_by_trials=frozenset(set_by_trials),
        )

    def __call__(self, args: Any, **hyperparameters: Any) -> Any:
        takes_trial = bool(inspect.signature(self.model_init).parameters)
        model = self.model_init(optuna.trial.FixedTrial(hyperparameters)) if takes_trial else self.model_init()
        trainer = self.kind(model=model, args=self._arguments(args), **self.parts)
        evaluate = trainer.evaluate

        def with_objective(*positional: Any, **named: Any) -> dict[str, float]:
            metrics: dict[str, float] = evaluate(*positional, **named)
            return {**metrics, self.found: float(self.compute_objective(dict(metrics)))}

        trainer.evaluate = with_objective
        return trainer

    def _arguments(self, args: Any) -> Any:
        """Return a trial's arguments, with what the Trainer's own say beside them, in their class."""
        kept = {}
        for field in fields(self.arguments):
            if field.init and field.name not in self.set_by_trials and not field.name.startswith(_OF_THE_RUN):
                has = getattr(self.arguments, field.name)
                if has != getattr(args, field.name, None):
                    kept[field.name] = has
        if type(self.arguments) is type(args):
            for name, value in kept.items():
                setattr(args, name, value)
            return args
        return type(self.arguments)(**{**args.to_dict(), **kept})


def _job_of(arguments: Any) -> dict[str, Any]:
    values = {_OF_JOB.get(name, name): getattr(arguments, name) for name in _JOB_ARGUMENTS}
    # Names are members of enumerations.
    return {name: getattr(value, "value", value) for name, value in values.items()}


def _space(arguments: Any, hp_space: Callable[[optuna.Trial], Mapping[str, Any]] | None) -> dict[str, Any]:
    """Return the space that `hp_space` suggests, with the Trainer's own value of what it leaves out."""
    fixed = {name: getattr(arguments, name) for name, usual in _FIXED.items() if getattr(arguments, name) != usual}
    if hp_space is None:
        return fixed | {"learning_rate": {"low": 1e-6, "high": 1e-4, "log": True}}
    precision = "bf16" if arguments.bf16 else "fp16" if arguments.fp16 else "fp32"
    own = fixed | {
        "per_device_train_batch_size": arguments.per_device_train_batch_size,
        "gradient_accumulation_steps": arguments.gradient_accumulation_steps,
        "gradient_checkpointing": arguments.gradient_checkpointing,
        "precision": precision,
    }
    return own | _suggested(hp_space)


def _suggested(hp_space: Callable[[optuna.Trial], Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a function suggests, by calling it with trials that nothing comes of.

    Raises:
        TradeoffError: It suggests something else from call to call, or returns other values than those.
    """
    found: list[dict[str, BaseDistribution | Any]] = []
    with quiet_optuna():
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(_CALLS):
        trial = study.ask()
        returned: Any = hp_space(trial)
        if not isinstance(returned, Mapping):
            raise TradeoffError(f"hp_space must return a dictionary of parameters, got {returned!r}; return what it suggests")
        for name, value in returned.items():
            if name in trial.params and value != trial.params[name]:
                raise TradeoffError(
                    f"hp_space must return what it suggests under the same name, and {name} is suggested as"
                    f" {trial.params[name]!r} and returned as {value!r}; suggest the values themselves"
                )
        fixed = {name: [value] for name, value in returned.items() if name not in trial.params}
        found.append({**fixed, **trial.distributions})
    if sometimes := {name for each in found for name in each if any(name not in other for other in found)}:
        raise TradeoffError(
            f"hp_space must suggest the same parameters in each call, and {min(sometimes)} is not in all of them; suggest it"
            " always, or use tradeoff.search, where only_with says when a parameter is set"
        )
    changing = [name for name, values in found[0].items() if any(each[name] != values for each in found)]
    if changing:
        raise TradeoffError(
            f"hp_space must give {changing[0]} the same values in each call, and they change; suggest it by trial.suggest_..."
        )
    return found[0]
