"""The unmodified firmware on a real MicroPython with a small heap, against the real server."""
import datetime
import itertools
import re
import shutil

import pytest
from tools import needs

pytestmark = needs("MicroPython")
MINUTE, HOUR, DAY = 60, 3600, 86400
SERVER_WORDS = b"HTTP/1.1 %s\r\nContent-Length: %d\r\nRetry-After: %d\r\n\r\n%s"


def answer(status, words=b"out of order", wait=0):
    return SERVER_WORDS % (status, len(words), wait, words)


def assert_well(story):
    """What holds in every scenario: no socket left open, and nobody owns more and more memory."""
    rests = [rest.what.split() for rest in story.all("rest")]
    assert {sockets for _, sockets in rests} == {"0"}
    assert "Traceback" not in story.output


def assert_all_stored_once(story, iot, but=0):
    """Every measured reading is in the database once; the last `but` may be on their way."""
    stored = iot.values()
    assert len(stored) == len(set(stored))
    assert stored == story.measured()[:len(stored)]
    assert len(stored) >= len(story.measured()) - but > 0


def test_a_normal_day(board, iot):
    story = board().live(DAY, ticks=2**30 - HOUR * 1000)
    assert len(story.measured()) == 1440
    assert iot.values() == story.measured()
    assert len(story.all("request")) == 1440
    assert story.ends == ["end"]
    assert_well(story)


SENSORS = {     # what the fake bus or pin has: what config.py says, and the fields that come
    "BMP280": ({}, (1, 3)), "BME280": ({}, (1, 2, 3)), "SHT3x": ({}, (1, 2)),
    "SHT3x at 0x45": ({"SENSOR": "SHT31"}, (1, 2)), "SHT4x": ({}, (1, 2)), "AHT20": ({}, (1, 2)),
    "DHT22": ({"SENSOR": "DHT22"}, (1, 2)), "DS18B20": ({"SENSOR": "DS18B20"}, (1, 4, 5)),
    "AHT20+BMP280": ({}, (1, 2, 3))}
KEPT = 36 * 1024    # bytes of a running station; 2.0 had 35,040. The board needs half of them


def bytes_kept(story):
    """What the station holds while it rests, without what was there before it.

    The middle one of all rests: now and then the stack holds a stale pointer to what is gone.
    """
    first, *rests = [int(rest.what.split()[0]) for rest in story.all("rest")]
    return sorted(rests)[len(rests) // 2] - first


@pytest.mark.slow
@pytest.mark.parametrize("sensor", SENSORS)
def test_a_day_with_each_sensor(board, iot, sensor):
    """Nothing lost, nothing doubled, and no more memory than with a thermometer alone."""
    config, fields = SENSORS[sensor]
    story = board(**config).live(DAY, sensor=sensor, thermometers=3)
    for field in fields:
        assert len(iot.values(str(field))) == 1440
    assert len(story.all("request")) == 1440 * len(fields)
    assert sum(len(iot.readings(str(field))) for field in range(1, 10)) == 1440 * len(fields)
    assert story.ends == ["end"]
    assert "no reading" not in story.output
    assert bytes_kept(story) <= KEPT + ("+" in sensor) * 1024
    assert_well(story)


@pytest.mark.parametrize("sensor", SENSORS)
def test_what_each_sensor_says_arrives(board, iot, sensor):
    """Each value as the driver prints it, in its field; humidity is one that can be."""
    config, fields = SENSORS[sensor]
    story = board(**config).live(10 * MINUTE, sensor=sensor, thermometers=3)
    for field in fields:
        printed = re.findall(rf"^field {field}: (-?[\d.]+)", story.output, re.M)
        assert len(printed) == 10
        assert iot.values(str(field)) == printed
    if 2 in fields:
        assert all(0 < float(value) <= 100 for value in iot.values("2"))
    assert_well(story)


@pytest.mark.parametrize("sensor", SENSORS)
def test_only_the_drivers_that_are_used_are_kept(board, sensor):
    config, _ = SENSORS[sensor]
    story = board(**config).live(3 * MINUTE, sensor=sensor, modules=1)
    files = {"SHT3x at 0x45": {"SHT3x"}, "AHT20+BMP280": {"AHT20", "BMP280"},
             "BME280": {"BME280", "BMP280"}}.get(sensor, {sensor})
    drivers = {"AHT20", "BME280", "BMP280", "DHT22", "DS18B20", "MCP9808", "SHT3x", "SHT4x"}
    loaded = set(story.all("modules")[-1].what.split())
    assert loaded & drivers == files
    assert not loaded & {"settings", "config", "boots", "start", "order"}


def test_memory_is_flat(board):
    """A board that loses 16 bytes a reading dies within two days."""
    rests = board().live(8 * HOUR).all("rest")
    memory = [int(rest.what.split()[0]) for rest in rests]
    early, late = memory[len(memory) // 8:len(memory) // 4], memory[-len(memory) // 4:]
    assert max(late) <= max(early) + 64


def test_heap_is_as_small_as_the_boards(board):
    boot, = board().live(3 * MINUTE).all("boot")
    assert int(boot.what) < 2 * 34 * 1024


def test_a_barometer_sends_two_fields(board, iot):
    story = board().live(HOUR, sensor="BMP280")
    assert iot.values("1") == ["25.080"] * 60
    assert iot.values("3") == ["1006.533"] * 60
    assert_well(story)


def test_an_empty_mac_address_is_the_boards_own(board, line):
    wire = line(lambda number, path: answer(b"403 Forbidden"))
    board(wire.url, MAC_ADDRESS="").live(2 * MINUTE)
    assert wire.parts()[0]["mac"] == "5c:cf:7f:01:02:03"


@pytest.mark.parametrize("how", ["refused", "away"])
def test_server_away_for_half_an_hour(board, iot, how):
    story = board().live(90 * MINUTE, **{how: [[10 * MINUTE, 40 * MINUTE]]})
    assert_all_stored_once(story, iot)
    assert story.ends == ["end"]
    assert story.busiest("request") <= 32
    assert_well(story)


def test_age_is_right_to_the_second(board, line, iot):
    """What the server makes of age is when the thermometer was read."""
    wire = line(lambda number, path: None)
    story = board(wire.url).live(80 * MINUTE, refused=[[10 * MINUTE, 40 * MINUTE]])
    sent = [event.at for event in story.all("request")
            if not 10 * MINUTE <= event.at < 40 * MINUTE]
    ages = [int(parts.get("age", 0)) for parts in wire.parts()]
    true = [at - story.taken[parts["data"]] for at, parts in zip(sent, wire.parts(), strict=True)]
    assert max(ages) > 29 * MINUTE
    assert all(abs(age - truth) <= 1 for age, truth in zip(ages, true, strict=True))
    rows = {f"{float(row['value']):.3f}": row["time"] for row in iot.readings()}
    for parts, (_, real, _), age in zip(wire.parts(), wire.seen, ages, strict=True):
        stored = datetime.datetime.fromisoformat(rows[parts["data"]].replace("Z", "+00:00"))
        assert abs(real - age - stored.timestamp()) < 1


TROUBLES = {
    "500": answer(b"500 Internal Server Error"),
    "503": answer(b"503 Service Unavailable", wait=30),
    "hang": "hang",
    "closed": b"",
    "half a status": b"HTTP/1.1 20",
    "half an answer": b"HTTP/1.1 200 OK\r\nContent-Len",
    "no body": b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n",
    "garbage": bytes(range(256)) * 20,
    "a captive portal": answer(b"200 OK", b"<html>Please log in</html>"),
    "a captive portal in chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                                   b"57\r\n<html>%-74s</html>\r\n0\r\n\r\n" % b"Log in"),
    "a number before a page": b"HTTP/1.1 200 OK\r\n\r\n12\r\n<html>Please log in</html>",
    "elsewhere": answer(b"302 Found"),
    "stored, but nobody says so": "swallow",
}


@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES)
def test_trouble_at_the_server_loses_and_doubles_nothing(board, line, iot, trouble):
    wire = line(lambda number, path: trouble if number % 7 in (2, 3) else None)
    story = board(wire.url).live(50 * MINUTE, real_timeout=0.2)
    assert_all_stored_once(story, iot, but=8)
    assert len([action for _, _, action in wire.seen if action is not None]) >= 4
    assert story.ends == ["end"]
    assert_well(story)


def test_a_proxy_that_adds_kilobytes_of_headers_costs_nothing(board, line, iot):
    """Policies for browsers may take 3 KB; the number behind them is read all the same."""
    policies = b"HTTP/1.1 200 OK\r\n" + b"Content-Security-Policy: default-src 'self'\r\n" * 100
    wire = line(lambda number, path: policies + b"Content-Length: 3\r\n\r\n123")
    story = board(wire.url).live(10 * MINUTE)
    assert len(wire.seen) == len(story.measured()) == 10
    assert_well(story)


def test_resent_reading_keeps_its_name(board, line):
    wire = line(lambda number, path: "swallow" if number % 2 else None)
    board(wire.url).live(30 * MINUTE)
    names = {}
    for parts in wire.parts():
        names.setdefault(parts["data"], set()).add(parts["seq"])
    assert len(wire.seen) > len(names) > 10
    assert all(len(of_one) == 1 for of_one in names.values())
    assert len(set.union(*names.values())) == len(names)
    assert max(len(parts["seq"]) for parts in wire.parts()) <= 32


def test_pauses_grow_while_the_server_is_ill(board, line):
    wire = line(lambda number, path: answer(b"500 Internal Server Error"))
    story = board(wire.url).live(40 * MINUTE)
    times = [event.at for event in story.all("request")]
    pauses = [later - sooner for sooner, later in itertools.pairwise(times)]
    assert pauses[:6] == pytest.approx([10, 20, 40, 80, 160, 240], abs=2)
    assert all(pause < 242 for pause in pauses)
    assert story.output.count("out of order") == 1


def test_retry_after_is_heeded_within_reason(board, line):
    waits = iter([70, 100000])
    wire = line(lambda number, path: answer(b"429 Too Many Requests", wait=next(waits))
                if number in (2, 4) else None)
    times = [event.at for event in board(wire.url).live(60 * MINUTE).all("request")]
    pauses = [later - sooner for sooner, later in itertools.pairwise(times)]
    assert pauses[2] == pytest.approx(70, abs=2)
    assert pauses[4] == pytest.approx(900, abs=2)


def test_server_errors_never_reset_the_board(board, line):
    wire = line(lambda number, path: answer(b"500 Internal Server Error"))
    story = board(wire.url).live(4 * HOUR)
    assert story.ends == ["end"]
    assert_well(story)


def test_a_long_outage_is_thinned_from_its_old_end(board, iot):
    """Five hours of readings do not fit; what is kept spans all of them, the newest whole."""
    story = board().live(6 * HOUR, refused=[[0, 5 * HOUR]])
    stored, measured = iot.values(), story.measured()
    assert 180 > len(stored) >= 60 + 60
    assert stored[0] == measured[0]
    assert stored[-90:] == measured[-90:]
    steps = [measured.index(later) - measured.index(sooner)
             for sooner, later in itertools.pairwise(stored)]
    assert steps == sorted(steps, reverse=True)


def test_wifi_down_for_20_minutes(board, iot):
    """Long enough for a reset; RTC memory carries the readings over it."""
    lost = 30 * MINUTE
    story = board().live(2 * HOUR, wifi_down=[[lost, lost + 20 * MINUTE]])
    reset, = story.all("reset")
    assert 8 * MINUTE <= reset.at - lost <= 15 * MINUTE
    assert_all_stored_once(story, iot)
    gaps = [later.at - sooner.at for sooner, later in itertools.pairwise(story.all("measured"))]
    assert max(gaps) < 180
    assert_well(story)


def test_wifi_lost_for_good_resets_again_and_again(board):
    story = board().live(45 * MINUTE, wifi_down=[[0, HOUR]])
    times = [0, *(event.at for event in story.all("reset"))]
    assert len(times) >= 4
    assert all(8 * MINUTE <= later - sooner <= 15 * MINUTE
               for sooner, later in itertools.pairwise(times))


def test_age_outlives_a_reset(board, line):
    wire = line(lambda number, path: None)
    story = board(wire.url, PERIOD=30).live(20 * MINUTE, wifi_down=[[0, 13 * MINUTE]])
    sent = [event.at for event in story.all("request")]
    assert len(story.all("reset")) == 1
    for at, parts in zip(sent, wire.parts(), strict=True):
        assert abs(at - story.taken[parts["data"]] - int(parts.get("age", 0))) <= 1


def test_reset_button_loses_nothing_and_doubles_nothing(board, iot):
    """In the middle of an outage, and without a warning."""
    story = board().live(90 * MINUTE, refused=[[10 * MINUTE, 40 * MINUTE]], button=1890)
    assert story.ends == ["reset", "end"]
    assert_all_stored_once(story, iot)


def test_an_unexpected_error_is_printed_and_ends_in_a_reset(board, iot):
    story = board().live(HOUR, refused=[[5 * MINUTE, 30 * MINUTE]],
                         bug=[[1200, 1205]])
    assert "something that nobody thought of" in story.output
    assert "Reset in 5 s" in story.output
    assert story.ends == ["reset", "end"]
    gaps = [later.at - sooner.at for sooner, later in itertools.pairwise(story.all("measured"))]
    assert max(gaps) < 2 * MINUTE + 15      # one reading is missing: the one that met the error
    assert_all_stored_once(story, iot)


def test_stuck_connecting_is_broken_off(board, iot):
    story = board().live(30 * MINUTE, stuck=2)
    assert len(story.all("leave")) == 2
    assert len(story.all("join")) == 3
    assert story.ends == ["end"]
    assert_all_stored_once(story, iot)


def test_an_sdk_that_raises_errors_is_tried_again(board, iot):
    story = board().live(10 * MINUTE, sdk_busy=[[0, 60]])
    assert "WiFi: Cannot connect to AP" in story.output
    assert len(story.all("join")) == 2
    assert_all_stored_once(story, iot)
    assert_well(story)


def test_an_access_point_that_takes_15_seconds(board, iot):
    story = board().live(10 * MINUTE, join_s=15)
    assert len(story.all("join")) == 1
    assert_all_stored_once(story, iot)


def test_sensor_errors_skip_readings_and_nothing_else(board, iot):
    story = board().live(HOUR, sensor_fails=[[10 * MINUTE, 15 * MINUTE]])
    assert len(story.measured()) == 55
    assert_all_stored_once(story, iot)
    assert "no reading" in story.output
    assert_well(story)


@pytest.mark.parametrize("sensor", ["MCP9808", *SENSORS])
def test_one_failure_in_seven_operations_costs_hardly_a_reading(board, iot, sensor):
    """Of up to eight that a measurement takes: given up at the first, a third would come.

    One command in seven is not taken, without an error. Where a checksum tells, one answer in
    seven has a wrong bit, too.
    """
    config, fields = SENSORS.get(sensor, ({}, (1,)))
    flips = {} if "M" in sensor else {"flips": 7}
    hours = 12 if sensor == "MCP9808" else 4
    story = board(**config).live(hours * HOUR, sensor=sensor, thermometers=3, i2c_fails=7, nacks=7,
                                **flips)
    for field in fields:
        assert len(iot.values(str(field))) >= 0.95 * hours * 60
    if sensor in ("MCP9808", "BME280", "SHT3x", "SHT4x", "AHT20"):     # no value comes twice
        assert len(set(iot.values())) == len(iot.values())
    assert len(iot.values("2")) == 0 or all(0 < float(value) <= 100 for value in iot.values("2"))
    assert_well(story)


def test_a_dead_sensor_stops_no_other(board, iot):
    """The thermometer on the bus goes; the barometer has a temperature, too, and takes over."""
    story = board().live(HOUR, sensor="AHT20+BMP280", dead={"AHT20": [[20 * MINUTE, 40 * MINUTE]]})
    assert [len(iot.values(field)) for field in "123"] == [60, 40, 60]
    assert iot.values("1").count("25.080") == 20
    assert "AHT20: " in story.output
    assert story.ends == ["end"]
    assert_well(story)


def test_a_sensor_that_is_exchanged_is_found_without_a_restart(board, iot):
    story = board().live(40 * MINUTE, exchanged=[20 * MINUTE, "SHT4x"],
                         sensor_fails=[[19 * MINUTE, 20 * MINUTE]])
    assert [len(iot.values(field)) for field in "12"] == [39, 20]
    assert story.ends == ["end"]
    assert_well(story)


def test_a_dead_thermometer_on_the_wire_leaves_the_others_their_fields(board, iot):
    """Also over a reset without it."""
    story = board(SENSOR="DS18B20").live(HOUR, sensor="DS18B20", thermometers=3, button=1800,
                                         dead={"1": [[20 * MINUTE, 50 * MINUTE]]})
    assert story.ends == ["reset", "end"]
    assert len(iot.values("1")) == len(iot.values("5")) >= 59
    assert 28 <= len(iot.values("4")) <= 31
    warmer = [float(high) - float(low)
              for low, high in zip(iot.values("5"), iot.values("1"), strict=True)]
    assert warmer == pytest.approx([2] * len(warmer))


@pytest.mark.parametrize("sensor", ["DHT22", "DS18B20"])
def test_a_dead_sensor_on_a_pin_is_told_and_comes_back(board, iot, sensor):
    story = board(SENSOR=sensor).live(HOUR, sensor=sensor,
                                      sensor_fails=[[0, 10 * MINUTE], [30 * MINUTE, 40 * MINUTE]])
    assert f"{sensor}" in story.output.split("field")[0]
    assert 39 <= len(iot.values("1")) <= 41
    assert_well(story)


def test_an_esp32_with_its_pins_and_a_timer_of_its_own(board, iot):
    story = board(BOARD="ESP32").live(10 * MINUTE, sensor="BME280", pins=[22, 21], esp32=1)
    assert [len(iot.values(field)) for field in "123"] == [10, 10, 10]
    assert_well(story)


def test_pins_are_named_in_what_is_said(board):
    story = board(BOARD="ESP32").live(2 * MINUTE, sensor="none", pins=[22, 21])
    assert "check power, SCL on GPIO22, SDA on GPIO21" in story.output


def test_a_board_without_a_sensor_says_so_and_goes_on(board, iot):
    story = board().live(HOUR, sensor_fails=[[0, 50 * MINUTE]])
    assert "check power, SCL on GPIO5, SDA on GPIO4" in story.output
    assert len(iot.values()) == 10


def test_a_sensor_that_holds_the_bus_is_clocked_free(board, iot):
    """Within the first measurement: seven clocks, as a reset in the middle of a byte wants."""
    story = board().live(10 * MINUTE, sda_held=7)
    assert len(story.measured()) == 10
    assert "no reading" not in story.output


def test_a_bus_without_pull_ups_answers_everywhere(board, iot):
    """The thermometer's address answers as well, but not as a thermometer."""
    story = board().live(10 * MINUTE, no_pull_ups=1, sensor="BMP280")
    assert iot.values("3") == ["1006.533"] * 10
    assert "no reading" not in story.output


def test_wrong_key_is_told_once_and_asked_seldom(board, iot):
    story = board(API_KEY="wrong").live(2 * HOUR)
    assert story.busiest("request") <= 10
    assert story.output.count("wrong API key or unknown MAC") == 1
    assert iot.values() == []
    assert story.ends == ["end"]


def test_readings_outlast_a_rejected_key(board, line, iot):
    wire = line(lambda number, path: answer(b"403 Forbidden", b"wrong key")
                if 3 <= number < 12 else None)
    story = board(wire.url).live(2 * HOUR)
    assert sorted(iot.values()) == sorted(story.measured())


@pytest.mark.parametrize("status", [b"400 Bad Request", b"403 Forbidden"])
def test_one_refused_reading_does_not_block_the_rest(board, line, iot, status):
    wire = line(lambda number, path: answer(status, b"not this one")
                if "data=-19.875" in path else None)
    story = board(wire.url).live(40 * MINUTE)
    expected = [value for value in story.measured() if value != "-19.875"]
    assert iot.values() == expected
    assert story.output.count("not this one") <= 2


def test_refusals_are_no_storm(board, line):
    """After an outage every late reading is refused: each is asked about once, with a pause."""
    wire = line(lambda number, path: answer(b"400 Bad Request", b"no")
                if "/age=" in path else None)
    story = board(wire.url).live(HOUR, refused=[[0, 40 * MINUTE]])
    assert story.output.count("the server said 400: no") == 1
    assert story.busiest("request") <= 32


def test_a_server_that_drips_is_left(board, line, iot):
    """One byte every 9 s never meets a socket's time-out; the request has one of its own."""
    wire = line(lambda number, path: None)
    story = board(wire.url).live(10 * MINUTE, byte_ms=9000)
    assert "no answer" in story.output
    gaps = [later.at - sooner.at for sooner, later in itertools.pairwise(story.all("measured"))]
    assert max(gaps) < 120
    assert_well(story)


def test_a_lookup_that_hangs_ends_in_a_reset(board, iot):
    port = iot.url.rsplit(":", 1)[1]
    story = board(f"http://iot.example:{port}").live(HOUR, dns_hangs=[[0, 6 * MINUTE]])
    reset, = story.all("reset")
    assert reset.at < 6 * MINUTE
    assert_all_stored_once(story, iot)


def test_a_name_is_looked_up_once(board, iot):
    port = iot.url.rsplit(":", 1)[1]
    story = board(f"http://iot.example:{port}").live(HOUR)
    assert len(story.all("lookup")) == 1
    assert len(iot.values()) == 60


def test_a_silent_line_gets_a_fresh_wifi(board, iot):
    """Associated to an access point that forgot the board: only joining again helps."""
    story = board().live(2 * HOUR, away=[[10 * MINUTE, 40 * MINUTE]])
    assert len(story.all("leave")) >= 1
    assert_all_stored_once(story, iot)


@pytest.mark.parametrize("second", [1, 4, 65, 100, 121.04])
def test_ctrl_c_ends_the_program(board, iot, second):
    """In the grace of boot.py, while joining, resting, and in the middle of a request."""
    story = board().live(HOUR, interrupt=second, join_s=10)
    assert story.ends == ["interrupt"]
    assert story.all("reset") == []
    assert len(story.all("timer")) == (1 if second > 3 else 0)
    assert_well(story)


def test_access_point_is_closed_at_every_start(board):
    first = board().live(2 * MINUTE).all("active")[0]
    assert (first.at, first.what) == (0, "1 0")


def test_older_config_gets_a_clear_message(board):
    station = board(SERVER=None)
    story = station.live(2 * MINUTE, resets=1)
    assert "config.py has no SERVER: add the line that --add-station printed" in story.output
    assert story.ends[0] == "reset"
    assert not (station.folder / "boot.txt").exists()


def make_certificate(path):
    """A self-signed one, as at home, in PEM with its key; beside it, the certificate alone as DER.

    RSA, since an ESP8266 knows nothing else.
    """
    rsa = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.rsa")
    from cryptography import x509  # noqa: PLC0415 - comes with the extra that has esptool
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "iot.example")])
    now = datetime.datetime.now(datetime.UTC)
    made = (x509.CertificateBuilder().subject_name(name).issuer_name(name)
            .public_key(key.public_key()).serial_number(1)
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("iot.example")]), False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
            .sign(key, hashes.SHA256()))
    plain = serialization.NoEncryption()
    form = serialization.PrivateFormat.TraditionalOpenSSL
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain)
                     + made.public_bytes(serialization.Encoding.PEM))
    path.with_suffix(".der").write_bytes(made.public_bytes(serialization.Encoding.DER))
    return path


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("tls") / "server.pem")


def test_https(board, line, iot, certificate):
    wire = line(lambda number, path: None, certificate)
    story = board(wire.url).live(10 * MINUTE)
    assert len(wire.seen) == 10
    assert_all_stored_once(story, iot)
    assert_well(story)


def test_an_esp32_checks_the_certificate(board, line, iot, certificate):
    """With the authority's certificate, and the time of the network, since it has dates."""
    wire = line(lambda number, path: None, certificate)
    url = wire.url.replace("127.0.0.1", "iot.example")
    station = board(url, CA="server.der", BOARD="ESP32")
    shutil.copy(certificate.with_suffix(".der"), station.folder)
    story = station.live(10 * MINUTE, pins=[22, 21], ntp_fails=[[0, 2 * MINUTE]])
    assert len(wire.seen) == 10
    assert_all_stored_once(story, iot)
    assert 2 <= len(story.all("ntp")) <= 8
    assert_well(story)


@pytest.mark.parametrize("wrong", ["authority", "name"])
def test_another_certificate_gets_neither_key_nor_reading(board, line, iot, certificate, tmp_path,
                                                          wrong):
    """Somebody else's, or the right one under another name: readings wait."""
    wire = line(lambda number, path: None, certificate)
    url = wire.url.replace("127.0.0.1", "iot.example") if wrong == "authority" else wire.url
    station = board(url, CA="ca.der", BOARD="ESP32")
    known = make_certificate(tmp_path / "ca.pem") if wrong == "authority" else certificate
    shutil.copy(known.with_suffix(".der"), station.folder / "ca.der")
    story = station.live(10 * MINUTE, pins=[22, 21])
    assert wire.seen == []
    assert iot.values() == []
    assert "no answer: " in story.output
    assert "waiting: 10" in story.output
    assert story.ends == ["end"]
    assert_well(story)
