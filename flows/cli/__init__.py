"""The command line `musicgen`: one module for each command."""
