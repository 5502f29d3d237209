"""Shows a config's fields in the API reference with the help and the default of `static(...)` and `traced(...)`."""

from __future__ import annotations

import ast
from typing import Any

import griffe

KINDS = {"static": "A constant of the program.", "traced": "Traced."}


class ConfigFields(griffe.Extension):
    """Gives a field that is made by `static` or `traced` its help text as docstring, and its default as value."""

    def on_attribute(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Called for each attribute when its module has been read."""
        call = attr.value
        if not isinstance(call, griffe.ExprCall) or str(call.function) not in KINDS:
            return
        named = {one.name: one.value for one in call.arguments if isinstance(one, griffe.ExprKeyword)}
        given = [one for one in call.arguments if not isinstance(one, griffe.ExprKeyword)]
        attr.value = given[0] if given else named.get("default")
        if "help" in named and attr.docstring is None:
            text = ast.literal_eval(str(named["help"]))
            attr.docstring = griffe.Docstring(f"{text}. {KINDS[str(call.function)]}", parent=attr)
