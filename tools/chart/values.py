"""values.yaml as data: its defaults, the description of each value, and what its JSON schema says beyond the default."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

Path_ = tuple[str, ...]
DEFS = {
    "share": {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "quota": {"type": "number", "minimum": -1},
            "limit": {"type": "number", "minimum": -1},
            "overQuotaWeight": {"type": "number", "minimum": 0},
        },
    }
}
TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
TEMPLATE = "clusterState"
"""The block that other services take over by a YAML merge; so they take over its comments."""
_KEY = re.compile(r"^(\s*)([A-Za-z][A-Za-z0-9]*):")


class Comment:
    """What stands above a key."""

    def __init__(self, lines: list[str]) -> None:
        self.text = " ".join(line for line in lines if not line.startswith("@schema"))
        self.schema: dict[str, Any] = {}
        for line in lines:
            if line.startswith("@schema"):
                self.schema |= json.loads(line.removeprefix("@schema"))


def comments(text: str) -> dict[Path_, Comment]:
    """Path of a key -> the comment right above it."""
    found: dict[Path_, Comment] = {}
    above: list[str] = []
    where: list[tuple[int, str]] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            above.append(stripped.lstrip("#").strip())
            continue
        if match := _KEY.match(line):
            indent = len(match.group(1))
            while where and where[-1][0] >= indent:
                where.pop()
            where.append((indent, match.group(2)))
            if above:
                found[tuple(name for _, name in where)] = Comment(above)
        above = []
    return found


class Values:
    """The file, read."""

    def __init__(self, path: Path) -> None:
        text = path.read_text()
        self.defaults: dict[str, Any] = yaml.safe_load(text)
        self._comments = comments(text)

    def comment(self, path: Path_) -> Comment:
        """Of a value; a service without its own has that of the common block."""
        if path not in self._comments and len(path) > 1 and self._is_service(path[0]):
            path = (TEMPLATE, *path[1:])
        return self._comments.get(path) or Comment([])

    def _is_service(self, name: str) -> bool:
        value = self.defaults[name]
        return isinstance(value, dict) and set(self.defaults[TEMPLATE]) <= set(value)

    def _schema(self, value: Any, path: Path_) -> dict[str, Any]:
        comment = self.comment(path)
        found: dict[str, Any] = {} if value is None else {"type": TYPES[type(value)]}
        if comment.text:
            found["description"] = comment.text
        if isinstance(value, dict) and "additionalProperties" not in comment.schema:
            found["additionalProperties"] = False
            found["properties"] = {k: self._schema(v, (*path, k)) for k, v in value.items()}
        found |= comment.schema
        if not path or len(path) == 1:
            return found
        if "type" not in found:
            raise ValueError(f"{'.'.join(path)}: say its type in an @schema comment")
        return found

    def schema(self) -> dict[str, Any]:
        """JSON schema of the whole; a name that is not there is refused."""
        return {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "title": "Values of the chart shoal",
            "$defs": DEFS,
            **self._schema(self.defaults, ()),
        }

    def _rows(self, value: Any, path: Path_) -> list[tuple[str, str, str]]:
        if isinstance(value, dict) and value and "additionalProperties" not in self.comment(path).schema:
            return [row for k, v in value.items() for row in self._rows(v, (*path, k))]
        default = json.dumps(value) if value not in ("", None, {}, []) else ""
        return [(".".join(path), default if len(default) < 60 else "see values.yaml", self.comment(path).text)]

    def table(self) -> str:
        """The values as a Markdown table; what services have in common once."""
        common = set(self.defaults[TEMPLATE])
        lines = ["| value | default | meaning |", "| --- | --- | --- |"]
        for name, value in self.defaults.items():
            if self._is_service(name):
                own = {k: v for k, v in value.items() if k not in common or name == TEMPLATE}
                rows = [(f"{name}.*" if name != TEMPLATE else "<service>.*", "", self.comment((name,)).text)]
                rows += self._rows(own, (name,)) if own else []
                rows = [(p.replace(f"{TEMPLATE}.", "<service>."), d, t) for p, d, t in rows]
                if name == TEMPLATE:
                    rows[0] = (
                        "<service>.*",
                        "",
                        "Every service: clusterState, podgrouper, queuecontroller, scheduler, binder, …",
                    )
                lines += [_row(*r) for r in rows]
            else:
                lines += [_row(*r) for r in self._rows(value, (name,))]
        return "\n".join(lines) + "\n"


def _row(name: str, default: str, text: str) -> str:
    return f"| `{name}` | {f'`{default}`' if default else ''} | {text.replace('|', '/')} |"
