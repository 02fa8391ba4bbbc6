"""The real DynamoDB Local, installed by the tests and run while any of them needs it.

It comes from npm, goes to `.cache/`, and needs Java 17. All concurrent test processes share one
in-memory server on a free port; each has its own tables (tests/settings.py). The last process to
leave stops it.
"""

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from botocore.session import Session
from django.conf import settings

from providers.sigv4 import Keys
from tests.not_run import fail_or_skip

Calls = list[tuple[str, Mapping[str, Any]]]

PACKAGE = "amplify-dynamodb-simulator@2.9.30"
SHA256 = "3503ffac19f183407909fecdacf4db51ab1fdad1da7b2f177016670b2d80e4b9"
HOME = Path(__file__).parent.parent / ".cache" / "dynamodb-local"
EMULATOR = HOME / "package" / "emulator"
STATE = HOME / "server.json"
START_SECONDS = 60.0


@pytest.fixture(scope="session")
def dynamodb_url() -> Iterator[str]:
    """The address of DynamoDB Local."""
    if absent := missing():
        fail_or_skip(absent)
    with running() as url:
        yield url


@pytest.fixture(scope="session")
def tables(dynamodb_url: str) -> Iterator[str]:
    """The address of DynamoDB Local, with our tables."""
    from chat.storage.dynamodb.tables import TABLES

    with _directed() as direct:
        direct(dynamodb_url)
        for table in TABLES:
            table.create_table(wait=True)
    yield dynamodb_url
    with _directed() as direct:
        direct(dynamodb_url)
        for table in TABLES:
            table.delete_table()


@pytest.fixture
def dynamodb(tables: str) -> Iterator[str]:
    """The address of DynamoDB Local, with our tables, empty; the product uses it in this test."""
    from chat.storage.dynamodb.tables import TABLES

    with _directed() as direct:
        direct(tables)
        yield tables
        for table in TABLES:
            for item in table.scan():
                item.delete()


@pytest.fixture
def dynamodb_at() -> Iterator[Callable[[str], None]]:
    """A function that points the product at another DynamoDB."""
    with _directed() as direct:
        yield direct


def variables(url: str) -> dict[str, str]:
    """Return the environment of a process that uses DynamoDB at this address."""
    return {
        "AWS_ENDPOINT_URL_DYNAMODB": url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "eu-west-1",
    }


@contextlib.contextmanager
def _directed() -> Iterator[Callable[[str], None]]:
    """Yield a function that points the product at a DynamoDB until the block ends."""
    from chat.storage import backend
    from chat.storage.dynamodb.client import client

    with pytest.MonkeyPatch.context() as patch:

        def direct(url: str) -> None:
            for name, value in variables(url).items():
                patch.setenv(name, value)
            patch.setattr(settings, "DYNAMODB_ENDPOINT", url)
            patch.setattr(settings, "AWS_REGION", "eu-west-1")
            patch.setattr(settings, "AWS_KEYS", Keys("test", "test", ""))
            client.cache_clear()
            backend.cache_clear()

        yield direct
    client.cache_clear()
    backend.cache_clear()


@contextlib.contextmanager
def running() -> Iterator[str]:
    """Run the server at least until the block ends; yield its address."""
    with _locked():
        _install()
        server = _server() or _start()
        _write(server, [*_others(), os.getpid()])
    try:
        yield f"http://127.0.0.1:{server['port']}"
    finally:
        with _locked():
            _leave(server)


def missing() -> str:
    """Return a sentence on the missing programs; empty if there are none."""
    needed = ["java"] if EMULATOR.exists() else ["java", "npm"]
    absent = [program for program in needed if not shutil.which(program)]
    return f"{' and '.join(absent)} must be installed for DynamoDB Local" if absent else ""


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    HOME.mkdir(parents=True, exist_ok=True)
    with (HOME / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _install() -> None:
    if EMULATOR.exists():
        return
    pack = ["npm", "pack", "--silent", PACKAGE]
    name = subprocess.run(pack, cwd=HOME, check=True, stdout=subprocess.PIPE, text=True).stdout
    archive = HOME / name.strip()
    if hashlib.sha256(archive.read_bytes()).hexdigest() != SHA256:
        raise RuntimeError(f"{PACKAGE}: the checksum differs")
    draft = HOME / "draft"
    shutil.rmtree(draft, ignore_errors=True)
    with tarfile.open(archive) as tar:
        # Python 3.11 has the filter from 3.11.4 on. The checksum has vouched for the archive.
        tar.extraction_filter = getattr(tarfile, "data_filter", None)
        tar.extractall(draft)
    (draft / "package").rename(HOME / "package")
    draft.rmdir()
    archive.unlink()


def _server() -> dict[str, int] | None:
    """Return the running server, if it answers."""
    try:
        server: dict[str, int] = json.loads(STATE.read_text())["server"]
    except (OSError, ValueError):
        return None
    return server if _answers(server["port"]) else None


def _start() -> dict[str, int]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    log = str(HOME / "server.log")
    java = ["java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx512m"]
    library = [f"-Djava.library.path={EMULATOR}/DynamoDBLocal_lib"]
    jar = ["-jar", f"{EMULATOR}/DynamoDBLocal.jar", "-inMemory", "-sharedDb", "-port", str(port)]
    # Spawned, because it may outlive this process. It writes a file into its working directory.
    pid = os.posix_spawnp(
        "sh",
        ["sh", "-c", 'cd "$0" && exec "$@"', str(HOME), *java, *library, *jar],
        {**os.environ, "DDB_LOCAL_TELEMETRY": "0"},
        setsid=True,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
    )
    end = time.monotonic() + START_SECONDS
    while not _answers(port):
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            raise RuntimeError(f"DynamoDB Local does not start; see {log}")
        time.sleep(0.1)
    return {"pid": pid, "port": port}


def _answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
    except urllib.error.HTTPError as error:
        error.close()
        return True
    except OSError:
        return False
    return True


def _others() -> list[int]:
    """Return the other live processes that use the server."""
    try:
        users = json.loads(STATE.read_text())["users"]
    except (OSError, ValueError):
        return []
    return [pid for pid in users if pid != os.getpid() and _is_alive(pid)]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return True


def _write(server: dict[str, int], users: list[int]) -> None:
    STATE.write_text(json.dumps({"server": server, "users": users}))


def _leave(server: dict[str, int]) -> None:
    if others := _others():
        _write(server, others)
        return
    STATE.unlink(missing_ok=True)
    with contextlib.suppress(ProcessLookupError):
        os.kill(server["pid"], signal.SIGTERM)


def botocore_client() -> Any:
    """Return botocore's own client, to look into the tables."""
    return _botocore_client(settings.DYNAMODB_ENDPOINT)


@functools.cache
def _botocore_client(url: str) -> Any:
    return Session().create_client("dynamodb", region_name="eu-west-1", endpoint_url=url)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Record the calls to DynamoDB: operations and arguments."""
    from chat.storage.dynamodb.client import DynamoDBClient

    made: Calls = []
    call = DynamoDBClient.call

    def record(
        self: DynamoDBClient, operation: str, arguments: Mapping[str, Any]
    ) -> dict[str, Any]:
        made.append((operation, arguments))
        return call(self, operation, arguments)

    monkeypatch.setattr(DynamoDBClient, "call", record)
    monkeypatch.setattr(DynamoDBClient, "_make_api_call", record)
    return made
