from django.db import migrations

# Ids are compared as text, and were kept as they came. One that would meet its like stays: it never limited anything.
_ONE_WAY = """
UPDATE billing_limit l SET scope_id = l.scope_id::uuid::text
WHERE l.scope IN ('model', 'key') AND l.scope_id <> l.scope_id::uuid::text AND NOT EXISTS (
    SELECT 1 FROM billing_limit o WHERE o.id <> l.id AND o.scope_id = l.scope_id::uuid::text
        AND (o.tenant_id, o.scope, o.measure, o.period, o.mode, o.origin)
            = (l.tenant_id, l.scope, l.measure, l.period, l.mode, l.origin)
)
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0008_limit_by_tenant")]

    operations = [migrations.RunSQL(_ONE_WAY, migrations.RunSQL.noop)]
