"""`python -m relabel` is the `relabel` command."""

from relabel.cli import main

main()
