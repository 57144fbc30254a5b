"""Notes kept in SQLite, by Flask: a page, a small JSON interface, an application factory."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from flask import Flask, abort, redirect, render_template, request, url_for

SCHEMA = "CREATE TABLE IF NOT EXISTS note (id INTEGER PRIMARY KEY, text TEXT NOT NULL)"


def create_app():
    app = Flask(__name__)
    # systemd.exec(5): the one directory that the service may write to.
    state = Path(os.environ.get("STATE_DIRECTORY", app.root_path))

    def database():
        connection = sqlite3.connect(state / "notes.sqlite")
        connection.execute(SCHEMA)
        return closing(connection)

    @app.get("/")
    def index():
        with database() as db:
            notes = db.execute("SELECT id, text FROM note ORDER BY id").fetchall()
        return render_template("index.html", notes=notes)

    @app.post("/")
    def add():
        text = request.form.get("text", "").strip()
        if not text:
            abort(400)
        with database() as db, db:
            db.execute("INSERT INTO note (text) VALUES (?)", (text,))
        return redirect(url_for("index"), 303)

    @app.get("/notes.json")
    def as_json():
        with database() as db:
            return [{"id": n, "text": t} for n, t in db.execute("SELECT id, text FROM note")]

    return app
