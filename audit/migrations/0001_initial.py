"""The log, and what keeps it as it was: grants where the database has several roles, and this trigger in any case."""

import core.ids
import django.core.serializers.json
from django.db import migrations, models


APPEND_ONLY = """
CREATE FUNCTION audit_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT pg_has_role(current_user, (SELECT relowner FROM pg_class WHERE oid = TG_RELID), 'MEMBER') THEN
        RAISE EXCEPTION 'the audit log is only ever added to' USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_auditevent
    FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse_change();
REVOKE ALL ON audit_auditevent FROM PUBLIC;
"""


class Migration(migrations.Migration):

    initial = True

    dependencies = [
    ]

    operations = [
        migrations.CreateModel(
            name='AuditEvent',
            fields=[
                ('id', models.UUIDField(default=core.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ('created_at', models.DateTimeField(help_text='The moment in the id.')),
                ('tenant_id', models.UUIDField(help_text="Whose matter it was; none: the platform's.", null=True)),
                ('actor_kind', models.CharField(choices=[('person', 'person'), ('key', 'key'), ('agent', 'agent'), ('task', 'task'), ('command', 'command'), ('anonymous', 'anonymous')], max_length=20)),
                ('actor_id', models.CharField(max_length=200)),
                ('actor', models.CharField(help_text='Who that was, in words of the time.', max_length=300)),
                ('action', models.CharField(help_text='What was done to what: `api_key.revoked`.', max_length=60)),
                ('subject_kind', models.CharField(max_length=40)),
                ('subject_id', models.CharField(blank=True, max_length=200)),
                ('before', models.JSONField(encoder=django.core.serializers.json.DjangoJSONEncoder, help_text='Of what changed; none: it is new.', null=True)),
                ('after', models.JSONField(encoder=django.core.serializers.json.DjangoJSONEncoder, help_text='Of what changed; none: it is gone.', null=True)),
                ('address', models.CharField(blank=True, help_text='From where on the network.', max_length=45)),
                ('request_id', models.CharField(blank=True, max_length=64)),
            ],
            options={
                'verbose_name': 'event',
                'verbose_name_plural': 'audit log',
                'ordering': ('-id',),
                'indexes': [models.Index(fields=['tenant_id', '-id'], name='audit_of_tenant'), models.Index(fields=['tenant_id', 'subject_id', '-id'], name='audit_of_subject'), models.Index(fields=['tenant_id', 'actor_id', '-id'], name='audit_of_actor'), models.Index(fields=['tenant_id', 'action', '-id'], name='audit_of_action')],
                'constraints': [models.CheckConstraint(condition=models.Q(('actor_kind__in', ['person', 'key', 'agent', 'task', 'command', 'anonymous'])), name='audit_actor_known')],
            },
        ),
        migrations.RunSQL(
            APPEND_ONLY,
            "DROP TRIGGER audit_append_only ON audit_auditevent; DROP FUNCTION audit_refuse_change();",
        ),
    ]
