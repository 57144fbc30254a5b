from django.contrib import admin

from catalogue.models import Article


@admin.register(Article)
class ArticleAdmin(admin.ModelAdmin):
    list_display = ("name", "cents")
