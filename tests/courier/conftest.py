"""Destinations for the tests of messages."""
import contextlib

import pytest
from receivers import Receiver


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
