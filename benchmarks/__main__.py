"""Measure the project: see `python -m benchmarks --help` and docs/performance.md."""

from benchmarks import handler, records, report, server, streams, waiting

PARTS = {
    "handler": handler.measure,
    "server": server.measure,
    "streams": streams.measure,
    "records": records.measure,
    "waiting": waiting.measure,
}

report.publish(PARTS)
