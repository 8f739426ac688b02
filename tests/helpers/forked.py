"""Runs snippets in fresh processes forked from one that imported torch once, as trials are: limits and peaks stay apart."""

import atexit
import functools
import json
import subprocess
import sys
from typing import Any

_SERVER = """
import json, os, sys, traceback
import torch
from tradeoff.objectives.device import out_of_memory, sampler

for line in sys.stdin:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.dup2(write, 1)
            os.dup2(write, 2)
            exec(json.loads(line), {})
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    os.close(write)
    with os.fdopen(read) as output:
        text = output.read()
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text]), flush=True)
"""


@functools.cache
def _server() -> subprocess.Popen[str]:
    server = subprocess.Popen([sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(server.kill)
    return server


def run_forked(code: str) -> Any:
    """Runs `code` in a process of its own and returns the JSON on the last line that it prints."""
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps(code) + "\n")
    server.stdin.flush()
    status, output = json.loads(server.stdout.readline())
    assert status == 0, output
    return json.loads(output.splitlines()[-1])
