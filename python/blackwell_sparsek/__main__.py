"""`python -m blackwell_sparsek` is `bsk`."""

from blackwell_sparsek.cli import main

if __name__ == "__main__":
    main()
