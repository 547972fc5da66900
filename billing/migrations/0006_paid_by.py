from django.db import migrations, models

# A constant as default and a rule for new rows only: no row of the ledger is read or rewritten.
COLUMN = """
ALTER TABLE billing_usagerow
    ADD COLUMN paid_by varchar(10) NOT NULL DEFAULT 'platform',
    ADD CONSTRAINT usage_payer_known CHECK (paid_by IN ('platform', 'tenant')) NOT VALID;
"""
DROP = "ALTER TABLE billing_usagerow DROP CONSTRAINT usage_payer_known, DROP COLUMN paid_by;"


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0005_limit_origin"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunSQL(COLUMN, DROP)],
            state_operations=[
                migrations.AddField(
                    "usagerow",
                    "paid_by",
                    models.CharField(
                        choices=[("platform", "platform"), ("tenant", "tenant")],
                        default="platform",
                        help_text="Who pays the provider. `tenant`: called with the tenant's own credential; "
                        "it costs nothing here.",
                        max_length=10,
                    ),
                ),
            ],
        ),
    ]
