"""`python -m outpost_core.worker run|recover|stop|status|clean FOLDER`, `… publish|list ROOT`."""

from __future__ import annotations

import sys

from outpost_core.worker.boot import main

sys.exit(main(sys.argv[1:]))
