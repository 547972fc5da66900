from django.db import migrations, models

# Constants as defaults and a rule for new rows only: no row of the ledger is read or rewritten.
COLUMNS = """
ALTER TABLE billing_usagerow
    ADD COLUMN own_price boolean NOT NULL DEFAULT false,
    ADD COLUMN corrects_day date,
    ADD COLUMN reason varchar(200) NOT NULL DEFAULT '',
    ADD CONSTRAINT usage_adjustment_named CHECK ((source = 'adjustment') = (corrects_day IS NOT NULL)) NOT VALID;
"""
DROP = """
ALTER TABLE billing_usagerow
    DROP CONSTRAINT usage_adjustment_named, DROP COLUMN reason, DROP COLUMN corrects_day, DROP COLUMN own_price;
"""


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0003_idempotency"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunSQL(COLUMNS, DROP)],
            state_operations=[
                migrations.AddField(
                    "usagerow",
                    "own_price",
                    models.BooleanField(
                        default=False, help_text="Charged at the tenant's own price, not the catalogue's."
                    ),
                ),
                migrations.AddField(
                    "usagerow",
                    "corrects_day",
                    models.DateField(help_text="Of an adjustment: the UTC day whose cost it corrects.", null=True),
                ),
                migrations.AddField(
                    "usagerow",
                    "reason",
                    models.CharField(blank=True, help_text="Of an adjustment: why.", max_length=200),
                ),
            ],
        ),
    ]
