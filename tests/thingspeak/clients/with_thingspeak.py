"""Uses the package thingspeak from PyPI on a server: URL, channel and write key as arguments.

Prints what each call returned, one JSON text a line.
"""
import json
import sys

import requests
import thingspeak

url, number, key = sys.argv[1:]
channel = thingspeak.Channel(int(number), api_key=key, server_url=url, timeout=20)
plain = thingspeak.Channel(int(number), api_key=key, server_url=url, fmt="txt", timeout=20)
wrong = thingspeak.Channel(int(number), api_key="WRONGWRONGWRONG0", server_url=url, timeout=20)


def say(value):
    print(json.dumps(value))


say(json.loads(channel.update({"field1": 21.5, "status": "a b&c 50%"})))
say(plain.update({1: 22.5, 2: 48}))
say(json.loads(channel.get({"results": 2, "status": "true"})))
say(json.loads(channel.get_field("field1", {"results": 1})))
say(json.loads(channel.get_field_last(1)))
say(plain.get_field_last(1))
say(json.loads(channel.get_last_data_age(1)))
say(json.loads(channel.view()))
try:
    wrong.update({"field1": 1})
except requests.HTTPError as error:
    say(error.response.status_code)
