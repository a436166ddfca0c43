"""The subcommands of `bsk`, one module each; see cli.py for how they are found."""
