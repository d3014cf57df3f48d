"""The chart's README, out of its values and their comments. Usage: readme.py VALUES."""

import json
import pathlib
import re
import sys

import yaml


def rows(text):
    values = yaml.safe_load(text)
    path, said = [], None
    for line in text.splitlines():
        comment = re.match(r" *# (-- )?(.*)", line)
        key = re.match(r"( *)([A-Za-z_]+):", line)
        if comment and comment[1]:
            said = comment[2]
        elif comment and said is not None:
            said += " " + comment[2]
        elif key:
            path = path[: len(key[1]) // 2] + [key[2]]
            if said is None:
                continue
            value = values
            for step in path:
                value = value[step]
            yield ".".join(path), value, said
            said = None
        else:
            said = None if not line.strip() else said


def main(values):
    head = pathlib.Path(values).with_name("README.head.md").read_text()
    print(head)
    print("| value | default | |")
    print("|---|---|---|")
    for path, value, said in rows(pathlib.Path(values).read_text()):
        shown = json.dumps(value, ensure_ascii=False)
        said = said.replace("|", "\\|")
        print(f"| `{path}` | `{shown}` | {said} |")


main(*sys.argv[1:])
