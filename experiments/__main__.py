"""The command line of the experiments in this folder: `./launch.sh` runs this module."""

import sys

from ablax.cli.main import main

sys.exit(main(sys.argv[1:]))
