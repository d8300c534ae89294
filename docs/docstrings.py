"""Docstrings as Markdown: what they say of a parameter becomes an item of a list."""

import ast
import re
from typing import Any

import griffe

ITEM = re.compile(r"[a-z_][a-z0-9_]*(, [a-z_][a-z0-9_]*)*(?= ?(\(.*?\))?:(\s|$))")


class Items(griffe.Extension):
    """Lists for lines such as `seed: of what is drawn`, and comments beside the fields."""

    def on_attribute_instance(
        self, *, node: ast.AST | griffe.ObjectNode, attr: griffe.Attribute, **kwargs: Any
    ) -> None:
        """A field's comment is its docstring."""
        lines = attr.lines
        if attr.docstring is None and len(lines) == 1 and "  # " in lines[0]:
            attr.docstring = griffe.Docstring(lines[0].split("  # ", 1)[1], parent=attr)

    def on_instance(
        self, *, node: ast.AST | griffe.ObjectNode, obj: griffe.Object, **kwargs: Any
    ) -> None:
        """Items instead of lines that Markdown would run together."""
        if obj.docstring is not None:
            obj.docstring.value = listed(obj.docstring.value)


def listed(text: str) -> str:
    """The docstring with a list where it explains one name after another."""
    made: list[str] = []
    inside = False  # an item, whose further lines are indented
    for line in text.split("\n"):
        found = ITEM.match(line)
        if found:
            made += [] if inside else [""]
            names = ", ".join(f"`{name}`" for name in found.group().split(", "))
            made.append(f"- {names}{line[found.end() :]}")
            inside = True
        elif inside and line.startswith("    "):
            made.append(line)
        else:
            made += ["", line] if inside and line else [line]
            inside = False
    return "\n".join(made)
