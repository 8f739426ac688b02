"""The decoupled search with memory estimates made before its first probe: `--methods decoupled fronts.estimates:estimated`.

The product makes them by default (`memory_estimate: auto`); on tables they are left out, since most have a stated memory. This
is for tables that `measure.py` measured.
"""

import time
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from fronts.measure import STUDIES
from fronts.methods import decoupled
from fronts.table import Bench
from tradeoff.objectives.memory_estimator.estimates import MemoryEstimates
from tradeoff.objectives.memory_estimator.job import estimate_for_search
from tradeoff.studies.execution.memory_estimate import configurations_to_estimate


def estimated(bench: Bench, seed: int, horizon_s: float) -> None:
    """Run the product's search with estimates of its memory."""
    decoupled(bench, seed, horizon_s, estimates=_estimates(bench.table.name, bench.table.memory_limit_mib))


@cache
def _estimates(study: str, memory_limit_mib: float) -> MemoryEstimates:
    """Make the estimates of a study and say what they take, with and without cached traces."""
    config = STUDIES[study]()
    space, device = config.search_space(), {"kind": "cpu", "name": study, "total_memory_mib": memory_limit_mib}
    with TemporaryDirectory() as folder:
        for _ in range(2):
            begin_s = time.process_time()
            found = estimate_for_search(
                config.job,
                configurations_to_estimate(space),
                device=device,
                memory_limit_mib=memory_limit_mib,
                cache_folder=Path(folder),
            )
            print(f"memory estimates of {study}: {time.process_time() - begin_s:.1f} s of a processor")
    return found
