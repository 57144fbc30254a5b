from django.db import migrations, models

ARTICLES = {"Tea": 350, "Coffee": 420, "Cocoa": 390}


def fill(apps, schema_editor):
    article = apps.get_model("catalogue", "Article")
    article.objects.bulk_create(article(name=name, cents=ARTICLES[name]) for name in ARTICLES)


class Migration(migrations.Migration):
    initial = True
    dependencies = ()
    operations = (
        migrations.CreateModel(
            name="Article",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.CharField(max_length=100)),
                ("cents", models.PositiveIntegerField()),
            ],
        ),
        migrations.RunPython(fill, migrations.RunPython.noop),
    )
