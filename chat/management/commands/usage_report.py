"""Report usage from the counters."""

import csv
import json
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from chat.management.arguments import parse_owner
from chat.management.console import ConsoleCommand, table
from chat.management.csv_cells import cell
from chat.storage import backend
from chat.storage.base import API_KEY_PREFIX, CounterKind, UsageCounts
from chat.usage import MAX_DAYS, DateRange, format_usd, last_days, sum_by_name

COUNTS = ("requests", "errors", "prompt_tokens", "completion_tokens", "total_tokens")
COLUMNS = (*COUNTS, "cost_usd")
GROUPS = ("day", "model", "user", "owner", "key")
PAGE = 1000


class Command(ConsoleCommand):
    help = (
        "Report requests, tokens and cost of the last days (UTC). Reads counters, so the time "
        "does not depend on the number of records. Unknown costs count as 0."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--days", type=int, default=30, help="how many days, including today (30)"
        )
        parser.add_argument("--by", choices=GROUPS, default="day")
        parser.add_argument(
            "--owner", type=parse_owner, help="only this owner; default: all owners"
        )
        parser.add_argument("--format", choices=["table", "csv", "json"], default="table")
        parser.add_argument(
            "--plot",
            type=Path,
            help="also plot requests and cost to this file (.svg, .png, .pdf); needs matplotlib",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if not 1 <= options["days"] <= MAX_DAYS:
            raise CommandError(f"--days is 1 to {MAX_DAYS}.")
        by, period = options["by"], last_days(options["days"])
        owners = [options["owner"]] if options["owner"] else _owners()
        groups = sum_by_name(_users(owners, period) if by == "user" else _daily(owners, period, by))
        if options["plot"]:
            _plot(options["plot"], groups, f"{period.first} to {period.last}, by {by}")
        items = [{by: name, **_numbers(counts)} for name, counts in groups.items()]
        total = _numbers(sum(groups.values(), UsageCounts()))
        match options["format"]:
            case "json":
                head = {"from": str(period.first), "to": str(period.last), "by": by}
                report = {**head, "items": items, "total": total}
                self.stdout.write(json.dumps(report, indent=2, ensure_ascii=False))
            case "csv":
                lines = csv.DictWriter(self.stdout, [by, *COLUMNS], lineterminator="\n")
                lines.writeheader()
                lines.writerows({**item, by: cell(item[by])} for item in items)
            case _:
                self.stdout.write(table([*items, {by: "total", **total}], [by, *COLUMNS]))


def _owners() -> list[str]:
    """Return the owners of managed keys and of all other callers, and those that are counted."""
    with_keys = (key.owner for key in backend().api_keys.all())
    return sorted({"default", *with_keys, *backend().usage.owners()})


def _daily(
    owners: Iterable[str], period: DateRange, group: str
) -> Iterator[tuple[str, UsageCounts]]:
    """Yield each day's counts under the name of their day, model, owner or managed key."""
    kind = CounterKind.KEY if group == "key" else CounterKind.MODEL
    for owner in owners:
        daily = backend().usage.daily(owner, kind, period.first, period.last)
        for (day, name), counts in daily.items():
            names = {
                "day": str(day),
                "model": name,
                "owner": owner,
                "key": f"{API_KEY_PREFIX}_{name}",
            }
            yield names[group], counts


def _users(owners: Sequence[str], period: DateRange) -> Iterator[tuple[str, UsageCounts]]:
    """Yield counts by user; by `owner/user` for several owners, whose user ids may be equal."""
    for owner in owners:
        prefix = f"{owner}/" if len(owners) > 1 else ""
        after: str | None = ""
        while after is not None:
            first, last = period.first, period.last
            page = backend().usage.users(owner, first, last, limit=PAGE, after=after)
            yield from ((prefix + user, counts) for user, counts in page.users.items())
            after = page.next_after


def _numbers(counts: UsageCounts) -> dict[str, Any]:
    numbers = {name: getattr(counts, name) for name in COUNTS}
    return {**numbers, "cost_usd": format_usd(counts.cost_usd)}


def _plot(file: Path, groups: dict[str, UsageCounts], title: str) -> None:
    """Plot requests, with errors in another colour, above cost."""
    try:
        # Imported here: it is no dependency, and few reports need a plot.
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise CommandError("--plot needs matplotlib: pip install matplotlib") from exc
    names = [name.replace("$", r"\$") for name in groups]  # which would begin a formula
    figure = Figure(figsize=(max(6.0, len(names) * 0.35), 6.0), layout="constrained")
    requests, cost = figure.subplots(2, sharex=True)
    requests.bar(names, [counts.requests for counts in groups.values()], label="requests")
    requests.bar(names, [counts.errors for counts in groups.values()], label="errors")
    requests.legend()
    requests.set_title(title)
    cost.bar(names, [float(counts.cost_usd) for counts in groups.values()], color="tab:green")
    cost.set_ylabel("cost (USD)")
    cost.tick_params(axis="x", rotation=90)
    try:
        figure.savefig(file)
    except (OSError, ValueError) as exc:
        raise CommandError(f"{file} cannot be written: {exc}") from exc
