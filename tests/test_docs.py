"""The documentation agrees with the code."""

import ast
import re
from pathlib import Path

from tests.settings import OURS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def variables_read() -> set[str]:
    """Return the first argument of each call of `env_…` or os.environ.get."""
    modules = ("env", "env_sources", "settings")
    trees = [ast.parse((ROOT / f"chatproject/{name}.py").read_text()) for name in modules]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {
        call.args[0].value
        for call in calls
        if call.args
        and isinstance(call.args[0], ast.Constant)
        and re.match(r"env_\w+$|os\.environ\.get$", ast.unparse(call.func))
    }


def variables_explained() -> set[str]:
    document = (ROOT / "docs/configuration.md").read_text()
    rows = [line for line in document.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([A-Z_]+)`", row.split("|")[1])}


def test_the_document_of_the_configuration_explains_exactly_the_variables_that_settings_read():
    assert variables_explained() == variables_read()


def test_the_tests_ignore_the_variables_of_a_developer_s_shell():
    # Of the network, of a terminal and of Lambda; the tests set ENV_FILE.
    others = {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE"}
    others |= {"NO_COLOR", "TERM", "_X_AMZN_TRACE_ID", "ENV_FILE"}
    assert {name for name in variables_read() if not name.startswith(OURS)} <= others


def test_the_example_env_file_names_only_variables_that_settings_read():
    names = set(re.findall(r"^#? ?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert names
    assert names <= variables_read()


def test_the_documents_set_only_variables_that_settings_read():
    # Of make, of OpenTelemetry and of sort.
    others = {"ENV", "NAME", "CMD", "ONLY", "CHECK_API_KEY", "OTEL_TRACES_SAMPLER"}
    others |= {"OTEL_TRACES_SAMPLER_ARG", "LC_ALL"}
    for path in (ROOT / "docs").glob("*.md"):
        if path.name != "clients.md":  # it sets variables of clients
            names = set(re.findall(r"(?:^|[`\s])([A-Z_]{2,})=", path.read_text(), re.MULTILINE))
            names = {name.removesuffix("_SSM").removesuffix("_SECRET") for name in names}
            assert names <= variables_read() | others, path.name


def modules_with(pattern: str) -> set[str]:
    return {
        str(path.relative_to(ROOT))
        for package in ("chat", "chatproject", "providers")
        for path in (ROOT / package).rglob("*.py")
        if re.search(pattern, path.read_text())
    }


def test_only_settings_reads_the_environment():
    assert modules_with(r"os\.(environ\b(?!\.setdefault)|getenv)|dotenv") == {
        "chatproject/env_sources.py",
        "chatproject/server/health_check.py",  # without Django, since it runs often
    }
    # On Lambda each invocation sets a variable, the trace id, which settings cannot hold.
    assert modules_with(r"\benv(_sources)? import|import env|chatproject\.env") == {
        "chatproject/settings.py",
        "chatproject/env.py",
        "chatproject/lambda_handler.py",
        "chatproject/lambda_runtime.py",
    }


def test_the_documents_name_only_make_targets_that_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    paths = [ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    documents = "\n".join([README, *(path.read_text() for path in paths)])
    named = set(re.findall(r"(?:`|^|\s)make ([a-z-]+)(?=`|\s|$)", documents, re.MULTILINE))
    assert named
    assert named <= targets


def rows_of(document: str) -> list[list[str]]:
    """Return the cells of each row of a document's tables."""
    lines = (ROOT / document).read_text().splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line[:1] == "|"]


def test_the_document_of_errors_has_each_code_and_its_status():
    from chat import errors

    problems = {
        (problem.status, problem.code)
        for problem in vars(errors).values()
        if isinstance(problem, type) and issubclass(problem, errors.Problem)
    }
    of_drf = {(405, "method_not_allowed"), (406, "not_acceptable"), (415, "unsupported_media_type")}
    of_log = {(errors.ClientDisconnected.status, errors.ClientDisconnected.code)}
    listed = [
        (int(found[1]), found[2])
        for first, *_ in rows_of("docs/errors.md")
        if (found := re.fullmatch(r"(\d{3}) `(\w+)`", first))
    ]
    assert sorted(listed) == sorted(problems - of_log | of_drf)


def test_the_document_of_errors_has_openai_s_codes_of_ours():
    from chat.api.openai.errors import TERMS

    rows = [row for row in rows_of("docs/errors.md") if row[0].strip("`") in TERMS]
    listed = {
        code.strip("`"): (type_.strip("`"), *re.findall(r"`(\w+)`|\b(4\d\d)\b", term))
        for code, term, type_ in rows
    }
    expected = {}
    for code, (type_, term, status) in TERMS.items():
        words = [(term, "")] if term else []
        expected[code] = (type_, *words, *([("", str(status))] if status else []))
    assert listed == expected


def test_the_table_of_reasons_lists_those_of_the_transport():
    from providers import transport_errors

    tree = ast.parse((ROOT / "providers/transport_errors.py").read_text())
    literals = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    words = {word for word in literals if re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)+", str(word))}
    causes = {*transport_errors.REFUSALS.values(), *transport_errors.CERTIFICATES.values()}
    proxied = {f"proxy_{cause}" for cause in causes | {"not_connected", "certificate_invalid"}}
    numbered = {"proxy_refused_407", "curl_error_N"}
    table = (ROOT / "docs/failures.md").read_text().split("| `reason` |")[1].split("\n\n")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    listed = {word for row in rows for word in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert listed == words | proxied | numbered


def test_the_transport_takes_its_reasons_from_one_module():
    assert not re.findall(r"httpx\.\w+\(\"", (ROOT / "providers/transport.py").read_text())


def test_the_changelog_begins_with_what_is_unreleased_and_then_this_version():
    import chatproject

    headings = re.findall(r"^## (.*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert re.fullmatch(rf"\[{chatproject.__version__}\] - \d{{4}}-\d\d-\d\d", headings[1])
