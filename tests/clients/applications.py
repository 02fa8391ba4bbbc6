"""Applications in front of a server with default settings: qwen-code, Codex, aider, Open WebUI.

They take minutes to install, so they run on request only:

    python -m pytest --numprocesses 0 tests/clients/applications.py

Each is installed into `.cache/applications/` when it is first needed: qwen-code and Codex by npm of
Node.js 20 or newer, the others by pip of Python 3.11 or 3.12. Codex takes 400 MB, and Open WebUI
several GB, with PyTorch.
"""

import os
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.clients import installation, stub_model
from tests.server_process import Server, base_environment, free_port
from tests.stub_vendor import StubVendor

QWEN_CODE = "@qwen-code/qwen-code@0.15.10"
CODEX = "@openai/codex@0.171.0"
AIDER = "aider-chat==0.86.2"
OPEN_WEBUI = "open-webui==0.12.4"
CLIENTS = (installation.ROOT / "docs/clients.md").read_text()
HOME = installation.ROOT / ".cache" / "applications"
MOCK, OPENAI = "mock-1", "model-1"
# 200 KB of source text, 100 KB of a document, and 2 MB of an image.
SOURCE = "".join(
    f"def function_{number}(x):\n    return x + {number}\n\n" for number in range(4400)
)
DOCUMENT = "".join(f"Line {number}: nothing to see here.\n" for number in range(2900))


@pytest.fixture(scope="module", params=[MOCK, OPENAI])
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def server(
    model: str, stub: StubVendor, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Start a server with default settings, in front of the mock or of a stub vendor."""
    options = {"OPENAI_BASE_URL": f"{stub.url}/v1", "OPENAI_MODEL": OPENAI}
    with Server(
        tmp_path_factory.mktemp("server"), **(options if model == OPENAI else {})
    ) as server:
        yield server


def test_qwen_code_reads_a_file_and_answers(
    base_url: str, model: str, vendor: StubVendor, tmp_path: Path
) -> None:
    program = npm_program("qwen", QWEN_CODE)
    (tmp_path / "source.py").write_text(SOURCE)
    call = f'mock:tool=read_file {{"file_path": "{tmp_path}/source.py"}}'
    answer = run(
        [program, "--auth-type", "openai", f"Which functions are there? {call}"],
        tmp_path,
        OPENAI_BASE_URL=base_url,
        OPENAI_API_KEY="any",
        OPENAI_MODEL="default",
    )
    assert answer.startswith("The tool said: " if model == MOCK else "The tools said: ")
    if model == MOCK:  # it calls the tool that it is told to
        assert "def function_300(x)" in answer


def test_codex_runs_a_command_and_answers(
    base_url: str, model: str, vendor: StubVendor, tmp_path: Path
) -> None:
    (tmp_path / ".codex").mkdir()
    configuration = CLIENTS.split("```toml\n")[1].split("```")[0]
    configuration = configuration.replace("http://localhost:8000/v1", base_url)
    (tmp_path / ".codex" / "config.toml").write_text(configuration)
    program = npm_program("codex", CODEX)
    options = ("--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox")
    ask = [program, "exec", *options]
    call = 'mock:tool=exec_command {"cmd": "echo from codex | tee printed.txt"}'
    answer = run([*ask, f"Run it. {call}"], tmp_path, CHAT_API_KEY="any")
    assert answer.startswith("The tool said: " if model == MOCK else "The tools said: ")
    if model == MOCK:  # it calls the tool that it is told to
        assert "from codex" in answer
        assert (tmp_path / "printed.txt").read_text() == "from codex\n"
        answer = run([*ask, "Hello"], tmp_path, CHAT_API_KEY="any")
        assert answer.strip() == "You said: Hello"


def test_aider_answers_on_a_file_of_200_kb(
    base_url: str, model: str, vendor: StubVendor, tmp_path: Path
) -> None:
    program = pip_program("aider", AIDER)
    (tmp_path / "source.py").write_text(SOURCE)
    answer = run(
        [
            *(program, "--model", "openai/default", "--chat-mode", "ask", "--no-git"),
            *("--yes-always", "--no-check-update", "--no-analytics", "--no-show-model-warnings"),
            *("--message", "Which functions are there?", "source.py"),
        ],
        tmp_path,
        OPENAI_API_BASE=base_url,
        OPENAI_API_KEY="any",
    )
    if model == MOCK:
        assert "You said: Which functions are there?" in answer
    else:
        assert stub_model.HELLO in answer
        assert any(SOURCE in message["content"] for message in vendor.requests[0].json["messages"])


@pytest.fixture(scope="module")
def open_webui(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Start Open WebUI, and sign up its first user; return a client of its API."""
    program, folder = pip_program("open-webui", OPEN_WEBUI), tmp_path_factory.mktemp("open")
    port = free_port()
    variables = {
        "OPENAI_API_BASE_URL": f"http://127.0.0.1:{server.port}/v1",
        "OPENAI_API_KEY": "any",
        "ENABLE_OLLAMA_API": "false",
        # Give the model the whole document. Otherwise an embedding model is downloaded.
        "BYPASS_EMBEDDING_AND_RETRIEVAL": "true",
        "HF_HUB_OFFLINE": "1",
        "DATA_DIR": str(folder),
        "WEBUI_SECRET_KEY": "secret",
    }
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            [program, "serve", "--host", "127.0.0.1", "--port", str(port)],
            env=base_environment() | variables | {"HOME": str(folder)},
            stdout=log,
            stderr=log,
        ) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client,
    ):
        try:
            wait_for(lambda: client.get("/health").is_success, 180)
            user = {"name": "Ana", "email": "ana@example.org", "password": "a long password"}
            signed_up = client.post("/api/v1/auths/signup", json=user).raise_for_status()
            client.headers["Authorization"] = f"Bearer {signed_up.json()['token']}"
            yield client
        finally:
            process.terminate()


def test_open_webui_answers_on_an_image_of_2_mb(
    open_webui: httpx.Client, model: str, vendor: StubVendor
) -> None:
    image = upload(open_webui, "photo.png", png(), "image/png", process=False)
    text = {"type": "text", "text": "What is it?"}
    content = [text, {"type": "image_url", "image_url": {"url": image}}]
    answer = ask(open_webui, model, content)
    if model == MOCK:
        assert answer == "You said: What is it? (1 image)"
    else:
        assert answer == stub_model.HELLO
        assert len(vendor.requests[-1].body) > 2_000_000 * 4 // 3


def test_open_webui_answers_on_a_document_of_100_kb(
    open_webui: httpx.Client, model: str, vendor: StubVendor
) -> None:
    file = upload(open_webui, "report.txt", DOCUMENT.encode(), "text/plain", process=True)
    answer = ask(open_webui, model, "What is it?", files=[{"type": "file", "id": file}])
    if model == MOCK:
        assert DOCUMENT.strip() in answer
    else:
        assert answer == stub_model.HELLO
        assert DOCUMENT.strip() in vendor.requests[-1].json["messages"][-1]["content"]


def upload(client: httpx.Client, name: str, data: bytes, kind: str, *, process: bool) -> str:
    """Upload a file to Open WebUI, wait until its text is read, and return its id."""
    sent = client.post(
        "/api/v1/files/", files={"file": (name, data, kind)}, params={"process": process}
    )
    file = str(sent.raise_for_status().json()["id"])
    status = f"/api/v1/files/{file}/process/status"
    if process:
        wait_for(lambda: client.get(status).json()["status"] == "completed", 60)
    return file


def ask(client: httpx.Client, model: str, content: Any, **fields: Any) -> str:
    messages = [{"role": "user", "content": content}]
    body = {"model": model, "messages": messages, "stream": False, **fields}
    answer = client.post("/api/chat/completions", json=body).raise_for_status()
    return str(answer.json()["choices"][0]["message"]["content"])


def png() -> bytes:
    """Return an image of noise, which cannot be compressed: 700 rows of 1000 pixels, 2.1 MB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 1000, 700, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + os.urandom(3000) for _ in range(700)), 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def npm_program(name: str, package: str) -> Path:
    folder = HOME / name
    program = folder / "node_modules" / ".bin" / name
    if not program.exists():
        options = ("--ignore-scripts", "--no-audit", "--no-fund", f"--prefix={folder}")
        execute(["npm", "install", *options, package])
    return program


def pip_program(name: str, package: str) -> Path:
    bin_ = HOME / name / "bin"
    if not (bin_ / name).exists():
        execute([sys.executable, "-m", "venv", "--clear", HOME / name])
        execute([bin_ / "python", "-m", "pip", "install", "--no-compile", package])
    return bin_ / name


def run(command: list[str | Path], folder: Path, **variables: str) -> str:
    """Run a program in a folder, which is its home, too; return what it prints."""
    environment = base_environment() | {"HOME": str(folder)} | variables
    return execute(command, cwd=folder, env=environment, timeout=180)


def execute(command: list[str | Path], **options: Any) -> str:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    """Wait until the condition holds. Connections may be refused until then."""
    end = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < end
        time.sleep(0.2)
