"""Programs that speak Weather Underground's protocol, as they are: weewx and pywws, from PyPI; and
weewx's archive, made by weewx."""
import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness import rows_of
from tools import CACHE, downloaded, needs

pytestmark = needs("PyPI")
CLIENTS = Path(__file__).with_name("clients")
SYSTEMS = {"US": 1, "METRIC": 16, "METRICWX": 17}
RECORD = {"": {1: 0.39, 2: 80, 3: 1053.2, 4: 4.47, 5: 8.94, 6: 270, 8: 325.37, 9: 3},
          "-in": {1: 21.5, 2: 41}}


@pytest.fixture(scope="session")
def pypi():
    """Where both are; without what they need for their own pages and devices."""
    return downloaded(CACHE / "consoles{}.{}".format(*sys.version_info), [
        sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
        "--no-deps", "--target", "{folder}", "weewx>=5.5", "configobj>=5", "pywws>=25",
        "python-dateutil", "six", "tzlocal", "requests", "urllib3", "idna", "certifi",
        "charset-normalizer"])


@pytest.fixture
def talk(pypi, tmp_path):
    """Runs one of clients/; what it prints."""
    def talk(name, *arguments):
        done = subprocess.run(
            [sys.executable, CLIENTS / f"{name}.py", *map(str, arguments)], cwd=tmp_path,
            capture_output=True, text=True, timeout=120, check=False,
            env={**os.environ, "PYTHONPATH": str(pypi), "PYTHONWARNINGS": "ignore"})
        assert done.returncode == 0, done
        return done.stdout
    return talk


@pytest.fixture
def garden(live, run):
    run("--add-station", "garden", "--mac", "GARDEN", "--console", "--key", "K1")
    return live


def newest(path):
    """Of each place {field: value}, the newest."""
    found = {}
    for _, _, mac, field, value, _ in sorted(rows_of(path)):
        assert mac.startswith("garden")
        found.setdefault(mac.removeprefix("garden"), {})[field] = value
    return found


def url(server):
    return f"http://127.0.0.1:{server.port}/weatherstation/updateweatherstation.php"


@pytest.mark.parametrize("system", SYSTEMS)
def test_weewx_reports_success(garden, talk, tmp_path, system):
    """Its archive has its own units; what it sends has not."""
    said = talk("with_weewx", tmp_path / "weewx.sdb", SYSTEMS[system], 3, url(garden), "GARDEN",
                "K1")
    assert said.count("Wunderground-PWS: Published record") == 3
    assert "Failed" not in said
    assert newest(garden.db) == RECORD
    times = sorted({row[0] for row in rows_of(garden.db)})
    assert [later - earlier for earlier, later in itertools.pairwise(times)] == [60_000] * 2
    assert abs(times[-1] - time.time() * 1000) < 120_000


def test_weewx_reports_success_of_rapid_fire(garden, talk, tmp_path):
    said = talk("with_weewx", tmp_path / "weewx.sdb", 1, 1, url(garden), "GARDEN", "K1",
                "rapidfire")
    assert "Published record" in said
    assert newest(garden.db) == RECORD


@pytest.mark.parametrize(("station", "key"), [("GARDEN", "wrong"), ("NOBODY", "K1")])
def test_weewx_reports_a_wrong_id_or_password_as_a_failure(garden, talk, tmp_path, station, key):
    said = talk("with_weewx", tmp_path / "weewx.sdb", 1, 1, url(garden), station, key)
    assert "Failed to publish record" in said
    assert "Published" not in said
    assert rows_of(garden.db) == []


def test_pywws_reports_success_and_a_wrong_password_as_a_failure(garden, talk, tmp_path):
    assert talk("with_pywws", tmp_path / "pywws", garden.port, "GARDEN", "K1") == \
        'True server response "success"\n'
    found = newest(garden.db)
    assert (found[""][1], found[""][3], found["-in"]) == (0.39, 1013.2, {1: 21.5, 2: 41})
    assert talk("with_pywws", tmp_path / "pywws", garden.port, "GARDEN", "no") == \
        "False http status: 403\n"


@pytest.mark.parametrize("system", SYSTEMS)
def test_weewxs_archive_is_imported(database, run, talk, tmp_path, system):
    """In each system of units; twice does not double; and what it sends later goes on there."""
    run("--add-station", "garden", "--mac", "GARDEN", "--console", "--key", "K1")
    talk("with_weewx", tmp_path / "weewx.sdb", SYSTEMS[system], 50)
    assert "imported 650 readings" in run("--import", "weewx.sdb", "--station", "garden")
    places = {place: {field: round(value, 1) for field, value in values.items()}
              for place, values in newest(database).items()}
    assert places == {"": {1: 0.4, 2: 80, 3: 1053.2, 4: 4.5, 5: 8.9, 6: 270, 7: 12.7, 8: 325.4,
                           9: 3}, "-in": {1: 21.5, 2: 41, 3: 1046.4}, "-ch1": {1: 10}}
    assert "imported 0 readings; 650 were" in run(
        "--import", "weewx.sdb", "--station", "garden outside")
    assert [line.split("  ")[0] for line in run("--stations").splitlines()[3:]] == ["3", "4", "5"]
