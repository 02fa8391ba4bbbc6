import io
import json
import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.contrib.contenttypes.models import ContentType
from django.core.handlers.wsgi import WSGIHandler
from django.core.management.color import no_style
from django.db import connection
from django.test import TransactionTestCase
from django.test.client import ClientHandler
from django.urls import clear_script_prefix
from pytest_django import DjangoDbBlocker, Settings

from chat import model_catalog, storage
from chat.http_transport import http_transport
from chat.storage.orm.connection import disconnect_writer
from chat.telemetry.logs import JsonFormatter
from providers.base import Provider
from providers.router import Router
from providers.transport import default_transport
from tests.stub_vendor import StubVendor

pytest.register_assert_rewrite("tests.client", "tests.factories", "tests.chat.storage.contract")
pytest_plugins = [
    *("tests.not_run", "tests.browser", "tests.dynamodb_local"),
    "tests.chat.resilience_report",
]

from tests.client import ApiClient  # noqa: E402
from tests.factories import KEY, OTHER_KEY, Clock  # noqa: E402

ROUTER = model_catalog.router
TESTS = Path(__file__).parent


# A shell lets background jobs ignore Ctrl-C, and the processes that tests start inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_auto_num_workers() -> int:
    """Return more workers than cores, as many tests wait for a process or a time limit."""
    return (os.cpu_count() or 1) * 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slowest tests, so that no worker is left with them at the end."""
    slowest = {TESTS / name for name in ("clients", "end_to_end", "deployment")}
    items.sort(key=lambda item: slowest.isdisjoint(item.path.parents))


@pytest.fixture(autouse=True)
def close_connections() -> Iterator[None]:
    """Close the connections to this test's vendors, which nobody uses again."""
    yield
    for made in (default_transport, http_transport):
        if made.cache_info().currsize:
            made().close()


@pytest.fixture(scope="session", autouse=True)
def keep_permissions() -> Iterator[None]:
    """Keep the tables of permissions when the others are emptied after a test.

    Django's own flush fills them again each time, which took longer than most tests.
    """
    kept = {model._meta.db_table for model in (ContentType, Permission)}

    def empty_tables(case: TransactionTestCase) -> None:
        names = connection.introspection.django_table_names(only_existing=True, include_views=False)
        emptied = [name for name in names if name not in kept]
        connection.ops.execute_sql_flush(connection.ops.sql_flush(no_style(), emptied))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransactionTestCase, "_fixture_teardown", empty_tables)
        yield


@pytest.fixture(scope="session")
def handler() -> WSGIHandler:
    """The application, built once: its middleware scans all static files."""
    handler = ClientHandler(enforce_csrf_checks=False)
    handler.load_middleware()
    return handler


@pytest.fixture
def frozen_rate_limit_clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Freeze the rate limit's clock, so that no test crosses the end of a window."""
    clock = Clock(1_800_000_000)
    monkeypatch.setattr("django_ratelimit.core.time", clock)
    return clock


@pytest.fixture
def api(handler: WSGIHandler, db: None, frozen_rate_limit_clock: Clock) -> ApiClient:
    clear_script_prefix()  # a test of Lambda may have left the path of a stage
    return ApiClient(handler)


@pytest.fixture
def change_settings(settings: Settings) -> Iterator[Callable[..., None]]:
    """A function that changes settings, and clears what was built from the old ones."""

    def change(**values: Any) -> None:
        for name, value in values.items():
            setattr(settings, name, value)
        # ROUTER is model_catalog.router as imported: use_provider replaces the module's.
        ROUTER.cache_clear()
        storage.backend.cache_clear()

    yield change
    change()


@pytest.fixture(params=["sqlite", "dynamodb"])
def each_storage(
    request: pytest.FixtureRequest, transactional_db: None, change_settings: Callable[..., None]
) -> str:
    """Use this storage, empty; rate limits are counted in SQLite."""
    if request.param == "dynamodb":
        request.getfixturevalue("dynamodb")
    change_settings(STORAGE=request.param)
    return str(request.param)


@pytest.fixture
def require_api_key(change_settings: Callable[..., None]) -> list[str]:
    """Require one of these API keys."""
    change_settings(REQUIRE_API_KEY=True, API_KEYS=[KEY, OTHER_KEY])
    return [KEY, OTHER_KEY]


@pytest.fixture
def vendor(change_settings: Callable[..., None]) -> Iterator[StubVendor]:
    """A stub of an OpenAI-compatible vendor, configured as the only provider."""
    with StubVendor() as stub:
        options = {"api_key": "sk-of-the-vendor", "base_url": f"{stub.url}/v1"}
        change_settings(PROVIDERS={"openai": {**options, "model": "model-1"}})
        yield stub


@pytest.fixture
def use_provider() -> Iterator[Callable[[Provider], None]]:
    """A function that makes this provider the only one."""
    with pytest.MonkeyPatch.context() as patch:

        def use(provider: Provider) -> None:
            router = Router([provider])
            patch.setattr(model_catalog, "router", lambda: router)

        yield use


@pytest.fixture
def use_store(
    monkeypatch: pytest.MonkeyPatch, change_settings: Callable[..., None]
) -> Callable[[type], None]:
    """A function that stores records in a store of this class."""

    def use(kind: type) -> None:
        monkeypatch.setattr("chat.storage.orm.OrmInteractionStore", kind)
        change_settings()

    return use


@pytest.fixture
def unreachable_database(
    transactional_db: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Point the database at a file in a missing folder."""

    def move(name: str) -> None:
        connection.close()
        disconnect_writer()
        connection.settings_dict["NAME"] = name

    name = connection.settings_dict["NAME"]
    move(str(tmp_path_factory.mktemp("no") / "folder" / "chat.db"))
    yield
    move(name)


@pytest.fixture
def forbid_database(django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """Fail the test on any access to the database."""
    with django_db_blocker.block():
        yield


@pytest.fixture
def administrator(db: None) -> User:
    return User.objects.create(username="root", is_staff=True, is_superuser=True)


@pytest.fixture
def admin(api: ApiClient, administrator: User) -> ApiClient:
    """A client logged in as an administrator."""
    api.http.force_login(administrator)
    return api


@pytest.fixture
def log_lines() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """A function that returns the log lines since the start of the test, parsed."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    loggers = [logging.getLogger(), logging.getLogger("chat.unrecorded")]
    for logger in loggers:
        logger.addHandler(handler)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    for logger in loggers:
        logger.removeHandler(handler)
