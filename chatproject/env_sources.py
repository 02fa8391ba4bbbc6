"""Find the values of variables: in the environment, the file `.env`, AWS, and `.secret_key`.

An empty variable is treated as absent.
"""

import contextlib
import io
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from django.core.exceptions import ImproperlyConfigured

if TYPE_CHECKING:  # lambda_runtime.py imports this module before lambda_handler.py
    from providers.sigv4 import Keys

# Each can be given by name instead, in `<variable>_SSM` or `<variable>_SECRET`.
SECRETS = (
    "OPENROUTER_API_KEY",
    "GEMINI_API_KEY",
    "OPENAI_API_KEY",
    "OPENAI_HEADERS",
    "AWS_BEARER_TOKEN_BEDROCK",
    "API_KEY",
    "API_KEYS",
    "SECRET_KEY",
    "SECRET_KEY_FALLBACKS",
    "OTEL_EXPORTER_OTLP_HEADERS",
)
_VARIABLE = re.compile("[A-Za-z_][A-Za-z0-9_]*")
_secrets_in_aws: dict[str, str] = {}


def env_str(name: str, default: str = "") -> str:
    return os.environ.get(name, "").strip() or default


def env_secret(name: str) -> str:
    """Return a secret from the environment, or else from AWS."""
    return env_str(name) or _secrets_in_aws.get(name, "")


def load_env_file(default: Path) -> None:
    """Set the variables of a file that the process does not set itself.

    The file is the one named by ENV_FILE, which must exist, or `default`, which need not.
    `/dev/null` means none. Raises ImproperlyConfigured if it cannot be read.
    """
    named = os.environ.get("ENV_FILE")
    path = Path(named) if named else default
    if named == os.devnull:
        return
    if path.exists():
        for name, value in _parsed_env_file(path).items():
            os.environ.setdefault(name, value)
    elif named:
        raise ImproperlyConfigured(f"ENV_FILE names {path}, which does not exist.")


def _parsed_env_file(path: Path) -> dict[str, str]:
    """Return the variables of a file. `${…}` in a value is taken as it is: keys may have it."""
    from dotenv.parser import parse_stream  # not on a cold start

    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise ImproperlyConfigured(f"{path} (ENV_FILE) cannot be read: {exc.strerror}.") from exc
    except UnicodeDecodeError as exc:
        raise ImproperlyConfigured(f"{path} (ENV_FILE) must be a text in UTF-8.") from exc
    variables = {}
    for line in parse_stream(io.StringIO(text)):
        source, key, value = line.original.string, line.key, line.value
        sets_nothing = key is not None and (value is None or not _VARIABLE.fullmatch(key))
        if line.error or sets_nothing or "\0" in source:
            blank = source[: -len(source.lstrip())].count("\n")
            raise ImproperlyConfigured(
                f"{path} (ENV_FILE), line {line.original.line + blank}: must be NAME=value, and a "
                "quote must be closed."
            )
        if key and value is not None:
            variables[key] = value
    return variables


def load_secrets_from_aws(
    region: str, keys: "Keys", endpoints: Mapping[str, str], transport_options: Mapping[str, str]
) -> None:
    """Read the secrets whose SSM parameter or Secrets Manager secret is named in a variable.

    A non-empty entry of `endpoints` replaces the address of `ssm` or `secretsmanager`.
    """
    _secrets_in_aws.clear()
    parameters = {name: where for name in SECRETS if (where := env_str(f"{name}_SSM"))}
    names = {name: where for name in SECRETS if (where := env_str(f"{name}_SECRET"))}
    if not parameters and not names:
        return
    from chatproject import aws_secrets  # not on a cold start without such secrets
    from providers.transport import CurlTransport

    with CurlTransport(**transport_options) as transport:
        found = aws_secrets.read(
            parameters, names, region=region, endpoints=endpoints, keys=keys, transport=transport
        )
    _secrets_in_aws.update(found)


def export_secret(name: str) -> None:
    """Set a variable that a library reads itself, if its value is a secret in AWS."""
    if value := env_secret(name):
        os.environ[name] = value


def local_secret_key(path: Path) -> str:
    """Return the key in a file, and create the file if there is none.

    The key is kept so that sessions outlive a restart.
    """
    try:
        if not path.exists():
            # Written aside, then linked: no process reads half a key, or makes a second one.
            draft = path.with_name(f"{path.name}.{os.getpid()}")
            draft.touch(mode=0o600)
            draft.write_text(secrets.token_urlsafe(50))
            with contextlib.suppress(FileExistsError):  # another process was first
                os.link(draft, path)
            draft.unlink()
        return path.read_text()
    except OSError as exc:
        raise ImproperlyConfigured(
            f"Cannot write {path}: {exc.strerror}. Set SECRET_KEY, or make the folder writable."
        ) from exc


def lambda_trace_id() -> str:
    """Return the X-Ray trace header of the current invocation, which differs for each."""
    return env_str("_X_AMZN_TRACE_ID")


def set_lambda_trace_id(trace_id: str) -> None:
    """Set the X-Ray trace header of the next invocation, as Lambda's runtimes do."""
    os.environ["_X_AMZN_TRACE_ID"] = trace_id


def lambda_runtime_api() -> str:
    """Return the host and port of Lambda's Runtime API."""
    return env_str("AWS_LAMBDA_RUNTIME_API")
