"""weewx's archive in a file, made by its own manager, and its own uploader for what is in it.

    with_weewx.py FILE SYSTEM NUMBER [URL ID KEY [rapidfire]]

SYSTEM is weewx's number of a system of units: 1, 16 or 17. NUMBER records are made, one a minute
until now. Without a URL nothing is sent. Prints what weewx logs.
"""
import logging
import sys
import time

import configobj
import weewx.manager
import weewx.restx
import weewx.units

path, system, number, *address = sys.argv[1:]
logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
config = {
    "WEEWX_ROOT": "/", "DataBindings": {"wx_binding": {
        "database": "archive", "table_name": "archive",
        "manager": "weewx.manager.DaySummaryManager",
        "schema": "weewx.schemas.wview_extended.schema"}},
    "Databases": {"archive": {"database_name": path, "driver": "weedb.sqlite",
                              "SQLITE_ROOT": "/"}},
    "DatabaseTypes": {}}
now = int(time.time())
RECORD = {"outTemp": 32.7, "outHumidity": 80.0, "barometer": 31.1, "pressure": 30.9,
          "inTemp": 70.7, "inHumidity": 41.0, "windSpeed": 10.0, "windGust": 20.0,
          "windDir": 270.0, "rainRate": 0.5, "radiation": 325.37, "UV": 3.0, "extraTemp1": 50.0,
          "dewpoint": 27.2}
records = [weewx.units.to_std_system(
    {"dateTime": now - 60 * minute, "usUnits": weewx.US, "interval": 1, **RECORD,
     "outTemp": RECORD["outTemp"] + minute}, int(system))
    for minute in reversed(range(int(number)))]
with weewx.manager.open_manager_with_config(config, "wx_binding", initialize=True) as manager:
    manager.addRecord(records)


class Engine:
    """What the uploader uses of weewx's engine."""

    def __init__(self):
        self.bound = {}

    def bind(self, event, function):
        self.bound[event] = function


if address:
    url, station, key, *rapidfire = address
    config["StdRESTful"] = {"Wunderground": {
        "enable": "true", "station": station, "password": key, "server_url": url,
        "post_indoor_observations": "true", "rapidfire": "true" if rapidfire else "false",
        "log_success": "true", "log_failure": "true", "retry_wait": "0", "max_tries": "2",
        "max_backlog": "9"}}
    engine = Engine()
    service = weewx.restx.StdWunderground(engine, configobj.ConfigObj(config))
    for record in records:
        if rapidfire:
            engine.bound[weewx.NEW_LOOP_PACKET](weewx.Event(weewx.NEW_LOOP_PACKET, packet=record))
        else:
            engine.bound[weewx.NEW_ARCHIVE_RECORD](
                weewx.Event(weewx.NEW_ARCHIVE_RECORD, record=record))
    for queue, thread in ((getattr(service, f"{kind}_queue", None),
                           getattr(service, f"{kind}_thread", None))
                          for kind in ("archive", "loop")):
        if queue:
            queue.put(None)
            thread.join()
