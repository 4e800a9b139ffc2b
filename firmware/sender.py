"""What happens to a reading on its way to the server, and when the next one may try.

| answer                    | what becomes of the reading                                   |
|---------------------------|---------------------------------------------------------------|
| 200 and a number          | stored, so forgotten here                                     |
| 400, 413, 414, 431        | dropped: the request is wrong, and stays so                   |
| 403                       | waits, all others too, until the key is accepted again        |
| 429, 5xx, other, none     | waits; the pauses grow from 10 s to 4 minutes                 |
"""
import backlog
import wifitools

LATE_GAP_S = 2  # between late readings: 30 a minute, half of what a server takes by default
FIRST_PAUSE_S, LONGEST_PAUSE_S = 10, 240  # after an error; doubled from one to the next
LONGEST_ASKED_S = 900  # of a Retry-After, so that a server's slip cannot silence a station
SILENCES = 5  # requests without an answer, after which address and WiFi are had afresh
ALIVE = (103, 104, 111)  # aborted, reset, refused: someone answered, so the WiFi is well

HOPELESS = (400, 413, 414, 431)
REJECTED = 403


class Pauses:
    """How long to wait after an error: doubled each time, or longer when the server asks."""

    def __init__(self):
        self.pause = 0

    def next(self, asked=0):
        self.pause = min(max(self.pause * 2, FIRST_PAUSE_S), LONGEST_PAUSE_S)
        return max(self.pause, min(asked, LONGEST_ASKED_S))

    def clear(self):
        self.pause = 0


class Sender:
    """Sends what waits, one reading at a time, oldest first."""

    def __init__(self, config, waiting, salt, clock):
        self.config, self.waiting, self.salt, self.clock = config, waiting, salt, clock
        self.pauses = Pauses()
        self.due = 0  # second of the clock before which nothing is sent
        self.silences = 0
        self.said = None
        self.probing = self.cleared = False

    def offer(self):
        """Send one reading, if one is due. False when the WiFi should be had afresh."""
        now = self.clock.now()
        if not len(self.waiting) or now < self.due:
            return True
        index = len(self.waiting) - 1 if self.probing else 0
        path = backlog.update_path(self.config.path, self.salt, self.waiting.get(index), now)
        try:
            status, asked, words = wifitools.get(self.config.server, path)
        except OSError as error:
            return self.unanswered(error)
        self.silences = 0
        self.answered(index, status, asked, words)
        return True

    def answered(self, index, status, asked, words):
        """Only a number in the body means stored: some proxies answer 200 to anything."""
        if status == 200 and words.isdigit():
            self.stored(index)
        elif status in HOPELESS:
            self.say("dropped, the server said %d: %s" % (status, words))
            self.forget(index)
        elif status == REJECTED:
            self.say("rejected, the server said 403: %s" % words)
            self.rejected(index)
        else:
            self.say("later, the server said %d: %s" % (status, words))
            self.pause(asked)

    def stored(self, index):
        self.pauses.clear()
        self.said = None
        self.cleared, self.probing = self.probing, False
        self.forget(index)

    def forget(self, index):
        """The next may go at once, unless it is late: then there may be many."""
        self.waiting.remove(index)
        if len(self.waiting):
            now = self.clock.now()
            late = now - self.waiting.get(0)[0] > self.config.period
            self.due = now + LATE_GAP_S if late else now

    def rejected(self, index):
        """403 is about the key, as a rule: everything waits, and the newest is tried next.

        When that one was stored but an older one is rejected again, it is about that reading.
        """
        if self.cleared:
            self.waiting.remove(index)
        self.probing, self.cleared = not self.cleared, False
        self.pause()

    def unanswered(self, error):
        """The way may be dead though the WiFi looks alive: begin it anew now and then."""
        self.say("no answer: %s" % error)
        self.pause()
        self.silences += 1
        if self.silences % SILENCES:
            return True
        self.config.server.address = None
        return error.args[0] in ALIVE

    def pause(self, asked=0):
        self.due = self.clock.now() + self.pauses.next(asked)

    def say(self, text):
        """Each trouble once, not once a minute for all of a night."""
        if text != self.said:
            print(text)
            self.said = text
