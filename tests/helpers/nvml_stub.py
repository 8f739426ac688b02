"""Compiles a stand-in for NVIDIA's management library and runs Python code against it, behind the real pynvml."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("nvml_stub.c")
ROOT = Path(__file__).parents[2]


def compile_stub(folder: Path) -> Path:
    """Builds the library into `folder`, which LD_LIBRARY_PATH then has to name."""
    compiler = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    assert compiler is not None, "the NVML tests need a C compiler: install gcc or clang"
    library = folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, SOURCE], check=True)
    return folder


@dataclass
class NvmlStub:
    """A machine with GPUs, as the stub shows it. Lines are as `nvml_stub.c` describes them."""

    library: Path | None
    state: Path
    lines: list[str] = field(default_factory=list)

    def card(
        self,
        uuid: str,
        *,
        parent: str = "-",
        total_mib: int = 8192,
        used_mib: int | str = 0,
        busy: int | str = "-",
        energy_mj: int | str = "-",
        pid: int | str = "-",
        process_mib: int | str = "-",
    ) -> None:
        sizes = [size if isinstance(size, str) else size * 2**20 for size in (total_mib, used_mib, process_mib)]
        self.lines.append(f"{uuid} {parent} {sizes[0]} {sizes[1]} {busy} {energy_mj} {pid} {sizes[2]}")

    def refuse(self, function: str, code: int) -> None:
        self.lines.append(f"refuse {function} {code}")

    def power_limit_w(self, uuid: str) -> float | None:
        """The power limit that a card was given; None if nobody has set it."""
        path = self.state.with_name(f"{self.state.name}.{uuid}")
        return int(path.read_text()) / 1000 if path.exists() else None

    def environment(self) -> dict[str, str]:
        """Variables with which a process finds the library and the cards."""
        self.state.write_text("\n".join(self.lines) + "\n", encoding="utf-8")
        return {"NVML_STUB": str(self.state), "LD_LIBRARY_PATH": "" if self.library is None else str(self.library)}

    def run(self, code: str, **environment: str) -> Any:
        """Runs `code` in a fresh process, in which `answer` is to be set, and returns that."""
        env = {**os.environ, "PYTHONPATH": str(ROOT), **environment, **self.environment()}
        script = f"{code}\nimport json\nprint(json.dumps(answer))"
        done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])
