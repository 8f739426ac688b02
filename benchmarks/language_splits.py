"""Do splits of one effective batch teach a language model the same? A table of evaluation losses over splits and over seeds.

    python benchmarks/language_splits.py [--seeds 5] [--model DIRECTORY] [--dataset FILE]

Each training goes through a study's own Trainer. For padded and packed texts, all weights and adapters, it prints the largest
difference between the splits of one seed, and the standard deviation over seeds of one split: where the first is far below the
second, one training speaks for all splits.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from transformers import PrinterCallback

from tradeoff.objectives.job.arguments import jobs_of_data, name_of_data, training_arguments
from tradeoff.objectives.job.jobs import CausalLMJob
from tradeoff.objectives.trainers.prepared_data import prepare
from tradeoff.objectives.trainers.workloads import load_workload
from tradeoff.searchspace import TrialParameters

SPLITS = ((16, 1), (8, 2), (4, 4))
CASES = {
    "padded, all weights": {},
    "padded, LoRA": {"lora": {"r": 8}},
    "packed, all weights": {"packing": True},
    "packed, LoRA": {"packing": True, "lora": {"r": 8}},
}


def eval_loss(job: CausalLMJob, split: tuple[int, int], cache: Path) -> float:
    """Train with one split of the effective batch, and return the evaluation loss."""
    batch, accumulation = split
    parameters = TrialParameters(per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, precision="fp32")
    (of_data,) = jobs_of_data(job, {})
    workload = load_workload(job, {name_of_data(job): str(prepare(of_data, cache).folder)})
    with tempfile.TemporaryDirectory() as folder:
        quiet = {"disable_tqdm": True, "eval_strategy": "no", "logging_strategy": "no"}
        settings = training_arguments(job, parameters, output_dir=folder) | quiet
        trainer = workload.trainer(workload.arguments_class(**settings), parameters)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        return float(trainer.evaluate()["eval_loss"])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--dataset", default="embedded")
    parser.add_argument("--train-samples", type=int, default=200)
    parser.add_argument("--learning-rate", type=float, default=5e-3)
    arguments = parser.parse_args()
    lines = ["| | loss | largest difference of splits | deviation over seeds |", "|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as cache:
        for name, settings in CASES.items():
            losses = []
            for seed in range(arguments.seeds):
                job = CausalLMJob(
                    model=arguments.model,
                    dataset=arguments.dataset,
                    train_samples=arguments.train_samples,
                    eval_samples=100,
                    max_length=128,
                    epochs=2,
                    learning_rate=arguments.learning_rate,
                    eval_batch_size=20,
                    seed=seed,
                    **settings,
                )
                losses.append([eval_loss(job, split, Path(cache)) for split in SPLITS])
                print(f"{name}, seed {seed}: {', '.join(f'{loss:.5f}' for loss in losses[-1])}", flush=True)
            spread = max(max(of_seed) - min(of_seed) for of_seed in losses)
            over_seeds = statistics.stdev(of_seed[0] for of_seed in losses) if len(losses) > 1 else float("nan")
            mean = statistics.fmean(of_seed[0] for of_seed in losses)
            lines.append(f"| {name} | {mean:.4f} | {spread:.1e} | {over_seeds:.1e} |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
