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
from chat.storage import key_store, usage_store
from chat.storage.api_keys import PREFIX
from chat.storage.usage import CounterKind, UsageCounts
from chat.usage import MAX_DAYS, DateRange, last_days, sum_by_name

COLUMNS = (
    "requests",
    "errors",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "cost_usd",
)
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
        parser.add_argument("--by", choices=list(GROUPS), default="day")
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
        groups = sum_by_name(GROUPS[by](owners, period))
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
                lines.writerows(items)
            case _:
                self.stdout.write(table([*items, {by: "total", **total}], [by, *COLUMNS]))


def _owners() -> list[str]:
    """Return the owners of managed keys, and the owner of all other callers."""
    return sorted({"default", *(key.owner for key in key_store().all())})


def _daily(
    owners: Iterable[str], period: DateRange, by: CounterKind
) -> Iterator[tuple[str, str, str, UsageCounts]]:
    """Yield owner, day, name and counts."""
    for each in owners:
        daily = usage_store().daily(each, by, period.first, period.last)
        for (day, name), counts in daily.items():
            yield each, day.isoformat(), name, counts


def _by_day(owners: Sequence[str], period: DateRange) -> Iterator[tuple[str, UsageCounts]]:
    return ((day, counts) for _, day, _, counts in _daily(owners, period, CounterKind.MODEL))


def _by_model(owners: Sequence[str], period: DateRange) -> Iterator[tuple[str, UsageCounts]]:
    return ((name, counts) for _, _, name, counts in _daily(owners, period, CounterKind.MODEL))


def _by_owner(owners: Sequence[str], period: DateRange) -> Iterator[tuple[str, UsageCounts]]:
    return ((each, counts) for each, _, _, counts in _daily(owners, period, CounterKind.MODEL))


def _by_key(owners: Sequence[str], period: DateRange) -> Iterator[tuple[str, UsageCounts]]:
    """Group by managed key; other usage is left out."""
    return (
        (f"{PREFIX}_{key}", counts) for _, _, key, counts in _daily(owners, period, CounterKind.KEY)
    )


def _by_user(owners: Sequence[str], period: DateRange) -> Iterator[tuple[str, UsageCounts]]:
    """Group by user; by `owner/user` for several owners, whose user ids may be equal."""
    for each in owners:
        prefix, after = f"{each}/" if len(owners) > 1 else "", ""
        while True:
            first, last = period.first, period.last
            page = usage_store().users(each, first, last, limit=PAGE, after=after)
            yield from ((prefix + user, counts) for user, counts in page.users.items())
            if page.next_after is None:
                break
            after = page.next_after


GROUPS = {
    "day": _by_day,
    "model": _by_model,
    "user": _by_user,
    "owner": _by_owner,
    "key": _by_key,
}


def _numbers(counts: UsageCounts) -> dict[str, Any]:
    cost = f"{counts.cost_usd.normalize():f}"
    return {**{name: getattr(counts, name) for name in COLUMNS[:-1]}, "cost_usd": cost}


def _plot(file: Path, groups: dict[str, UsageCounts], title: str) -> None:
    """Plot requests, with errors in another colour, above cost."""
    try:
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise CommandError("--plot needs matplotlib: pip install matplotlib") from exc
    names = list(groups)
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
