from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("alerts", "0001_initial"),
    ]

    operations = [
        migrations.AddField("alertchannel", "sealed", models.TextField(blank=True, default="", editable=False), False),
        migrations.AlterField(
            "alertchannel",
            "kind",
            models.CharField(choices=[("email", "Email"), ("webhook", "Webhook")], default="email", max_length=20),
        ),
        migrations.AlterField(
            "alertchannel",
            "targets",
            models.JSONField(default=list, help_text="Addresses; of a webhook, one that begins with https://."),
        ),
        migrations.AlterField(
            "alertchannel",
            "verified_at",
            models.DateTimeField(editable=False, help_text="When a test arrived.", null=True),
        ),
        migrations.RemoveConstraint("alertchannel", "alert_channel_kind_known"),
        migrations.AddConstraint(
            "alertchannel",
            models.CheckConstraint(
                condition=models.Q(("kind__in", ["email", "webhook"])), name="alert_channel_kind_known"
            ),
        ),
    ]
