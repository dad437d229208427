"""``python -m tests.soak``: see `tests.soak.soak`."""

import sys

from tests.soak.soak import main

sys.exit(main(sys.argv[1:]))
