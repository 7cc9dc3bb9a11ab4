"""`python -m outpost_worker run|recover|stop|status|clean FOLDER`, `… publish|list ROOT`."""

from __future__ import annotations

import sys

from outpost_worker.boot import main

sys.exit(main(sys.argv[1:]))
