"""Runs a program that speaks one more language: Esperanto's code, with each English sentence in
⟦ ⟧ and a comma in numbers. What stands outside of brackets is in no table.

brackets.py PROGRAM [ARGUMENT ...]
"""
import importlib.util
import re
import sys

CODE = "eo"
# Signs and forms, which have no words; their parts are other sentences.
BARE = {"point", "day", "date", "date_clock", "exact", "moment", "quantity", "percent", "answer",
        "in_room", "reading"}
LISTS = {"weekdays": " ", "months": " ", "compass": " "}        # words, and what is between them


def column(sentences):
    """The sentences of that language. A row of several has brackets around each of them."""
    def bracket(key, text):
        between = LISTS.get(key, " / ")
        text = f"title / text / {text}" if key.startswith("error") else text    # English has none
        return between.join(f"⟦{part}⟧" for part in text.split(between))
    return {key: (text.replace(".", ",") if key in BARE else bracket(key, text),)
            for key, text in sentences.items()}


def outside(text):
    """What stands outside of all brackets."""
    before = None
    while text != before:
        before, text = text, re.sub("⟦[^⟦⟧]*⟧", "", text)
    return text


def main():
    del sys.argv[0]
    spec = importlib.util.spec_from_file_location("iotserver", sys.argv[0])
    program = importlib.util.module_from_spec(spec)
    sys.modules["iotserver"] = program
    spec.loader.exec_module(program)
    program.enter_languages((CODE,), column(program.SENTENCES))
    sys.exit(program.main())


if __name__ == "__main__":
    main()
