"""The project measures itself: see `python -m benchmarks --help`, and docs/performance.md."""

from benchmarks import report, server

report.publish({"server": server.measure})
