"""What the project promises about itself: its pages, its one file, its top level."""
import ast
import re
import shutil
import subprocess
import sys
from zoneinfo import ZoneInfo

import pytest
from tools import ROOT, needs_of, skip

import iotserver as iot

SOURCE = (ROOT / "iotserver.py").read_text(encoding="utf-8")
PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in (
    "README.md", "firmware/README.md", "systemd/README.md", "tests/README.md",
    "tests/thingspeak/README.md") if (ROOT / name).exists()}
README = PAGES["README.md"]
FLAGS = {flag for action in iot.build_parser({})._actions
         for flag in action.option_strings if flag.startswith("--")}
CONTRACT = {                    # design.md, Layout
    "iotserver.py", "firmware", "systemd", "tests", "README.md", "LICENSE", "pyproject.toml",
    ".ci", ".gitignore"}
MAX_README = 200                # lines that are seen before one unfolds any: more is not read
MAX_COLUMNS = {"README.md": 99} | dict.fromkeys(
    ("firmware/README.md", "systemd/README.md", "tests/README.md"), 120)


def section(title, text=README):
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def codes(text):
    """What stands in backticks within the text, not in blocks of its own."""
    return re.findall(r"`([^`]+)`", re.sub(r"(?ms)^```.*?^```", "", text))


def rows(title):
    """The cells of the tables in a section of the README."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


# -- the pages and the program --------------------------------------------------------------------


def unfolded(text):
    """The lines that are seen before a reader unfolds any."""
    return re.sub(r"(?s)(<details>.*?</summary>\n).*?</details>\n", r"\1", text).splitlines()


def test_the_readme_is_a_page_and_what_is_folded_is_whole():
    """Markdown is read within <details> only where empty lines part it from the tags, and a link
    to a heading within them leads nowhere."""
    shown = unfolded(README)
    assert 100 < len(shown) <= MAX_README
    assert "</details>" not in shown
    folds = re.findall(r"(?s)<details>(.*?)</details>", README)
    assert len(folds) == README.count("<details>") == README.count("</details>") > 5
    for fold in folds:
        assert re.fullmatch(r"(?s)<summary>[^\n]+</summary>\n\n.+\n\n", fold)
        assert not re.search("(?m)^#", re.sub(r"(?ms)^```\w+\n.*?^```$", "", fold))


@pytest.mark.parametrize("page", MAX_COLUMNS)
def test_the_lines_of_a_page_are_short(page):
    """But for rows of tables, and for lines with an address, which cannot be broken."""
    assert [line for line in PAGES[page].splitlines() if len(line) > MAX_COLUMNS[page]
            and not line.startswith("|") and not re.search(r"http://\S{20}", line)] == []


def test_the_flags_of_the_readme_are_those_of_the_program():
    told = [re.match("--[a-z-]+", code)[0]
            for row in rows("Flags") for code in codes(row[0]) if code.startswith("--")]
    assert set(told) == FLAGS
    assert len(told) == len(FLAGS)


def test_every_flag_that_the_readme_names_exists():
    said = README.replace("install.sh --home", "").replace("tests/run --quick", "")
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", said)) == FLAGS


def test_help_for_the_tests_is_printed_and_installs_nothing(tmp_path):
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "tests/run", tmp_path / "tests")
    for flags in (["--help"], ["-h"], ["-k", "prune", "--help"]):
        done = subprocess.run(["sh", tmp_path / "tests/run", *flags], text=True, timeout=20,
                              capture_output=True, check=True, env={"PATH": "/usr/bin:/bin"})
        assert re.findall("tests/run(.*?) {3}", done.stdout) == [
            "", " --no-install", " --quick", " -k prune", " --help"]
        assert done.stderr == ""
    assert [path.name for path in tmp_path.rglob("*")] == ["tests", "run"]


def test_settings_have_their_variable_and_default_in_the_readme():
    table = {row[0].split()[0].strip("`"): row for row in rows("Flags") if len(row) == 4}
    for setting in iot.SETTINGS:
        row = table[f"--{setting.name}"]
        assert codes(row[1]) == [setting.variable]
        if setting.metavar and setting.default:
            assert codes(row[3]) == [setting.default]
    assert {"STATE_DIRECTORY", "LISTEN_FDS", "NOTIFY_SOCKET", "WATCHDOG_USEC"} <= {
        *codes(section("Flags"))}


def test_the_requests_of_the_readme_are_the_routes_of_the_program():
    told = {tuple(code.replace("...", "").split("?")[0].split()) for row in rows("HTTP")
            for code in codes(row[0]) if code.split()[0] in {"GET", "POST"}}
    routes = {(route.method, route.path) for route in iot.ROUTES}
    assert told <= routes
    calls = " ".join(codes(PAGES["tests/thingspeak/README.md"]))
    for method, path in routes - told:
        assert method in calls, (method, path)
        assert path.split(".")[0] in calls, (method, path)


LIMITS = {                      # what the pages say of flags and HTTP, and the number behind it
    "bursts of N, and {} readings for each": iot.READINGS_PER_UPDATE,
    "bursts of {}; 30 bytes": iot.MIN_BURST,
    "{} bytes of a text count as one": iot.TEXT_UNIT,
    "up to {} readings of one station": iot.MAX_BULK,
    "0 to {} (30 days)": iot.MAX_AGE,
    "a decimal number of at most {} characters": iot.MAX_NUMBER,
    "this reading, 1 to {} characters": iot.MAX_SEQ,
    "a label | {} characters": iot.MAX_NAME,
    "among the newest {} entries": iot.RECEIPTS,
    "the request line | {} bytes": iot.MAX_LINE,
    "all headers | {} bytes": iot.MAX_HEAD,
    "bytes and {} lines": iot.MAX_HEADERS,
    "a body | {} KiB": iot.MAX_BODY // 1024,
    "complete within {} s, a body": iot.PATIENCE["head"],
    "a body within {} s": iot.PATIENCE["body"],
    "closed after {} s": iot.PATIENCE["idle"],
    "connections | {}, or": iot.MAX_CONNECTIONS,
    "of these {} on `/events`": iot.MAX_LISTENERS,
    "and {} exports": iot.MAX_STREAMS,
    "({} from one address)": iot.MAX_NETWORK_LISTENERS,
    "`points` 1 to {} (": iot.MAX_POINTS,
    "({} when left out)": iot.DEFAULT_POINTS,
    "of JSON {} lists and objects": iot.MAX_BRACKETS,
    "a console's report {} KiB": iot.MAX_ENTRY // 1024,
    "A body above {} KiB": iot.MAX_STRANGE_BODY // 1024,
    "or {} wrong keys or passwords in 15 minutes": iot.MAX_GUESSES,
    "passwords in {} minutes": iot.GUESS_WINDOW // 60,
}


@pytest.mark.parametrize("words", LIMITS)
def test_limits_in_the_readme_are_those_of_the_program(words):
    devices = section("HTTP for devices", PAGES["firmware/README.md"])
    said = " ".join((section("Flags") + section("HTTP") + devices).split())
    assert words.format(f"{LIMITS[words]:,}") in said


RULES = {                       # what the section on the verdict says, and the number behind it
    "at {:.1f} °C (1.8 °F) cooler": iot.OPEN_MARGIN,
    "at {:.1f} °C (0.9 °F) warmer": iot.CLOSE_MARGIN,
    "is more than {:.0f} °C below": iot.COLD_MARGIN,
    "more than {:.1f} °C warmer outside:": iot.CLOSE_MARGIN,
    "When it is {:.0f} °C warmer outside or more": iot.OPEN_MARGIN,
    "has lasted {} minutes": iot.CONFIRM // iot.MINUTE,
    "changes | at least {} minutes": iot.DWELL // iot.MINUTE,
    "a difference of {:.1f} °C (5.4 °F)": iot.URGENT_MARGIN,
    "stays so up to {:.1f} °C (4.5 °F) above": iot.COMFORT_MARGIN,
    "at least {} minutes. A long gap": iot.SILENT_AT_LEAST // iot.MINUTE,
    "within {} minutes the middle one": iot.SAYING_TIME // iot.MINUTE,
    "by more than {:.0f} °C": iot.DOUBT_MARGIN,
    "by more than {:.1f} °C for each minute": iot.DOUBT_RATE,
    "below {:.0f} or above": iot.POSSIBLE[0],
    "or above {:.0f} °C": iot.POSSIBLE[1],
    "more than {:.0f} °C above that inside": iot.DEW_MARGIN,
    "replays the last {} days": iot.REPLAY_WINDOW // iot.DAY,
}


@pytest.mark.parametrize("words", RULES)
def test_rules_of_the_verdict_in_the_readme_are_those_of_the_program(words):
    assert words.format(RULES[words]) in " ".join(section("The verdict").split())


def test_the_words_of_the_verdict_in_the_readme_are_those_of_the_page():
    text = " ".join(section("The verdict").split())
    told = re.findall(r"(?<!\*)\*([^*]+\.)\*", text)
    assert len(told) > 8
    at, start, end = (iot.DAY + minute * iot.MINUTE for minute in (1240, 1210, 1280))
    evening = iot.Forecast("cooler", at, start, end, 0.9, 60, (), (), past=(
        iot.Outcome("cooler", 18 * iot.MINUTE, 0, 1.0),) * 20)
    room = iot.Place("inside", "inside", 0, 1, [], None, forecast=evening)
    sentences = [re.sub("{(d|pm)}", "{}", text) for text in iot.SENTENCES.values()]
    assert {re.sub(r"\d+ °C|\d+(?= µg/m³)", "{}", words) for words in told} <= {
        *sentences, *(text[:1].lower() + text[1:] for text in sentences),
        *iot.say_forecast(room, iot.DAY, iot.Locale(zone=ZoneInfo("UTC"))),
        iot.say_record(evening, iot.ENGLISH)}
    assert set(re.findall(r"\*\*([^*]+:)\*\*", text)) == {
        f"{text}:" for key, text in iot.SENTENCES.items()
        if key.startswith("headline_") and key != "headline_none"}


def test_no_system_is_claimed_that_was_not_tested():
    said = "It is tested on Linux, not on macOS; it does not run on Windows."
    assert said in " ".join(README.split())


def test_the_size_of_a_reading_says_whether_with_a_seq():
    told = " ".join(PAGES["tests/README.md"].split())
    assert re.search("for readings without `seq`. With one, .* takes at most 45 bytes", told)


def test_what_the_guide_to_changes_names_in_the_program_is_there():
    names = {code for code in codes(section("Change the program", PAGES["tests/README.md"]))
             if re.fullmatch("[A-Z_]{3,}|[A-Z][a-z]+|[a-z_]+", code)}
    assert {"SETTINGS", "ROUTES", "MIGRATIONS", "Answer"} <= names
    assert {name for name in names if not hasattr(iot, name)} == set()


def test_the_version_has_its_changes_in_the_readme():
    assert f"**{iot.__version__}**" in section("Changes")


def anchors(text):
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"(?s)```.*?```", "", text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    links = re.findall(r'\]\(([^)\s]+)\)|src="([^"]+)"', PAGES[page])
    for target in [one or other for one, other in links]:
        if not target.startswith("http"):
            name, _, anchor = target.partition("#")
            path = ((ROOT / page).parent / name).resolve() if name else ROOT / page
            assert path.exists(), target
            assert not anchor or anchor in anchors(path.read_text(encoding="utf-8")), target


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_are_there(page):
    found = [code for code in codes(PAGES[page])
             if re.fullmatch(r"(tests|systemd|firmware)/[\w./-]+", code)]
    folders = ROOT, (ROOT / page).parent
    assert [name for name in found if not any((f / name).exists() for f in folders)] == []


def test_the_guide_names_each_file_that_is_installed():
    named = set(re.findall(r"[\w.-]+", " ".join(codes(PAGES["systemd/README.md"]))))
    for path in set((ROOT / "systemd").iterdir()) - {ROOT / "systemd/README.md"}:
        assert {path.name, path.suffix} & named, path.name


# -- the one file ---------------------------------------------------------------------------------


def test_only_the_standard_library_is_imported():
    modules = set()
    for node in ast.walk(ast.parse(SOURCE)):
        if isinstance(node, ast.Import):
            modules |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(node.module.partition(".")[0])
    assert modules
    assert modules - set(sys.stdlib_module_names) == set()


def test_nothing_else_is_at_the_top_level():
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        skip("this is no git clone")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True,
                            text=True).stdout.splitlines()
    top = {name.partition("/")[0] for name in listed}
    assert top - CONTRACT == set()
    assert CONTRACT - top == set()


def test_each_file_of_tests_is_in_their_readme_with_what_it_needs(request):
    """As far as its tests are among those that run now."""
    rows = re.findall(r"^\| `(tests/\S+/test_\w+\.py)` \|[^|]*\|([^|]*)\|",
                      PAGES["tests/README.md"], re.MULTILINE)
    told = {ROOT / file: set(codes(needs)) for file, needs in rows}
    assert told.keys() == {*ROOT.glob("tests/*/test_*.py")}
    for item in request.session.items:
        assert needs_of(item) <= told[item.path], item


def test_no_test_file_imports_another():
    for path in ROOT.glob("tests/**/*.py"):
        assert not re.search(r"^\s*(from|import) test_", path.read_text(), re.MULTILINE), path
