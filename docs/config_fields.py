"""Shows the help text of a config's fields in the API reference: that of `static(..., help=...)` and `traced(...)`."""

from __future__ import annotations

import ast
from typing import Any

import griffe


class ConfigFields(griffe.Extension):
    """Gives a field that is made by `static` or `traced` its help text as docstring."""

    def on_attribute(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Called for each attribute, when its module has been read."""
        call = attr.value
        if attr.docstring is None and isinstance(call, griffe.ExprCall) and str(call.function) in ("static", "traced"):
            for argument in call.arguments:
                if isinstance(argument, griffe.ExprKeyword) and argument.name == "help":
                    kind = "A constant of the program" if str(call.function) == "static" else "Traced"
                    attr.docstring = griffe.Docstring(f"{ast.literal_eval(str(argument.value))}. {kind}.", parent=attr)
