"""In the reader's language: which one, in which words, and at what cost."""
import re
import string

import pytest
from brackets import BARE, CODE, LISTS, column, outside
from harness import finish
from house import Page
from hypothesis import given
from hypothesis import strategies as some

import iotserver as iot

pytestmark = pytest.mark.wings("Languages")

DE = {"Accept-Language": "de-DE,de;q=0.9,en;q=0.8"}


def holes(text):
    """The names of holes; clause is the same as reason, with a small letter."""
    return {name.replace("clause", "reason") for _, name, _, _ in string.Formatter().parse(text)
            if name is not None}


@pytest.mark.parametrize("language", iot.LANGUAGES)
def test_each_language_has_each_sentence_with_its_holes(language):
    """A sentence that no language may leave out, and none that English does not have."""
    sentences = iot.LANGUAGES[language]
    assert sentences.keys() == iot.SENTENCES.keys()
    for key, english in iot.SENTENCES.items():
        text = sentences[key]
        assert holes(text) == holes(english), key
        assert re.findall("%[a-zA-Z]", text.replace("%-d", "%d")) == \
            re.findall("%[a-zA-Z]", english), key
        assert text == text.strip(), key
        assert "~" not in text, key
        assert "  " not in text, key
        if key not in {*BARE, *LISTS}:
            assert (text[-1] in ".:;?!") == (english[-1] in ".:;?!"), key
        parts = 3 if key.startswith("error") else english.count(" / ") + 1
        assert language == "en" or text.count(" / ") + 1 == parts, key


@pytest.mark.parametrize("language", ["de", "fr", "es", "it"])
def test_marks_of_numbers_and_spaces_are_those_of_the_language(language):
    locale = iot.Locale(language)
    assert locale.say_number(3.5) == "3,5"
    assert locale.say_number(-12.04) == "-12,0"
    assert locale.say_number(2.0, is_short=True) == "2"
    assert locale.say_number(1.25e7) == "1,2e+07"
    assert locale.say_quantity("3,5", "°C") == "3,5\u00a0°C"
    assert locale.say("percent", number=48) == "48\u00a0%"
    assert locale.say_ago(3 * iot.MINUTE) == "3\u00a0min"
    for key, text in iot.LANGUAGES[language].items():
        assert not re.search(r"\} ?(µg|°|%(?![\w-])|h\b|min\b)", text), key
        if language == "fr":
            assert not re.search("[^\u202f][;?!]|[^\u00a0][:»]|«[^\u00a0]", text), key
        else:
            assert not re.search(r"\s[;:?!]", text), key
        assert not re.search("['\"]", text), key
    assert iot.ENGLISH.say("percent", number=48) == "48%"


JULY = 1_532_952_000_000        # Mon 30 Jul 2018, 12:00 UTC


@pytest.mark.parametrize(("language", "date", "stamp"), [
    ("en", "Mon 30 Jul 2018", "Mon 30 Jul, 12:00"),
    ("de", "Mo 30. Jul 2018", "Mo 30. Jul, 12:00"),
    ("fr", "lun. 30 juil. 2018", "lun. 30 juil., 12:00"),
    ("es", "lun 30 jul 2018", "lun 30 jul, 12:00"),
    ("it", "lun 30 lug 2018", "lun 30 lug, 12:00")])
def test_days_and_months(language, date, stamp):
    locale = iot.Locale(language)
    assert locale.say_time(JULY, "date") == date
    assert locale.say_time(JULY, "date_clock") == stamp
    assert len(locale.say("weekdays").split()) == 7
    assert len(locale.say("months").split()) == 12
    assert len({*locale.say("compass").split()}) == 16


def test_our_own_labels_are_translated_and_those_of_others_are_not(house):
    house = house(("garden", None))
    for field, label, value in ((2, None, 50), (4, "wind m/s", 1.5), (5, "wind from °", 90),
                                (6, "mein Wind m/s", 2), (7, None, 3), (8, "UV index", 4)):
        house.store("garden", [-1], value, field)
        if label:
            house.writer.label("garden", field, label)
    tiles = [text for _, text in house.page("/", **DE).all("li") if "garden" not in text]
    assert tiles == ["Luftfeuchte 50 %", "Wind 1,5 m/s", "Wind aus O 90°", "mein Wind 2 m/s",
                     "Feld 7 3", "UV-Index 4"]


def test_a_page_without_a_station_and_the_notes_of_a_page(house):
    house = house()
    page = house.page("/", **DE)
    assert page.one("h1") == "Noch keine Station"
    assert "{" not in page.text
    house.writer.add_station("inside", "m", "inside", None, JULY)
    house.server.board.note("x", "messages_failed", name="json://a", why="403")
    house.server.board.expires = 0
    assert "Nachrichten an json://a kommen seit einer Stunde nicht an: 403." in house.page(
        "/", **DE).text
    assert "Messages to json://a have failed for an hour: 403." in house.page().text
    house.server.board.note("x", "")
    assert "json://a" not in house.page().text


# -- which one ------------------------------------------------------------------------------------

@pytest.mark.parametrize(("language", "setting", "accepted"), [
    ("de", "auto", "de"), ("de", "auto", "de-AT,en;q=0.5"), ("en", "auto", ""),
    ("en", "auto", "*"), ("en", "auto", "pl,cs;q=0.9"), ("fr", "auto", "pl,fr;q=0.5,de;q=0.4"),
    ("it", "auto", "fr;q=0.4, it ;q=0.9 , en;q=0.8"), ("en", "auto", "en-US,en;q=0.9,de;q=0.8"),
    ("de", "auto", "en;q=0.5,de"), ("es", "auto", "es-419,en"), ("en", "auto", "de;q=0"),
    ("fr", "auto", "FR-ca"), ("de", "auto", "de,fr"), ("fr", "auto", "fr;q=1.0,de;q=1.0"),
    ("en", "auto", "deu,den"), ("en", "auto", "d-e;;,=\xff"), ("de", "auto", "\tde"),
    ("it", "it", "de"), ("en", "en", "de-DE,de"), ("de", "auto", "de; q=0.001,xx"),
    ("en", "auto", "de;q=0.000,en;q=0.1"), ("fr", "auto", "xde,fr")])
def test_the_first_language_that_there_is(language, setting, accepted):
    assert iot.choose_language(setting, accepted) == language


@given(some.text(max_size=100))
def test_any_header_gets_a_language_that_there_is(accepted):
    assert iot.choose_language("auto", accepted) in iot.LANGUAGES


def test_the_page_says_which_language_it_is(home):
    for headers, language, words in (
            (DE, "de", "Fenster öffnen"), ({"Accept-Language": "fr"}, "fr", "Ouvrir les fenêtres"),
            ({}, "en", "Open the windows")):
        response = home.get("/", **headers)
        assert f'<html lang="{language}">' in response.text
        assert response.headers["content-language"] == language
        assert "Accept-Language" in response.headers["vary"]
        assert words in home.page("/", **headers).one("title")


def test_a_language_of_the_owner_wins(house):
    house = house(("inside", "inside"), ("outside", "outside"), language="it")
    assert house.page("/", **DE).one("title") == "Nessuna risposta"
    assert house.get("/nothing", Accept="text/html", **DE).headers["content-language"] == "it"


def test_only_the_beginning_of_a_long_header_is_read(home):
    padding = ",".join(["x" * 8] * 20)
    assert home.get("/", **{"Accept-Language": f"{padding},de"}).headers[
        "content-language"] == "en"


# -- what it costs --------------------------------------------------------------------------------

def test_pages_of_all_languages_are_kept_together(home):
    """A stranger who asks in many ways makes no more than MAX_PAGES."""
    pages = home.server.board.pages
    for zone in range(40):
        for language in ("de", "fr", "es", "it", "en"):
            home.get("/", Cookie=f"offset={zone}", **{"Accept-Language": language})
            assert len(pages) <= iot.MAX_PAGES
    before = dict(pages)
    for accepted in ("it-IT", "it;q=0.3", "it,de", "xx,it;q=0.5"):
        home.get("/", Cookie="offset=39", **{"Accept-Language": accepted})
    assert pages == before, "other wishes for the same language get the page that is there"


# -- for programs ---------------------------------------------------------------------------------

def test_answers_for_programs_are_english_unless_asked(home):
    for headers in ({}, DE):
        assert home.get("/verdict.txt", **headers).text == (
            "inside: Open the windows: it is 4 °C cooler outside.\n")
    assert home.get("/verdict.txt?language=de").text == (
        "inside: Fenster öffnen. Draußen ist es 4\u00a0°C kühler.\n")
    assert home.get("/verdict.txt?language=fr").text == (
        "inside\u00a0: Ouvrir les fenêtres. Il fait 4\u00a0°C de moins dehors.\n")
    verdict, = home.get("/api/verdict?language=es").json["verdicts"]
    assert verdict["text"] == "Abrir las ventanas. Fuera hay 4\u00a0°C menos."
    assert verdict["state"] == "open"
    for language in ("xx", "", "auto", "DE", "de-DE"):
        refused = home.get(f"/verdict.txt?language={language}")
        assert refused.status == 400
        assert refused.text == "language: one of en, de, fr, es, it\n"
        assert home.get(f"/api/verdict?language={language}").status == 400


def test_without_a_station_it_is_said_in_that_language(house):
    assert house().get("/verdict.txt?language=it").text.startswith(
        "Ancora nessuna risposta. Serve una stazione")


# -- errors ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("language", ["en", "de", "fr", "es", "it"])
def test_an_error_says_what_to_do_in_that_language(home, language):
    response = home.get("/nothing", Accept="text/html", **{"Accept-Language": language})
    locale = iot.Locale(language)
    assert response.status == 404
    assert response.headers["content-language"] == language
    for text in (*locale.say("error_404").split(" / "), locale.say("open_page")):
        assert text in response.text
    technical = "There is nothing at this address; the page is at /."
    assert f'<code lang="en">{technical}</code>' in response.text or language == "en"
    assert response.text.count(technical) == 1
    assert response.text.count("Not Found") == 2 * (language == "en"), "title and headline"
    assert home.get("/nothing", Accept="text/plain", **{"Accept-Language": language}).text == (
        "there is nothing at this address; the page is at /\n")


@pytest.mark.parametrize(("status", "key"), [(413, ""), (505, ""), (404, "_404")])
def test_an_error_without_words_of_its_own_has_words_all_the_same(status, key):
    settings = iot.argparse.Namespace(language="auto", units="auto")
    request = iot.Request(headers={"accept": "text/html", "accept-language": "de"})
    answer = iot.render_refusal(request, iot.Refused(status, "too long"), settings)
    for text in iot.Locale("de").say(f"error{key}").split(" / "):
        assert text in answer.body.decode()
    assert answer.status == status


# -- one more -------------------------------------------------------------------------------------

@pytest.fixture
def made_up(monkeypatch):
    """A language that sets each sentence in brackets, added as one column."""
    monkeypatch.setattr(iot, "LANGUAGES", dict(iot.LANGUAGES))
    monkeypatch.setattr(iot, "SETTINGS", list(iot.SETTINGS))
    iot.enter_languages((CODE,), column(iot.SENTENCES))
    return CODE


def test_a_language_is_one_column(made_up, home):
    assert home.page("/", **{"Accept-Language": made_up}).one("title") == "⟦Open the windows⟧"
    setting = next(setting for setting in iot.SETTINGS if setting.name == "language")
    assert setting.parse(made_up) == made_up
    assert setting.metavar.endswith(f"|{CODE}")


def test_a_column_that_lacks_a_sentence_is_no_language():
    with pytest.raises(ValueError, match="zip"):
        iot.enter_languages(("xx", "yy"), {"headline_open": ("a", "b"), "headline_close": ("c",)})
    assert "xx" not in iot.LANGUAGES


# -- messages -------------------------------------------------------------------------------------

@pytest.mark.wings("Messages")
@pytest.mark.parametrize(("flags", "title", "text"), [
    ({"language": "de"}, "Fenster öffnen",
     "Fenster öffnen. Draußen ist es 4\u00a0°C kühler (drinnen 28,0, draußen 24,0)."),
    ({"language": "fr", "units": "F"}, "Ouvrir les fenêtres",
     "Ouvrir les fenêtres. Il fait 7,2\u00a0°F de moins dehors (dedans 82,4, dehors 75,2)."),
    ({}, "Open the windows",
     "Open the windows: it is 4 °C / 7.2 °F cooler outside (inside 28.0 / 82.4, "
     "outside 24.0 / 75.2)."),
    ({"units": "C"}, "Open the windows",
     "Open the windows: it is 4 °C cooler outside (inside 28.0, outside 24.0).")])
def test_messages_are_in_the_language_of_the_house(house, flags, title, text):
    house = house(("inside", "inside"), ("outside", "outside"), **flags)
    house.store("inside", range(-30, 1), 28)
    house.store("outside", range(-30, 1), 24)
    place = next(place for place in finish(house.server.board.look()) if place.verdict)
    station = house.writer.find("inside")
    assert iot.say_message(station, "verdict", "open", place, round(house.time * 1000),
                           iot.choose_household(house.server.settings)) == (title, text)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413, 429, 500, 503, 507])
def test_each_word_of_a_refusal_is_in_the_table(made_up, status):
    settings = iot.argparse.Namespace(language="auto", units="auto")
    request = iot.Request(headers={"accept": "text/html", "accept-language": made_up})
    answer = iot.render_refusal(request, iot.Refused(status, "English"), settings)
    page = Page(answer.body.decode())
    assert outside(re.sub("English.", "", page.text)).split() == []
    assert outside(page.one("title")) == ""


@pytest.mark.wings("Messages")
def test_each_word_of_a_message_is_in_the_table(made_up, house):
    house = house(("inside", "inside"), ("outside", "outside"))
    house.store("inside", range(-30, 1), 28)
    house.store("outside", range(-30, 1), 24)
    locale, station = iot.Locale(made_up, "CF", None), house.writer.find("inside")
    place = next(place for place in finish(house.server.board.look()) if place.verdict)
    place = place._replace(forecast=iot.Forecast("cooler", JULY, JULY - iot.HOUR, JULY + iot.HOUR,
                                                 0.9, 40, (), ()))
    for topic, state in (("verdict", "open"), ("verdict", "close"), ("silence", "silent"),
                         ("silence", "back"), ("plan", "2018-07-30")):
        for text in iot.say_message(station, topic, state, place, JULY, locale):
            assert "⟦" in text
            assert not re.search("[A-Za-z]{2}", outside(text)), text
