"""The answer on the wall, as the server makes it."""
import pytest
from harness import INSIDE, OUTSIDE

pytestmark = pytest.mark.wings("Wall")


def test_it_says_the_answer_and_the_numbers_of_the_page(server):
    for station, value in ((INSIDE, 26.4), (OUTSIDE, 21)):
        server.update(station, value)
    text = server.get("/wall").text
    assert "<h1>Open the windows</h1>" in text
    assert ">26.4°</b>" in text
    assert ">21.0°</b>" in text
    assert "It is 5.4 °C cooler outside." in text


def test_it_is_asked_for_again_only_if_it_has_changed(server):
    server.update(INSIDE, 26)
    tag = server.get("/wall").headers["etag"]
    assert server.get("/wall", If_None_Match=tag).status == 304
    server.update(OUTSIDE, 20)
    assert server.get("/wall", If_None_Match=tag).status == 200


def test_without_readings_it_shows_no_number(server):
    text = server.get("/wall").text
    assert "No answer" in text
    assert "<b " not in text


def test_several_rooms_are_named(in_process):
    server = in_process()
    server.writer.add_station("attic", "attic", "inside", None, 1)
    for station, value in ((INSIDE, 26), (OUTSIDE, 21)):
        server.update(station, value)
    assert '<span class="room">inside</span>' in server.get("/wall").text


@pytest.mark.wings("Private page")
def test_a_private_wall_asks_for_the_password(in_process, password_file):
    assert in_process(private=str(password_file)).get("/wall").status == 401
