"""Measure other gateways with the same vendor and the same clients.

    python -m benchmarks.alternatives [ours prototype litellm portkey]

They are installed from PyPI and npm into .cache/alternatives, which takes a minute once, and run as
their documentation advises for production. docs/performance.md says what each does for a request.
"""

import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import load, processes, server, vendor
from benchmarks.load import Outcome
from benchmarks.report import Options, Row, Table, progress, publish
from tests.server_process import Server, base_environment, free_port

ROOT = Path(__file__).parent.parent
HOME = ROOT / ".cache" / "alternatives"
RESULTS = Path(__file__).parent / "alternatives.json"
PACE = vendor.Pace(delay=0.05, gap=0.01)
CLIENTS = (1, 64)
WORKERS = os.cpu_count() or 1
START_SECONDS = 180.0
WARM_UP_SECONDS = 10.0
IDLE_CPU_SECONDS = 0.3

PYTHON_PACKAGES = {
    "prototype": ["fastapi==0.165.0", "httpx==0.28.1", "uvicorn[standard]==0.54.0"],
    "litellm": ["litellm[proxy]==1.108.7"],
}
NODE_PACKAGES = {"portkey": "@portkey-ai/gateway@1.15.2"}
LITELLM_CONFIG = """
model_list:
  - model_name: m
    litellm_params: {{model: openai/m, api_base: "{vendor}", api_key: key}}
general_settings: {{master_key: {key}}}
"""


@dataclass(frozen=True)
class Started:
    """A running gateway, whose OpenAI API is at `url`. `headers` are sent with each request."""

    url: str
    pid: int
    headers: Mapping[str, str] = field(default_factory=dict)
    streams: bool = True


@contextmanager
def ours(vendor_url: str) -> Iterator[Started]:
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(
            Path(folder), OPENAI_BASE_URL=vendor_url, OPENAI_MODEL="m", **server.VARIABLES
        ) as running,
    ):
        yield Started(f"http://127.0.0.1:{running.port}/v1", running.process.pid)


@contextmanager
def prototype(vendor_url: str) -> Iterator[Started]:
    python = str(install("prototype") / "bin" / "python")
    port = free_port()
    options = ["--port", str(port), "--workers", str(WORKERS), "--no-access-log"]
    command = [python, "-m", "uvicorn", "benchmarks.prototype:app", *options]
    with _running(command, port, OPENAI_BASE_URL=vendor_url) as pid:
        yield Started(f"http://127.0.0.1:{port}/v1", pid)


@contextmanager
def litellm(vendor_url: str) -> Iterator[Started]:
    home = install("litellm")
    config = home / "config.yaml"
    config.write_text(LITELLM_CONFIG.format(vendor=vendor_url, key=server.KEY))
    port = free_port()
    command: list[str | Path] = [
        *(home / "bin" / "python", home / "bin" / "litellm", "--config", config),
        *("--host", "127.0.0.1", "--port", str(port), "--num_workers", str(WORKERS)),
        # It imports for longer than uvicorn's health check allows.
        *("--timeout_worker_healthcheck", str(int(START_SECONDS))),
    ]
    variables = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION"}
    with _running(command, port, **variables) as pid:
        yield Started(f"http://127.0.0.1:{port}/v1", pid)


@contextmanager
def portkey(vendor_url: str) -> Iterator[Started]:
    port = free_port()
    script = install("portkey") / "node_modules/@portkey-ai/gateway/build/start-server.js"
    with _running(["node", script, f"--port={port}", "--headless"], port) as pid:
        headers = {"x-portkey-provider": "openai", "x-portkey-custom-host": vendor_url}
        # Its streams fail on Node: https://github.com/Portkey-AI/gateway/issues/1389
        yield Started(f"http://127.0.0.1:{port}/v1", pid, headers, streams=False)


GATEWAYS = {gateway.__name__: gateway for gateway in (ours, prototype, litellm, portkey)}


def measure(name: str, options: Options) -> list[Table]:
    with vendor.running(PACE) as upstream:
        rows = list(_rows(name, upstream, options.seconds))
    return [Table(f"{name}, a vendor of 50 ms; times in ms, CPU for each request", rows)]


def _rows(name: str, upstream: vendor.Running, seconds: float) -> Iterator[Row]:
    progress(f"{name}: starting")
    with GATEWAYS[name](upstream.url) as gateway:
        pids = {"gateway": gateway.pid}
        progress(f"{name}: warming up")  # LiteLLM imports many modules at its first requests
        warming = load.completions(gateway.url, key=server.KEY, headers=gateway.headers)
        server.drive(warming, max(CLIENTS), WARM_UP_SECONDS, pids)
        for stream in (False, True) if gateway.streams else (False,):
            for clients in CLIENTS:
                progress(f"{name}, {'streamed' if stream else 'plain'}, {clients} clients")
                asked = load.completions(
                    gateway.url, key=server.KEY, stream=stream, headers=gateway.headers
                )
                outcome = server.drive(asked, clients, seconds, pids)
                yield _row(name, stream, clients, outcome, processes.memory_mb(gateway.pid))


def _row(name: str, stream: bool, clients: int, outcome: Outcome, memory: float) -> Row:
    return {
        "": name,
        " ": "streamed" if stream else "plain",
        "clients": clients,
        "req/s": outcome.rate,
        "p50": outcome.latency_ms(0.5),
        "p99": outcome.latency_ms(0.99),
        "first token": outcome.first_token_ms(0.5) if stream else None,
        "CPU": outcome.cpu_ms("gateway"),
        "memory MB": memory,
    }


def install(name: str) -> Path:
    """Install a gateway, unless it is installed, and return its folder.

    Raises OSError or CalledProcessError if that fails, e.g. without npm or the internet.
    """
    folder = HOME / name
    if not folder.exists():
        progress(f"{name}: installing")
        folder.mkdir(parents=True)
        try:
            if name in NODE_PACKAGES:
                options = ["--silent", "--no-fund", "--no-audit"]
                _run("npm", "install", *options, NODE_PACKAGES[name], cwd=folder)
            else:
                _make_environment(folder, PYTHON_PACKAGES[name])
        except BaseException:
            shutil.rmtree(folder)
            raise
    return folder


def _make_environment(folder: Path, packages: Sequence[str]) -> None:
    _run(sys.executable, "-m", "uv", "venv", "--quiet", folder)
    # Else modules would be compiled while the gateway is measured.
    options = ["--quiet", "--compile-bytecode", "--python", str(folder / "bin" / "python")]
    _run(sys.executable, "-m", "uv", "pip", "install", *options, *packages)


def _run(*command: str | Path, cwd: Path = ROOT) -> None:
    subprocess.run(command, cwd=cwd, check=True)


@contextmanager
def _running(command: Sequence[str | Path], port: int, **variables: str) -> Iterator[int]:
    """Run a server on a port, with its output in HOME/output.log. Yield its process id."""
    environment = {**base_environment(), **variables}
    with (HOME / "output.log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        _wait(process, port)
        yield process.pid
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _wait(process: "subprocess.Popen[bytes]", port: int) -> None:
    """Wait until the server listens and is idle, since some listen while they still import."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        before = processes.cpu_seconds(process.pid)
        time.sleep(1)
        idle = processes.cpu_seconds(process.pid) - before < IDLE_CPU_SECONDS
        if idle and _listens(port):
            return
    raise RuntimeError(f"it does not start: see {HOME}/output.log")


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    publish({name: functools.partial(measure, name) for name in GATEWAYS}, RESULTS)
