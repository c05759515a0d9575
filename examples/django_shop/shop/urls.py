"""Where the views are."""

from django.urls import path

from shop import views

urlpatterns = [
    path("login", views.log_in),
    path("herald-token", views.herald_token),
    path("orders", views.order),
    path("announcements", views.announce),
]
