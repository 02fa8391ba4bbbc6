from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("chat", "0006_estimated_usage")]

    operations = [
        migrations.AddField(
            "apikey",
            "user_monthly_budget_usd",
            models.DecimalField(
                "monthly budget of each user (USD)", max_digits=24, decimal_places=12, null=True
            ),
        ),
        migrations.CreateModel(
            "Reservation",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("interaction_id", models.CharField(db_index=True, max_length=36)),
                ("owner", models.CharField(max_length=128)),
                ("by", models.CharField(max_length=8)),
                ("name", models.CharField(max_length=256)),
                ("amount", models.BigIntegerField()),
                ("expires_at", models.DateTimeField(db_index=True)),
            ],
            options={
                "indexes": [models.Index(fields=["owner", "by", "name"], name="reservation_index")]
            },
        ),
    ]
