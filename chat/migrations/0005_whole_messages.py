from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("chat", "0004_admin_indexes")]

    operations = [
        migrations.AddField("interaction", name, models.JSONField(null=True))
        for name in ("message", "extras")
    ]
