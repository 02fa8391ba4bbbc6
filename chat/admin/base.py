"""The base of the admin's lists."""

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.http import HttpRequest
from django.template.response import TemplateResponse

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = admin.ModelAdmin


class ReadOnlyAdmin(ModelAdmin):
    """A list of rows that are never edited or deleted."""

    # Facets would count all rows for each choice of a filter.
    show_facets = admin.ShowFacets.NEVER

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def page(self, request: HttpRequest, template: str, **context: Any) -> TemplateResponse:
        """Return a page of our own in the admin's layout."""
        context |= {**self.admin_site.each_context(request), "opts": self.opts}
        address = f"admin/chat/{self.opts.model_name}/{template}.html"
        return TemplateResponse(request, address, context)
