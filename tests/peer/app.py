"""The peer of tests/bench: the small Flask app that a household runs until it knows better.

One SQLite connection and one commit for each request, SQLite's own defaults, a Jinja page.
"""
import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime

from flask import Flask, abort, render_template

DATABASE = os.environ["PEER_DB"]
STATIONS = {
    "5c:cf:7f:3b:0d:e8": "GTW89NF3",
    "6c:rf:7f:2b:0e:g8": "TGS894F",
}
TABLE = """CREATE TABLE IF NOT EXISTS data (Id INTEGER PRIMARY KEY AUTOINCREMENT,
    API_key text, date_time text, mac text, field integer, data real)"""

app = Flask(__name__)


def connect():
    # Five processes wait for one write lock: with SQLite's usual 5 s some requests would fail.
    return closing(sqlite3.connect(DATABASE, timeout=30))


with connect() as first:
    first.execute(TABLE)


@app.route("/update/API_key=<key>/mac=<mac>/field=<field>/data=<data>")
def update(key, mac, field, data):
    if STATIONS.get(mac) != key:
        abort(403)
    row = (key, datetime.now(UTC).isoformat(), mac, int(field), float(data))
    with connect() as database:
        database.execute(
            "INSERT INTO data(API_key, date_time, mac, field, data) VALUES(?, ?, ?, ?, ?)", row)
        database.commit()
    return "OK"


@app.route("/")
def page():
    with connect() as database:
        readings = database.execute(
            "SELECT date_time, mac, field, data FROM data ORDER BY Id DESC LIMIT 10").fetchall()
    return render_template("page.html", readings=readings)
