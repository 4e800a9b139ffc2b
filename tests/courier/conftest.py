"""Destinations and households for the tests of messages."""
import contextlib

import pytest
from harness import NOON
from household import Household
from receivers import Receiver

import iotserver


@pytest.fixture(autouse=True)
def certificates():
    """Each test has those of its own environment."""
    iotserver.tls.cache_clear()


@pytest.fixture
def receiver():
    """Makes HTTP servers that take messages: receiver(context=..., port=...)."""
    with contextlib.ExitStack() as stack:
        def make(**how):
            return stack.enter_context(contextlib.closing(Receiver(**how)))
        yield make


@pytest.fixture
def hook(receiver):
    return receiver()


@pytest.fixture
def household(tmp_path, hook):
    """Makes Households that tell the hook: household(("attic", "inside"), quiet="22:00-07:00")."""
    with contextlib.ExitStack() as stack:
        def make(*stations, now=NOON, **flags):
            flags.setdefault("notify", f"json://127.0.0.1:{hook.port}/hook")
            made = Household(tmp_path / "house.db", *stations, now=now, **flags)
            stack.callback(made.close)
            return made
        yield make
