"""Whether the machine did something else while trials were timed."""

from collections.abc import Sequence

from tradeoff.objectives.measurements.records import TrialRecord

# Less of the processors than this is what any machine does beside its work.
BUSY_SHARE = 0.1


def busy_lines(records: Sequence[TrialRecord]) -> list[str]:
    """Return a sentence if other processes took the processors, and one if others were on the GPU, while trials were timed."""
    timed = [parts for record in records if (parts := _timed_parts(record))]
    shares = [max((part.get("busy_share") or 0.0) for part in parts) for parts in timed]
    busy = [share for share in shares if share >= BUSY_SHARE]
    shared = [parts for parts in timed if any(part.get("num_other_processes") for part in parts)]
    lines = []
    if busy:
        lines.append(
            f"the load exceeded the processors during {_of(len(busy), len(timed))}: other processes took up to"
            f" {max(busy):.0%} of them, so times are less certain"
        )
    if shared:
        lines.append(
            f"other processes were on the GPU during {_of(len(shared), len(timed))}, so times may be those of a shared GPU"
        )
    return lines


def _timed_parts(record: TrialRecord) -> list[dict[str, float | None]]:
    return [record.attributes[name] for name in ("probe", "training") if name in record.attributes]


def _of(count: int, total: int) -> str:
    return f"{count} of {total} trial{'' if total == 1 else 's'}"
