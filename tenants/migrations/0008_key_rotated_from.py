import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("tenants", "0007_key_lines")]

    operations = [
        migrations.AddField(
            "apikey",
            "rotated_from",
            models.ForeignKey(
                blank=True,
                editable=False,
                help_text="The key that made it of itself, as its successor.",
                null=True,
                on_delete=django.db.models.deletion.RESTRICT,
                related_name="rotated_to",
                to="tenants.apikey",
            ),
        ),
    ]
