from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("chat", "0007_budgets")]

    operations = [
        migrations.AddField("interaction", "earlier", models.JSONField(null=True)),
        migrations.AddField("interaction", "digest", models.CharField(max_length=32, null=True)),
        migrations.AddField("interaction", "transcript", models.JSONField(null=True)),
        migrations.AddIndex(
            "interaction",
            models.Index(
                fields=("digest", "created_at"),
                name="digest_index",
                condition=models.Q(digest__isnull=False),
            ),
        ),
    ]
