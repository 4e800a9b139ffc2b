"""Where messages go, in tests: a real HTTP server that plays ntfy and a webhook, and does to its
clients whatever a test wants; and real SMTP servers."""
import contextlib
import http.server
import json
import socket
import ssl
import struct
import threading
import time
from types import SimpleNamespace

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult


class Receiver(http.server.ThreadingHTTPServer):
    """Keeps what it gets; `behave` is one of what Answers knows, or a status with headers."""

    daemon_threads, allow_reuse_address, request_queue_size = True, True, 64

    def __init__(self, context=None, port=0):
        super().__init__(("127.0.0.1", port), Answers)
        self.context, self.behave, self.requests = context, 200, []
        self.headers, self.refuses = {}, None       # a name in JSON that is answered with 400
        self.judge = None               # or this finds the status, given the JSON
        self.port = self.server_address[1]
        self.thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def get_request(self):
        channel, address = super().get_request()
        if self.context:
            channel = self.context.wrap_socket(channel, server_side=True,
                                               do_handshake_on_connect=False)
        return channel, address

    def handle_error(self, request, address):
        """A client that gives up is no error of ours."""

    @property
    def messages(self):
        """The JSON of those that were taken."""
        return [r.json for r in self.requests if r.status == 200]

    @property
    def texts(self):
        return [m["message"] for m in self.messages]

    @property
    def kinds(self):
        return [m["kind"] for m in self.messages]

    def close(self):
        self.shutdown()
        self.server_close()


class Answers(http.server.BaseHTTPRequestHandler):
    """One request."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = 400 if self.server.refuses in json.loads(body) else self.server.behave
        if self.server.judge:
            status = self.server.judge(json.loads(body))
        request = SimpleNamespace(path=self.path, headers=dict(self.headers), body=body,
                                  json=json.loads(body), status=status, at=time.monotonic())
        self.server.requests.append(request)
        if status == "hang":
            time.sleep(60)
        elif status == "trickle":
            for letter in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 1000:
                self.wfile.write(bytes([letter]))
                time.sleep(0.2)
        elif status == "garble":
            self.wfile.write(b"\x00\xff nonsense " * 20 + b"\r\n\r\n")
        elif status == "cut":
            self.wfile.write(b"HTTP/1.1 20")
        elif status == "half":
            self.wfile.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 99\r\n\r\n")
            time.sleep(60)
        elif status == "chunks":
            self.wfile.write(b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
        elif status == "200 stalls":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n")
            time.sleep(60)
        elif status == "200 is cut":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        elif status == "200 is reset":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n")
            time.sleep(0.1)             # else it may come before the words
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                       struct.pack("ii", 1, 0))
            self.connection.close()
        elif status == "slow":
            time.sleep(2)
            request.status = 200
            self.answer(200)
        else:
            self.answer(status)

    def do_GET(self):
        self.server.requests.append(SimpleNamespace(path=self.path, status="GET", json=None))
        self.answer(200)

    def answer(self, status):
        text = b'{"id":"hwQ2YpKdmg","said":"\xc2\xb0"}'
        self.send_response(status)
        for name, value in {"Content-Length": len(text), **self.server.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *words):
        pass


RIGHT = (b"me@example.org", b"p:ss wort")        # login and password of mail servers


class Mailbox:
    """What an aiosmtpd server gives to its handler."""

    def __init__(self):
        self.mails = []

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("nobody@"):
            return "550 nobody of that name"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        self.mails.append(envelope)
        return "250 queued as 4711"


def authenticate(server, session, envelope, mechanism, data):
    is_right = (data.login, data.password) == RIGHT
    return AuthResult(success=is_right, handled=False)


@contextlib.contextmanager
def mail_server(context=None, at_once=False, port=0, **more):
    """An SMTP server with AUTH, with TLS from the start or by STARTTLS; yields its mailbox."""
    box = Mailbox()
    with socket.create_server(("127.0.0.1", port)) as channel:
        port = channel.getsockname()[1]
    how = ({"ssl_context": context} if at_once else {"tls_context": context}) if context else {}
    if context and not at_once:
        how["require_starttls"] = True
    if context:
        how |= {"authenticator": authenticate, "auth_required": True,
                "auth_require_tls": not at_once}
    controller = Controller(box, hostname="127.0.0.1", port=port, **how, **more)
    controller.start()
    box.port = port
    try:
        yield box
    finally:
        controller.stop()


def tls(certificate, key):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context
