from django.urls import path

from chat import views

urlpatterns = [
    path("", views.IndexView.as_view(), name="index"),
    path("v1/chat", views.ChatView.as_view(), name="chat"),
    path("v1/usage", views.UsageView.as_view(), name="usage"),
    path("v1/health", views.HealthView.as_view(), name="health"),
    path("v1/ready", views.ReadyView.as_view(), name="ready"),
    path(
        "v1/interactions/<str:interaction_id>", views.InteractionView.as_view(), name="interaction"
    ),
]
