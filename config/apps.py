from django.apps import AppConfig


class ConfigConfig(AppConfig):
    name = "config"

    def ready(self) -> None:
        from config import openapi  # noqa: F401  # registers itself with drf-spectacular by being imported
