"""`bsk migrate`: the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from blackwell_sparsek.migrate import _extra


def migrate_command(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Python files, notebooks or directories.")
    ] = None,
    diff: Annotated[
        bool, typer.Option("--diff", help="Show what would change (the default).")
    ] = False,
    write: Annotated[bool, typer.Option("--write", help="Change the files.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit 1 if anything is left to do.")
    ] = False,
    config_object: Annotated[
        bool,
        typer.Option(
            "--config-object",
            help="Write configuration as a Config, not as BSK_* environment variables.",
        ),
    ] = False,
    checklist: Annotated[
        bool,
        typer.Option(
            "--checklist",
            help="Print the migration guide's checklists, each item checked here.",
        ),
    ] = False,
) -> None:
    """Rewrite code from FlashCore's API to BlackwellSparseK's.

    What it does not understand it leaves alone and lists, with what to do. The diff goes to
    stdout, the list to stderr.

    Exit code: 0 nothing is left; 1 something is left to do by hand (with --check: or to rewrite);
    2 a file could not be read, parsed or written, or the command line is wrong.
    """
    if sum((diff, write, check, checklist)) > 1:
        raise typer.BadParameter("choose one of --diff, --write, --check, --checklist")
    if not paths:
        if not checklist:
            raise typer.BadParameter("name at least one file or directory", param_hint="PATH")
        paths = [Path(".")]
    missing = [path for path in paths if not path.exists()]
    if checklist and missing:
        raise typer.BadParameter(f"no such file or directory: {missing[0]}", param_hint="PATH")
    console = Console(stderr=True)
    try:
        _extra.require("libcst", "nbformat")
    except ImportError as error:
        console.print(f"bsk migrate: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(2) from error
    from blackwell_sparsek.migrate import project, report

    if checklist:
        from blackwell_sparsek.migrate.checklist import print_checklist

        raise typer.Exit(print_checklist(paths))
    mode = "write" if write else "check" if check else "diff"
    reports = project.migrate_paths(paths, write=write, config_object=config_object)
    if mode == "diff":
        for one in reports:
            report.print_diff(one)
    elif mode == "check":
        for one in reports:
            if one.changed:
                console.print(f"{one.path}: to be rewritten", markup=False, soft_wrap=True)
    report.print_findings(reports, console)
    console.print(report.summary(reports, mode), markup=False, soft_wrap=True)
    raise typer.Exit(report.exit_code(reports, mode))
