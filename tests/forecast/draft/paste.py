"""Pastes forecast.py and demo.py into a copy of iotserver.py, to try them before the
merge; says by its steps what the merge has to do."""
from pathlib import Path

here = Path(__file__).parent
server = (here.parents[2] / "iotserver.py").read_text()


def body(name, rule):
    text = (here / name).read_text()
    return text[text.index(rule):].rstrip() + "\n\n\n"


def replace(old, new):
    global server
    assert old in server, old
    server = server.replace(old, new, 1)


if "\nimport bisect\n" not in server:
    replace("import base64\n", "import base64\nimport bisect\n")
BANNER = "# " + 96 * "-" + "\n# 5. Store"
replace(BANNER, body("forecast.py", "# -- the forecast ---") + BANNER)
start = server.index("# -- the demonstration ---")
end = server.index("# -- serving ---")
server = server[:start] + body("demo.py", "# -- the demonstration ---") + server[end:]
replace("            fill_demo(writer, now_ms())", "            house = fill_demo(writer, now_ms())")
replace("(5, play_demo))", "(5, functools.partial(play_demo, house)))")
(here / "build").mkdir(exist_ok=True)
(here / "build" / "iotserver.py").write_text(server)
