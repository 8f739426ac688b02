"""Which cards this process may use, without initialising CUDA: what CUDA_VISIBLE_DEVICES and NVML say.

A process that has initialised CUDA holds memory on a card and can't fork, so the process that hands out cards must not.
"""

import contextlib
import os
from collections.abc import Mapping

import pynvml


def visible_cards(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The cards, each as CUDA_VISIBLE_DEVICES names it: as the user does, or by UUID where the variable is not set.

    Of a card that is cut into MIG instances CUDA shows one instance to a process, and each of them counts as a card.

    Returns:
        The names in CUDA's order; empty where there is no card or no NVIDIA driver.
    """
    present = _present()
    named = environment.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return [usable for card, instances in present.items() for usable in instances or [card]]
    uuids = [uuid for card, instances in present.items() for uuid in (card, *instances)]
    cards: list[str] = []
    for entry in (part.strip() for part in named.split(",")):
        # As CUDA reads it: a number or the beginning of a UUID; from the first that names no card on, nothing is visible.
        exists = int(entry) < len(present) if entry.isdecimal() else any(entry and uuid.startswith(entry) for uuid in uuids)
        if not exists:
            break
        if entry not in cards:
            cards.append(entry)
    return cards


def _present() -> dict[str, list[str]]:
    """The UUIDs of the machine's cards in NVML's order, each with those of its MIG instances."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return {}
    try:
        cards = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return {str(pynvml.nvmlDeviceGetUUID(card)): _instances(card) for card in cards}
    except pynvml.NVMLError:
        return {}
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _instances(card: object) -> list[str]:
    found = []
    # A card without MIG, and places for instances that were not made.
    with contextlib.suppress(pynvml.NVMLError):
        for index in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(card)):
            with contextlib.suppress(pynvml.NVMLError):
                found.append(str(pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(card, index))))
    return found
