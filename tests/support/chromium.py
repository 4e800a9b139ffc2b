"""What is told to Chromium, and what the page's headline says."""
import re

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync"]
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True}
OPEN, CLOSE, COMFORTABLE, UNKNOWN = (re.compile(text) for text in (
    r"^Open the windows", r"^Keep the windows closed", r"^Comfortable inside", r"^No answer"))
