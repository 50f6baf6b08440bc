"""Command line options made from Python functions, where names, defaults, types and help are written once."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Container
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class NumberList(click.ParamType):  # type: ignore[type-arg]
    """Numbers separated by commas: 1,2,4."""

    def __init__(self, kind: type[int] | type[float]) -> None:
        self._kind = kind
        self.name = f"{kind.__name__},{kind.__name__},..."

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float, ...]:
        """Take a tuple as it is and a text apart; an empty text is the empty list."""
        if isinstance(value, (tuple, list)):
            return tuple(value)
        try:
            return tuple(self._kind(part) for part in value.split(",") if part.strip())
        except ValueError:
            plural = {int: "integers such as 1,2,4", float: "numbers such as -600,1500"}[self._kind]
            self.fail(f"{value!r} is not a list of {plural}", param, ctx)


def options_of(function: Any, skip: Container[str] = (), aliases: dict[str, str] | None = None) -> Decorator:
    """Give a command one option for each parameter of `function` that has a default and is not in `skip`.

    `aliases` adds a second name to an option, for example ``{"sample_steps": "--steps"}``.
    """
    help_of, kind_of = parameters_in(inspect.getdoc(function) or "")

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for parameter in reversed(list(inspect.signature(function).parameters.values())):
            name = parameter.name
            if name in skip or parameter.default is inspect.Parameter.empty:
                continue
            kind = _type(parameter.default, str(parameter.annotation), kind_of.get(name, ""))
            flag = f"--{name.replace('_', '-')}"
            flags = [f"{flag}/--no-{flag[2:]}" if kind is bool else flag]
            flags += [aliases[name]] if aliases and name in aliases else []
            default = parameter.default
            if isinstance(default, tuple):
                default = ",".join(map(str, default))
            command = click.option(
                *flags,
                name,
                type=None if kind is bool else kind,
                default=default,
                show_default=default is not None,
                help=help_of.get(name),
            )(command)
        return command

    return decorate


def given(context: click.Context, names: Container[str]) -> dict[str, Any]:
    """Collect the options in `names` that the user wrote: the defaults stay where they are defined."""
    return {
        name: value
        for name, value in context.params.items()
        if name in names and context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }


def _type(default: Any, annotation: str, documented: str) -> Any:
    choices = re.match(r"\{(\".*?)\}", documented)
    if choices:
        return click.Choice(re.findall(r'"(.*?)"', choices.group(1)))
    several = re.search(r"(?:Sequence|tuple|list)\[(int|float)", annotation)
    if isinstance(default, tuple) or several:
        return NumberList(float if several and several.group(1) == "float" else int)
    if default is not None:
        return type(default)
    scalars = (kind for kind in (bool, int, float) if re.search(rf"\b{kind.__name__}\b", annotation))
    return next(scalars, str)


def parameters_in(docstring: str) -> tuple[dict[str, str], dict[str, str]]:
    """Read the Parameters sections of a docstring in NumPy's style: texts and types by parameter name."""
    texts: dict[str, str] = {}
    kinds: dict[str, str] = {}
    section = re.compile(r"^Parameters\n-+\n(.*?)(?=^\w[\w ]*\n-+\n|\Z)", re.MULTILINE | re.DOTALL)
    entry = re.compile(r"^(\w[\w, ]*?) : ([^\n]*)\n((?:(?:[ ]+[^\n]*)?\n?)*)", re.MULTILINE)
    for body in section.findall(docstring):
        for names, kind, text in entry.findall(body):
            for name in names.split(", "):
                kinds[name] = kind
                # Marks of the markup mean nothing on a terminal.
                texts[name] = re.sub(r"`+", "", " ".join(text.split()))
    return texts, kinds
