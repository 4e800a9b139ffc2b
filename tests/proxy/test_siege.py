"""The attackers of support/attackers.py, all at once, for as long as a test may take; tests/siege
does the same for ten minutes.
"""
from attackers import ATTACKS
from siege import FLAGS, besiege, missed, table

# What the server itself does not withstand yet, behind whatever nginx. Nothing may be added here.
AWAITED = {"huge_keys", "long_digits", "exports", "bulks", "large_feeds", "new_pages"}
PATIENCE = 3        # with the machine that the tests run on: it may be busy, tests/siege's is not


def test_all_attacks_at_once_are_hardly_noticed(droplet, many_files):
    figures = besiege(droplet(*FLAGS), 20, {attack.__name__ for attack in ATTACKS} - AWAITED)
    print(table(figures))
    assert missed(figures, PATIENCE) == []
