"""Check configuration, storage, API keys and vendors."""

from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError
from django.db import DatabaseError, connection, transaction
from django.db.migrations.executor import MigrationExecutor

from chat.management.api_keys import key_label
from chat.management.arguments import add_format
from chat.management.console import ConsoleCommand
from chat.management.provider_checks import describe_error, for_each_provider, hint
from chat.storage import backend
from chat.storage.errors import StorageUnavailable
from providers.base import Provider
from providers.deadline import Deadline
from providers.errors import AddressUnknown, ModelUnavailable, ProviderError

EXPIRY_WARNING = timedelta(days=14)
CHECK_SECONDS = 10.0
# The integration timeout of an HTTP API, which cannot be raised.
HTTP_API_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `status` is `ok`, `warning` or `failed`."""

    check: str
    status: str
    detail: str
    hint: str | None = None


class Command(ConsoleCommand):
    help = (
        "Check configuration, storage, API keys and providers. Calls no model, changes nothing, "
        "prints no secrets. Each line is ok, warning or failed, with a hint; exits with 1 if one "
        "failed."
    )
    requires_system_checks = ()  # the report includes them

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_format(parser, "table")

    def handle(self, *args: Any, **options: Any) -> None:
        findings = [*_configuration(), *_storage(), *_keys()]
        reached = for_each_provider(_check_provider, CHECK_SECONDS, self.stderr, "Reaching")
        findings += [finding for _, finding in reached]
        text, rows = "\n".join(_lines(findings)), [asdict(finding) for finding in findings]
        self.write_report(options, text, rows, indent=2, ensure_ascii=False)
        failed = sum(finding.status == "failed" for finding in findings)
        if failed:
            raise CommandError(f"{failed} of {len(findings)} failed.")


def _lines(findings: list[Finding]) -> Iterator[str]:
    """Yield a line for each finding, and one for its hint."""
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
    """Yield a warning for each setting that is valid but probably not intended."""
    warn = partial(Finding, "configuration", "warning")
    if not settings.REQUIRE_API_KEY and not settings.LISTENS_LOCALLY:
        yield warn("Other machines need no key for this server.", "set REQUIRE_API_KEY=true")
    if not settings.RATE_LIMIT_PER_MINUTE:
        yield warn("Requests are not limited.", "set RATE_LIMIT_PER_MINUTE")
    if settings.LLM_PROVIDER == "mock" and not settings.LISTENS_LOCALLY:
        yield warn("No vendor is configured: the mock answers.", "set the key of a vendor")
    buffered = settings.ON_LAMBDA and settings.LAMBDA_RESPONSE_MODE == "buffered"
    longest = max(settings.REQUEST_TIMEOUT_SECONDS, settings.STREAM_TIMEOUT_SECONDS)
    if buffered and longest > HTTP_API_SECONDS:
        detail = (
            f"LAMBDA_RESPONSE_MODE is buffered, and an HTTP API does not wait for {longest:g} s."
        )
        yield warn(
            detail, "set LAMBDA_RESPONSE_MODE=streaming, if the front streams, or lower them"
        )
    logs_metrics = settings.LOG_FORMAT == "json" and settings.LOG_LEVEL in ("INFO", "DEBUG")
    if settings.METRICS and not logs_metrics:
        detail = "METRICS is true, but the log does not carry metrics."
        yield warn(detail, "set LOG_FORMAT=json and LOG_LEVEL=INFO")


def _storage() -> Iterator[Finding]:
    is_local = settings.STORAGE == "sqlite"
    find_problems = _local_problems if is_local else _differing_tables
    try:
        problems = list(find_problems())
        if not problems:
            backend().interactions.check()
    except (StorageUnavailable, DatabaseError) as exc:
        advice = "see DATABASE_PATH" if is_local else "see TABLE_NAME, AWS_REGION"
        yield Finding("storage", "failed", f"It is unreachable ({_cause(exc)}).", advice)
        return
    for problem, advice in problems:
        yield Finding("storage", "failed", problem, advice)
    if not problems:
        yield Finding("storage", "ok", settings.STORAGE)


def _local_problems() -> Iterator[tuple[str, str]]:
    advice = "run manage.py migrate (make run does)"
    file = Path(connection.settings_dict["NAME"])
    if not file.exists():  # connecting would create it
        yield f"There is no file {file} yet.", advice
        return
    executor = MigrationExecutor(connection)
    if plan := executor.migration_plan(executor.loader.graph.leaf_nodes()):
        names = ", ".join(f"{migration.app_label}.{migration.name}" for migration, _ in plan)
        yield f"Migrations are missing: {names}.", advice
        return
    try:
        with transaction.atomic():  # it takes the write lock (chatproject/settings.py)
            pass
    except DatabaseError as exc:
        yield f"It cannot be written ({exc}).", "see the file's permissions, and its folder's"


def _differing_tables() -> Iterator[tuple[str, str]]:
    from chat.management.commands.create_tables import differences
    from chat.storage.dynamodb.tables import TABLE_ERRORS, TABLES

    for model in TABLES:
        name = model.Meta.table_name
        try:
            if not model.exists():
                yield f"There is no table {name}.", "run manage.py create_tables, or terraform"
                continue
            for difference in differences(model).values():
                yield f"{name}: {difference}.", "see terraform/dynamodb.tf"
        except (*TABLE_ERRORS, ImproperlyConfigured) as exc:
            raise StorageUnavailable from exc


def _keys() -> Iterator[Finding]:
    if not settings.REQUIRE_API_KEY:
        yield Finding("keys", "ok", "Not required (REQUIRE_API_KEY is false).")
        return
    now = datetime.now(UTC)
    try:
        active = [key for key in backend().api_keys.all() if key.status_at(now) == "active"]
    except (StorageUnavailable, ImproperlyConfigured) as exc:
        detail = f"They cannot be read ({_cause(exc)})."
        yield Finding("keys", "failed", detail, "see the storage above")
        return
    ending = [key for key in active if key.expires_at and key.expires_at < now + EXPIRY_WARNING]
    for key in ending:
        detail = f"{key_label(key)} expires at {key.expires_at:%Y-%m-%d}."
        yield Finding("keys", "warning", detail, "create another with manage.py create_api_key")
    if not active and not settings.API_KEYS:
        advice = "run manage.py create_api_key, or set API_KEYS"
        yield Finding("keys", "failed", "A key is required, and none exists.", advice)
    elif not ending:
        detail = f"{len(active)} managed, {len(settings.API_KEYS)} of the environment"
        yield Finding("keys", "ok", detail)


def _check_provider(provider: Provider, deadline: Deadline) -> Finding:
    check = f"vendor {provider.name}"
    try:
        provider.check(deadline)
    except (AddressUnknown, ModelUnavailable) as exc:  # also of a server without a list of models
        advice = f"{hint(provider.name, exc)}; manage.py check_providers asks it"
        return Finding(check, "warning", describe_error(exc), advice)
    except ProviderError as exc:
        return Finding(check, "failed", describe_error(exc), hint(provider.name, exc))
    detail = f"{provider.model} is available." if provider.is_remote else "a mock"
    return Finding(check, "ok", detail)


def _cause(exc: Exception) -> str:
    """Return the cause's class name, as its message may have a URL with a password; or ours."""
    cause = exc.__cause__ or exc
    is_ours = isinstance(cause, ImproperlyConfigured)
    return str(cause).removesuffix(".") if is_ours else type(cause).__name__
