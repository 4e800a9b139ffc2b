"""The attackers of support/attackers.py, all at once, for as long as a test may take; tests/siege
does the same for ten minutes.
"""
import pytest
from siege import FLAGS, besiege, broken, late, prepare, table
from tools import needs

pytestmark = [needs("nginx", "openssl"), pytest.mark.quiet]
ROUNDS, SECONDS = 4, 12         # the times of one round have to do: the machine may be busy with
SHARE, PATIENCE = 0.95, 3       # others in the other ones; tests/siege knows no such patience


def test_all_attacks_at_once_are_hardly_noticed(droplet, many_files):
    made = droplet(*FLAGS)
    prepare(made)
    for _ in range(ROUNDS):
        figures = besiege(made, SECONDS)
        print(table(figures))
        assert broken(figures) == []
        if not (waited := late(figures, SHARE, PATIENCE)):
            break
    assert waited == []
