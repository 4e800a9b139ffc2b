"""pywws's own uploader to Weather Underground: FOLDER PORT ID KEY. Prints what it thinks of it.

Its address is fixed: in this process, and only there, that name leads to our server.
"""
import pathlib
import sys
from datetime import datetime, timedelta

import pywws.service.underground
import pywws.storage
import requests

folder, port, station, key = sys.argv[1:]
pathlib.Path(folder).mkdir(exist_ok=True)
real = requests.Session.get


def get(self, url, **options):
    host, _, path = url.removeprefix("https://").partition("/")
    assert host.endswith("wunderground.com")
    return real(self, f"http://127.0.0.1:{port}/{path}", **options)


requests.Session.get = get
with pywws.storage.pywws_context(folder) as context:
    for name, value in (("station", station), ("password", key), ("internal", "True")):
        context.params.set("underground", name, value)
    context.params.set("config", "pressure offset", "0")
    context.status.set("fixed", "fixed block", "{}")
    now = datetime.utcnow().replace(microsecond=0)
    for minutes in (120, 65, 5):
        context.calib_data[now - timedelta(minutes=minutes)] = {
            "idx": now - timedelta(minutes=minutes), "delay": 5, "hum_in": 41, "temp_in": 21.5,
            "hum_out": 80, "temp_out": 0.4, "abs_pressure": 1000.0, "rel_pressure": 1013.2,
            "wind_ave": 4.5, "wind_gust": 9.0, "wind_dir": 12, "rain": 0.3, "status": 0}
    context.hourly_data[now] = {"idx": now}     # without a summary it says nothing
    service = pywws.service.underground.ToService(context)
    data = service.prepare_data(context.calib_data[now - timedelta(minutes=5)])
    with service.session() as (session, _):
        print(*service.upload_data(session, prepared_data=data | service.fixed_data))
