"""`python -m purerl`: the same as the command `purerl`."""

import sys

from purerl.cli.start import main

sys.exit(main())
