"""Make tables of the fine-tunings of BERT-base that the Zeus project published: `python zeus.py TRACES`

TRACES is the folder with its traces (github.com/ml-energy/zeus, `examples/research_reproducibility/zeus_nsdi23/trace`,
Apache-2.0; J. You, J.-W. Chung, M. Chowdhury, "Zeus: Understanding and Optimizing GPU Energy Consumption of DNN Training", NSDI
2023).

What is theirs: for each batch size and ten seeds, the epoch in which each of eight targets of the metric was reached; and the
time of an epoch by batch size, at the highest power limit. The learning rate follows the batch.

What is stated here, since the traces lack it:

- A training of three epochs is the beginning of a longer one, as it is if the learning rate does not fall.
- Quality after an epoch is the highest target that was reached by then, or the baseline, half a step below the lowest target.
- A micro-batch has the time that an epoch with that batch takes, divided by its steps; accumulating costs nothing beyond its
  micro-batches, and recomputing activations a third more time.
- Memory is that of BERT-base in fp32 with AdamW: 16 bytes for each of 110 million weights, 4 more where gradients are
  accumulated (they are alive during the forward pass), a context of 500 MiB, and activations of 34 bytes x length x width plus
  5 x heads x length^2 for each sample and layer, times two for fp32 (V. Korthikanti et al., "Reducing Activation Recomputation
  in Large Transformer Models", MLSys 2023, equation 2, which counts 16 bits); with checkpointing, one layer and the inputs of
  all.
- A trial takes 30 s before its first step; a probe is five steps of the optimizer.
"""

import argparse
import csv
import json
import math
from pathlib import Path
from typing import Any

JOBS = {
    "squad": {"length": 384, "num_train": 88_524, "num_eval": 10_570, "scale": 0.01, "step": 0.005, "most": 56, "epochs": 7},
    "sentiment140": {
        "length": 128,
        "num_train": 500_000,
        "num_eval": 500,
        "scale": 1.0,
        "step": 0.005,
        "most": 64,
        "epochs": 6,
    },
}
GPUS = {"v100": 16_000, "p100": 16_000, "rtx6000": 24_000, "a40": 46_000}
ACCUMULATION = (1, 2, 4, 8)
WEIGHTS, LAYERS, WIDTH, HEADS = 110e6, 12, 768, 12
START_S = 30.0


def read(path: Path, dataset: str) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["dataset"] == dataset]


def memory_mib(batch: int, length: int, *, accumulates: bool, checkpointing: bool) -> float:
    layer = 2 * (34 * length * WIDTH + 5 * HEADS * length**2)
    inputs = 4 * length * WIDTH
    activations = batch * (layer + LAYERS * inputs if checkpointing else LAYERS * layer)
    return 500 + (WEIGHTS * (20 if accumulates else 16) + activations) / 2**20


def make(traces: Path, dataset: str, gpu: str) -> dict[str, Any]:
    job = JOBS[dataset]
    reached: dict[int, dict[int, list[tuple[float, float]]]] = {}
    for row in read(traces / "summary_train.csv", dataset):
        targets = reached.setdefault(int(row["batch_size"]), {}).setdefault(int(row["run"]), [])
        targets.append((float(row["target_metric"]) * job["scale"], float(row["target_epoch"])))
    lowest = min(target for runs in reached.values() for targets in runs.values() for target, _ in targets)
    baseline = round(lowest - job["step"] / 2, 6)

    def curve(targets: list[tuple[float, float]]) -> list[float]:
        return [
            round(max([target for target, at in targets if at <= epoch], default=baseline), 6)
            for epoch in range(1, job["epochs"] + 1)
        ]

    power = read(traces / f"summary_power_{gpu}.csv", dataset)
    highest = max(int(row["power_limit"]) for row in power)
    epoch_s = {int(row["batch_size"]): float(row["time_per_epoch"]) for row in power if int(row["power_limit"]) == highest}
    rows = []
    for batch in sorted(epoch_s):
        for steps in ACCUMULATION:
            if batch * steps not in reached or batch * steps > job["most"]:
                continue
            for checkpointing in (False, True):
                micro_step_s = epoch_s[batch] / math.ceil(job["num_train"] / batch) * (4 / 3 if checkpointing else 1)
                for epochs in range(1, job["epochs"] + 1):
                    updates = math.ceil(math.ceil(job["num_train"] / batch) / steps)
                    rows.append(
                        {
                            "parameters": {
                                "per_device_train_batch_size": batch,
                                "gradient_accumulation_steps": steps,
                                "gradient_checkpointing": checkpointing,
                                "num_train_epochs": epochs,
                            },
                            "learning_class": str(batch * steps),
                            "num_epochs": epochs,
                            "micro_step_s": [round(micro_step_s, 5)],
                            "update_s": 0.0,
                            "num_micro_steps": job["num_train"] / batch * epochs,
                            "num_updates": updates * epochs,
                            "eval_s": 0.0,
                            "peak_memory_mib": round(
                                memory_mib(batch, job["length"], accumulates=steps > 1, checkpointing=checkpointing), 1
                            ),
                            "start_s": START_S,
                            "probe_s": round(5 * steps * micro_step_s, 3),
                        }
                    )
    names = tuple(rows[0]["parameters"])
    return {
        "name": f"zeus-{dataset}-{gpu}",
        "about": f"BERT-base on {dataset}, {gpu.upper()}: batch, accumulation, checkpointing, epochs; see zeus.py",
        "source": "Zeus traces, J. You et al., NSDI 2023, github.com/ml-energy/zeus",
        "licence": "Apache-2.0",
        "knobs": {name: sorted({row["parameters"][name] for row in rows}) for name in names},
        "baseline": baseline,
        "num_train": job["num_train"],
        "num_eval": job["num_eval"],
        "memory_limit_mib": GPUS[gpu],
        "gradients_mib": round(4 * WEIGHTS / 2**20, 1),
        "time_noise": 0.02,
        "job": {"model": "embedded", "dataset": "embedded", "lr_scheduler_type": "constant"},
        "curves": {
            str(batch): [curve(targets) for _, targets in sorted(runs.items())]
            for batch, runs in sorted(reached.items())
            if any(row["learning_class"] == str(batch) for row in rows)
        },
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", type=Path)
    parser.add_argument("--gpu", choices=GPUS, default="v100")
    options = parser.parse_args()
    for dataset in JOBS:
        table = make(options.traces, dataset, options.gpu)
        rows = ",\n".join(json.dumps(row) for row in table.pop("rows"))
        path = Path(__file__).parent / "tables" / f"{table['name']}.json"
        path.write_text(json.dumps(table, indent=1)[:-2] + f',\n "rows": [\n{rows}\n ]\n}}\n', encoding="utf-8")
        print(path.name, rows.count("\n") + 1, "configurations", path.stat().st_size // 1024, "KiB")


if __name__ == "__main__":
    main()
