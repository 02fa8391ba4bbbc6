"""The OpenAPI document against the running server, by Schemathesis.

schemathesis.toml says which of its findings are no faults, and why.
"""

import subprocess
import sys
from pathlib import Path

from tests.not_run import fail_or_skip
from tests.server_process import Server

PROGRAM = Path(sys.executable).with_name("schemathesis")
EXPLAINED = Path(__file__).with_name("schemathesis.toml")


def test_the_server_does_what_its_openapi_document_says(tmp_path: Path) -> None:
    if not PROGRAM.exists():
        fail_or_skip("schemathesis is not installed")
    with Server(tmp_path, RATE_LIMIT_PER_MINUTE="0") as server:
        address = f"http://127.0.0.1:{server.port}/openapi.json"
        options = ["--max-examples=5", "--seed=1", "--no-color"]
        ended = subprocess.run(
            [PROGRAM, "--config-file", EXPLAINED, "run", address, *options],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "1 operation had unusable regex" not in ended.stdout
    assert "Stateful" in ended.stdout
