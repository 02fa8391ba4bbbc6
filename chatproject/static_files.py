"""Links to static files."""

from urllib.parse import quote

from django.contrib.staticfiles.storage import StaticFilesStorage
from django.urls import get_script_prefix


class RequestPrefixStorage(StaticFilesStorage):
    """Link to static files below the running request's prefix, e.g. the stage of a REST API.

    Django would keep the prefix of the first request, and an API has several: a stage's own address
    and a custom domain's.
    """

    def url(self, name: str | None) -> str:
        return f"{get_script_prefix()}static/{quote(name or '')}"
