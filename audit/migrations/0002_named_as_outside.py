from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("audit", "0001_initial")]

    operations = [
        migrations.AlterModelOptions("auditevent", {"ordering": ("-id",), "verbose_name": "audit event"}),
    ]
