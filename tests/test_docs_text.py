"""The documents have short sentences, links that lead somewhere, and commands that exist."""

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.management import CommandError, get_commands, load_command_class

ROOT = Path(__file__).parent.parent
ROOT_DOCUMENTS = (
    *("README.md", "README.pt-BR.md", "CHANGELOG.md", "CONTRIBUTING.md"),
    "SECURITY.md",
)
DOCUMENTS = [*sorted((ROOT / "docs").glob("*.md")), *(ROOT / name for name in ROOT_DOCUMENTS)]
MAX_WORDS = 30

CODE_BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")

each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)


def prose(text: str) -> Iterator[str]:
    """Yield the paragraphs and list items: no code blocks, tables, headings and pictures."""
    text = re.sub(r"<!--.*?-->", "", CODE_BLOCK.sub("\n\n", text), flags=re.DOTALL)
    for paragraph in re.split(r"\n\s*\n|\n(?= *(?:[-*>|#!<]|\d+\.) ?)", text):
        stripped = paragraph.strip()
        if stripped and not re.match(r"[|#<!]|\[!", stripped):
            yield " ".join(re.sub(r"^(?:[-*>]|\d+\.) +", "", stripped).split())


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of the prose, with the texts of links, and a word for each code span."""
    for paragraph in prose(text):
        for sentence in re.split(r"(?<=[.!?])[)\"*]* +(?=[A-Z0-9(\"*`\[])", paragraph):
            yield re.sub(r"`[^`]+`", "CODE", LINK.sub(r"\1", sentence))


def words(sentence: str) -> list[str]:
    return [word for word in sentence.split() if re.search(r"\w", word)]


@each_document
def test_no_sentence_is_long(path: Path) -> None:
    long = [one for one in sentences(path.read_text()) if len(words(one)) > MAX_WORDS]
    assert long == []


def slug(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    text = LINK.sub(r"\1", heading).replace("`", "").lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors(path: Path) -> set[str]:
    text = CODE_BLOCK.sub("", path.read_text())
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


@each_document
def test_each_link_leads_to_a_file_and_a_heading(path: Path) -> None:
    broken = []
    for _, target in LINK.findall(CODE_BLOCK.sub("", path.read_text())):
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        if re.match(r"https?:|mailto:", target):
            continue
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def test_the_index_lists_each_document() -> None:
    index = (ROOT / "docs/README.md").read_text()
    listed = {target.partition("#")[0] for _, target in LINK.findall(index)}
    assert {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"} <= listed


def lines_of_code(path: Path) -> Iterator[str]:
    """Yield the lines of the code blocks for a shell, with continued lines joined."""
    for language, block in CODE_BLOCK.findall(path.read_text()):
        if language in ("bash", "console", ""):
            yield from re.sub(r"\\\n\s*", " ", block).splitlines()


def management_commands(path: Path) -> Iterator[list[str]]:
    """Yield the command and the arguments of each call of manage.py that the document shows."""
    calls = [
        r"^(?:\$ )?(?:[A-Z_]+=\S+ |echo .*\| )*(?:\S*python )?manage\.py (.+?)(?: 2?>.*)?$",
        r"^make manage .*CMD=\"(.+?)\"",
    ]
    spans = re.findall(r"`([^`\n]*\bmanage[^`\n]*)`", CODE_BLOCK.sub("", path.read_text()))
    for line in (*lines_of_code(path), *spans):
        for call in calls:
            if (found := re.search(call, line.strip())) and not found[1].isupper():
                yield shlex.split(found[1])


@each_document
def test_each_management_command_takes_its_arguments(path: Path) -> None:
    apps = get_commands()
    for name, *arguments in management_commands(path):
        command = load_command_class(apps[name], name)
        try:
            command.create_parser("manage.py", name).parse_args(arguments)
        except CommandError as exc:
            if arguments:  # a bare name is a mention
                raise AssertionError(f"manage.py {name} {arguments}: {exc}") from exc


@each_document
def test_each_benchmark_exists(path: Path) -> None:
    named = set(re.findall(r"python -m (benchmarks[\w.]*)", path.read_text()))
    assert [name for name in named if importlib.util.find_spec(name) is None] == []


def test_the_tree_of_the_architecture_is_that_of_the_repository() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    tree = text.split("## The tree")[1].split("```")[1].split("\n", 1)[1]
    folders: list[str] = []
    missing = []
    for line in filter(str.strip, tree.splitlines()):
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.split()[0]
        path = "".join([*folders[:depth], name])
        folders[depth:] = [name] if name.endswith("/") else []
        if not (ROOT / path).exists():
            missing.append(path)
    assert missing == []
