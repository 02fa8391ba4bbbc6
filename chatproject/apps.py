"""Django's admin app, with our site in place of the default one."""

from django.contrib.admin.apps import AdminConfig


class ChatAdminConfig(AdminConfig):
    default_site = "chat.admin_site.ChatAdminSite"
