"""The product's server as a user runs it: `manage.py serve` in its own process."""

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
RUN = "import runpy; runpy.run_path('manage.py', run_name='__main__')"


def base_environment() -> dict[str, str]:
    """Return what a child process needs of our environment, with coverage's variables."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in ("PATH", "HOME") or name.startswith("COVERAGE_")
    }


def in_front_of(vendor_url: str, api_key: str) -> dict[str, str]:
    """Return the variables of a server with this key, the mock and a stub of OpenAI and Gemini."""
    return {
        "API_KEYS": api_key,
        "REQUIRE_API_KEY": "true",
        "LLM_PROVIDER": "mock",
        "OPENAI_BASE_URL": f"{vendor_url}/v1",
        "GEMINI_BASE_URL": f"{vendor_url}/v1beta",
        "GEMINI_API_KEY": "key-of-the-vendor",
        "WEB_CONCURRENCY": "1",
    }


def reserve_port() -> socket.socket:
    """Return a socket bound to a free port, which does not listen: connections are refused.

    While it is open, no other process gets the port as a free one, but a server may listen on it.
    """
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    return reserved


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def rate_limit_window_end(user: str, key_id: str = "anyone") -> int:
    """Return when the user's current window of a minute ends: users' windows are staggered."""
    return int(_get_window(f"{key_id} {user}", 60))


def user_in_fresh_window(key_id: str = "anyone") -> str:
    """Return a user whose rate-limit window lasts almost a minute more."""
    names = (f"user-{number}" for number in range(1000))
    return max(names, key=lambda name: rate_limit_window_end(name, key_id))


class Server:
    """A server on a free port, in a context manager; `variables` are its environment.

    Its process runs the Python statements of `setup` first.
    """

    def __init__(self, folder: Path, *, setup: str = "", **variables: str) -> None:
        self._program = ["-c", f"{setup}\n{RUN}"] if setup else [str(ROOT / "manage.py")]
        self._reserved = reserve_port()
        self.port = int(self._reserved.getsockname()[1])
        self.log = folder / "server.log"
        self._environment = {
            **base_environment(),
            "ENV_FILE": os.devnull,
            "DATABASE_PATH": str(folder / "server.db"),
            "API_PORT": str(self.port),
            **variables,
        }

    def __enter__(self) -> Self:
        command = [sys.executable, *self._program, "serve"]
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
            # Resources left open would fail the next tests.
            if self.process.poll() is None:
                self.signal(signal.SIGKILL, group=True)
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.client.close()
        self._reserved.close()
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
            self.process.wait(timeout=60)

    def signal(self, number: int, *, group: bool = False) -> None:
        """Signal the server, or with `group` all its processes."""
        if group:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)

    def chat(self, prompt: str = "Olá!", user: str = "user123", **options: Any) -> httpx.Response:
        """Send one request on a new connection, so that threads can call this concurrently."""
        headers = options.pop("headers", {})
        body = {"userId": user, "prompt": prompt, **options}
        url = f"http://127.0.0.1:{self.port}/v1/chat"
        # To read the certificates of the web takes each client tens of milliseconds of CPU.
        return httpx.post(url, json=body, headers=headers, timeout=60, verify=False)

    def _wait(self) -> None:
        end = time.monotonic() + 120
        while time.monotonic() < end and self.process.poll() is None:
            try:
                self.client.get("/v1/health").raise_for_status()
                return
            except httpx.TransportError:
                time.sleep(0.1)
        raise AssertionError(f"the server did not start:\n{self.log.read_text()}")
