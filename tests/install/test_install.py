"""The units and install.sh: what systemd-analyze and shellcheck say of them, which system calls
they need, what is put where; and systemd/README.md, followed on a private view of this machine.
"""
import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
from pathlib import Path

import pytest
from harness import (
    HEADER,
    INSIDE,
    NOON,
    OUTSIDE,
    SCRIPT,
    basic,
    bulk,
    environment,
    parse_responses,
    read_until,
    receive,
    request,
    update_path,
    wait_for,
)
from injection import strace
from machine import HOST, MACHINE, Guide
from receivers import Receiver
from tools import IS_ROOT, SYSTEMD, need, needs

from iotserver import MINUTE, format_time

pytestmark = needs("openssl")
SERVE, PRUNE, BACKUP = SERVICES = (
    "iotserver.service", "iotserver-prune.service", "iotserver-backup.service")
COURIER = "iotserver-courier.service"
INSTALL = SYSTEMD / "install.sh"


def analyze(*words):
    """What systemd-analyze says, all of it."""
    need("/usr/bin/python3")                    # of which the units speak
    done = subprocess.run([need("systemd-analyze"), *map(str, words)], text=True,
                          capture_output=True, check=False, env={**os.environ, "LC_ALL": "C"})
    assert done.returncode == 0, done
    return done.stdout + done.stderr


# -- units ----------------------------------------------------------------------------------------


@needs("systemd-analyze", "/usr/bin/python3")
@pytest.mark.parametrize("listens", ["iotserver.socket", "home.socket"])
def test_units_are_as_systemd_wants_them(tmp_path, listens):
    for unit in [*SYSTEMD.glob("*.service"), *SYSTEMD.glob("*.timer")]:
        shutil.copy(unit, tmp_path)
    shutil.copy(SYSTEMD / listens, tmp_path / "iotserver.socket")
    assert len(units := [*tmp_path.iterdir()]) == 10
    assert analyze("verify", *units) == ""


@needs("systemd-analyze", "/usr/bin/python3")
@pytest.mark.parametrize(("service", "most"), [
    *[(service, 0.5) for service in SERVICES],
    (COURIER, 2.0),                                                         # which goes out
    ("iotserver-log.service", 2.0), ("iotserver-limit.service", 2.0)])      # which are root
def test_nothing_is_open_that_can_be_shut(service, most, record_property):
    said = analyze("security", "--offline=true", "--no-pager", SYSTEMD / service)
    score = float(re.search(r"Overall exposure level for .*: ([\d.]+)", said)[1])
    record_property(f"systemd-analyze security {service} (at most {most})", score)
    assert score <= most


def lines_of(service):
    """The settings of a unit, in their order."""
    text = (SYSTEMD / service).read_text().replace("\\\n", "")
    return re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE)


def test_the_three_services_share_one_sandbox():
    boxes = set()
    for lines in map(lines_of, SERVICES):
        start = lines.index(("User", "iotserver"))
        boxes.add(tuple(lines[start:lines.index(("TasksMax", "32")) + 1]))
    assert len(boxes) == 1
    assert len(boxes.pop()) > 30


def test_all_that_depends_on_the_time_waits_for_it():
    for service in SERVICES:
        assert "time-sync.target" in dict(lines_of(service))["After"]


def test_malloc_maps_no_buffer_for_each_read():
    """With a smaller threshold than asyncio's buffer, the rate of updates fell by 40 %."""
    values = dict(value.split("=") for name, value in lines_of(SERVE) if name == "Environment")
    read = asyncio.selector_events._SelectorTransport.max_size
    assert int(values["MALLOC_MMAP_THRESHOLD_"]) > read + 4096
    assert int(values["MALLOC_TRIM_THRESHOLD_"]) > read + 4096


CONFINE = """
for path in {paths}; do mount --bind $path $path; done
while read -r _ _ _ _ place _; do
    case $place/ in {cases}) ;; *) mount -o remount,bind,noexec $place ;; esac
done < /proc/self/mountinfo
cd /var/lib/iotserver
export IOTSERVER_DB=iot.db IOTSERVER_PORT=8001 IOTSERVER_PRUNE_AGE=90d
exec setpriv --reuid=iotserver --regid=iotserver --init-groups -- sh -e /run/script
"""
ASKED = """{} &
until curl -fs http://127.0.0.1:8001/healthz; do sleep 0.1; done
kill $!; wait $!"""


@needs(*MACHINE)
def test_what_the_service_wrote_cannot_be_executed(machine):
    """As ExecPaths and NoExecPaths have it; the server, prune and backup can do their work."""
    machine.run(f"""systemd-sysusers {SYSTEMD}/sysusers.conf
                    install -d -o iotserver -m 700 /var/lib/iotserver /var/lib/iotserver/backup
                    install -D -t /usr/local/lib/iotserver {SCRIPT} {SYSTEMD}/__main__.py
                    install /bin/true /var/lib/iotserver/mine; /var/lib/iotserver/mine""")
    for service in SERVICES:
        lines = dict(lines_of(service))
        assert lines["NoExecPaths"] == "/"
        paths = lines["ExecPaths"].split()
        machine.put("/run/confine", CONFINE.format(
            paths=" ".join(paths), cases="|".join(f"{path}/*" for path in paths)))
        command = lines["ExecStart"].replace("$$", "$").replace("%%", "%")
        for script, status, said in (
                (ASKED.format(command) if service == SERVE else command, 0, ""),
                ("./mine", 126, "Permission denied")):
            machine.put("/run/script", script)
            machine.run("unshare --mount sh -e /run/confine 2> /run/said", status=status)
            assert said in machine.run("cat /run/said")
    machine.run("test -s /var/lib/iotserver/backup/iot-*.db")


# -- system calls ---------------------------------------------------------------------------------


def members(names):
    """The system calls in a list of calls and of sets, which may hold sets."""
    calls = {name for name in names if name[0] != "@"}
    for name in set(names) - calls:
        words = [line.strip() for line in analyze("syscall-filter", name).splitlines()[1:]]
        calls |= members([word for word in words if word and word[0] != "#"])
    return calls


def allowed(service):
    """What the SystemCallFilter lines of a unit leave, taken in their order."""
    calls = set()
    for value in (value for name, value in lines_of(service) if name == "SystemCallFilter"):
        named = members(value.lstrip("~").split())
        calls = calls - named if value[0] == "~" else calls | named
    return calls


def command_of(service, folder):
    """What a unit runs, with this folder in place of those of an installation."""
    command = dict(lines_of(service))["ExecStart"]
    for shipped, ours in (("/usr/local/lib/iotserver", str(folder)),
                          ("/var/lib/iotserver/backup", str(folder)),
                          ("/var/lib/iotserver", str(folder)),
                          ("$$", "$"), ("%%", "%")):
        command = command.replace(shipped, ours)
    return command


@pytest.mark.slow
def test_the_last_seven_backups_are_kept(database, tmp_path, run):
    shutil.copy(SCRIPT, tmp_path)
    shutil.copy(SYSTEMD / "__main__.py", tmp_path)
    (tmp_path / "date").write_text('#!/bin/sh\n[ "$1" = +%u ] && echo $DAY\n')
    (tmp_path / "date").chmod(0o755)
    for day in range(9):
        run("--label", "inside", "1", f"day {day}")
        subprocess.run(["sh", "-c", command_of(BACKUP, tmp_path)], check=True, capture_output=True,
                       env=environment(STATE_DIRECTORY=str(tmp_path), DAY=str(day % 7 + 1),
                                       PATH=f"{tmp_path}:{os.environ['PATH']}"))
    kept = {}
    for path in tmp_path.glob("iot-*.db"):
        with contextlib.closing(sqlite3.connect(path)) as copy:
            kept[path.name], = (text for text, in copy.execute("SELECT label FROM series"))
    assert kept == {f"iot-{day % 7 + 1}.db": f"day {day}" for day in range(2, 9)}


@contextlib.contextmanager
def traced(folder, service, more="", before="", **popen):
    """The command line of a unit under strace, in a folder; yields the log.

    As nobody, since SQLite calls fchown only as root, and the services are not root.
    """
    command = command_of(service, folder) + more
    log = folder / f"{service}.strace"
    user = ["-u", "nobody"] if IS_ROOT else []
    with subprocess.Popen([*strace(log, *user), "sh", "-c", f"{before} exec {command}"],
                          cwd=folder, stdout=subprocess.PIPE, text=True,
                          env=environment(STATE_DIRECTORY=str(folder), IOTSERVER_PRUNE_AGE="90d",
                                          NOTIFY_SOCKET=str(folder / "notify")),
                          **popen) as process:
        yield process, log
        assert process.wait(30) == 0


def calls_in(log):
    return set(re.findall(r"^\d+ +(\w+)\(", log.read_text(), re.MULTILINE))


@needs("strace", "systemd-analyze", "/usr/bin/python3")
def test_the_filter_of_system_calls_lets_serve_prune_and_backup_work(
        database, public_folder, tmp_path, run):
    """A server that does all it can, and the two others with it."""
    run("--set-password", "password", stdin="open sesame\n")
    public_folder.chmod(0o777)
    for path in (SCRIPT, SYSTEMD / "__main__.py", database, tmp_path / "password"):
        copy = Path(shutil.copy(path, public_folder))
        copy.chmod(0o666)
        if IS_ROOT:
            shutil.chown(copy, "nobody")

    def ask(method, path, body=b"", **headers):
        with socket.socket(socket.AF_UNIX) as channel:
            channel.settimeout(20)
            channel.connect(str(public_folder / "http.sock"))
            channel.sendall(request(method, path, body, Connection="close", **headers))
            if path == "/events":
                return read_until(channel, b"event: hello")
            response, = parse_responses(receive(channel))
            assert response.status == 200
            return response
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(public_folder / "http.sock"))
        (public_folder / "http.sock").chmod(0o666)
        listener.listen(9)
        with traced(public_folder, SERVE, " --private password",
                    before="export LISTEN_FDS=1 LISTEN_PID=$$;", pass_fds=[3],
                    preexec_fn=lambda: os.dup2(listener.fileno(), 3)) as (process, serve_log):
            assert "inherited" in process.stdout.readline()
            ask("GET", update_path(INSIDE, 21))
            ask("POST", "/update", bulk(INSIDE, (1, 22), (2, 50)))
            for path in ("/", "/events", "/api/stations", "/export.csv", "/healthz",
                         "/api/readings?station=inside", "/channels/1/feeds.json"):
                ask("GET", path, Authorization=basic("open sesame"))
            logs = [serve_log]
            for service in (PRUNE, BACKUP):
                with traced(public_folder, service) as (_, log):
                    logs.append(log)
            number = int(serve_log.read_text().split(maxsplit=1)[0])
            os.kill(number, signal.SIGTERM)
    for service, log in zip(SERVICES, logs, strict=True):
        assert calls_in(log) - allowed(service) == set(), service
        assert "fdatasync" in calls_in(log) or "fsync" in calls_in(log) or service == PRUNE
    assert {"accept4", "fdatasync", "epoll_wait"} <= calls_in(serve_log)
    assert len(list(public_folder.glob("iot-[1-7].db"))) == 1


@needs("strace", "systemd-analyze", "/usr/bin/python3")
def test_the_filter_of_system_calls_lets_the_courier_work(database, serve, tmp_path):
    """From the verdict to a destination, and to an end in good order."""
    live, log = serve("--rate-limit", "0"), tmp_path / "courier.strace"
    shutil.copy(SCRIPT, tmp_path)
    shutil.copy(SYSTEMD / "__main__.py", tmp_path)
    with contextlib.closing(Receiver()) as hook, subprocess.Popen(
            [*strace(log), "sh", "-c", f"exec {command_of(COURIER, tmp_path)}"], text=True,
            env=environment(IOTSERVER_NOTIFY=f"json://localhost:{hook.port}/"),
            stdin=subprocess.DEVNULL) as process:
        for _ in range(3):
            live.update(INSIDE, 26)
            live.update(OUTSIDE, 20)
        wait_for(lambda: hook.kinds == ["open"], 30)
        os.kill(int(log.read_text().split(maxsplit=1)[0]), signal.SIGTERM)
        assert process.wait(30) == 0
    assert calls_in(log) - allowed(COURIER) == set()
    assert {"connect", "sendto"} <= calls_in(log)


# -- install.sh -----------------------------------------------------------------------------------

MODES = {                       # what an installation consists of
    "etc/iotserver.conf": 0o644, "etc/iotserver-courier.conf": 0o600,
    "etc/sysusers.d/iotserver.conf": 0o644,
    "etc/nginx/sites-available/iotserver": 0o644,
    "etc/nginx/modules-enabled/90-iotserver.conf": 0o644,
    "etc/ssl/iotserver-placeholder/fullchain.pem": 0o644,
    "etc/ssl/iotserver-placeholder/privkey.pem": 0o600,
    "etc/ssl/iotserver-placeholder": 0o700, "var/lib/iotserver": 0o710, "var/www/iotserver": 0o755,
    "usr/local/bin/iotserver": 0o755, "usr/local/lib/iotserver/iotserver.py": 0o644,
    "usr/local/lib/iotserver/__main__.py": 0o644,
    "usr/local/bin/iotserver-restore": 0o755, "usr/local/lib/iotserver/limit.nft": 0o644,
    "usr/local/lib/iotserver/logrotate.conf": 0o644,
    "usr/local/lib/iotserver/nginx.conf": 0o644, "etc/nginx/snippets/iotserver-name.conf": 0o644,
    **{f"etc/systemd/system/{path.name}": 0o644
       for path in SYSTEMD.glob("iotserver*.*") if path.suffix != ".cron"}}
LINKS = {"etc/nginx/sites-enabled/iotserver": "../sites-available/iotserver",
         "etc/ssl/iotserver": "iotserver-placeholder"}


HOME_MODES = {name: mode for name, mode in MODES.items()
              if not re.search("nginx|ssl|www|limit|log", name)}
OTHER_WAY = {                   # what is installed, and what then refuses each flag
    (): ("behind nginx", "--uninstall", [("--home",), ("--home", "--remove")]),
    ("--home",): ("for a home", "--home --remove", [(), ("--uninstall",)])}


def install(root, *flags, status=0, source=INSTALL):
    done = subprocess.run([source, *flags], env={**os.environ, "DESTDIR": str(root)},
                          capture_output=True, text=True, check=False)
    assert done.returncode == status, done
    return done.stdout + done.stderr


def tree(root):
    """All that is below root: names, modes, contents, times."""
    return {str(path.relative_to(root)): (
        path.lstat().st_mode, path.lstat().st_mtime_ns,
        path.readlink() if path.is_symlink() else path.is_file() and path.read_bytes())
        for path in root.rglob("*")}


def files_of(root):
    """The files below root; what is compiled is not counted."""
    return {name for name in tree(root) if (root / name).is_file() and not name.endswith(".pyc")}


@needs("/usr/bin/python3")
def test_the_program_is_compiled_when_it_is_installed(tmp_path):
    """So it starts sooner, and CPython does not keep the syntax tree of a script. Also when the
    program itself is there already: Python, or install.sh, was upgraded."""
    install(tmp_path)
    program = tmp_path / "usr/local/lib/iotserver"
    shutil.rmtree(program / "__pycache__")
    install(tmp_path)
    done = subprocess.run([need("/usr/bin/python3"), "-I", "-v", program, "--version"],
                          check=True, capture_output=True, text=True)
    assert done.stdout.startswith("iotserver ")
    compiled, = program.glob("__pycache__/iotserver.*")
    assert f"{compiled} matches {program}/iotserver.py" in done.stderr
    assert str(tmp_path).encode() not in compiled.read_bytes()      # tracebacks name the real file


@needs("shellcheck")
def test_shell_scripts_are_clean(tmp_path):
    install(tmp_path)
    for script in (INSTALL, SYSTEMD / "restore.sh", tmp_path / "usr/local/bin/iotserver"):
        for command in (["sh", "-n"], ["dash", "-n"], [need("shellcheck"), "--shell=sh"]):
            done = subprocess.run([*command, script], capture_output=True, text=True, check=False)
            assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("way", OTHER_WAY)
def test_a_dry_run_says_what_a_real_run_does_and_does_nothing(tmp_path, way):
    said = install(tmp_path, *way, "--dry-run")
    assert tree(tmp_path) == {}
    lines = said.splitlines()
    assert all(line.startswith("would: ") for line in lines)
    assert not re.search("systemctl|sysusers |nginx -t", said)      # of the machine itself
    assert [line.removeprefix("would: ") for line in lines] == install(
        tmp_path, *way).splitlines()


def test_an_installation_is_complete_and_done_once(tmp_path):
    install(tmp_path)
    for name, mode in MODES.items():
        assert (tmp_path / name).stat().st_mode & 0o7777 == mode, name
    for name, target in LINKS.items():
        assert str((tmp_path / name).readlink()) == target
    files = files_of(tmp_path)
    expected = {*MODES, *LINKS, "etc/ssl/iotserver/fullchain.pem", "etc/ssl/iotserver/privkey.pem"}
    assert files <= expected
    assert (tmp_path / "usr/local/lib/iotserver/iotserver.py").read_bytes() == SCRIPT.read_bytes()
    before = tree(tmp_path)
    assert install(tmp_path) == "nothing to do\n"
    assert tree(tmp_path) == before


def test_an_installation_at_home_needs_no_nginx_and_is_done_once(tmp_path):
    install(tmp_path, "--home")
    for name, mode in HOME_MODES.items():
        assert (tmp_path / name).stat().st_mode & 0o7777 == mode, name
    files = files_of(tmp_path)
    assert files <= HOME_MODES.keys()
    assert "ListenStream=80\n" in (
        tmp_path / "etc/systemd/system/iotserver.socket").read_text()
    before = tree(tmp_path)
    assert install(tmp_path, "--home") == "nothing to do\n"
    assert tree(tmp_path) == before
    (tmp_path / "var/lib/iotserver/iot.db").write_text("data")
    assert "left as they are: /var/lib/iotserver, " in install(tmp_path, "--home", "--remove")
    assert {name for name in tree(tmp_path) if (tmp_path / name).is_file()} == {
        "var/lib/iotserver/iot.db", "etc/iotserver.conf", "etc/iotserver-courier.conf"}
    assert "left as they are" in install(tmp_path, "--home", "--remove")
    install(tmp_path)           # what is left at home does for a droplet


@pytest.mark.parametrize("way", OTHER_WAY)
def test_one_machine_has_one_way_of_the_two(tmp_path, way):
    """Said with what to type, and nothing is changed by saying it."""
    kind, removal, refused = OTHER_WAY[way]
    install(tmp_path, *way)
    before = tree(tmp_path)
    for flags in refused:
        said = install(tmp_path, *flags, status=1)
        assert f"iotserver is installed {kind} here" in said
        assert said.endswith(f"install.sh {removal}\n")
    assert tree(tmp_path) == before
    install(tmp_path, *removal.split())
    install(tmp_path, *refused[0])


def test_an_upgrade_changes_what_is_different_and_keeps_what_is_yours(tmp_path):
    install(tmp_path)
    unit = tmp_path / "etc/systemd/system/iotserver.service"
    names = tmp_path / "etc/nginx/snippets/iotserver-name.conf"
    (tmp_path / "etc/iotserver.conf").write_text("IOTSERVER_UNITS=F\n")
    names.write_text(f"server_name {HOST};\n")
    unit.unlink()
    certificate = tmp_path / "etc/ssl/iotserver"
    certificate.unlink()
    certificate.symlink_to("/etc/letsencrypt/live/weather.example.org")
    assert re.findall("install (.*)", install(tmp_path)) == [
        "/etc/systemd/system/iotserver.service"]
    assert names.read_text() == f"server_name {HOST};\n"
    assert (tmp_path / "etc/iotserver.conf").read_text() == "IOTSERVER_UNITS=F\n"
    assert str(certificate.readlink()) == "/etc/letsencrypt/live/weather.example.org"


def test_an_edited_site_stays_and_the_difference_is_named(tmp_path):
    """A site as it was shipped follows each upgrade; one that was edited since follows none."""
    next_one, root = tmp_path / "next", tmp_path / "root"
    shutil.copytree(SYSTEMD, next_one / "systemd")
    shutil.copy(SCRIPT, next_one)
    source, site = next_one / "systemd/nginx.conf", root / "etc/nginx/sites-available/iotserver"
    install(root)
    source.write_text("# next\n" + source.read_text())
    assert f"install /{site.relative_to(root)}\n" in install(
        root, source=next_one / "systemd/install.sh")
    assert site.read_text() == source.read_text()
    site.write_text(edited := site.read_text().replace("rate=50r/s", "rate=70r/s"))
    for _ in range(2):
        said = install(root)
        assert "sites-available/iotserver was edited, so it stays as it is" in said
        assert "\n-# next\n" in said
        assert re.findall(r"\n([-+])limit_req_zone .* rate=(\d+)r/s;", said) == [
            ("-", "70"), ("+", "50")]
        assert site.read_text() == edited
    install(root, "--uninstall")
    assert site.read_text() == edited
    assert not (root / "etc/nginx/sites-enabled/iotserver").exists()


@pytest.mark.parametrize(("unit", "settings", "is_told"), [
    ("Environment=IOTSERVER_PRUNE_AGE=90d\n", "", True),
    ("Environment=IOTSERVER_PRUNE_AGE=90d\n", "#IOTSERVER_PRUNE_AGE=90d\n", True),
    ("Environment=IOTSERVER_PRUNE_AGE=90d\n", "IOTSERVER_PRUNE_AGE=30d\n", False),
    ("", "", False)])
def test_who_had_ninety_days_is_told_that_nothing_is_pruned(tmp_path, unit, settings, is_told):
    install(tmp_path)
    (tmp_path / "etc/systemd/system/iotserver-prune.service").write_text(f"[Service]\n{unit}")
    (tmp_path / "etc/iotserver.conf").write_text(settings)
    told = [line for line in install(tmp_path).splitlines() if "nothing is pruned" in line]
    assert len(told) == is_told
    assert all(line.endswith("/etc/iotserver.conf: IOTSERVER_PRUNE_AGE=90d") for line in told)
    assert "nothing is pruned" not in install(tmp_path)


@pytest.mark.parametrize(("shipped", "left"), [
    ("\tworker_connections 768;\n", "\tworker_connections 8192; # iotserver; was 768\n"),
    ("  worker_connections  4096;\n", "  worker_connections  8192; # iotserver; was 4096\n"),
    ("worker_connections 8192;\n", "worker_connections 8192;\n"),
    ("worker_connections 20000;\n", "worker_connections 20000;\n")])
def test_nginx_gets_more_connections_until_uninstalled(tmp_path, shipped, left):
    path = tmp_path / "etc/nginx/nginx.conf"
    path.parent.mkdir(parents=True)
    path.write_text(f"user www-data;\nevents {{\n{shipped}}}\n")
    path.chmod(0o640)
    for _ in range(2):
        install(tmp_path)
        assert path.read_text() == f"user www-data;\nevents {{\n{left}}}\n"
        assert path.stat().st_mode & 0o777 == 0o640
    install(tmp_path, "--uninstall")
    assert path.read_text() == f"user www-data;\nevents {{\n{shipped}}}\n"


def test_a_limit_of_files_that_is_yours_stays_the_only_one(tmp_path):
    path = tmp_path / "etc/nginx/nginx.conf"
    path.parent.mkdir(parents=True)
    path.write_text("worker_rlimit_nofile 65536;\n")
    install(tmp_path)
    assert not (tmp_path / "etc/nginx/modules-enabled").exists()


def test_uninstalling_leaves_data_settings_and_certificate(tmp_path):
    install(tmp_path)
    (tmp_path / "var/lib/iotserver/iot.db").write_text("data")
    before = tree(tmp_path)
    assert "would: " in install(tmp_path, "--uninstall", "--dry-run")
    assert tree(tmp_path) == before
    install(tmp_path, "--uninstall")
    assert {name for name in tree(tmp_path) if not (tmp_path / name).is_dir()} == {
        "var/lib/iotserver/iot.db", "etc/iotserver.conf", "etc/iotserver-courier.conf",
        "etc/ssl/iotserver-placeholder/fullchain.pem",
        "etc/ssl/iotserver-placeholder/privkey.pem", "etc/nginx/snippets/iotserver-name.conf"}
    assert (tmp_path / "etc/ssl/iotserver").is_symlink()
    assert "left as they are" in install(tmp_path, "--uninstall")


def test_wrong_usage_of_install_is_refused(tmp_path):
    for flags in (["--upgrade"], ["--remove"], ["--home", "--uninstall"]):
        assert "usage" in install(tmp_path, *flags, status=2)
    assert tree(tmp_path) == {}


# -- interrupted ----------------------------------------------------------------------------------

INTERRUPT = r"""#!/bin/sh
# Changes of a running system are counted; at the one that /run/end names, install.sh is killed.
case $1 in is-*|show) exec /usr/local/bin/real "$@" ;; esac
echo "$@" >> /run/count
if [ "$(wc -l < /run/count)" = "$(cat /run/end)" ]; then
    kill -9 $PPID
    exit
fi
exec /usr/local/bin/real "$@"
"""
STATE = """ls /run/*.enabled /etc/systemd/system/iotserver* /etc/nginx/sites-enabled
systemctl is-active iotserver.service
curl -sk https://203.0.113.5/healthz
grep -o '^iotserver [^ ]*' /run/iotserver.service.log | tail -n 1"""


@needs(*MACHINE)
def test_an_interrupted_installation_is_completed_by_the_next_one(machine):
    """Killed before each change of the running system, then again while it upgrades; in between,
    the owner has switched off two units, which stay off."""
    machine.run(f"""cp -r {SCRIPT} {SYSTEMD} /root; nginx
                    mv /usr/local/bin/systemctl /usr/local/bin/real; echo 0 > /run/end""")
    machine.put("/usr/local/bin/systemctl", INTERRUPT)

    def install_until(end, flag="", status=0):
        machine.run(f"rm -f /run/count; echo {end} > /run/end")
        return machine.run(f"/root/systemd/install.sh {flag}", status=status)
    install_until(0)
    whole = machine.run(STATE)
    count = int(machine.run("wc -l < /run/count"))
    assert count == 7                           # six units, and nginx
    for end in (1, 4, count):
        install_until(0, "--uninstall")
        install_until(end, status=137)
        install_until(0)
        assert machine.run(STATE) == whole
    assert install_until(0) == "nothing to do\n"
    machine.run("""systemctl disable --now iotserver-prune.timer
                   systemctl disable --now iotserver-log.timer
                   sed -i 's/^__version__ = "/&next-/' /root/iotserver.py
                   echo '# next' >> /root/systemd/iotserver.service
                   echo '# next' >> /root/systemd/nginx.conf""")
    for end in (1, 2, 3):                       # daemon-reload, restart, nginx
        install_until(end, status=137)
        # What comes before was done, but for the one change that was to come.
        assert ("next-" in machine.run(STATE)) == (end == 3)
    said = install_until(0)
    assert said.splitlines() == ["nginx -t -q", "systemctl reload-or-restart nginx.service"]
    assert machine.run(STATE).replace("next-", "") == re.sub(
        r".*(prune|log).timer.enabled\n", "", whole)
    assert install_until(0) == "nothing to do\n"


# -- the guide ------------------------------------------------------------------------------------

ELSEWHERE = {"apt-get", "ufw", "journalctl"}    # what needs the internet or a live systemd


HOOK = """
import http.server
class Hook(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        open("/run/hook.said", "ab").write(body)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"taken")
    do_GET = lambda self: self.send_error(404)
http.server.ThreadingHTTPServer(("127.0.0.1", 8099), Hook).serve_forever()
"""


@needs(*MACHINE)
def test_the_guide_is_followed(machine):
    """On a rented server; the folder of this repository on the reader's own computer is there."""
    machine.run(f"mkdir -p /home/me; cp -r {SCRIPT} {SYSTEMD} /home/me")
    machine.run("nginx")                            # as apt leaves it: with Debian's own site
    guide = Guide(machine, "On a rented server")
    guide.folder = "/home/me"
    assert guide.follow("1. ", but=ELSEWHERE) == guide.follow("2. ", but=ELSEWHERE) == ""
    installed = guide.follow("3. ")
    assert "would: systemctl enable --now iotserver.service" in installed
    assert installed.endswith("\nok")                 # over TLS, before there is a certificate
    modes = machine.run("stat -c '%U %G %a' /var/lib/iotserver /run/iotserver.sock")
    assert modes == "iotserver iotserver 710\nroot www-data 660\n"
    assert guide.follow("4. ") == "ok"              # ... and with one that curl believes
    station = guide.follow("5. ")
    assert f'SERVER = "http://{HOST}"' in station
    header, update = re.search(rf"^curl (-H \S+ \S+) (http://{HOST}/update/\S+)$", station,
                               re.MULTILINE).groups()
    assert [guide.curl(update, header) for _ in range(2)] == [(200, "1"), (200, "2")]
    assert machine.run("iotserver --stations").splitlines()[1].endswith("  2        0       26.5")

    assert guide.follow("6. ").split() == [
        f"iotserver-{job}.timer.enabled" for job in ("backup", "log", "prune")]
    assert guide.follow("How much it keeps") == ""
    follow_cron(machine)
    assert guide.curl(f"https://{HOST}/api/stations")[0] == 200
    key = re.search(r"shown only now: (\S+)",
                    guide.follow("A private page", stdin="open sesame\n"))[1]
    header = f"-H 'X-API-Key: {key}'"
    assert guide.curl(f"https://{HOST}/api/stations")[0] == 401
    for user in ("me", ""):
        assert guide.curl(f"https://{HOST}/api/stations", f"-u '{user}:open sesame'")[0] == 200
    assert guide.curl(update, header) == (200, "3")

    assert guide.follow("Backups").splitlines()[-1] == "ok"
    machine.run("sed -i 's/^__version__ = \"/&next-/' /home/me/iotserver.py")
    upgraded = guide.follow("Upgrade").splitlines()
    assert upgraded[-2:] == ["install /usr/local/lib/iotserver/iotserver.py",
                             "systemctl restart iotserver.service"]
    assert "iotserver next-" in machine.run("tail -n 1 /run/iotserver.service.log")
    assert guide.curl(update, header) == (200, "4")         # after the backup: will be gone
    assert guide.follow("Restore").splitlines()[-1] == "ok"
    assert guide.curl(update, header) == (200, "4")
    assert machine.run("stat -c '%U %a' /var/lib/iotserver/iot.db") == "iotserver 600\n"

    follow_courier(machine, guide, update, header)

    said = guide.follow("When something is wrong", but=ELSEWHERE)
    assert "iotserver runs" in said
    assert "http GET /update 200" in said
    guide.follow("Remove it")
    machine.run("test -s /var/lib/iotserver/iot.db && ! test -e /usr/local/bin/iotserver")
    guide.find("Behind your own nginx or Caddy")    # followed where a systemd boots
    guide.find("What the tests show")               # nothing else is to be typed


@needs(*MACHINE)
def test_beside_the_default_site_of_another_ours_is_found_by_its_name(machine):
    """Without its name, what is sent to it goes to the other one, and install.sh says so."""
    other = "/etc/nginx/conf.d/shop.conf"
    machine.put(other, """server { listen 80 default_server; server_name shop.example.org;
                                   return 200 "1"; }""")
    machine.run("""rm /etc/nginx/sites-enabled/default; nginx
                   echo 127.0.0.1 shop.example.org >> /etc/hosts""")
    guide = Guide(machine, "On a rented server")
    said = machine.run(str(INSTALL))
    assert f"nginx has other sites, like {other}: write the name" in said
    update = "update/API_key=K/mac=M/field=1/data=2"
    assert guide.curl(f"http://{HOST}/{update}") == (200, "1")
    machine.run(f"echo 'server_name {HOST};' > /etc/nginx/snippets/iotserver-name.conf")
    assert "systemctl reload-or-restart nginx.service" in machine.run(str(INSTALL))
    assert guide.curl(f"http://{HOST}/{update}")[0] == 403
    assert guide.curl(f"http://shop.example.org/{update}") == (200, "1")
    assert machine.run(str(INSTALL)) == "nothing to do\n"


def test_a_reading_takes_as_many_bytes_as_the_guide_says(tmp_path, run):
    """Two stations with three fields a minute, for a week."""
    text = (SYSTEMD / "README.md").read_text()
    each, year = map(int, re.search(r"takes (\d+) bytes: .*? take (\d+) MB a\s+year",
                                    text).groups())
    assert abs(each * 2 * 3 * 365.25 * 1440 / 1e6 / year - 1) < 0.05
    count = 7 * 1440
    run("--import", "-", stdin="\n".join([HEADER, *(
        f"{format_time(NOON + i * MINUTE)},{name},{name},{field},{20 + i % 50 / 10},{i + 1}"
        for i in range(count) for name in ("in", "out") for field in (1, 2, 3))]))
    size = sum(path.stat().st_size for path in tmp_path.glob("*.db*"))
    assert abs(size / (count * 6) / each - 1) < 0.15


def follow_courier(machine, guide, update, header):
    """A message that goes out, and what the courier's user may not do."""
    machine.put("/run/hook.py", HOOK)
    machine.run("setsid python3 /run/hook.py > /dev/null 2>&1 &")
    machine.run("""echo 'IOTSERVER_NOTIFY="json://127.0.0.1:8099/x"' > /etc/iotserver-courier.conf
                   until curl -s http://127.0.0.1:8099/; do sleep 0.1; done""")
    assert guide.follow("Messages to the phone").startswith("json://127.0.0.1: 200 taken")
    machine.run("until ls -l /proc/[0-9]*/fd 2> /dev/null | grep -q socket; do sleep 0.1; done")
    inside = machine.run("iotserver --add-station room --role inside --mac m2 --key k2")
    assert "room is registered" in inside
    guide.curl(f"http://{HOST}/update/API_key=k2/mac=m2/field=1/data=35")
    guide.curl(update, header)
    machine.run("until grep -q room /run/hook.said; do sleep 0.1; done")
    assert machine.run("""ps -o user:32= -p "$(cat /run/iotserver-courier.service.pid)" """
                       ).strip() == "iotserver-courier"
    courier = "setpriv --reuid=iotserver-courier --regid=iotserver-courier --groups=iotserver -- "
    for status, command in ((1, "cat /var/lib/iotserver/iot.db"), (2, "ls /var/lib/iotserver"),
                            (7, "curl --unix-socket /var/lib/iotserver/iot.db.sock http://x/")):
        machine.run(courier + command, status=status)


def follow_cron(machine):
    """The line that the guide put into cron, and the timer's service that it stands for."""
    line, = re.findall(r"^17 3 \* \* \*  iotserver  (.*)$",
                       machine.run("cat /etc/cron.d/iotserver"), re.MULTILINE)
    user = "setpriv --reuid=iotserver --regid=iotserver --init-groups"
    assert "deleted 0 readings older than 90d" in machine.run(f"cd /; {user} sh -c '{line}'")
    machine.run("""systemctl start iotserver-prune
                   echo IOTSERVER_PRUNE_AGE=3650d >> /etc/iotserver.conf
                   systemctl start iotserver-prune""")
    said = machine.run("cat /run/iotserver-prune.service.log").splitlines()
    assert said[0] == "nothing is pruned: IOTSERVER_PRUNE_AGE is not set in /etc/iotserver.conf"
    assert re.findall("deleted 0 readings older than (.*);", said[1]) == ["3650d"]
