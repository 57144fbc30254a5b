from django.db import models


class Article(models.Model):
    name = models.CharField(max_length=100)
    cents = models.PositiveIntegerField()

    def __str__(self):
        return self.name
