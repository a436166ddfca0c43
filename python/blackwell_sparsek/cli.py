"""The `bsk` command: subcommands are imported when they are run, so that `bsk --help` is quick."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

# Name: (module, attribute: a command function or a typer.Typer, help line). A module that this
# installation lacks is left out.
_COMMANDS = {
    "doctor": ("blackwell_sparsek.commands.doctor", "doctor", "What is here, works, needs fixing."),
    "validate": (
        "blackwell_sparsek.commands.validate",
        "validate",
        "Compare the kernels with the fp64 oracle and torch's SDPA.",
    ),
    "bench": ("blackwell_sparsek.commands.bench", "bench", "Time the kernels beside torch's SDPA."),
    "mask": ("blackwell_sparsek.commands.mask", "app", "Look at block masks."),
    "compile": (
        "blackwell_sparsek.commands.compile",
        "compile_command",
        "Fill the kernel cache ahead of time.",
    ),
    "cache": ("blackwell_sparsek.commands.cache", "cache_command", "Look after the kernel cache."),
    "migrate": (
        "blackwell_sparsek.migrate",
        "migrate_command",
        "Rewrite FlashCore code for this library.",
    ),
}


def _present(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package is not there
        return False


def _load(name: str) -> Any:
    module, attribute, _ = _COMMANDS[name]
    target = getattr(importlib.import_module(module), attribute)
    if not isinstance(target, typer.Typer):
        app = typer.Typer(add_completion=False)
        app.command()(target)
        target = app
    command = get_command(target)
    command.name = name
    return command


class _LazyGroup(TyperGroup):
    """Knows its subcommands by name and help line; loads one when it is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for name, (module, _, _) in _COMMANDS.items() if _present(module)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.list_commands(ctx):
            return None
        # Click asks for every command to print the help, and for one by resolve_command.
        stub = typer.Typer(add_completion=False)
        stub.command(help=_COMMANDS[cmd_name][2])(lambda: None)
        command = get_command(stub)
        command.name = cmd_name
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None and command.name in _COMMANDS:
            command = _load(command.name)
        return name, command, rest


app = typer.Typer(
    cls=_LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        from blackwell_sparsek.core import __version__

        typer.echo(__version__)
        raise typer.Exit()


@app.callback()
def _bsk(
    ctx: typer.Context,
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """BlackwellSparseK: exact and block-sparse attention."""
    if ctx.invoked_subcommand in ("doctor", "migrate"):  # one reports it, the other needs none
        return
    from blackwell_sparsek.core import get_default_config

    try:
        get_default_config()
    except ValueError as error:  # of the environment
        typer.echo(f"bsk: {error}", err=True)
        raise typer.Exit(2) from error


def main() -> None:
    """Entry point of the `bsk` script."""
    sys.exit(app())
