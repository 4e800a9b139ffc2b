"""A server in this process with stations, and its page taken apart."""
import html
import html.parser
import itertools
import re

from harness import NOON, InProcess

from iotserver import MINUTE

HALF_HOUR = range(-30, 1)


def corners_of(d):
    """The pieces of a path of a chart: its points in steps from the left and the top."""
    x = y = 0
    pieces = []
    for piece in d.split("m")[1:]:
        pieces.append([])
        for dx, dy in re.findall(r"(-?\d+) ?(-?\d+)", piece):
            x, y = x + int(dx), y + int(dy)
            pieces[-1].append((x, y))
    return pieces


class House(InProcess):
    """A server in this process with the stations that are wanted: (name, role) each."""

    def __init__(self, path, *stations, **flags):
        super().__init__(path, **flags)
        for name, role in stations:
            self.writer.add_station(name, f"mac-{len(self.writer.by_mac)}", role, None, NOON)

    def store(self, name, minutes, values, field=1):
        """Readings of a station so many minutes from now; one value serves all."""
        now = round(self.time * 1000)
        mac = next(s.mac for s in self.reader.stations() if s.name == name)
        values = itertools.repeat(values) if isinstance(values, (int, float)) else values
        self.writer.import_rows([(now + round(minute * MINUTE), name, mac, field, value, None)
                                 for minute, value in zip(minutes, values, strict=False)], now)
        self.server.board.expires = 0

    def page(self, path="/", **headers):
        response = self.get(path, **headers)
        assert response.status == 200, response
        return Page(response.text)


class Page(html.parser.HTMLParser):
    """A page taken apart: tags with their attributes, and the text of each element."""

    def __init__(self, text):
        super().__init__()
        self.source, self.tags, self.texts, self.open = text, [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes), (tag, attributes)
        self.tags.append((tag, dict(attributes)))
        self.texts.append("")
        if tag not in {"b", "small", "span", "time", "text"}:
            self.handle_data(" ")
        self.open.append(len(self.tags) - 1)

    def handle_endtag(self, tag):
        while self.open and self.tags[self.open.pop()][0] != tag:
            pass

    def handle_data(self, data):
        for i in self.open:
            self.texts[i] += data

    def all(self, tag, **wanted):
        """(attributes, text) of the elements of this tag with these attributes; class_="x"."""
        return [(attributes, " ".join(text.split())) for (name, attributes), text
                in zip(self.tags, self.texts, strict=True) if name == tag and all(
                    value in attributes.get(key.rstrip("_"), "").split()
                    for key, value in wanted.items())]

    def one(self, tag, **wanted):
        (_, text), = self.all(tag, **wanted)
        return text

    def paths(self, css="line"):
        """The paths of a kind on the chart, by the name of the line."""
        return {html.unescape(name): found[1] for name, shapes in re.findall(
            r'<g class="[^"]*" data-name="([^"]*)"[^>]*>(.*?)</g>', self.source)
            if (found := re.search(rf'<path class="{css}" d="([^"]*)"', shapes))}

    @property
    def verdict(self):
        """Headline and reason, as one sentence with a colon."""
        headline, reason = self.all("h1")[0][1], self.all("p", class_="reason")
        return ": ".join([headline, *(text[0].lower() + text[1:] for _, text in reason)])

    @property
    def text(self):
        """What a reader sees."""
        return self.one("main")
