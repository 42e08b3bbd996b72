"""`python -m mixdpo`, for `accelerate launch -m mixdpo train ...`."""

import sys

from mixdpo.cli.main import main

sys.exit(main())
