#!/usr/bin/env python3
"""Renders the templates of a JSON list with the Python package jinja2, set up as transformers does.

usage: render_jinja.py SNIPPETS.json > RESULTS.json
Each entry {"template", "variables"} becomes {"text"} or {"error"}. `--update` rewrites the file with the
results as "expected" instead ({"text"} or {"error": true}).
"""
import json
import sys
from datetime import datetime

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox


class Generation(jinja2.ext.Extension):
    """{% generation %}: what an assistant says; here only its text counts."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def make_environment():
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda format: datetime(2024, 2, 29, 13, 4, 5).strftime(format)
    return environment


def render(environment, entry):
    try:
        return {"text": environment.from_string(entry["template"]).render(**entry.get("variables", {}))}
    except Exception as error:  # every refusal counts, whatever its type
        return {"error": f"{type(error).__name__}: {error}"}


def main():
    update = "--update" in sys.argv
    path = next(a for a in sys.argv[1:] if not a.startswith("--"))
    with open(path, encoding="utf-8") as file:
        entries = json.load(file)
    environment = make_environment()
    results = [render(environment, entry) for entry in entries]
    if not update:
        json.dump(results, sys.stdout)
        return
    for entry, result in zip(entries, results):
        entry["expected"] = result if "text" in result else {"error": True}
    with open(path, "w", encoding="utf-8") as file:
        file.write("[\n" + ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries) + "\n]\n")


if __name__ == "__main__":
    main()
