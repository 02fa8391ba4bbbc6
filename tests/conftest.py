"""What the whole suite shares."""

from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the table of what came of each vendor in trouble."""
    reports = terminalreporter.stats.get("passed", []) + terminalreporter.stats.get("failed", [])
    rows = [
        value
        for report in reports
        for name, value in report.user_properties
        if name == "resilience"
    ]
    if rows:
        terminalreporter.section("a vendor in trouble")
        head = f"{'what it does':34} {'calls':>5} {'status':>6} {'code':21} {'time':14}  record: attempts"
        for row in (head, *sorted(rows)):
            terminalreporter.write_line(row)
