from catalogue import views
from django.contrib import admin
from django.urls import path

urlpatterns = [
    path("", views.index),
    path("export.csv", views.export),
    path("picture", views.picture),
    path("host", views.host),
    path("kernel", views.kernel),
    path("sleep", views.sleep),
    path("raise", views.fail),
    path("admin/", admin.site.urls),
]
