from django.apps import AppConfig, apps
from django.db.models.signals import post_migrate


class ConfigConfig(AppConfig):
    name = "config"

    def ready(self) -> None:
        from config import (
            openapi,  # noqa: F401  # registers itself with drf-spectacular by being imported
            walls,
        )

        # Sent once for each app that has models, after all of them were migrated: once is enough.
        last = [each for each in apps.get_app_configs() if each.models_module is not None][-1]
        post_migrate.connect(walls.build, sender=last, dispatch_uid="walls")
