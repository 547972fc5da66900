import django.contrib.postgres.fields
import django.contrib.postgres.indexes
from django.db import migrations, models

# A key's own line first, then those of the keys that made it. What was rotated before began anew, and still does.
_FILL = """
WITH RECURSIVE line AS (
    SELECT k.id AS key_id, k.id, k.created_with_id, k.tenant_id, 0 AS generation FROM tenants_apikey k
    UNION ALL
    SELECT line.key_id, k.id, k.created_with_id, k.tenant_id, line.generation + 1 FROM tenants_apikey k
    JOIN line ON k.id = line.created_with_id AND k.tenant_id IS NOT DISTINCT FROM line.tenant_id
    WHERE line.generation <= 20
)
UPDATE tenants_apikey k SET lines = found.lines
FROM (SELECT key_id, array_agg(id ORDER BY generation) AS lines FROM line GROUP BY key_id) AS found
WHERE found.key_id = k.id
"""
_LINES = {
    "base_field": models.UUIDField(),
    "editable": False,
    "help_text": "Whose limits count what it uses: its own line, named by the first of the keys that replaced each "
    "other, then those of the keys that made it. Never changes.",
    "size": None,
}


class Migration(migrations.Migration):
    dependencies = [("tenants", "0006_own_credentials")]

    operations = [
        migrations.AddField("apikey", "lines", django.contrib.postgres.fields.ArrayField(default=list, **_LINES)),
        migrations.RunSQL(_FILL, migrations.RunSQL.noop),
        migrations.AlterField("apikey", "lines", django.contrib.postgres.fields.ArrayField(**_LINES)),
        migrations.AddIndex(
            "apikey", django.contrib.postgres.indexes.GinIndex(fields=["lines"], name="key_by_line")
        ),
    ]
