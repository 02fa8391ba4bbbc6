"""The settings, from environment variables. No other module of ours reads the environment.

Variables come from the process. The file `.env`, or the one named by ENV_FILE, sets those that the
process does not.
"""

import os
import sys
from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from chatproject import __version__
from chatproject.env import (
    arn_region,
    env_bool,
    env_ca_file,
    env_choice,
    env_directives,
    env_float,
    env_guardrail,
    env_header_secret,
    env_headers,
    env_hosts,
    env_int,
    env_list,
    env_model_id,
    env_no_proxy,
    env_origins,
    env_proxy,
    env_region,
    env_table_name,
    env_url,
    env_vendor_url,
    split,
)
from chatproject.env_sources import (
    env_secret,
    env_str,
    export_secret,
    load_env_file,
    load_secrets_from_aws,
    local_secret_key,
)
from providers.sigv4 import Keys

BASE_DIR = Path(__file__).resolve().parent.parent
VERSION = __version__
load_env_file(BASE_DIR / ".env")

# Lambda sets these. Without them botocore looks for credentials, also in variables of its own.
AWS_KEYS = Keys(
    env_str("AWS_ACCESS_KEY_ID"), env_str("AWS_SECRET_ACCESS_KEY"), env_str("AWS_SESSION_TOKEN")
)
AWS_REGION = env_region("AWS_REGION") or env_region("AWS_DEFAULT_REGION")
# How to reach vendors and AWS. Empty values mean no proxy, and certifi's CAs.
TRANSPORT_OPTIONS = {
    "http_proxy": env_proxy("HTTP_PROXY"),
    "https_proxy": env_proxy("HTTPS_PROXY"),
    "no_proxy": env_no_proxy("NO_PROXY"),
    "ca_file": env_ca_file("SSL_CERT_FILE"),
}
AWS_ENDPOINT = env_url("AWS_ENDPOINT_URL")
SECRET_ENDPOINTS = {
    "ssm": env_url("AWS_ENDPOINT_URL_SSM", AWS_ENDPOINT),
    "secretsmanager": env_url("AWS_ENDPOINT_URL_SECRETS_MANAGER", AWS_ENDPOINT),
}
load_secrets_from_aws(AWS_REGION, AWS_KEYS, SECRET_ENDPOINTS, TRANSPORT_OPTIONS)

# --- The server -----------------------------------------------------------------------------------

# An image's build, e.g. its commit, follows the version as semantic versioning's build metadata.
if build := env_str("BUILD"):
    VERSION += f"+{build}"

# Set by AWS Lambda.
FUNCTION_NAME = env_str("AWS_LAMBDA_FUNCTION_NAME")
ON_LAMBDA = bool(FUNCTION_NAME)
# Whether the function's front streams answers (a REST API with STREAM, or a function URL with
# RESPONSE_STREAM) or waits for the whole answer (an HTTP API, a load balancer).
LAMBDA_RESPONSE_MODE = env_choice("LAMBDA_RESPONSE_MODE", "buffered", ["buffered", "streaming"])

# A platform that sets PORT (Heroku, Cloud Run) reaches the server from outside the machine.
ON_PLATFORM = bool(env_str("PORT")) and not env_str("API_PORT")
API_HOST = env_str("API_HOST", "0.0.0.0" if ON_PLATFORM else "127.0.0.1")  # noqa: S104
API_PORT = env_int("API_PORT", env_int("PORT", 8000, low=1, high=65535), low=1, high=65535)
WEB_CONCURRENCY = env_int("WEB_CONCURRENCY", min(os.cpu_count() or 1, 4), low=1, high=64)
WEB_THREADS = env_int("WEB_THREADS", 1000, low=1, high=5000)

# A server on a loopback address accepts loopback host names only, against DNS rebinding.
LOOPBACK = ["localhost", "127.0.0.1", "[::1]"]
LISTENS_LOCALLY = API_HOST in ("localhost", "127.0.0.1", "::1") and not ON_LAMBDA
ALLOWED_HOSTS = env_hosts("ALLOWED_HOSTS") or (LOOPBACK if LISTENS_LOCALLY else ["*"])

# Behind a proxy that ends TLS: where the admin's forms may come from, and whether the proxy's
# X-Forwarded-Proto tells the scheme. A client could forge that header if there were no proxy.
CSRF_TRUSTED_ORIGINS = env_origins("CSRF_TRUSTED_ORIGINS", wildcards=True)
if TRUST_FORWARDED_PROTO := env_bool("TRUST_FORWARDED_PROTO", False):
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = True

# Other origins whose pages may call /v1/ from a browser.
CORS_ALLOWED_ORIGINS = env_origins("CORS_ALLOWED_ORIGINS", accepted=("*", "null"))
CORS_ENABLED = bool(CORS_ALLOWED_ORIGINS)
CORS_ALLOW_ALL_ORIGINS = "*" in CORS_ALLOWED_ORIGINS
if CORS_ALLOW_ALL_ORIGINS:
    CORS_ALLOWED_ORIGINS = []
# Not the admin, whose pages have a session.
CORS_URLS_REGEX = "^/v1/"
CORS_ALLOW_METHODS = ("DELETE", "GET", "OPTIONS", "POST")
CORS_ALLOW_HEADERS = (
    # All headers in browsers that read it so (Fetch standard), where `authorization` needs a name.
    "*",
    *("authorization", "x-api-key", "content-type", "idempotency-key", "x-request-id", "accept"),
    # Headers that OpenAI's clients send.
    *("openai-organization", "openai-project", "openai-beta", "user-agent"),
    *("x-stainless-arch", "x-stainless-async", "x-stainless-custom-poll-interval"),
    *("x-stainless-helper-method", "x-stainless-lang", "x-stainless-os", "x-stainless-poll-helper"),
    *("x-stainless-package-version", "x-stainless-raw-response", "x-stainless-read-timeout"),
    *("x-stainless-retry-count", "x-stainless-runtime", "x-stainless-runtime-version"),
    "x-stainless-timeout",
)
CORS_EXPOSE_HEADERS = (
    *("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "x-request-id"),
    *("idempotency-replayed", "retry-after", "x-should-retry", "server-timing"),
)
# Without it browsers ask again after 5 seconds (Fetch standard).
CORS_PREFLIGHT_MAX_AGE = 3600

# Whether `/` serves the playground. Otherwise it serves only the JSON index.
ENABLE_PLAYGROUND = env_bool("ENABLE_PLAYGROUND", True)

# --- The request ----------------------------------------------------------------------------------

# The deadlines of a plain answer and of a streamed one, and the longest silence of a vendor within
# a stream. On Lambda an HTTP API waits for 30 seconds, of which two are to settle and to respond;
# behind a front that streams, the function's own timeout ends a request, 15 minutes at most.
TIMEOUTS = {"server": (120, 600), "buffered": (28, 28), "streaming": (900, 900)}
PLAIN_SECONDS, STREAM_SECONDS = TIMEOUTS[LAMBDA_RESPONSE_MODE if ON_LAMBDA else "server"]
REQUEST_TIMEOUT_SECONDS = env_float("REQUEST_TIMEOUT_SECONDS", PLAIN_SECONDS, low=0.1, high=900)
STREAM_TIMEOUT_SECONDS = env_float("STREAM_TIMEOUT_SECONDS", STREAM_SECONDS, low=0.1, high=3600)
STREAM_IDLE_SECONDS = env_float("STREAM_IDLE_SECONDS", 60, low=0.1, high=3600)
# Lambda takes requests of 6 MB.
MAX_BODY_BYTES = env_int(
    "MAX_BODY_BYTES", (6 if ON_LAMBDA else 10) * 1024 * 1024, low=1024, high=64 * 1024 * 1024
)
# Limits of the earlier turns that are sent to the model.
HISTORY_TURNS = env_int("HISTORY_TURNS", 30, low=0, high=100)
HISTORY_MAX_CHARACTERS = env_int("HISTORY_MAX_CHARACTERS", 400_000, low=0, high=10_000_000)
PROMPT_MAX_LENGTH = env_int("PROMPT_MAX_LENGTH", 200_000, low=1, high=10_000_000)

# --- Keys and limits ------------------------------------------------------------------------------

REQUIRE_API_KEY = env_bool("REQUIRE_API_KEY", False)
API_KEYS = [*split(env_secret("API_KEY")), *split(env_secret("API_KEYS"))]
RATE_LIMIT_PER_MINUTE = env_int("RATE_LIMIT_PER_MINUTE", 60, low=0, high=1_000_000)

# --- Providers ------------------------------------------------------------------------------------

OPENROUTER_API_KEY = env_header_secret("OPENROUTER_API_KEY")
GEMINI_API_KEY = env_header_secret("GEMINI_API_KEY")
OPENAI_API_KEY = env_header_secret("OPENAI_API_KEY")
OPENAI_BASE_URL = env_vendor_url("OPENAI_BASE_URL")
BEDROCK_MODEL = env_model_id("BEDROCK_MODEL")

PROVIDER_OPTIONS: dict[str, dict[str, Any]] = {
    "openrouter": {
        "api_key": OPENROUTER_API_KEY,
        "base_url": env_vendor_url("OPENROUTER_BASE_URL", "https://openrouter.ai/api/v1"),
        "model": env_str("OPENROUTER_MODEL", "google/gemini-3.5-flash-lite"),
    },
    "gemini": {
        "api_key": GEMINI_API_KEY,
        "base_url": env_vendor_url(
            "GEMINI_BASE_URL", "https://generativelanguage.googleapis.com/v1beta"
        ),
        "model": env_str("GEMINI_MODEL", "gemini-3.5-flash-lite"),
    },
    "openai": {
        "api_key": OPENAI_API_KEY,
        "base_url": OPENAI_BASE_URL or "https://api.openai.com/v1",
        "model": env_str("OPENAI_MODEL", "gpt-5-nano"),
    },
    "bedrock": {
        "api_key": env_header_secret("AWS_BEARER_TOKEN_BEDROCK"),
        "base_url": env_url("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", AWS_ENDPOINT),
        "model": BEDROCK_MODEL,
        "region": env_region("BEDROCK_REGION") or arn_region(BEDROCK_MODEL) or AWS_REGION,
        "keys": AWS_KEYS,
        "guardrail": env_guardrail("BEDROCK_GUARDRAIL"),
    },
    "mock": {"directives": env_directives("MOCK_DIRECTIVES")},
}
if headers := env_headers("OPENAI_HEADERS"):
    PROVIDER_OPTIONS["openai"]["headers"] = headers
HAS_CREDENTIALS = {
    "openrouter": bool(OPENROUTER_API_KEY),
    "gemini": bool(GEMINI_API_KEY),
    "openai": bool(OPENAI_API_KEY or OPENAI_BASE_URL),
    "bedrock": bool(BEDROCK_MODEL),
}
LLM_PROVIDER = env_choice(
    "LLM_PROVIDER",
    next((name for name, present in HAS_CREDENTIALS.items() if present), "mock"),
    list(PROVIDER_OPTIONS),
)
if not HAS_CREDENTIALS.get(LLM_PROVIDER, True):
    needed = "BEDROCK_MODEL" if LLM_PROVIDER == "bedrock" else f"{LLM_PROVIDER.upper()}_API_KEY"
    raise ImproperlyConfigured(f"LLM_PROVIDER is {LLM_PROVIDER}, which needs {needed} to be set.")
# Try the other configured providers when the first one fails.
LLM_FALLBACK = env_bool("LLM_FALLBACK", True)
CIRCUIT_BREAKER_THRESHOLD = env_int("CIRCUIT_BREAKER_THRESHOLD", 5, low=1, high=1000)
CIRCUIT_BREAKER_TIMEOUT = env_float("CIRCUIT_BREAKER_TIMEOUT", 60, low=0.1, high=86_400)
# The configured providers and their options, LLM_PROVIDER first.
PROVIDERS = {
    name: PROVIDER_OPTIONS[name]
    # sorted() is stable: the others keep their order.
    for name in sorted(PROVIDER_OPTIONS, key=lambda name: name != LLM_PROVIDER)
    if name == LLM_PROVIDER or HAS_CREDENTIALS.get(name, False)
}
# Models that a request may name besides the configured ones: `id`, `provider:id`, or `*` for any.
ALLOWED_MODELS = env_list("ALLOWED_MODELS")

# --- Storage --------------------------------------------------------------------------------------

# Lambda has no persistent disk for SQLite.
STORAGE = env_choice("STORAGE", "dynamodb" if ON_LAMBDA else "sqlite", ["sqlite", "dynamodb"])
RETENTION_DAYS = env_int("RETENTION_DAYS", 0, low=0, high=36_500)
ENABLE_CACHE = env_bool("ENABLE_CACHE", False)
CACHE_TTL_SECONDS = env_int("CACHE_TTL_SECONDS", 3600, low=1, high=31_536_000)
# Store prompts and answers, and mask personal data in them (chat/storage/redaction.py).
STORE_CONTENT = env_bool("STORE_CONTENT", True)
MASK_PII = env_bool("MASK_PII", False)

DATABASE_PATH = BASE_DIR / env_str("DATABASE_PATH", "chat_history.db")
if STORAGE == "sqlite" and (DATABASE_PATH.is_dir() or not DATABASE_PATH.parent.is_dir()):
    raise ImproperlyConfigured(f"DATABASE_PATH must name a file in a folder, not {DATABASE_PATH}.")
# Seconds that commands and the admin wait for the database's lock. Requests have limits of their
# own (chat/storage/time_limit.py).
SQLITE_BUSY_TIMEOUT = 5.0
SQLITE = {
    "ENGINE": "chatproject.sqlite",
    "NAME": DATABASE_PATH,
    # Opening a connection to SQLite costs half as much as a chat (chat/storage/orm/connection.py).
    "CONN_MAX_AGE": None,
    "OPTIONS": {
        # A transaction waits for the write lock when it begins, so it cannot find the database
        # locked midway. In WAL mode a commit survives a crash of the process.
        "transaction_mode": "IMMEDIATE",
        "timeout": SQLITE_BUSY_TIMEOUT,
        # NORMAL: a power failure may take the last commits, but breaks no file.
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    },
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

TABLE_NAME = env_table_name("TABLE_NAME", env_table_name("DYNAMODB_TABLE", "chat-interactions"))
DYNAMODB_ENDPOINT = env_url("AWS_ENDPOINT_URL_DYNAMODB", AWS_ENDPOINT)
STATE_TABLE_NAME = env_table_name("STATE_TABLE_NAME", f"{TABLE_NAME}-state")
if STATE_TABLE_NAME == TABLE_NAME:
    raise ImproperlyConfigured("STATE_TABLE_NAME must not be TABLE_NAME.")

# The settings that depend on the storage. The admin, its users and sessions need a database.
STORAGE_SETTINGS = {
    "sqlite": {
        "databases": {"default": SQLITE},
        "cache": "chat.storage.orm.cache.OrmCache",
        "counters": "chat.storage.orm.cache.OrmCounters",
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
        "cache": "chat.storage.dynamodb.cache.DynamoCache",
        "counters": "chat.storage.dynamodb.cache.DynamoCounters",
        "apps": [],
        "middleware": [],
        "context_processors": [],
    },
}[STORAGE]

# Seconds until a revoked key is refused by every process.
KEY_CACHE_SECONDS = 30
LOCAL_CACHE = {
    "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
    "TIMEOUT": KEY_CACHE_SECONDS,
}
DATABASES = STORAGE_SETTINGS["databases"]
CACHES = {
    "default": {"BACKEND": STORAGE_SETTINGS["cache"], "KEY_PREFIX": "cache"},
    # A counter must outlive the minute that it counts.
    "counters": {"BACKEND": STORAGE_SETTINGS["counters"], "KEY_PREFIX": "count", "TIMEOUT": 120},
    # Managed API keys, and unknown ones. They are apart so that a flood of unknown keys does not
    # evict valid ones.
    "keys": {**LOCAL_CACHE, "LOCATION": "keys", "OPTIONS": {"MAX_ENTRIES": 1000}},
    "refused_keys": {**LOCAL_CACHE, "LOCATION": "refused_keys", "OPTIONS": {"MAX_ENTRIES": 10_000}},
}
RATELIMIT_USE_CACHE = "counters"

if ON_LAMBDA and not env_secret("SECRET_KEY"):
    raise ImproperlyConfigured("SECRET_KEY must be set: all of Lambda's processes need the same.")
SECRET_KEY = env_secret("SECRET_KEY") or local_secret_key(DATABASE_PATH.parent / ".secret_key")
# Earlier keys, whose API keys, sessions and cursors remain valid.
SECRET_KEY_FALLBACKS = split(env_secret("SECRET_KEY_FALLBACKS"))

# --- Traces ---------------------------------------------------------------------------------------

# OpenTelemetry reads its other variables itself. It is imported only if there is an endpoint.
TRACES_ENDPOINT = env_url("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
if not TRACES_ENDPOINT and (endpoint := env_url("OTEL_EXPORTER_OTLP_ENDPOINT")):
    TRACES_ENDPOINT = f"{endpoint}/v1/traces"
TRACING_ENABLED = bool(TRACES_ENDPOINT) and not env_bool("OTEL_SDK_DISABLED", False)
if TRACING_ENABLED:
    env_choice("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf", ["http/protobuf"])
    env_headers("OTEL_EXPORTER_OTLP_HEADERS")
    export_secret("OTEL_EXPORTER_OTLP_HEADERS")

# --- Django ---------------------------------------------------------------------------------------

INSTALLED_APPS = [
    "chat",  # before the admin, whose templates it extends
    *STORAGE_SETTINGS["apps"],
    "chatproject.server",
    *(["corsheaders"] if CORS_ENABLED else []),
    "django.contrib.staticfiles",
    "django_ratelimit",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
]
MIDDLEWARE = [
    "chat.telemetry.logs.RequestLogMiddleware",
    *(["chat.telemetry.traces.TracingMiddleware"] if TRACING_ENABLED else []),
    *(["corsheaders.middleware.CorsMiddleware"] if CORS_ENABLED else []),
    "django.middleware.security.SecurityMiddleware",
    # WhiteNoise scans all static files when it starts: too slow for a cold start.
    *([] if ON_LAMBDA else ["whitenoise.middleware.WhiteNoiseMiddleware"]),
    "django.middleware.common.CommonMiddleware",
    *([] if ON_LAMBDA else ["chat.api.middleware.FullServerMiddleware"]),
    *STORAGE_SETTINGS["middleware"],
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                *STORAGE_SETTINGS["context_processors"],
            ]
        },
    }
]
ROOT_URLCONF = "chatproject.urls"
WSGI_APPLICATION = "chatproject.wsgi.application"
# A redirect would lose the body of a POST.
APPEND_SLASH = False
USE_I18N = False
USE_TZ = True
TIME_ZONE = "UTC"
STATIC_URL = "static/"
# Files are served from the packages that have them: nothing needs `collectstatic`.
WHITENOISE_USE_FINDERS = True
STORAGES = {"staticfiles": {"BACKEND": "chatproject.static_files.RequestPrefixStorage"}}

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("MinimumLengthValidator", "CommonPasswordValidator", "NumericPasswordValidator")
]

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["chat.api.authentication.ApiKeyAuthentication"],
    "DEFAULT_PARSER_CLASSES": ["chat.api.parsers.StrictJSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["chat.api.renderers.OrjsonRenderer"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "chat.api.renderers.JsonNegotiation",
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "chat.api.exceptions.exception_handler",
    # DRF's default needs django.contrib.auth, which is not installed on DynamoDB.
    "UNAUTHENTICATED_USER": None,
    # DRF would take `?format=` for itself, and answer 404 for a format that it lacks.
    "URL_FORMAT_OVERRIDE": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Serverless Chat API",
    "DESCRIPTION": "One endpoint in front of several language models, and a record of every call.",
    "VERSION": VERSION,
    "LICENSE": {"name": "MIT"},
    "OAS_VERSION": "3.1.0",
    "TAGS": [
        {"name": "chat", "description": "Ask a model."},
        {"name": "openai", "description": "The same for OpenAI's clients."},
        {"name": "history", "description": "Read and erase records."},
        {"name": "usage", "description": "Requests, tokens and cost."},
        {"name": "service", "description": "The state of this server. No key needed."},
    ],
    "DEFAULT_GENERATOR_CLASS": "chat.api.openapi.SchemaGenerator",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_AUTHENTICATION": [],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    # The browser keeps the key until "Logout".
    "SWAGGER_UI_SETTINGS": {
        "deepLinking": True,
        "displayRequestDuration": True,
        "persistAuthorization": True,
    },
    "REDOC_DIST": "SIDECAR",
    "COMPONENT_SPLIT_REQUEST": True,
    # The values of chat.storage.base.Status.
    "ENUM_NAME_OVERRIDES": {"RecordStatusEnum": ["pending", "ok", "error", "aborted"]},
}

SILENCED_SYSTEM_CHECKS = [
    # The warning asks for a cache with atomic increments. Ours (chat/storage) are one statement.
    "django_ratelimit.W001",
    # HTTPS ends at the gateway on AWS, which serves no plain HTTP. A laptop has no HTTPS, and
    # secure cookies would make it impossible to log in to the admin.
    "security.W004",
    "security.W008",
    "security.W010",
    # Only the admin has sessions, so only it needs CSRF protection (chat/admin/middleware.py).
    "security.W003",
]

LOG_LEVEL = env_choice("LOG_LEVEL", "INFO", ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"])
# The log goes to standard error.
ON_TERMINAL = sys.stderr.isatty()
LOG_FORMAT = env_choice("LOG_FORMAT", "simple" if ON_TERMINAL else "json", ["json", "simple"])
# https://no-color.org
LOG_COLORS = ON_TERMINAL and not env_str("NO_COLOR") and env_str("TERM") != "dumb"
# Add metrics to the JSON log lines, in CloudWatch's embedded metric format.
METRICS = env_bool("METRICS", ON_LAMBDA)
SERVICE_NAME = FUNCTION_NAME or "serverless-chat-api"
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "json": {"()": "chat.telemetry.logs.JsonFormatter"},
        "simple": {"()": "chat.telemetry.logs.SimpleFormatter", "colors": LOG_COLORS},
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
        # Records that could not be stored. `manage.py replay_records` reads them, always as JSON.
        "chat.unrecorded": {"handlers": ["json"], "level": "ERROR", "propagate": False},
        "django": {"handlers": [], "level": "WARNING"},
        # chat.telemetry logs a line per request. Django's logger adds the tracebacks of errors
        # outside our views.
        "django.request": {"level": "ERROR", "filters": ["traceback"]},
        # It warns about each HEAD request, whose body it rightly omits.
        "gunicorn.http.wsgi": {"level": "ERROR"},
        "django.security.DisallowedHost": {"level": "CRITICAL"},
        # They log an error for each batch while the endpoint is down.
        "opentelemetry.exporter.otlp.proto.http.trace_exporter": {"filters": ["seldom"]},
        "opentelemetry.sdk._shared_internal": {"filters": ["seldom"]},
    },
}
