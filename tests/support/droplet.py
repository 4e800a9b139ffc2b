"""The appliance as it stands on the internet: nginx with the shipped site, in front of the real
server on the socket that iotserver.socket describes. Only ports and paths of the site are changed.
"""
import contextlib
import itertools
import re
import shutil
import socket
import ssl
import subprocess
import warnings

import pytest
from harness import ACTIVATE, SCRIPT, Dialer, Live, request, wait_for
from tools import IS_ROOT, SYSTEMD, need

NETWORKS = "127.0.0.200"        # whose header X-Test-Address nginx believes, in these tests
STATION, PHONE, STRANGER = "127.0.0.2", "127.0.0.3", "127.0.0.66"
try:
    HAS_IPV6 = bool(socket.create_server(("::1", 0), family=socket.AF_INET6).close() or True)
except OSError:
    HAS_IPV6 = False

# What Debian's nginx.conf says around a site, once install.sh has raised the connections.
MAIN = """daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_rlimit_nofile 8704;
events {{ worker_connections 8192; }}
http {{ sendfile on; tcp_nopush on; gzip on; default_type application/octet-stream;
access_log {folder}/access.log; ssl_protocols TLSv1 TLSv1.1 TLSv1.2 TLSv1.3;
client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
{site} }}"""


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A folder with the two files that certbot makes."""
    folder = tmp_path_factory.mktemp("certificate")
    make_certificate(folder)
    return folder


def make_certificate(folder):
    subprocess.run([need("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
                    "-subj", "/CN=weather.example.org", "-keyout", folder / "privkey.pem",
                    "-out", folder / "fullchain.pem"], check=True, capture_output=True)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def site(folder, certificate, ports, edits=()):
    """The shipped site, with this test's ports and paths in it."""
    text = (f"set_real_ip_from {NETWORKS}; real_ip_header X-Test-Address;\n"
            + (SYSTEMD / "nginx.conf").read_text())
    for shipped, ours in (
            *edits, ("include /etc/nginx/snippets/iotserver-name.conf", "server_name _"),
            ("unix:/run/iotserver.sock", f"unix:{folder}/iotserver.sock"),
            *((f"listen [::]:{shipped}", f"listen [::1]:{port}" if HAS_IPV6 else "# ")
              for shipped, port in ports.items()),
            *((f"listen {shipped}", f"listen 127.0.0.1:{port}")
              for shipped, port in ports.items()),
            ("/etc/ssl/iotserver/", f"{certificate}/"), ("/var/www/iotserver", f"{folder}/www"),
            ("/var/log/nginx/", f"{folder}/")):
        assert shipped in text, shipped
        text = text.replace(shipped, ours)
    return text


def unit_value(unit, name):
    value, = re.findall(rf"^{name}=(.*)$", (SYSTEMD / unit).read_text(), re.MULTILINE)
    return value


class Door(Dialer):
    """One of the two ports, as a client at some address meets it."""

    def __init__(self, port, address=PHONE, is_secure=False):
        self.port, self.address, self.is_secure = port, address, is_secure

    def connect(self, **limits):
        channel = socket.create_connection(("127.0.0.1", self.port), 20, (self.address, 0))
        return tls(limits).wrap_socket(channel) if self.is_secure else channel


def tls(limits):
    """A client that checks no certificate: the board's only way."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)     # TLS 1.1 is what we ask for
        if "version" in limits:
            context.minimum_version = context.maximum_version = limits["version"]
    context.set_ciphers(limits.get("ciphers", "DEFAULT"))
    return context


def flood(door, paths):
    """The answers to many requests, 500 to a connection and none awaited."""
    answers, paths = [], iter(paths)
    while batch := list(itertools.islice(paths, 500)):
        raw = b"".join(request("GET", path) for path in batch[:-1])
        answers += door.talk(raw + request("GET", batch[-1], Connection="close"))
    return answers


class Droplet:
    """nginx and the server, in a folder that both may enter; the database is in one of its own."""

    def __init__(self, folder, home, certificate, flags, edits=(), script=SCRIPT):
        self.folder, self.home, self.flags, self.script = folder, home, flags, script
        (folder / "www/.well-known/acme-challenge").mkdir(parents=True)
        self.listen()
        self.start()
        self.start_nginx(certificate, edits)

    def listen(self):
        """What systemd does for iotserver.socket."""
        path = self.folder / "iotserver.sock"
        path.unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        path.chmod(int(unit_value("iotserver.socket", "SocketMode"), 8))
        if IS_ROOT:
            shutil.chown(path, unit_value("iotserver.socket", "SocketUser"),
                         unit_value("iotserver.socket", "SocketGroup"))
        self.listener.listen(int(unit_value("iotserver.socket", "Backlog")))

    def start(self):
        fd = self.listener.fileno()
        self.server = Live(self.home, *self.flags, pass_fds=[fd],
                           command=("-c", ACTIVATE, str(fd), self.script))
        assert "inherited" in self.server.line

    def end_server(self):
        if self.server:
            self.server.check_end()
            self.server = None

    def restart(self):
        self.end_server()
        self.start()

    def start_nginx(self, certificate, edits):
        for _ in range(3):              # another program may take a free port first
            ports = {80: free_port(), 443: free_port()}
            config = self.folder / "nginx.conf"
            config.write_text("user www-data;\n" * IS_ROOT + MAIN.format(
                folder=self.folder, site=site(self.folder, certificate, ports, edits)))
            with (self.folder / "nginx.stderr").open("w") as said:
                self.nginx = subprocess.Popen(
                    [need("nginx"), "-p", self.folder, "-c", config], stderr=said)
            wait_for(lambda: self.nginx.poll() is not None or (self.folder / "pid").exists(), 20)
            if self.nginx.poll() is None:
                self.ports = ports
                return
        pytest.fail((self.folder / "nginx.stderr").read_text())

    def http(self, address=STATION):
        return Door(self.ports[80], address)

    def https(self, address=PHONE):
        return Door(self.ports[443], address, is_secure=True)

    def straight(self):
        """A connection past nginx, to the server's own socket."""
        channel = socket.socket(socket.AF_UNIX)
        channel.settimeout(20)
        channel.connect(str(self.folder / "iotserver.sock"))
        return channel

    def stop(self):
        self.listener.close()
        self.nginx.terminate()
        try:
            self.end_server()
        finally:
            assert self.nginx.wait(20) == 0
        assert (self.folder / "error.log").read_text() == ""


@pytest.fixture
def droplet(database, tmp_path, public_folder, certificate):
    """Makes one: droplet("--private", FILE, edits=[("shipped text", "another")])."""
    with contextlib.ExitStack() as stack:
        def make(*flags, edits=()):
            flags = ["--rate-limit", "0", *flags]
            made = Droplet(public_folder, tmp_path, certificate, flags, edits)
            stack.callback(made.stop)
            return made
        yield make
