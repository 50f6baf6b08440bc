"""Changes of a recipe, as they are written on a command line."""

from __future__ import annotations

import ast
from typing import Any


def parsed(change: str) -> tuple[str, Any]:
    """Return name and value of ``name=value``; what is no literal of Python's is text."""
    name, _, text = change.partition("=")
    try:
        return name, ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return name, text
