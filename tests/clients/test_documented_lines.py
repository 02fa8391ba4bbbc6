"""The lines of docs/clients.md run as they are, but for the server's address and key."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clients import installation
from tests.factories import KEY

DOCUMENT = (installation.ROOT / "docs/clients.md").read_text()
# Their packages are in the environment of requirements/clients.txt.
OF_CLIENTS = {"OpenAI Agents SDK", "instructor", "litellm"}
ANSWERS = {"instructor": "city="}


def blocks(language: str) -> list[tuple[str, str]]:
    """Return the section and the lines of each code block in a language."""
    return [
        (section.split("\n", 1)[0], block)
        for section in DOCUMENT.split("\n## ")[1:]
        for block in re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)
    ]


def for_server(lines: str, base_url: str) -> str:
    return lines.replace("http://localhost:8000/v1", base_url).replace('"any"', f'"{KEY}"')


def run(*command: str | Path, cwd: Path | None = None, **variables: str) -> str:
    # Coverage would slow the clients down, which run no code of ours.
    inherited = {name: os.environ[name] for name in os.environ if not name.startswith("COVERAGE_")}
    done = subprocess.run(
        command, cwd=cwd, env=inherited | variables, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("section", "lines"), blocks("python"))
def test_lines_of_python(section: str, lines: str, base_url: str) -> None:
    python = installation.python() if section in OF_CLIENTS else sys.executable
    printed = run(python, "-c", for_server(lines, base_url))
    assert ANSWERS.get(section, "You said: Olá!") in printed


@pytest.mark.parametrize(("section", "lines"), blocks("js"))
def test_lines_of_javascript(section: str, lines: str, base_url: str) -> None:
    script = for_server(lines, base_url)
    printed = run("node", "--input-type=module", "--eval", script, cwd=installation.node())
    assert printed == "You said: Olá!\n"


def test_the_configuration_of_llm(base_url: str, tmp_path: Path) -> None:
    [(_, models)] = blocks("yaml")
    (tmp_path / "extra-openai-models.yaml").write_text(for_server(models, base_url))
    (tmp_path / "keys.json").write_text(json.dumps({"ours": KEY}))
    llm = Path(sys.executable).with_name("llm")
    assert run(llm, "-m", "ours", "Olá!", LLM_USER_PATH=str(tmp_path)) == "You said: Olá!\n"
