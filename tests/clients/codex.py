"""Codex CLI in front of a server with default settings: it answers, and runs a command.

Codex takes 400 MB, so it runs on request only:

    python -m pytest --numprocesses 0 --no-cov tests/clients/codex.py

npm of Node.js 20 or newer installs it into `.cache/applications/` when it is first needed.
"""

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.clients import installation, stub_model
from tests.server_process import Server, base_environment
from tests.stub_vendor import StubVendor

CODEX = "@openai/codex@0.171.0"
FOLDER = installation.ROOT / ".cache" / "applications" / "codex"
MODEL = "model-1"
# As in docs/clients.md.
CONFIGURATION = """
model = "default"
model_provider = "ours"
web_search = "disabled"

[agents]
enabled = false

[model_providers.ours]
name = "Serverless Chat API"
base_url = "{base_url}"
env_key = "CHAT_API_KEY"
wire_api = "responses"
"""


@pytest.fixture
def server(stub: StubVendor, tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path, OPENAI_BASE_URL=f"{stub.url}/v1", OPENAI_MODEL=MODEL) as server:
        yield server


def codex(base_url: str, folder: Path, prompt: str) -> tuple[str, str]:
    """Run Codex once; return its answer, and what it prints of its work."""
    program = FOLDER / "node_modules" / ".bin" / "codex"
    if not program.exists():
        options = ("--ignore-scripts", "--no-audit", "--no-fund", f"--prefix={FOLDER}")
        subprocess.run(["npm", "install", *options, CODEX], check=True)
    home = folder / ".codex"
    home.mkdir()
    (home / "config.toml").write_text(CONFIGURATION.format(base_url=base_url))
    done = subprocess.run(
        [
            *(program, "exec", "--skip-git-repo-check"),
            *("--dangerously-bypass-approvals-and-sandbox", prompt),
        ],
        env=base_environment() | {"HOME": str(folder), "CHAT_API_KEY": "any"},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, done.stderr


def test_codex_answers(base_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stub_model, "_decide", lambda *asked: stub_model.HELLO)
    answer, work = codex(base_url, tmp_path, "Say hello.")
    assert answer.strip() == stub_model.HELLO
    assert stub_model.THOUGHT in work


def test_codex_runs_a_command(
    base_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decide(tools: Sequence[str], schema: bool, results: Sequence[str]) -> object:
        if results:
            return f"It printed: {results[0]}"
        return [("exec_command", {"cmd": "echo from codex | tee printed.txt"})]

    monkeypatch.setattr(stub_model, "_decide", decide)
    answer, work = codex(base_url, tmp_path, "Run a command.")
    assert (tmp_path / "printed.txt").read_text() == "from codex\n"
    assert "from codex" in answer
    assert "succeeded" in work
