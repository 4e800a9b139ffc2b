"""Houses for the tests of the page."""
import contextlib

import pytest
from house import HALF_HOUR, House


@pytest.fixture
def house(tmp_path):
    """Makes House servers: house(("inside", "inside"), units="F")."""
    with contextlib.ExitStack() as stack:
        def make(*stations, file="house.db", **more):
            return stack.enter_context(contextlib.closing(
                House(tmp_path / file, *stations, **more)))
        yield make


@pytest.fixture
def home(house):
    """An inside station at 28 °C and an outside one at 24 °C, for half an hour."""
    home = house(("inside", "inside"), ("outside", "outside"))
    home.store("inside", HALF_HOUR, 28)
    home.store("outside", HALF_HOUR, 24)
    return home
