"""The command line: `rust-diffusion demo | train | sample | evaluate | reconstruct | info`.

Results go to standard output; progress is a bar on a terminal and plain lines where it is piped. Exit status: 0 done,
1 failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click

from rust_diffusion.cli.options import as_typed

INTERRUPTED = 130


class _State:
    debug = False


def _debug(context: click.Context, _: click.Parameter, value: bool) -> None:
    context.find_root().obj.debug |= value


_DEBUG = click.option(
    "--debug", is_flag=True, expose_value=False, callback=_debug, help="Show the traceback of an error."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="rust-diffusion", prog_name="rust-diffusion")
@_DEBUG
def cli() -> None:
    """DDPM and DDIM for computational imaging.

    Train a compact denoiser on slices, and draw new ones.
    """


def command(examples: str) -> Callable[..., Any]:
    """Make a subcommand whose help ends in `examples` and which takes --debug."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        lines = "\n".join(line.strip() for line in examples.strip().splitlines())
        return cli.command(epilog=f"\b\nExamples:\n{lines}")(_DEBUG(function))

    return decorate


def on_terminal() -> bool:
    """Whether somebody watches the progress."""
    return sys.stderr.isatty()


def in_options(text: str) -> str:
    """Write a message of the package as somebody reads it who types commands."""
    known = [option for one in cli.commands.values() for option in one.params]
    return as_typed(text, [option for option in known if isinstance(option, click.Option)])


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show warnings without the line that they point at: nobody here has written one."""
    usual = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"Warning: {in_options(str(message))}\n"
    try:
        yield
    finally:
        warnings.formatwarning = usual


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    state = _State()
    try:
        with _plain_warnings():
            status = cli.main(args=arguments, prog_name="rust-diffusion", standalone_mode=False, obj=state)
    except click.ClickException as error:
        about = getattr(getattr(error, "ctx", None), "command_path", "rust-diffusion")
        click.echo(f"Error: {error.format_message()} ({about} --help shows how)", err=True)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("\nInterrupted.", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader left, as `| head` does.
        sys.stderr.close()
        return 0
    except Exception as error:
        if state.debug:
            raise
        words = in_options(" ".join(str(error).split()))
        click.echo(f"Error: {words or type(error).__name__}", err=True)
        return 1
    return status if isinstance(status, int) else 0
