"""`python -m purerl`: the same as the command `purerl`."""

import sys

from purerl.cli.main import main

sys.exit(main())
