"""Read environment variables for chatproject/settings.py, and check them.

An empty variable means the default. An invalid value raises ImproperlyConfigured, with an error
that names the variable.
"""

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured

from chatproject.env_sources import env_secret, env_str

# Those of libcurl.
PROXY_SCHEMES = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?")


def env_directives(name: str) -> str:
    """Return text with directives of providers/mock.py."""
    value = env_str(name)
    if not value:
        return ""
    from providers.mock import invalid_directive  # not on a cold start

    if wrong := invalid_directive(value):
        example = "must have a directive such as mock:delay=0.5"
        raise ImproperlyConfigured(f"{name} {example}, not {wrong!r}.")
    return value


def env_list(name: str) -> list[str]:
    return split(env_str(name))


def split(value: str) -> list[str]:
    """Split a comma-separated list, and drop its empty entries."""
    return [entry.strip() for entry in value.split(",") if entry.strip()]


def env_float(name: str, default: float, *, low: float, high: float) -> float:
    value = env_str(name, str(default))
    try:
        if low <= float(value) <= high:
            return float(value)
    except ValueError:
        pass
    raise ImproperlyConfigured(f"{name} must be a number from {low:g} to {high:g}, not {value!r}.")


def env_int(name: str, default: int, *, low: int, high: int) -> int:
    value = env_str(name, str(default))
    # int() would also take `1_000`, and digits of other scripts.
    if re.fullmatch("[0-9]{1,18}", value) and low <= int(value) <= high:
        return int(value)
    raise ImproperlyConfigured(
        f"{name} must be a whole number from {low} to {high}, not {value!r}."
    )


def env_choice(name: str, default: str, options: Sequence[str]) -> str:
    value = env_str(name, default)
    if value in options:
        return value
    raise ImproperlyConfigured(f"{name} must be one of {', '.join(options)}, not {value!r}.")


def env_bool(name: str, default: bool) -> bool:
    value = env_str(name, str(default)).lower()
    if value in ("true", "1", "yes", "on"):
        return True
    if value in ("false", "0", "no", "off"):
        return False
    raise ImproperlyConfigured(f"{name} must be true or false, not {value!r}.")


def env_header_secret(name: str) -> str:
    """Return a secret that is sent in an HTTP header. The error does not show its value."""
    value = env_secret(name)
    if not all("!" <= character <= "~" for character in value):
        raise ImproperlyConfigured(f"{name} must be printable ASCII without spaces.")
    return value


def env_headers(name: str) -> dict[str, str]:
    """Return HTTP headers from `name=value`, comma-separated, which may be a secret."""
    headers = {}
    for entry in split(env_secret(name)):
        header, equals, value = (part.strip() for part in entry.partition("="))
        if not equals or not _TOKEN.fullmatch(header) or not _HEADER_VALUE.fullmatch(value):
            raise ImproperlyConfigured(
                f"{name} must be a list such as api-key=123,x-team=blue, in printable ASCII."
            )
        headers[header.lower()] = value
    return headers


def env_hosts(name: str) -> list[str]:
    """Return host names without ports, as Django compares them; `.example.org` has subdomains."""
    hosts = env_list(name)
    for host in hosts:
        if not re.fullmatch(r"\*|[\w.-]+|\[[0-9a-fA-F:.]+\]", host):
            raise ImproperlyConfigured(
                f"{name} must be host names such as chat.example.org, without a scheme or a port, "
                f"not {host!r}."
            )
    return hosts


def env_origins(name: str, *, accepted: Sequence[str] = (), wildcards: bool = False) -> list[str]:
    """Return origins as browsers send them, in lower case; `accepted` are other valid values.

    With `wildcards` a host may begin with `*.`.
    """
    origins = [origin.lower() for origin in env_list(name)]
    host = r"(\*\.)?[^\s/?#@*]+" if wildcards else r"[^\s/?#@*]+"
    for origin in origins:
        if origin not in accepted and not re.fullmatch(rf"[a-z][a-z0-9+.-]*://{host}", origin):
            raise ImproperlyConfigured(
                f"{name} must be origins such as https://app.example.org, without a path, "
                f"not {origin!r}."
            )
    return origins


def env_url(name: str, default: str = "") -> str:
    """Return a base URL, up to and including the path of the API's version.

    A trailing slash is removed.
    """
    value = env_str(name, default).rstrip("/")
    if value and not _is_url(value, excluded="?#@"):
        raise ImproperlyConfigured(
            f"{name} must be an http or https address, without a user, query or fragment."
        )
    return value


def env_vendor_url(name: str, default: str = "") -> str:
    """Return a vendor's base URL, which may have a query, such as Azure's `api-version`.

    The path of chat completions is removed, which vendors' examples have.
    """
    base, question_mark, query = env_str(name, default).partition("?")
    base = base.rstrip("/").removesuffix("/chat/completions").rstrip("/")
    value = base + question_mark + query
    if value and not _is_url(value, excluded="#@"):
        raise ImproperlyConfigured(
            f"{name} must be an http or https address, without a user or fragment."
        )
    return value


def _is_url(value: str, *, excluded: str) -> bool:
    """Return whether a value is the address of a server, without the excluded characters."""
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        (parts.hostname or "").encode("idna")
    except ValueError:  # UnicodeError is one
        return False
    return bool(usable) and not re.search(rf"[^!-~]|[{excluded}]", value)


def env_proxy(name: str) -> str:
    """Return the URL of a proxy. The name in lower case wins, as it does in curl and requests.

    The error does not show the value, which may have a password.
    """
    name, value = _lower_case_first(name)
    url = value if not value or "://" in value else f"http://{value}"
    if url:
        try:
            parts = urlsplit(url)
            usable = parts.scheme in PROXY_SCHEMES and parts.hostname and parts.port != 0
        except ValueError:
            usable = False
        if not usable or re.search("[^!-~]", url):
            raise ImproperlyConfigured(
                f"{name} must be the URL of a proxy, such as http://user:password@host:8080."
            )
    return url


def env_no_proxy(name: str) -> str:
    """Return the hosts that are reached without a proxy, as a comma-separated list."""
    name, value = _lower_case_first(name)
    if re.search(r"[^\t -~]", value):
        raise ImproperlyConfigured(
            f"{name} must be a list of hosts in printable ASCII, such as localhost,.internal."
        )
    return ",".join(split(value))


def _lower_case_first(name: str) -> tuple[str, str]:
    """Return the variable that is set, of a name in lower case and in upper case, and its value."""
    lower = env_str(name.lower())
    return (name.lower(), lower) if lower else (name, env_str(name))


def env_ca_file(name: str) -> str:
    """Return the path of a file of certificate authorities in PEM."""
    path = env_str(name)
    if path:
        try:
            import ssl

            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
        except OSError as exc:  # ssl.SSLError is one
            raise ImproperlyConfigured(
                f"{name} must name a file of certificates in PEM, but {path} cannot be read as one."
            ) from exc
    return path


def env_model_id(name: str) -> str:
    """Return the id or the ARN of a model or of an inference profile of Bedrock."""
    expected = (
        "the id or the ARN of a model or an inference profile, such as "
        "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
    )
    return _matching(name, r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,2047}", expected)


def arn_region(arn: str) -> str:
    """Return the region of an ARN; empty if it has none, or is another name."""
    found = re.match(r"arn:[^:]+:[^:]+:([a-z0-9-]+):", arn)
    return found[1] if found else ""


def env_region(name: str) -> str:
    """Return a region, which for DynamoDB Local may be any word."""
    expected = "a region of AWS, such as us-east-1"
    return _matching(name, r"[a-z0-9]+(-[a-z0-9]+)*", expected)


def env_guardrail(name: str) -> str:
    """Return a guardrail of Bedrock and its version, as `id:version` or `arn:version`."""
    arn = r"arn:aws(-[^:]+)?:bedrock:[a-z0-9-]{1,20}:[0-9]{12}:guardrail/[a-z0-9]+"
    expected = (
        "a guardrail's id or ARN and its version, such as abc123def456:1 or abc123def456:DRAFT"
    )
    return _matching(name, rf"([a-z0-9]+|{arn}):([1-9][0-9]{{0,7}}|DRAFT)", expected)


def _matching(name: str, pattern: str, expected: str) -> str:
    """Return a value that matches the pattern, or is empty."""
    value = env_str(name)
    if value and not re.fullmatch(pattern, value):
        raise ImproperlyConfigured(f"{name} must be {expected}, not {value!r}.")
    return value


def env_table_name(name: str, default: str) -> str:
    value = env_str(name, default)
    if not re.fullmatch(r"[A-Za-z0-9_.-]{3,255}", value):
        raise ImproperlyConfigured(f"{name} must be 3 to 255 letters, digits, _ - or dots.")
    return value
