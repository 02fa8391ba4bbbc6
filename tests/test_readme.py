"""README's commands, examples and figures hold, and both languages have the same ones."""

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.server_process import ROOT, Server, base_environment
from tests.test_api_examples import assert_like, events, json_values

README = (ROOT / "README.md").read_text()
PORTUGUESE = (ROOT / "README.pt-BR.md").read_text()
CODE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INSTALLATION = "python3 -m venv /tmp/client && /tmp/client/bin/pip install --quiet "
MAX_LINES = 220

languages = pytest.mark.parametrize("readme", [README, PORTUGUESE], ids=["en", "pt-BR"])


def code(readme: str = README) -> list[tuple[str, str]]:
    """Return the language and the text of each block, with continued lines joined.

    Diagrams are left out: they are translated.
    """
    joined = re.sub(r" \\\n *", " ", readme)
    return [block for block in CODE.findall(joined) if block[0] != "mermaid"]


def with_output(language: str) -> list[tuple[str, str]]:
    """Return each block of this language that an output follows, and that output."""
    blocks = [*code(), ("", "")]
    pairs = itertools.pairwise(blocks)
    return [
        (text, output)
        for (own, text), (next_, output) in pairs
        if own == language and next_ in ("json", "text")
    ]


def commands(beginning: str) -> list[str]:
    lines = [line for language, text in code() if language == "bash" for line in text.splitlines()]
    return [line for line in lines if line.startswith(beginning)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("readme"), WEB_CONCURRENCY="1") as running:
        yield running


def run(*words: str, folder: Path | None = None, text: str = "", **variables: str) -> str:
    environment = {**base_environment(), "ENV_FILE": os.devnull, **variables}
    result = subprocess.run(
        words, input=text, capture_output=True, text=True, env=environment, cwd=folder, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def addressed(text: str, server: Server) -> str:
    assert "localhost:8000" in text
    return text.replace("localhost:8000", f"127.0.0.1:{server.port}")


def test_every_line_of_a_shell_is_of_a_known_kind():
    kinds = ("curl ", "make ", INSTALLATION, ".venv/bin/python manage.py ")
    lines = [re.sub(r"^([A-Z_]+=\S+ )+", "", line) for line in commands("")]
    assert [line for line in lines if not line.startswith(kinds)] == []
    assert all(any(line.startswith(kind) for line in lines) for kind in kinds)


def test_each_request_gets_its_answer(server: Server):
    requests = with_output("bash")
    assert [request for request, _ in requests] == [f"{line}\n" for line in commands("curl ")]
    for request, answer in requests:
        found = run("bash", "-c", addressed(request.replace("curl", "curl -s", 1), server))
        read = events if "data: " in answer else json_values
        assert_like(read(found), read(answer), {}, whole="…" not in answer)


def test_each_program_prints_its_output(server: Server):
    programs = with_output("python")
    assert len(programs) == README.count("```python")
    for program, output in programs:
        assert run(sys.executable, "-", text=addressed(program, server)) == output


def test_the_clients_to_install_are_those_of_the_tests():
    (line,) = commands(INSTALLATION)
    packages = line.removeprefix(INSTALLATION).replace('"', "").split()
    assert set(packages) <= set((ROOT / "requirements/dev.in").read_text().split())


def test_each_management_command_runs(server: Server, tmp_path: Path):
    database = str(server.log.parent / "server.db")
    server.chat()
    for line in commands(".venv/bin/python manage.py "):
        own = line.replace(".venv/bin/python manage.py", f"{sys.executable} {ROOT}/manage.py")
        assert run("bash", "-c", own, folder=tmp_path, DATABASE_PATH=database)
    assert [path.name for path in tmp_path.iterdir()] == ["records.jsonl.gz"]


def test_both_languages_have_the_same_code():
    assert code(PORTUGUESE) == code()
    assert PORTUGUESE.count("```mermaid") == README.count("```mermaid")


def links(readme: str) -> list[str]:
    """Return the targets of links and pictures, those to the other language left out."""
    found = re.findall(r"\]\(([^)\s]+)\)|(?:href|src)=\"([^\"]+)\"|<(https?://[^>]+)>", readme)
    targets = ["".join(target) for target in found]
    return [target for target in targets if not target.startswith("README")]


def test_both_languages_have_the_same_links():
    assert links(PORTUGUESE) == links(README)


def test_links_to_files_lead_to_them():
    paths = [link for link in links(README) if "://" not in link]
    assert [path for path in paths if not (ROOT / path.split("#")[0]).is_file()] == []


@languages
def test_the_packages_of_an_installation_are_counted(readme: str):
    (section,) = (part for part in readme.split("\n## ") if "SHA-256" in part)
    counts = [len(installed_on_linux(f"requirements/{name}.txt")) for name in ("local", "lambda")]
    assert [int(number) for number in re.findall(r" (\d+)\b", section)] == counts


def installed_on_linux(requirements: str) -> list[str]:
    linux = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}
    pins = re.findall(r"^(\S+==.*?) \\$", (ROOT / requirements).read_text(), re.MULTILINE)
    markers = {pin: Requirement(pin).marker for pin in pins}
    return [pin for pin, marker in markers.items() if not marker or marker.evaluate(linux)]


@languages
def test_the_prices_are_those_of_the_document(readme: str):
    (row,) = (line for line in readme.splitlines() if line.count(" USD |") == 3)
    prices = re.findall(r"(\d+\.\d+) USD", row.replace(",", "."))
    together = "".join(f" **{price}** |" for price in prices)
    assert together in (ROOT / "docs/deploy.md").read_text()


@languages
def test_it_is_short(readme: str):
    assert len(readme.splitlines()) <= MAX_LINES
