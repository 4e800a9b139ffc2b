"""The nginx settings of the README, in a real nginx, in front of the real server."""
import re
import socket
import ssl
import subprocess

import pytest
from harness import INSIDE, parse_responses, receive, request, update_path, wait_for
from tools import ROOT, need

MAIN = """daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{}}
http {{ access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
{site} }}"""


def site_of_readme(certificate, port, upstream):
    """The server block of the README, with this test's certificate and ports in it."""
    block, = re.findall(r"```nginx\n(server \{.*?\n\})\n```", (ROOT / "README.md").read_text(),
                        re.DOTALL)
    for pattern, value in ((r"/etc/letsencrypt/\S+pem", str(certificate)),
                           (r"listen 443", f"listen 127.0.0.1:{port}"),
                           (r"127\.0\.0\.1:8000", f"127.0.0.1:{upstream}")):
        block, count = re.subn(pattern, value, block)
        assert count, pattern
    return block


@pytest.fixture
def nginx(live, tmp_path):
    """Its port; it serves `live` over TLS as the README says."""
    nginx, openssl = need("nginx", "nginx-light"), need("openssl")
    pem = tmp_path / "server.pem"
    subprocess.run([openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
                    "-subj", "/CN=localhost", "-keyout", pem, "-out", tmp_path / "cert.pem"],
                   check=True, capture_output=True)
    pem.write_bytes(pem.read_bytes() + (tmp_path / "cert.pem").read_bytes())
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = tmp_path / "nginx.conf"
    config.write_text(MAIN.format(folder=tmp_path, site=site_of_readme(pem, port, live.port)))
    process = subprocess.Popen([nginx, "-p", tmp_path, "-c", config], stderr=subprocess.DEVNULL)
    wait_for(lambda: process.poll() is not None or (tmp_path / "pid").exists(), 10)
    yield port
    process.terminate()
    assert process.wait(10) == 0


def talk(port, raw, **limits):
    """One request over TLS, by a client with these limits; the response and the cipher."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the board's only way
    context.maximum_version = limits.get("version", ssl.TLSVersion.MAXIMUM_SUPPORTED)
    if "ciphers" in limits:
        context.set_ciphers(limits["ciphers"])
    with (socket.create_connection(("127.0.0.1", port), 10) as channel,
          context.wrap_socket(channel, server_hostname="localhost") as secure):
        secure.sendall(raw)
        response, = parse_responses(receive(secure))
        return response, secure.cipher()[0]


def test_a_station_and_a_browser_get_through(live, nginx):
    update = request("GET", update_path(INSIDE, 21.5), Connection="close")
    board = {"version": ssl.TLSVersion.TLSv1_2, "ciphers": "AES128-SHA256"}
    response, cipher = talk(nginx, update, **board)
    assert (response.status, response.body, cipher) == (200, b"1", "AES128-SHA256")
    assert live.rows()[0][3] == "21.5"
    response, cipher = talk(nginx, request("GET", "/", Connection="close"))
    assert response.status == 200
    assert cipher.startswith("TLS_")            # TLS 1.3 for everybody else
