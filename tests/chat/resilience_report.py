"""A table at the end of the test run: what each failure of a vendor led to (test_resilience.py)."""

import pytest

HEAD = f"{'what it does':34} {'calls':>5} {'status':>6} {'code':21} {'time':15}  record: attempts"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    stats = terminalreporter.stats
    reports = stats.get("passed", []) + stats.get("failed", [])
    properties = (pair for report in reports for pair in report.user_properties)
    rows = sorted(row for name, row in properties if name == "resilience")
    if rows:
        terminalreporter.section("a vendor in trouble")
        terminalreporter.write_line("\n".join([HEAD, *rows]))
