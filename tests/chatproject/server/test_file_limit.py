"""The server may open as many files as the system allows, and goes on where these are few."""

import resource
import socket
import sqlite3
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

from chatproject.server.management.commands.serve import MAX_OPEN_FILES, raise_file_limit
from tests.server_process import Server
from tests.stub_vendor import OPENAI_ANSWER, StubVendor

FEW_FILES = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (96, 96))"


def test_the_limit_of_open_files_is_raised() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    try:
        raise_file_limit()
        raised, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert raised == min(hard, MAX_OPEN_FILES)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_server_with_few_files_refuses_requests_and_loses_none(tmp_path: Path) -> None:
    variables = {"WEB_CONCURRENCY": "1", "RATE_LIMIT_PER_MINUTE": "0"}
    with (
        StubVendor() as vendor,
        Server(tmp_path, setup=FEW_FILES, OPENAI_BASE_URL=vendor.url, **variables) as server,
        ExitStack() as idle,
        ThreadPoolExecutor(20) as clients,
    ):
        vendor.reply(OPENAI_ANSWER, delay=1.0)
        for _ in range(6):
            idle.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        answers = Counter(clients.map(lambda _: server.chat().status_code, range(20)))
        assert answers.keys() == {200, 503}
        with closing(sqlite3.connect(tmp_path / "server.db")) as connection:
            rows = connection.execute("SELECT status, count(*) FROM chat_interaction GROUP BY 1")
            assert dict(rows) == {"ok": answers[200]}
        assert "Traceback" not in server.log.read_text()
