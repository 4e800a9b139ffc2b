"""Servers and couriers that are killed at each step of a delivery, alone and together."""
import contextlib
import itertools

import hypothesis.strategies as some
import pytest
from harness import NOON
from household import Household, Line
from hypothesis import HealthCheck, example, given, settings
from receivers import Receiver

import iotserver

pytestmark = pytest.mark.slow

# What happens in a minute, between the reading and the next one.
STEPS = ("carried", "killed before it was asked", "killed before it was sent",
         "killed before it was noted", "server killed before it was noted",
         "both killed before it was noted", "refused", "server restarted", "nothing")


def live_through(home, hook, step):
    """The courier asks, sends, and says what became of it, up to where it is killed."""
    hook.behave = 500 if step == "refused" else 200
    if step == "server restarted":
        home.restart()
    if step == "nothing":
        return
    (messenger,), line = home.messengers, Line(home.house.server)
    if step == "killed before it was asked":
        home.restart_courier()
        return
    if step == "killed before it was sent":
        line.collect(messenger.to.id, [messenger.to.id], "", "")
        home.restart_courier()
        return
    if "before it was noted" in step:
        line.note = cut
    with contextlib.suppress(ConnectionError):
        messenger.step(line)
    if "server" in step or "both" in step:
        home.house.close()
        home.house = None
        home.start(home.now, courier=False)
    if "killed before it was noted" in step and not step.startswith("server"):
        home.restart_courier()
    else:
        messenger.note(Line(home.house.server))


def cut(*outcome):
    raise ConnectionError


@given(some.lists(some.tuples(some.sampled_from([20, 30]), some.sampled_from(STEPS)),
                  min_size=1, max_size=12))
@example([(20, step) for step in STEPS] + [(30, step) for step in STEPS])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_is_lost_and_only_a_crash_after_sending_repeats(tmp_path_factory, steps):
    pauses, iotserver.PAUSES = iotserver.PAUSES, (0, 0)
    hook = Receiver()
    home = Household(tmp_path_factory.mktemp("kills") / "house.db", now=NOON,
                     notify=f"json://127.0.0.1:{hook.port}/")
    crashes = 0
    try:
        for outside, step in [*steps, (steps[-1][0], "carried")]:
            for _ in range(3):          # of a large difference: it does not wait for its time
                home.house.time += 60
                home.send(inside=26, outside=outside)
            before = len(hook.messages)
            live_through(home, hook, step)
            crashes += len(hook.messages) > before and "killed before it was noted" in step \
                and not step.startswith("server")
        kinds = hook.kinds
        repeated = sum(a == b for a, b in itertools.pairwise(kinds))
        assert repeated <= crashes
        once = [kind for i, kind in enumerate(kinds) if kinds[i - 1:i] != [kind]]
        assert once[:1] in ([], ["open"])
        if not crashes and (once or steps[-1][0] == 20):    # else who was told what is not known
            assert once[-1] == {20: "open", 30: "close"}[steps[-1][0]]
    finally:
        iotserver.PAUSES = pauses
        home.close()
        hook.close()
