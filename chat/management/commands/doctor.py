"""Look over the configuration, the storage, the keys and the vendors."""

import json
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from django.conf import settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from pynamodb.exceptions import PynamoDBException

from chat.errors import StorageUnavailable
from chat.management import console, vendors
from chat.management.progress import Progress
from chat.storage import key_store, store
from providers.base import Deadline, Provider
from providers.errors import ModelUnavailable, ProviderError

SOON = timedelta(days=14)
CHECK_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, `ok`, `warning` or `failed`, and what to do about it."""

    check: str
    status: str
    detail: str
    hint: str | None = None


class Command(console.ConsoleCommand):
    help = (
        "Look whether this can serve: the configuration, the storage and its tables, the keys of "
        "callers, and the vendors, of which each is asked whether it takes our key. No model is "
        "asked, nothing is changed, and no secret is shown. Each line is ok, a warning or failed, "
        "with a hint; it ends with 1 if one failed."
    )
    requires_system_checks = ()  # they are among the findings

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--format", choices=["table", "json"], default="table")

    def handle(self, *args: Any, **options: Any) -> None:
        findings = [*_configuration(), *_storage(), *_keys(), *self._vendors()]
        if options["format"] == "json":
            rows = [asdict(finding) for finding in findings]
            self.stdout.write(json.dumps(rows, indent=2, ensure_ascii=False))
        else:
            self.stdout.writelines(f"{line}\n" for line in _lines(findings))
        failed = sum(finding.status == "failed" for finding in findings)
        if failed:
            raise CommandError(f"{failed} of {len(findings)} failed.")

    def _vendors(self) -> Iterator[Finding]:
        total = len(settings.PROVIDERS)
        with Progress(self.stderr, "Reaching", total=total, unit="providers") as progress:
            for _, finding in vendors.for_each_provider(_reached):
                progress.update(1)
                yield finding


def _lines(findings: list[Finding]) -> Iterator[str]:
    """Each finding, and beneath it what to do."""
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        yield f"{finding.status:7}  {finding.check:{width}}  {finding.detail}"
        if finding.hint:
            yield f"{'':{width + 9}}  Hint: {finding.hint}"


def _configuration() -> Iterator[Finding]:
    messages = [each for each in checks.run_checks() if not each.is_silenced()]
    for each in messages:
        status = "ok" if each.level < checks.WARNING else "warning"
        status = "failed" if each.level >= checks.ERROR else status
        yield Finding("configuration", status, each.msg, each.hint)
    risks = list(_risks())
    yield from risks
    if not messages and not risks:
        yield Finding("configuration", "ok", f"{settings.STORAGE}, {', '.join(settings.PROVIDERS)}")


def _risks() -> Iterator[Finding]:
    """What can be used and may not be meant."""
    if not settings.REQUIRE_API_KEY and not settings.LISTENS_LOCALLY:
        detail = "Others can reach this server, and need no key."
        yield Finding("configuration", "warning", detail, "set REQUIRE_API_KEY=true")
    if not settings.RATE_LIMIT_PER_MINUTE:
        detail = "Requests are not limited."
        yield Finding("configuration", "warning", detail, "set RATE_LIMIT_PER_MINUTE")
    if settings.LLM_PROVIDER == "mock" and not settings.LISTENS_LOCALLY:
        detail = "No model is asked: a mock answers."
        yield Finding("configuration", "warning", detail, "give it the key of a vendor")
    if settings.METRICS and (settings.LOG_FORMAT, settings.LOG_LEVEL) not in (
        ("json", "INFO"),
        ("json", "DEBUG"),
    ):
        detail = "METRICS is true, and the log lets no metrics through."
        yield Finding("configuration", "warning", detail, "set LOG_FORMAT=json and LOG_LEVEL=INFO")


def _storage() -> Iterator[Finding]:
    look = _migrations if settings.STORAGE == "sqlite" else _tables
    try:
        problems = list(look())
        if not problems:
            store().ping()
    except (StorageUnavailable, DatabaseError) as exc:
        hint = "see DATABASE_PATH" if settings.STORAGE == "sqlite" else "see TABLE_NAME, AWS_REGION"
        yield Finding("storage", "failed", f"It is unreachable ({_cause(exc)}).", hint)
        return
    for problem, hint in problems:
        yield Finding("storage", "failed", problem, hint)
    if not problems:
        yield Finding("storage", "ok", settings.STORAGE)


def _migrations() -> Iterator[tuple[str, str]]:
    hint = "run manage.py migrate (make run does)"
    file = Path(connection.settings_dict["NAME"])
    if not file.exists():  # to look into it would make it
        yield f"There is no file {file} yet.", hint
        return
    executor = MigrationExecutor(connection)
    if plan := executor.migration_plan(executor.loader.graph.leaf_nodes()):
        names = ", ".join(f"{migration.app_label}.{migration.name}" for migration, _ in plan)
        yield f"There are migrations to be run: {names}.", hint


def _tables() -> Iterator[tuple[str, str]]:
    from chat.management.commands.create_tables import differences
    from chat.storage.dynamodb.tables import TABLES

    for model in TABLES:
        name = model.Meta.table_name
        try:
            if not model.exists():
                yield f"There is no table {name}.", "run manage.py create_tables, or terraform"
                continue
            for difference in differences(model).values():
                yield f"{name}: {difference}.", "see terraform/dynamodb.tf"
        except (PynamoDBException, BotoCoreError, ClientError, ImproperlyConfigured) as exc:
            raise StorageUnavailable from exc


def _keys() -> Iterator[Finding]:
    if not settings.REQUIRE_API_KEY:
        yield Finding("keys", "ok", "None are needed (REQUIRE_API_KEY is false).")
        return
    now = datetime.now(UTC)
    try:
        active = [key for key in key_store().all() if key.status_at(now) == "active"]
    except StorageUnavailable as exc:
        hint = "see the storage above"
        yield Finding("keys", "failed", f"They cannot be read ({_cause(exc)}).", hint)
        return
    ending = [key for key in active if key.expires_at and key.expires_at < now + SOON]
    for key in ending:
        detail = f"{key.prefix} ({key.name}, of {key.owner}) expires at {key.expires_at:%Y-%m-%d}."
        yield Finding("keys", "warning", detail, "make another with manage.py create_api_key")
    if not active and not settings.API_KEYS:
        hint = "run manage.py create_api_key, or set API_KEYS"
        yield Finding("keys", "failed", "A key is needed, and there is none.", hint)
    elif not ending:
        detail = f"{len(active)} managed, {len(settings.API_KEYS)} of the environment"
        yield Finding("keys", "ok", detail)


def _reached(provider: Provider) -> Finding:
    check = f"vendor {provider.name}"
    try:
        provider.check(Deadline(CHECK_SECONDS))
    except ModelUnavailable as exc:  # servers without a list answer like this, too
        hint = f"{vendors.hint(provider.name, exc)}; manage.py check_providers asks it"
        return Finding(check, "warning", vendors.describe_error(exc), hint)
    except ProviderError as exc:
        return Finding(
            check, "failed", vendors.describe_error(exc), vendors.hint(provider.name, exc)
        )
    return Finding(
        check, "ok", f"{provider.model} may be asked." if provider.is_remote else "a mock"
    )


def _cause(exc: Exception) -> str:
    """What lies behind it, by its name alone: its words may hold an address with a password."""
    return type(exc.__cause__ or exc).__name__
