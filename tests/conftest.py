"""What the whole suite shares."""

from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the table of what came of each vendor in trouble."""
    reports = terminalreporter.stats.get("passed", []) + terminalreporter.stats.get("failed", [])
    properties = (pair for report in reports for pair in report.user_properties)
    rows = sorted(row for name, row in properties if name == "resilience")
    if rows:
        head = f"{'what it does':34} {'calls':>5} {'status':>6} {'code':21} {'time':14}"
        terminalreporter.section("a vendor in trouble")
        terminalreporter.write_line(f"{head}  record: attempts")
        for row in rows:
            terminalreporter.write_line(row)
