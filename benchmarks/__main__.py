"""The project measures itself: see `python -m benchmarks --help`, and docs/performance.md."""

from benchmarks import handler, records, report, server

report.publish({"handler": handler.measure, "server": server.measure, "records": records.measure})
