"""Tests whose program is missing: failed in CI, elsewhere skipped and counted at the end."""

import os
from collections import Counter
from typing import NoReturn

import pytest

MARKER = "NOT RUN: "


def fail_or_skip(reason: str) -> NoReturn:
    """Fail the test if the variable CI is set, else skip it."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(f"{MARKER}{reason}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = [str(report.longrepr) for report in terminalreporter.stats.get("skipped", [])]
    reasons = Counter(text.split(MARKER)[1].rstrip("')") for text in skipped if MARKER in text)
    if reasons:
        terminalreporter.section("NOT RUN", red=True)
    for reason, count in reasons.items():
        terminalreporter.line(f"{count} tests: {reason}")
