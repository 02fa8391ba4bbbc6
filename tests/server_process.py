"""The product's server as a user runs it: `manage.py serve` in a process of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

import httpx
from django_ratelimit.core import _get_window

ROOT = Path(__file__).parent.parent


def inherited() -> dict[str, str]:
    """What a process of ours needs of our environment; coverage goes on measuring in it."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in ("PATH", "HOME") or name.startswith("COVERAGE_")
    }


def held_port() -> socket.socket:
    """A socket that has a port, and does not listen: who connects is refused.

    While it is open no other process is given the port, but a server that names it may listen.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def user_whose_minute_begins(key_id: str = "anyone") -> str:
    """A user who is counted anew in a minute: each has an edge of its own."""
    names = (f"user-{number}" for number in range(1000))
    return max(names, key=lambda name: _get_window(f"{key_id} {name}", 60))


class Server:
    """Serves on a free port while the context lasts; `variables` are its environment."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self._held = held_port()
        self.port = int(self._held.getsockname()[1])
        self.log = folder / "server.log"
        self._environment = {
            **inherited(),
            "ENV_FILE": os.devnull,
            "DATABASE_PATH": str(folder / "server.db"),
            "API_PORT": str(self.port),
            **variables,
        }

    def __enter__(self) -> Self:
        command = [sys.executable, str(ROOT / "manage.py"), "serve"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=ROOT,
            )
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60)
        try:
            self._wait()
        except BaseException:
            # What it leaves open would fail the tests that follow.
            if self.process.poll() is None:
                self.signal(signal.SIGKILL, group=True)
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.client.close()
        self._held.close()
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
            self.process.wait(timeout=60)

    def signal(self, number: int, *, group: bool = False) -> None:
        """Send a signal to the server, or to all its processes."""
        if group:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)

    def chat(self, prompt: str = "Olá!", user: str = "user123", **options: Any) -> httpx.Response:
        """One request on a connection of its own, so that many threads may send one."""
        headers = options.pop("headers", {})
        body = {"userId": user, "prompt": prompt, **options}
        url = f"http://127.0.0.1:{self.port}/v1/chat"
        return httpx.post(url, json=body, headers=headers, timeout=60)

    def _wait(self) -> None:
        end = time.monotonic() + 120
        while time.monotonic() < end and self.process.poll() is None:
            try:
                self.client.get("/v1/health").raise_for_status()
                return
            except httpx.TransportError:
                time.sleep(0.1)
        raise AssertionError(f"the server did not start:\n{self.log.read_text()}")
