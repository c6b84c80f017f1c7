"""`python -m aloe` is the `aloe` command."""

from aloe.cli.main import main

main()
