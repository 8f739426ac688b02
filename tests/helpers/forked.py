"""Runs Python in fresh processes forked from one that has imported torch and transformers, as trials are.

A limit, a peak or a setting of torch stays in its process, and none of them pays the ten seconds of those imports.
"""

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# What takes most of the time of a snippet, and of a program that trains.
OUT_OF_MEMORY = "import torch\nfrom tradeoff.objectives.device import out_of_memory, sampler"
TRAINING = "import torch._dynamo, transformers.trainer, transformers.models.bert.modeling_bert, datasets, evaluate"

_SERVER = """
import json, os, runpy, sys, traceback, types


def run(arguments, folder, environment, output):
    for number, path in enumerate([os.devnull, *output]):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[1:1] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    if arguments[0] == "-c":
        sys.argv[:] = ["-c", *arguments[2:]]
        sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(arguments[1], "<string>", "exec"), vars(sys.modules["__main__"]))
    else:
        sys.argv[:], sys.path[0] = arguments, os.path.dirname(os.path.abspath(arguments[0]))
        runpy.run_path(arguments[0], run_name="__main__")


for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            run(*json.loads(line))
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
            if status and end.code is not status:
                print(end.code, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@functools.cache
def _server(imports: str) -> subprocess.Popen[str]:
    folder = tempfile.TemporaryDirectory()
    # What the libraries read when they are imported.
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": folder.name}
    server = subprocess.Popen(
        [sys.executable, "-c", f"{imports}\n{_SERVER}"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    atexit.register(folder.cleanup)
    atexit.register(server.kill)
    return server


def run_python(
    *arguments: str, folder: Path, environment: Mapping[str, str] | None = None, imports: str = TRAINING
) -> subprocess.CompletedProcess[str]:
    """Runs what `python ARGUMENTS` would run in a folder: `-c CODE` or a script, each with arguments of its own."""
    server = _server(imports)
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.TemporaryDirectory() as directory:
        output = [Path(directory, name) for name in ("out", "err")]
        whole = dict(os.environ if environment is None else environment)
        server.stdin.write(json.dumps([arguments, str(folder), whole, list(map(str, output))]) + "\n")
        server.stdin.flush()
        status = int(server.stdout.readline())
        return subprocess.CompletedProcess(arguments, status, *(path.read_text() for path in output))


def run_forked(code: str) -> Any:
    """Runs `code` in a process of its own and returns the JSON on the last line that it prints."""
    done = run_python("-c", code, folder=Path.cwd(), imports=OUT_OF_MEMORY)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])
