"""Reads recorded conversations: the bytes of each request, and the answer that must come.

A file holds the conversations of one group. The first characters of a line say what it is:

    # a comment
    == the title of a conversation, which has a station of its own
    $ a command line, such as --label $NAME 1 temp
    > a line that is sent with CR LF behind it
    - a line that is sent with LF alone
    : bytes that are sent as they are
    < a line of the answer's head that must be there, exactly so
    = bytes of the answer's body; several such lines are put together
    ~ the same, but XML: white space between elements does not count

The next exchange begins behind an answer, on a new connection. An answer without head lines comes
without a head. \\r, \\n, \\t, \\xFF and \\\\ are escapes. $WRITE, $READ, $CHANNEL and $NAME stand
for what belongs to the station, $LONG for 255 bytes, $LENGTH for the number of bytes in the
request's ":" lines. In an answer, $TIME and $CSVTIME are any instant of the last minutes, $SECONDS
is a small number, $TEXT some text, $CODE some error code.
"""
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree

FOLDER = Path(__file__).parent
ENDS = {">": b"\r\n", "-": b"\n", ":": b""}
ANY = {
    "$TIME": r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)",
    "$CSVTIME": r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC)",
    "$SECONDS": r"\d{1,3}",
    "$TEXT": r"[^\"<>]+",
    "$CODE": r"error_[a-z_]+",
}


@dataclass
class Exchange:
    """One request, or one command, and what must come back."""
    command: str = ""
    request: bytes = b""
    payload: bytes = b""
    head: list[str] = field(default_factory=list)
    body: bytes = b""
    is_xml: bool = False

    @property
    def is_answered(self):
        return bool(self.command or self.head or self.body)


@dataclass
class Conversation:
    group: str
    title: str
    exchanges: list[Exchange] = field(default_factory=list)

    def __str__(self):
        return f"{self.group}: {self.title}"


def unescape(text):
    return re.sub(rb"\\(x[0-9A-Fa-f]{2}|.)", lambda m: (
        bytes.fromhex(m[1][1:].decode()) if len(m[1]) == 3 else
        {b"r": b"\r", b"n": b"\n", b"t": b"\t"}.get(m[1], m[1])), text.encode())


def read(path):
    """The conversations of a file."""
    conversations = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        mark, text = line[:1], line[2:]
        if line.startswith("== "):
            conversations.append(Conversation(path.stem, line[3:]))
            continue
        if mark in {"", "#"}:
            continue
        exchanges = conversations[-1].exchanges
        if (mark in ENDS or mark == "$") and (not exchanges or exchanges[-1].is_answered):
            exchanges.append(Exchange())
        add_line(exchanges[-1], mark, text, f"{path.name}, line {number}")
    return conversations


def add_line(exchange, mark, text, place):
    if mark == "$":
        exchange.command = text
    elif mark in ENDS:
        exchange.request += unescape(text) + ENDS[mark]
        exchange.payload += unescape(text) * (mark == ":")
    elif mark == "<":
        exchange.head.append(text)
    elif mark in {"=", "~"}:
        exchange.body += unescape(text)
        exchange.is_xml = mark == "~"
    else:
        raise ValueError(f"{place}: unknown mark {mark!r}")


def read_all():
    return [each for path in sorted(FOLDER.glob("*.txt")) for each in read(path)]


def fill(data, station):
    """Bytes or text with what belongs to the station put in."""
    for name, value in station.items():
        data = data.replace(*((name, value) if isinstance(data, str) else
                              (name.encode(), value.encode())))
    return data


def request_of(exchange, station):
    payload = fill(exchange.payload, station)
    return fill(exchange.request, {**station, "$LENGTH": str(len(payload))})


def canonical(xml):
    return ElementTree.canonicalize(xml, strip_text=True)


def is_as_told(told, said, is_xml=False):
    """Whether the body that came is the one in the file."""
    if is_xml:
        told, said = canonical(told), canonical(said)
    else:
        told, said = told.decode(), said.decode()
    pattern = re.escape(told)
    for name, expression in ANY.items():
        pattern = pattern.replace(re.escape(name), expression)
    match = re.fullmatch(pattern, said, re.DOTALL)
    return bool(match) and all(is_recent(text) for text in match.groups())


def is_recent(text):
    instant = datetime.fromisoformat(text.replace("Z", "+00:00").replace(" UTC", "+00:00"))
    return abs(datetime.now(UTC) - instant) < timedelta(minutes=5)


# -- which calls a file shows ---------------------------------------------------------------------


REQUEST = re.compile(r"(\w+) (?:https?://[^/]+)?(/[^?]*?)(\?.*?)?(?: HTTP/1\.\d)?\r?\n")
NAME = re.compile(r"""(?:^|[&?])(\w+)=|"(\w+)":""")


def calls(exchanges):
    """(method, path with N for numbers, names of parameters) of each request."""
    for exchange in exchanges:
        if found := REQUEST.match(exchange.request.decode("utf-8", "replace")):
            method, path, query = found.groups()
            sent = f"{query or ''}&{exchange.payload.decode('utf-8', 'replace')}"
            yield method, normal(path), {a or b for a, b in NAME.findall(sent)}


def normal(path):
    """A path with N for a channel, a field or an entry: /channels/N/fields/N/last.json"""
    path = path.replace("$CHANNEL", "N")
    return re.sub(r"(?<=/)(field)?\d+(?=[/.]|$)", r"\1N", path)
