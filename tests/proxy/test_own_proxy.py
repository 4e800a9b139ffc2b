"""The guide for an nginx or a Caddy that one has already: its lines before the real server, beside
another site."""
import contextlib
import re
import socket
import subprocess
from types import SimpleNamespace

import pytest
from droplet import MAIN, PHONE, STRANGER, free_port
from harness import INSIDE, OUTSIDE, Live, receive, request, update_path, wait_for
from tools import SYSTEMD, need, needs

NAME, SHOP = "weather.example.org", "shop.example.org"
GUESSES = 100


def block(kind):
    text = (SYSTEMD / "README.md").read_text(encoding="utf-8")
    found, = re.findall(rf"(?ms)^```{kind}\n(.*?)^```", text)
    return found


def nginx(folder, port, upstream):
    site = block("nginx").replace("listen 80;", f"listen {port};")
    other = (f"server {{ listen {port} default_server; server_name {SHOP};"
             ' location / { return 200 "shop"; } }\n')
    config = folder / "nginx.conf"
    config.write_text(MAIN.format(folder=folder, site=other + site.replace(
        "127.0.0.1:8000", f"127.0.0.1:{upstream}")))
    return [need("nginx"), "-p", folder, "-c", config]


def caddy(folder, port, upstream):
    """Its own certificates in place of an authority's; only ports are others than in the guide."""
    config = folder / "Caddyfile"
    config.write_text(
        f"{{\n admin off\n local_certs\n skip_install_trust\n http_port {port}\n"
        f" https_port {other_port(port)}\n}}\n"
        f"http://{SHOP} {{\n respond shop\n}}\n"
        + block("caddy").replace("127.0.0.1:8000", f"127.0.0.1:{upstream}"))
    return ["env", f"HOME={folder}", f"XDG_DATA_HOME={folder}", f"XDG_CONFIG_HOME={folder}",
            need("caddy"), "run", "--config", config, "--adapter", "caddyfile"]


def other_port(port):
    return next(found for found in iter(free_port, None) if found != port)


PROXIES = [pytest.param(nginx, marks=needs("nginx"), id="nginx"),
           pytest.param(caddy, marks=needs("caddy"), id="caddy")]


@contextlib.contextmanager
def standing(proxy, folder, *flags):
    """A server behind a proxy that serves another site, too: ask(path), connect(source)."""
    live = Live(folder, *flags)
    port = free_port()
    with (folder / "said").open("w") as said, subprocess.Popen(
            proxy(folder, port, live.port), stdout=said, stderr=said) as process:
        def connect(source):
            return socket.create_connection(("127.0.0.1", port), 30, (source, 0))

        def ask(path, name=NAME, source=PHONE, **headers):
            with connect(source) as channel:
                channel.sendall(request("GET", path, Host=name, Connection="close", **headers))
                head, _, body = receive(channel).partition(b"\r\n\r\n")
                return int(head.split()[1]), body.decode()

        def is_up():
            with contextlib.suppress(OSError):
                return bool(connect(PHONE).close() or True)
            return process.poll() is not None
        try:
            wait_for(is_up, 30)
            assert process.poll() is None, (folder / "said").read_text()
            yield SimpleNamespace(ask=ask, connect=connect)
        finally:
            process.terminate()
            process.wait(30)
            live.check_end()


@pytest.mark.parametrize("proxy", PROXIES)
def test_the_lines_of_the_guide_serve_a_name_beside_another_site(database, tmp_path, proxy):
    with standing(proxy, tmp_path, "--link", f"https://{NAME}/", "--rate-limit", "0") as site:
        assert site.ask("/", SHOP) == (200, "shop")
        assert site.ask(update_path(INSIDE, 26.5)) == (200, "1")    # a station is not redirected
        assert site.ask(update_path(OUTSIDE, 23)) == (200, "1")
        assert "Open the windows" in site.ask("/verdict.txt")[1]
        with site.connect(PHONE) as channel:                        # events come as they happen
            channel.sendall(request("GET", "/events", Host=NAME))
            wait_for_bytes(channel, b"event: verdict")
            site.ask(update_path(INSIDE, 27.5))
            wait_for_bytes(channel, b"27.5")
        for _ in range(GUESSES):
            assert site.ask(update_path(INSIDE, 1).replace(INSIDE.key, "x"), source=STRANGER)[
                0] == 403
        assert site.ask(update_path(INSIDE, 27), source=STRANGER)[0] == 429
        assert site.ask(update_path(INSIDE, 27), source="127.0.0.4")[0] == 200
        lied = site.ask(update_path(INSIDE, 27), source=STRANGER, X_Forwarded_For="127.0.0.4",
                        X_Real_IP="127.0.0.4")
        assert lied[0] == 429


def wait_for_bytes(channel, wanted):
    channel.settimeout(30)
    found = b""
    while wanted not in found:
        piece = channel.recv(65536)
        assert piece, found
        found += piece


@pytest.mark.parametrize("proxy", PROXIES)
def test_without_link_the_name_is_refused_with_what_to_type(database, tmp_path, proxy):
    with standing(proxy, tmp_path) as site:
        status, said = site.ask("/verdict.txt")
        assert (status, f"--link http://{NAME}" in said) == (403, True)


