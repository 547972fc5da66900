import core.ids
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0002_pools"),
    ]

    operations = [
        migrations.CreateModel(
            name="IdempotencyClaim",
            fields=[
                ("id", models.UUIDField(default=core.ids.uuid7, primary_key=True, serialize=False)),
                ("tenant_id", models.UUIDField()),
                ("key_digest", models.BinaryField(max_length=32)),
                ("body_digest", models.BinaryField(max_length=32)),
                ("request_id", models.UUIDField(help_text="Whose claim it is now.")),
                ("created_at", models.DateTimeField()),
                ("lease_until", models.DateTimeField(help_text="Until then nobody takes it over.")),
                ("expires_at", models.DateTimeField()),
                ("charged", models.BooleanField(default=False)),
                (
                    "status",
                    models.PositiveSmallIntegerField(help_text="Of the answer that is kept.", null=True),
                ),
                ("headers", models.JSONField(default=list)),
                ("answer", models.BinaryField(null=True)),
            ],
            options={
                "indexes": [models.Index(fields=["expires_at"], name="idempotency_expiry")],
                "constraints": [
                    models.UniqueConstraint(fields=("tenant_id", "key_digest"), name="idempotency_key_once"),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("answer", None), ("status", None)),
                            models.Q(("answer__isnull", False), ("status__isnull", False)),
                            _connector="OR",
                        ),
                        name="idempotency_answer_whole",
                    ),
                ],
            },
        ),
    ]
