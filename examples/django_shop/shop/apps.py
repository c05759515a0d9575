"""The application."""

from django.apps import AppConfig


class ShopConfig(AppConfig):
    """Connects the signals."""

    name = "shop"

    def ready(self) -> None:
        """Importing them connects them."""
        from shop import signals  # noqa: F401
