"""`python -m headscope` is the `headscope` command."""

from .cli import main

if __name__ == "__main__":
    main()
