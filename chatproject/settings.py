"""Every environment variable is read here, once, at start. A value that cannot be used stops it.

Variables come from the process and, for what it does not set, from the file `.env` (or the file
that `ENV_FILE` names). An empty variable stands for the default.
"""

import contextlib
import os
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import environ
from django.core.exceptions import ImproperlyConfigured

from chatproject import aws

BASE_DIR = Path(__file__).resolve().parent.parent
VERSION = "0.1.0"

ENV_FILE = os.environ.get("ENV_FILE")
if ENV_FILE and not Path(ENV_FILE).exists():
    raise ImproperlyConfigured(f"ENV_FILE names {ENV_FILE}, which does not exist.")
environ.Env.read_env(ENV_FILE or BASE_DIR / ".env")


def text(name: str, default: str = "") -> str:
    return os.environ.get(name, "").strip() or default


def names(name: str) -> list[str]:
    """A comma-separated list, without its empty entries."""
    return split(text(name))


def split(value: str) -> list[str]:
    return [entry.strip() for entry in value.split(",") if entry.strip()]


def number(name: str, default: float, *, low: float, high: float) -> float:
    value = text(name, str(default))
    try:
        if low <= float(value) <= high:
            return float(value)
    except ValueError:
        pass
    raise ImproperlyConfigured(f"{name} must be a number from {low:g} to {high:g}, not {value!r}.")


def integer(name: str, default: int, *, low: int, high: int) -> int:
    value = text(name, str(default))
    if re.fullmatch("[0-9]{1,18}", value) and low <= int(value) <= high:
        return int(value)
    raise ImproperlyConfigured(
        f"{name} must be a whole number from {low} to {high}, not {value!r}."
    )


def choice(name: str, default: str, options: Sequence[str]) -> str:
    value = text(name, default)
    if value in options:
        return value
    raise ImproperlyConfigured(f"{name} must be one of {', '.join(options)}, not {value!r}.")


def flag(name: str, default: bool) -> bool:
    value = text(name, str(default)).lower()
    if value in ("true", "1", "yes", "on"):
        return True
    if value in ("false", "0", "no", "off"):
        return False
    raise ImproperlyConfigured(f"{name} must be true or false, not {value!r}.")


def lambda_trace() -> str:
    """What AWS says of the trace of the running invocation: new with each."""
    return text("_X_AMZN_TRACE_ID")


# As Lambda has them. Where they are not set botocore looks further, by variables of its own.
AWS_KEYS = aws.Keys(
    text("AWS_ACCESS_KEY_ID"), text("AWS_SECRET_ACCESS_KEY"), text("AWS_SESSION_TOKEN")
)
AWS_REGION = text("AWS_REGION") or text("AWS_DEFAULT_REGION")


def secrets_in_aws() -> dict[str, str]:
    """The secrets that are given as the name of an SSM parameter or of a secret."""
    parameters = {name: where for name in SECRETS if (where := text(f"{name}_SSM"))}
    names = {name: where for name in SECRETS if (where := text(f"{name}_SECRET"))}
    if not parameters and not names:
        return {}
    from chatproject import aws_secrets

    every = text("AWS_ENDPOINT_URL")
    endpoints = {
        "ssm": text("AWS_ENDPOINT_URL_SSM", every),
        "secretsmanager": text("AWS_ENDPOINT_URL_SECRETS_MANAGER", every),
    }
    return aws_secrets.read(
        parameters, names, region=AWS_REGION, endpoints=endpoints, keys=AWS_KEYS
    )


SECRETS = (
    "OPENROUTER_API_KEY",
    "GEMINI_API_KEY",
    "OPENAI_API_KEY",
    "API_KEY",
    "API_KEYS",
    "SECRET_KEY",
    "SECRET_KEY_FALLBACKS",
    "OTEL_EXPORTER_OTLP_HEADERS",
)
SECRETS_IN_AWS = secrets_in_aws()


def secret(name: str) -> str:
    """A secret, from the environment or from AWS."""
    return text(name) or SECRETS_IN_AWS.get(name, "")


def vendor_key(name: str) -> str:
    """A key that goes into an HTTP header. The sentence about a bad one does not show it."""
    value = secret(name)
    if not all("!" <= character <= "~" for character in value):
        raise ImproperlyConfigured(f"{name} must be printable ASCII without spaces.")
    return value


def base_url(name: str, default: str = "") -> str:
    """An address up to and including the version, as vendors print it, however it was pasted."""
    value = text(name, default).rstrip("/").removesuffix("/chat/completions").rstrip("/")
    if value:
        try:
            parts = urlsplit(value)
            usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
            (parts.hostname or "").encode("idna")
        except ValueError:  # UnicodeError is one
            usable = False
        if not usable or re.search(r"[^!-~]|[?#@]", value):
            raise ImproperlyConfigured(
                f"{name} must be an http or https address, without a user, query or fragment."
            )
    return value


# --- The server -----------------------------------------------------------------------------------

# An image knows of what it was built; that follows the version, as semantic versioning has it.
if build := text("BUILD"):
    VERSION += f"+{build}"

# AWS Lambda says so itself.
FUNCTION_NAME = text("AWS_LAMBDA_FUNCTION_NAME")
ON_LAMBDA = bool(FUNCTION_NAME)

API_HOST = text("API_HOST", "127.0.0.1")
API_PORT = integer("API_PORT", 8000, low=1, high=65535)
WEB_CONCURRENCY = integer("WEB_CONCURRENCY", min(os.cpu_count() or 1, 4), low=1, high=64)
WEB_THREADS = integer("WEB_THREADS", 64, low=1, high=512)

# Only local names may address a server that listens locally, so that no web page can reach it
# through a name of its own (DNS rebinding).
LOOPBACK = ["localhost", "127.0.0.1", "[::1]"]
LISTENS_LOCALLY = API_HOST in ("localhost", "127.0.0.1", "::1") and not ON_LAMBDA
ALLOWED_HOSTS = names("ALLOWED_HOSTS") or (LOOPBACK if LISTENS_LOCALLY else ["*"])

# The page at `/`. Without it there is the index alone, as JSON.
ENABLE_PLAYGROUND = flag("ENABLE_PLAYGROUND", True)

# --- The request ----------------------------------------------------------------------------------

REQUEST_TIMEOUT_SECONDS = number("REQUEST_TIMEOUT_SECONDS", 25, low=0.1, high=900)
MAX_BODY_BYTES = integer("MAX_BODY_BYTES", 1024 * 1024, low=1024, high=64 * 1024 * 1024)
# How many turns of a conversation are sent along with the next one, and of how much text.
HISTORY_TURNS = integer("HISTORY_TURNS", 30, low=0, high=100)
HISTORY_MAX_CHARACTERS = integer("HISTORY_MAX_CHARACTERS", 100_000, low=0, high=10_000_000)
PROMPT_MAX_LENGTH = integer("PROMPT_MAX_LENGTH", 32_000, low=1, high=10_000_000)

# --- Keys and limits ------------------------------------------------------------------------------

REQUIRE_API_KEY = flag("REQUIRE_API_KEY", False)
API_KEYS = [*split(secret("API_KEY")), *split(secret("API_KEYS"))]
RATE_LIMIT_PER_MINUTE = integer("RATE_LIMIT_PER_MINUTE", 60, low=0, high=1_000_000)

# --- Providers ------------------------------------------------------------------------------------

OPENROUTER_API_KEY = vendor_key("OPENROUTER_API_KEY")
GEMINI_API_KEY = vendor_key("GEMINI_API_KEY")
OPENAI_API_KEY = vendor_key("OPENAI_API_KEY")
OPENAI_BASE_URL = base_url("OPENAI_BASE_URL")

PROVIDER_OPTIONS = {
    "openrouter": {
        "api_key": OPENROUTER_API_KEY,
        "base_url": base_url("OPENROUTER_BASE_URL", "https://openrouter.ai/api/v1"),
        "model": text("OPENROUTER_MODEL", "google/gemini-3.5-flash-lite"),
    },
    "gemini": {
        "api_key": GEMINI_API_KEY,
        "base_url": base_url("GEMINI_BASE_URL", "https://generativelanguage.googleapis.com/v1beta"),
        "model": text("GEMINI_MODEL", "gemini-3.5-flash-lite"),
    },
    "openai": {
        "api_key": OPENAI_API_KEY,
        "base_url": OPENAI_BASE_URL or "https://api.openai.com/v1",
        "model": text("OPENAI_MODEL", "gpt-5-nano"),
    },
    "mock": {"directives": text("MOCK_DIRECTIVES")},
}
CONFIGURED = {
    "openrouter": bool(OPENROUTER_API_KEY),
    "gemini": bool(GEMINI_API_KEY),
    "openai": bool(OPENAI_API_KEY or OPENAI_BASE_URL),
}
LLM_PROVIDER = choice(
    "LLM_PROVIDER",
    next((name for name, present in CONFIGURED.items() if present), "mock"),
    list(PROVIDER_OPTIONS),
)
if not CONFIGURED.get(LLM_PROVIDER, True):
    raise ImproperlyConfigured(
        f"LLM_PROVIDER is {LLM_PROVIDER}, which needs {LLM_PROVIDER.upper()}_API_KEY to be set."
    )
# Whether the others are asked when the first one fails.
LLM_FALLBACK = flag("LLM_FALLBACK", True)
CIRCUIT_BREAKER_THRESHOLD = integer("CIRCUIT_BREAKER_THRESHOLD", 5, low=1, high=1000)
CIRCUIT_BREAKER_TIMEOUT = number("CIRCUIT_BREAKER_TIMEOUT", 60, low=0.1, high=86_400)
# The configured providers and their options, the one to be asked first at the head.
PROVIDERS = {
    name: PROVIDER_OPTIONS[name]
    for name in sorted(PROVIDER_OPTIONS, key=lambda name: name != LLM_PROVIDER)
    if name == LLM_PROVIDER or CONFIGURED.get(name, False)
}
# What `model` may name beside the configured models: ids, `provider:id`, or `*` for any.
ALLOWED_MODELS = names("ALLOWED_MODELS")

# --- Storage --------------------------------------------------------------------------------------


def table_name(name: str, default: str) -> str:
    value = text(name, default)
    if not re.fullmatch(r"[A-Za-z0-9_.-]{3,255}", value):
        raise ImproperlyConfigured(f"{name} must be 3 to 255 letters, digits, _ - or dots.")
    return value


# There is no disk on Lambda that stays.
STORAGE = choice("STORAGE", "dynamodb" if ON_LAMBDA else "sqlite", ["sqlite", "dynamodb"])
RETENTION_DAYS = integer("RETENTION_DAYS", 0, low=0, high=36_500)
ENABLE_CACHE = flag("ENABLE_CACHE", False)
CACHE_TTL_SECONDS = integer("CACHE_TTL_SECONDS", 3600, low=1, high=31_536_000)
# Whether what was said is kept too, and whether without what identifies people (chat/privacy.py).
STORE_CONTENT = flag("STORE_CONTENT", True)
MASK_PII = flag("MASK_PII", False)

DATABASE_PATH = BASE_DIR / text("DATABASE_PATH", "chat_history.db")
if STORAGE == "sqlite" and (DATABASE_PATH.is_dir() or not DATABASE_PATH.parent.is_dir()):
    raise ImproperlyConfigured(f"DATABASE_PATH must name a file in a folder, not {DATABASE_PATH}.")
# How long a writer waits for those before it.
SQLITE_WAIT_SECONDS = min(5.0, REQUEST_TIMEOUT_SECONDS)
SQLITE = {
    "ENGINE": "django.db.backends.sqlite3",
    "NAME": DATABASE_PATH,
    "CONN_MAX_AGE": None,
    "OPTIONS": {
        # A writer takes its lock when it begins and waits for it, so that no transaction finds
        # the database locked half-way. In WAL mode a commit survives the end of the process.
        "transaction_mode": "IMMEDIATE",
        "timeout": SQLITE_WAIT_SECONDS,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    },
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

TABLE_NAME = table_name("TABLE_NAME", table_name("DYNAMODB_TABLE", "chat-interactions"))
DYNAMODB_ENDPOINT = base_url("AWS_ENDPOINT_URL_DYNAMODB", base_url("AWS_ENDPOINT_URL"))
STATE_TABLE_NAME = table_name("STATE_TABLE_NAME", f"{TABLE_NAME}-state")
if STATE_TABLE_NAME == TABLE_NAME:
    raise ImproperlyConfigured("STATE_TABLE_NAME must not be TABLE_NAME.")

# What each storage brings along. The admin, its users and its sessions need a database.
BROUGHT = {
    "sqlite": {
        "databases": {"default": SQLITE},
        "caches": "chat.storage.orm.cache.Orm",
        "apps": [
            "chatproject.apps.ChatAdminConfig",
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.messages",
            "django.contrib.sessions",
        ],
        "middleware": [
            "chat.admin.middleware.AdminSessionMiddleware",
            "chat.admin.middleware.AdminCsrfMiddleware",
            "chat.admin.middleware.AdminAuthenticationMiddleware",
            "chat.admin.middleware.AdminMessageMiddleware",
        ],
        "context_processors": [
            "django.contrib.auth.context_processors.auth",
            "django.contrib.messages.context_processors.messages",
        ],
    },
    "dynamodb": {
        "databases": {},
        "caches": "chat.storage.dynamodb.cache.Dynamo",
        "apps": [],
        "middleware": [],
        "context_processors": [],
    },
}[STORAGE]

# How long a revoked key may still be good.
KEY_CACHE_SECONDS = 30
OWN_MEMORY = {
    "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
    "TIMEOUT": KEY_CACHE_SECONDS,
}
DATABASES = BROUGHT["databases"]
CACHES = {
    "default": {"BACKEND": f"{BROUGHT['caches']}Cache", "KEY_PREFIX": "cache"},
    # Each lives for longer than the minute that it counts.
    "counters": {"BACKEND": f"{BROUGHT['caches']}Counters", "KEY_PREFIX": "count", "TIMEOUT": 120},
    # Managed API keys as they were read, and texts that were none: each process's own, and apart,
    # so that a flood of the second does not drive out the first.
    "keys": {**OWN_MEMORY, "LOCATION": "keys", "OPTIONS": {"MAX_ENTRIES": 1000}},
    "refused_keys": {**OWN_MEMORY, "LOCATION": "refused_keys", "OPTIONS": {"MAX_ENTRIES": 10_000}},
}
RATELIMIT_USE_CACHE = "counters"


def local_secret_key(path: Path) -> str:
    """The key in the file; the first start makes it, so that sessions outlive a restart."""
    try:
        if not path.exists():
            draft = path.with_name(f"{path.name}.{os.getpid()}")
            draft.touch(mode=0o600)
            draft.write_text(secrets.token_urlsafe(50))
            with contextlib.suppress(FileExistsError):  # another process was first
                os.link(draft, path)
            draft.unlink()
        return path.read_text()
    except OSError as exc:
        raise ImproperlyConfigured(
            f"Set SECRET_KEY, or let {path.parent} be written to: {exc.strerror}."
        ) from exc


if ON_LAMBDA and not secret("SECRET_KEY"):
    raise ImproperlyConfigured("SECRET_KEY must be set: all of Lambda's processes need the same.")
SECRET_KEY = secret("SECRET_KEY") or local_secret_key(DATABASE_PATH.parent / ".secret_key")
# Earlier ones, whose API keys, sessions and cursors are still good.
SECRET_KEY_FALLBACKS = split(secret("SECRET_KEY_FALLBACKS"))

# --- Traces ---------------------------------------------------------------------------------------

# OpenTelemetry reads its further variables itself. Nothing of it is imported unless it has
# somewhere to send traces to.
TRACES_ENDPOINT = base_url("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
if not TRACES_ENDPOINT and (endpoint := base_url("OTEL_EXPORTER_OTLP_ENDPOINT")):
    TRACES_ENDPOINT = f"{endpoint}/v1/traces"
TRACES = bool(TRACES_ENDPOINT) and not flag("OTEL_SDK_DISABLED", False)
if TRACES:
    choice("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf", ["http/protobuf"])
    if headers := secret("OTEL_EXPORTER_OTLP_HEADERS"):
        os.environ["OTEL_EXPORTER_OTLP_HEADERS"] = headers  # which may have come from AWS

# --- Django ---------------------------------------------------------------------------------------

INSTALLED_APPS = [
    "chat",  # before the admin, whose templates it adds to
    *BROUGHT["apps"],
    "chatproject.server",
    "django.contrib.staticfiles",
    "django_ratelimit",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
]
MIDDLEWARE = [
    "chat.telemetry.logs.RequestLogMiddleware",
    *(["chat.telemetry.traces.TracingMiddleware"] if TRACES else []),
    "django.middleware.security.SecurityMiddleware",
    # It looks through all static files when it is made, which is too long for a cold start.
    *([] if ON_LAMBDA else ["whitenoise.middleware.WhiteNoiseMiddleware"]),
    "django.middleware.common.CommonMiddleware",
    *BROUGHT["middleware"],
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                *BROUGHT["context_processors"],
            ]
        },
    }
]
ROOT_URLCONF = "chatproject.urls"
WSGI_APPLICATION = "chatproject.wsgi.application"
APPEND_SLASH = False
USE_I18N = False
USE_TZ = True
TIME_ZONE = "UTC"
STATIC_URL = "static/"
WHITENOISE_USE_FINDERS = True

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("MinimumLengthValidator", "CommonPasswordValidator", "NumericPasswordValidator")
]

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["chat.api.authentication.ApiKeyAuthentication"],
    "DEFAULT_PARSER_CLASSES": ["chat.api.parsers.StrictJSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["chat.api.renderers.OrjsonRenderer"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "chat.errors.exception_handler",
    "UNAUTHENTICATED_USER": None,
    "URL_FORMAT_OVERRIDE": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Serverless Chat API",
    "DESCRIPTION": "One endpoint in front of several language models, and a record of every call.",
    "VERSION": VERSION,
    "LICENSE": {"name": "MIT"},
    "OAS_VERSION": "3.1.0",
    "DEFAULT_GENERATOR_CLASS": "chat.api.openapi.SchemaGenerator",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_AUTHENTICATION": [],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "COMPONENT_SPLIT_REQUEST": True,
}

SILENCED_SYSTEM_CHECKS = [
    # A cache that django-ratelimit does not know: its counter is one atomic statement of the store
    # (chat/storage), which is what the warning asks to make sure of.
    "django_ratelimit.W001",
    # No HTTPS here: on AWS it ends at the gateway, which has no plain HTTP; on a laptop there is
    # none, and cookies for HTTPS only would lock people out of the admin.
    "security.W004",
    "security.W008",
    "security.W010",
    # The protection against cross-site forgery is the admin's (chat/admin/middleware.py):
    # forgery needs a session to abuse, and the API has none.
    "security.W003",
]

LOG_LEVEL = choice("LOG_LEVEL", "INFO", ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"])
LOG_FORMAT = choice("LOG_FORMAT", "json", ["json", "simple"])
# Metrics are members of the JSON lines, which CloudWatch alone makes use of.
METRICS = flag("METRICS", ON_LAMBDA)
SERVICE = FUNCTION_NAME or "serverless-chat-api"
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "json": {"()": "chat.telemetry.logs.JsonFormatter"},
        "simple": {"()": "chat.telemetry.logs.SimpleFormatter"},
    },
    "filters": {
        "traceback": {
            "()": "django.utils.log.CallbackFilter",
            "callback": lambda record: record.exc_info is not None,
        },
        "seldom": {"()": "chat.telemetry.logs.OncePerHourFilter"},
    },
    "handlers": {
        "console": {"class": "logging.StreamHandler", "formatter": LOG_FORMAT},
        "json": {"class": "logging.StreamHandler", "formatter": "json"},
    },
    "root": {"handlers": ["console"], "level": "WARNING"},
    "loggers": {
        "chat": {"level": LOG_LEVEL},
        # Whole records, for `manage.py replay_records`: JSON whatever the format of the rest.
        "chat.unrecorded": {"handlers": ["json"], "level": "ERROR", "propagate": False},
        "django": {"handlers": [], "level": "WARNING"},
        # Each request has its own line from chat.telemetry. Django's adds the traceback of what
        # fails outside our views, and nothing else.
        "django.request": {"level": "ERROR", "filters": ["traceback"]},
        # It warns of each HEAD, whose body it leaves out as it should.
        "gunicorn.http.wsgi": {"level": "ERROR"},
        "django.security.DisallowedHost": {"level": "CRITICAL"},
        # What they say of an endpoint that is down, they say for each batch.
        "opentelemetry.exporter.otlp.proto.http.trace_exporter": {"filters": ["seldom"]},
        "opentelemetry.sdk._shared_internal": {"filters": ["seldom"]},
    },
}
