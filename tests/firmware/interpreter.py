"""A real MicroPython for the tests: the system's, else the next Debian's, kept under .cache/."""
import functools
import re
import shutil
import subprocess
from pathlib import Path

from tools import CACHE, from_npm, need, skip

DEBIAN = CACHE / "micropython"
PACKAGES = ("micropython", "libc6", "libffi8", "libmbedcrypto16", "libmbedtls21", "libmbedx509-7")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


@functools.cache
def micropython():
    """Command line that starts MicroPython's unix port; skips the test where there is none."""
    if path := shutil.which("micropython"):
        return (path,)
    if not DEBIAN.is_dir():
        unpack_debian_13()
    library = next(DEBIAN.glob("usr/lib/*/libmbedtls.so.*")).parent
    loader = next(library.glob("ld-linux*"))
    return (str(loader), "--library-path", str(library), str(DEBIAN / "usr/bin/micropython"))


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL,
                          timeout=300, check=False, **options)
    if done.returncode:
        skip(f"{command[0]} failed: {done.stderr.strip()[-300:]}")
    return done.stdout


def unpack_debian_13():
    """Debian 13's package with its libraries, since Debian 12 has none and an older libc."""
    if not (Path(KEYRING).exists() and mirror()):
        skip("no micropython here, and no Debian mirror to get one from")
    work = CACHE / "micropython.download"
    shutil.rmtree(work, ignore_errors=True)
    for folder in ("lists/partial", "archives/partial", "root"):
        (work / folder).mkdir(parents=True)
    (work / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror()} trixie main\n")
    apt = ("apt-get", "-qq", "-o", f"Dir::Etc::sourcelist={work}/sources.list",
           "-o", "Dir::Etc::sourceparts=-", "-o", f"Dir::State::lists={work}/lists",
           "-o", f"Dir::Cache={work}")
    run(*apt, "update")
    run(*apt, "download", *PACKAGES, cwd=work)
    for package in work.glob("*.deb"):
        run("dpkg", "-x", str(package), str(work / "root"))
    (work / "root").rename(DEBIAN)
    shutil.rmtree(work)


def mirror():
    """The address from which this machine already gets Debian."""
    places = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*.sources")]
    text = "\n".join(place.read_text() for place in places if place.exists())
    found = re.search(r"https?://\S+/debian(?=\s)", text)
    return found and found.group()


@functools.cache
def webassembly():
    """(node, the module of a MicroPython whose raw REPL can be driven character by character)."""
    name = "@micropython/micropython-webassembly-pyscript"
    return need("node"), from_npm("webassembly", name) / name / "micropython.mjs"
