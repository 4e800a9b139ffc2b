"""Fixtures of ThingSpeak's tests: servers that last for a file, a new station for each test."""
import contextlib

import pytest
from world import FLAGS, World


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """Servers by what they are for: worlds("private")."""
    started = {}

    def get(group=""):
        flags = FLAGS.get(group, ("--rate-limit", "0"))
        if flags not in started:
            started[flags] = World(tmp_path_factory.mktemp("world"), *flags)
        return started[flags]
    yield get
    with contextlib.ExitStack() as stack:
        for world in started.values():
            stack.callback(world.check_end)


@pytest.fixture
def world(worlds):
    return worlds()


@pytest.fixture
def station(world):
    return world.station()
