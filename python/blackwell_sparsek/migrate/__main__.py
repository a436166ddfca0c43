"""`python -m blackwell_sparsek.migrate`: the same as `bsk migrate`."""

import typer

from blackwell_sparsek.migrate.command import migrate_command

if __name__ == "__main__":
    typer.run(migrate_command)
