"""`python -m flows.cli`: the command line without its entry point."""

from flows.cli.main import main

main()
