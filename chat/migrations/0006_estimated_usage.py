from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("chat", "0005_whole_messages")]

    operations = [
        migrations.AddField(
            "interaction", "estimated", models.BooleanField("tokens estimated", null=True)
        )
    ]
