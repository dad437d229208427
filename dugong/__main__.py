"""`python -m dugong`; see `dugong.cli`."""

import sys

from dugong.cli import main

sys.exit(main())
