"""The server where others host it: browsers of other origins, a platform's PORT, a TLS proxy."""

import json
import os
import re
import socket
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Browser

from tests.factories import KEY
from tests.server_process import ROOT, Server, base_environment
from tests.stub_vendor import StubVendor
from tests.tls import Authority

APP = "https://app.example.org"
PREFLIGHT = {
    "Origin": APP,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-stainless-timeout",
}
PASSWORD = "correct horse battery staple"

# --- CORS -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vendor() -> Iterator[StubVendor]:
    with StubVendor() as stub:
        yield stub


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, vendor: StubVendor) -> Iterator[Server]:
    """A server that pages of APP may call, with a key."""
    variables = {
        "CORS_ALLOWED_ORIGINS": f"{APP}, http://localhost:3000",
        "REQUIRE_API_KEY": "true",
        "API_KEYS": KEY,
        "RATE_LIMIT_PER_MINUTE": "3",
        "LLM_PROVIDER": "openai",
        "OPENAI_BASE_URL": f"{vendor.url}/v1",
    }
    with Server(tmp_path_factory.mktemp("cors"), WEB_CONCURRENCY="1", **variables) as running:
        yield running


@pytest.mark.parametrize("path", ["/v1/chat", "/v1/chat/completions", "/v1/users/a/interactions"])
def test_a_preflight_needs_no_key(shared: Server, path: str) -> None:
    answer = shared.client.options(path, headers=PREFLIGHT)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["Access-Control-Allow-Origin"] == APP
    assert answer.headers["Access-Control-Allow-Methods"] == "DELETE, GET, OPTIONS, POST"
    allowed = set(answer.headers["Access-Control-Allow-Headers"].split(", "))
    assert allowed >= {"authorization", "x-api-key", "content-type", "idempotency-key"}
    assert allowed >= {"x-request-id", "x-stainless-timeout", "x-stainless-retry-count"}
    assert answer.headers["X-Request-ID"]


def test_answers_errors_and_streams_may_be_read_by_the_page(
    shared: Server, vendor: StubVendor
) -> None:
    with_key = {"Origin": APP, "X-API-Key": KEY}
    answers = [
        (200, shared.client.get("/v1/health", headers={"Origin": APP})),
        (401, shared.chat(headers={"Origin": APP})),
        (400, shared.chat("", headers=with_key)),
        (404, shared.client.get("/v1/nowhere", headers=with_key)),
        (200, shared.chat(user="cors", headers=with_key)),
        (200, shared.chat(user="cors", stream=True, headers=with_key)),
        (200, shared.chat(user="cors", stream=True, headers=with_key)),
        (429, shared.chat(user="cors", headers=with_key)),
    ]
    for status, answer in answers:
        assert answer.status_code == status
        assert answer.headers["Access-Control-Allow-Origin"] == APP
        exposed = set(answer.headers["Access-Control-Expose-Headers"].split(", "))
        assert exposed >= {"x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"}
        assert exposed >= {"x-request-id", "idempotency-replayed", "retry-after"}
        assert "origin" in answer.headers["Vary"].lower()


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://app.example.org", f"{APP}.evil.example", "null"]
)
def test_other_origins_are_not_allowed(shared: Server, origin: str) -> None:
    for answer in (
        shared.client.options("/v1/chat", headers=PREFLIGHT | {"Origin": origin}),
        shared.client.get("/v1/health", headers={"Origin": origin}),
    ):
        assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/admin/login/"])
def test_only_the_api_is_shared(shared: Server, path: str) -> None:
    answer = shared.client.get(path, headers={"Origin": APP})
    assert answer.status_code == 200
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_any_origin_may_be_allowed(tmp_path: Path) -> None:
    variables = {"CORS_ALLOWED_ORIGINS": "*", "WEB_CONCURRENCY": "1", "LLM_PROVIDER": "mock"}
    with Server(tmp_path, **variables) as server:
        for answer in (
            server.client.options("/v1/chat", headers=PREFLIGHT),
            server.client.get("/v1/health", headers={"Origin": APP}),
        ):
            assert answer.headers["Access-Control-Allow-Origin"] == "*"


def test_without_origins_there_is_no_cors(tmp_path: Path) -> None:
    with Server(tmp_path, WEB_CONCURRENCY="1", LLM_PROVIDER="mock") as server:
        answer = server.client.get("/v1/health", headers={"Origin": APP})
        assert not [name for name in answer.headers if name.startswith("access-control")]


@contextmanager
def page_server(folder: Path) -> Iterator[str]:
    """Serve an empty page, and yield its origin."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as http:
        thread = Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def test_a_page_of_another_origin_chats_in_a_browser(tmp_path: Path, chromium: Browser) -> None:
    fetch = """async ([url, key]) => {
        const headers = {"authorization": `Bearer ${key}`, "content-type": "application/json",
                         "x-stainless-lang": "js", "x-stainless-new": "1",
                         "cache-control": "no-cache"};
        const body = JSON.stringify({userId: "a", prompt: "mock:think=Hm Hello", stream: true});
        const answer = await fetch(`${url}/v1/chat`, {method: "POST", headers, body});
        return [answer.status, answer.headers.get("x-ratelimit-remaining"), await answer.text()];
    }"""
    keys = {"REQUIRE_API_KEY": "true", "API_KEYS": KEY}
    with page_server(tmp_path) as origin, chromium.new_context() as context:
        variables = {"CORS_ALLOWED_ORIGINS": origin, "WEB_CONCURRENCY": "1", "LLM_PROVIDER": "mock"}
        with Server(tmp_path, **variables, **keys) as server:
            page = context.new_page()
            page.goto(origin)
            url = f"http://127.0.0.1:{server.port}"
            status, remaining, text = page.evaluate(fetch, [url, KEY])
            assert (status, remaining) == (200, "59")
            assert "event: done" in text
            refused, _, text = page.evaluate(fetch, [url, "wrong"])
            assert (refused, "invalid_api_key" in text) == (401, True)


# --- PORT -----------------------------------------------------------------------------------------


def test_a_platform_s_port_is_served_at_all_addresses(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = Server(tmp_path, PORT=str(port), API_PORT="", WEB_CONCURRENCY="1", LLM_PROVIDER="mock")
    server.port = port
    with server:
        assert f"http://0.0.0.0:{port}" in server.log.read_text()
        other_host = {"Host": "chat.example.org"}
        assert server.client.get("/v1/health", headers=other_host).status_code == 200


# --- TLS that ends before the server --------------------------------------------------------------


class TlsProxy:
    """A proxy that ends TLS and forwards to a port, with X-Forwarded-Proto in each request."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.origin = f"https://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._listener.close()

    def forward_to(self, port: int) -> None:
        Thread(target=self._accept, args=(port,), daemon=True).start()

    def _accept(self, port: int) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                Thread(target=self._forward, args=(connection, port), daemon=True).start()

    def _forward(self, connection: socket.socket, port: int) -> None:
        with (
            suppress(OSError),
            self._context.wrap_socket(connection, server_side=True) as client,
            socket.create_connection(("127.0.0.1", port)) as server,
        ):
            head, body = _read_request(client)
            server.sendall(head + b"\r\nX-Forwarded-Proto: https\r\n\r\n" + body)
            while answer := server.recv(65_536):
                client.sendall(answer)


def _read_request(client: socket.socket) -> tuple[bytes, bytes]:
    """Return the head of a request, without its last empty line, and the body."""
    head, body = client.recv(65_536), b""
    while b"\r\n\r\n" not in head:
        head += client.recv(65_536)
    head, _, body = head.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    while length and len(body) < int(length[1]):
        body += client.recv(65_536)
    return head, body


def log_in(folder: Path, **variables: str) -> httpx.Response:
    """Log in to the admin through a TLS proxy, as a browser does. `{origin}` is the proxy's."""
    authority = Authority(folder)
    trusted = ssl.create_default_context(cafile=authority.file)
    with TlsProxy(authority.server()) as proxy:
        variables = {name: text.format(origin=proxy.origin) for name, text in variables.items()}
        with Server(folder, WEB_CONCURRENCY="1", LLM_PROVIDER="mock", **variables) as server:
            create_administrator(folder)
            proxy.forward_to(server.port)
            path, headers = "/admin/login/?next=/admin/", {"Connection": "close"}
            with httpx.Client(base_url=proxy.origin, verify=trusted, headers=headers) as browser:
                form = browser.get(path).text
                [token] = set(re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', form))
                data = {"username": "root", "password": PASSWORD, "csrfmiddlewaretoken": token}
                return browser.post(path, data=data, headers={"Origin": proxy.origin})


def create_administrator(folder: Path) -> None:
    variables = {
        "DATABASE_PATH": str(folder / "server.db"),
        "ENV_FILE": os.devnull,
        "DJANGO_SUPERUSER_PASSWORD": PASSWORD,
    }
    create = [sys.executable, str(ROOT / "manage.py"), "createsuperuser", "--noinput"]
    options = ["--username=root", "--email=root@example.org"]
    subprocess.run([*create, *options], env={**base_environment(), **variables}, check=True)


# gunicorn trusts the header of a proxy on the same machine. This one stands for another machine's.
ELSEWHERE = {"FORWARDED_ALLOW_IPS": "192.0.2.1"}


def test_the_admin_s_login_works_behind_a_proxy_on_the_same_machine(tmp_path: Path) -> None:
    answer = log_in(tmp_path)
    assert (answer.status_code, answer.headers["Location"]) == (302, "/admin/")


def test_the_forwarded_scheme_is_trusted_where_the_operator_says_so(tmp_path: Path) -> None:
    answer = log_in(tmp_path, TRUST_FORWARDED_PROTO="true", **ELSEWHERE)
    assert (answer.status_code, answer.headers["Location"]) == (302, "/admin/")
    cookies = answer.headers.get_list("Set-Cookie")
    assert len(cookies) == 2
    assert all("Secure" in cookie for cookie in cookies)


def test_the_proxy_s_origin_may_be_named_instead(tmp_path: Path) -> None:
    answer = log_in(tmp_path, CSRF_TRUSTED_ORIGINS="{origin}", **ELSEWHERE)
    assert (answer.status_code, answer.headers["Location"]) == (302, "/admin/")


def test_a_forwarded_scheme_is_not_trusted_by_default(tmp_path: Path) -> None:
    assert log_in(tmp_path, **ELSEWHERE).status_code == 403


# --- Docker ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hosts", "host"),
    [
        ("", "localhost"),
        ("*", "localhost"),
        ("chat.example.org, localhost", "chat.example.org"),
        (".example.org", "example.org"),
    ],
)
def test_docker_s_health_check_asks_under_an_allowed_host(hosts: str, host: str) -> None:
    with StubVendor() as server:
        server.reply({"status": "healthy"})
        # A proxy for other addresses has no part in it.
        address = {"PORT": str(urlsplit(server.url).port), "http_proxy": "http://127.0.0.1:9"}
        assert health_check({"ALLOWED_HOSTS": hosts, **address}) == 0
        [asked] = server.requests
    assert (asked.path, asked.headers["host"]) == ("/v1/health", host)


def test_docker_s_health_check_fails_without_an_answer(tmp_path: Path) -> None:
    with Server(tmp_path, WEB_CONCURRENCY="1", LLM_PROVIDER="mock") as server:
        assert health_check({"API_PORT": str(server.port)}) == 0
    assert health_check({"API_PORT": str(server.port)}) != 0


def health_check(variables: dict[str, str]) -> int:
    """Run the command of the Dockerfile's HEALTHCHECK, and return its exit code."""
    [command] = re.findall(
        r'HEALTHCHECK.*\\\n\s+CMD \["python", (.*)\]', (ROOT / "Dockerfile").read_text()
    )
    words = [sys.executable, *json.loads(f"[{command}]")]
    environment = base_environment() | variables
    return subprocess.run(words, env=environment, cwd=ROOT, stderr=subprocess.DEVNULL).returncode


# --- Files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_the_server_s_files_are_their_owner_s_alone(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with Server(tmp_path, WEB_CONCURRENCY="1", LLM_PROVIDER="mock") as server:
            assert server.chat().status_code == 200
            modes = {
                path.name: stat.S_IMODE(path.stat().st_mode)
                for path in tmp_path.iterdir()
                if path != server.log
            }
    finally:
        os.umask(before)
    names = ("server.db", "server.db-wal", "server.db-shm", ".secret_key")
    assert modes == dict.fromkeys(names, 0o600)


def test_the_mode_of_an_existing_file_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "server.db").touch(mode=0o640)
    with Server(tmp_path, WEB_CONCURRENCY="1", LLM_PROVIDER="mock") as server:
        assert server.chat().status_code == 200
    assert stat.S_IMODE((tmp_path / "server.db").stat().st_mode) == 0o640
