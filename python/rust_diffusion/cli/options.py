"""How options are declared: names, defaults and types are those of the Python functions that they lead to."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from rust_diffusion.support.device import get_device

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

#: Arguments whose options have other names.
_CALLED = {"image_size": "size", "weights_dir": "out"}
PATH = click.Path(path_type=Path)
#: Where to compute.
DEVICE = click.option("--device", default=get_device, help="cpu, cuda or mps.  [default: the best there is]")


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


class Sides(click.ParamType):  # type: ignore[type-arg]
    """Height and width, from one number for both or from two."""

    name = "int[,int]"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        """Take 64, or 48,64."""
        try:
            sides = [int(part) for part in str(value).strip("()").split(",")]
        except ValueError:
            sides = []
        if len(sides) not in (1, 2) or min(sides) < 1:
            self.fail(
                f"{value!r} is neither a side, such as 64, nor height and width, such as 48,64", param, ctx
            )
        return sides[0], sides[-1]


def option_of(
    function: Any,
    name: str,
    help: str,
    *,
    type: Any = None,
    choices: Sequence[str] = (),
    alias: str = "",
    instead: str = "",
) -> Decorator:
    """Declare the option for the argument `name` of `function`, with the default that the function has.

    The type is that of the default; where the default is None, or one out of `choices`, it is given. A bool is a flag
    and its contrary. `instead` is shown where it is not the function's default that holds.
    """
    default, flag = default_of(function, name), flag_of(name)
    if type is bool or isinstance(default, bool):
        flag, type = f"{flag}/--no-{flag[2:]}", None
    elif isinstance(default, tuple):
        type, default = NumberList(int), ",".join(map(str, default))
    elif choices:
        type = click.Choice(choices)
    return click.option(
        *filter(None, (flag, alias, name)),
        type=type,
        default=default,
        show_default=instead or default is not None,
        help=help,
    )


def flag_of(name: str) -> str:
    """Write the name of an argument as its option is typed: `--sample-steps` for sample_steps."""
    return f"--{name.strip('_').replace('_', '-')}"


def as_typed(text: str, options: Iterable[click.Option]) -> str:
    """Write what a message says of arguments, ``minutes=10`` or ``minutes must``, as they are typed."""
    by_name = {
        flag[2:].replace("-", "_"): option
        for option in options
        for flag in option.opts
        if flag.startswith("--")
    }
    by_name.update({ours: by_name[theirs] for ours, theirs in _CALLED.items() if theirs in by_name})
    names = "|".join(sorted(by_name, key=len, reverse=True))

    def typed(found: re.Match[str]) -> str:
        name, value = found[1], found[2] or ""
        flag = flag_of(_CALLED.get(name, name))
        if by_name[name].secondary_opts:  # a flag and its contrary
            return f"--no-{flag[2:]}" if value == "False" else flag
        if value == "None":
            return f"no {flag}"
        value = value.strip("'()").replace(", ", ",")
        return f"{flag} {value}" if value else flag

    text = re.sub(rf"(?<![\w./-])({names})=('[^']*'|\([^()]*\)|[\w.+-]*\w)?", typed, text)
    return re.sub(rf"^({names})(?= must | is )", lambda found: flag_of(_CALLED.get(found[1], found[1])), text)


def default_of(function: Any, name: str) -> Any:
    """Look up the default of an argument."""
    return inspect.signature(function).parameters[name].default


def together(*options: Decorator) -> Decorator:
    """Make one decorator of several options, shown in the order in which they are given."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def given(context: click.Context, names: Container[str]) -> dict[str, Any]:
    """Collect the options in `names` that the user wrote: what is left out is for the function to decide."""
    return {
        name: value
        for name, value in context.params.items()
        if name in names and context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }


def arguments_of(function: Any) -> frozenset[str]:
    """List the names of the arguments of `function`."""
    return frozenset(inspect.signature(function).parameters)
