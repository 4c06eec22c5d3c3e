"""`python -m ablax`: the command line."""

from ablax.cli.main import script

script()
