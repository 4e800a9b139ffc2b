"""The attackers of support/attackers.py, all at once, for as long as a test may take; tests/siege
does the same for ten minutes.
"""
from siege import FLAGS, besiege, missed, table
from tools import needs

pytestmark = needs("nginx", "openssl")


def test_all_attacks_at_once_are_hardly_noticed(droplet, many_files):
    figures = besiege(droplet(*FLAGS), 20)
    print(table(figures))
    assert missed(figures) == []
