"""A real gRPC proxy for tests: Optuna's, in a process of its own on loopback, over any storage."""

import os
import socket
import subprocess
import sys
from typing import Self

import grpc

# As docs/guides/many-machines.md has it, but for the port.
START = """
import os
from optuna.storages import get_storage, run_grpc_proxy_server
run_grpc_proxy_server(get_storage(os.environ["DATABASE_URL"]), host="127.0.0.1", port=int(os.environ["PORT"]))
"""


class Proxy:
    """The process; it can be stopped and started again at the same port."""

    def __init__(self, database: str) -> None:
        self._database = database
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.start()

    @property
    def url(self) -> str:
        return f"grpc://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts it, without waiting: who asks it does."""
        environment = os.environ | {"DATABASE_URL": self._database, "PORT": str(self.port)}
        self._process = subprocess.Popen([sys.executable, "-c", START], env=environment, stderr=subprocess.DEVNULL)

    def wait(self) -> None:
        """Waits until it answers."""
        with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            grpc.channel_ready_future(channel).result(timeout=120)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
