"""A program that serves an outpost in Python: `python served.py TYPE`.

TYPE is `reference`, a mutant of the conformance kit, or `local` (in process mode).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from outpost_core.backend import BuildContext, Outpost, OutpostOptions
from outpost_core.types import Json
from outpost_worker.serving.server import main


def build(name: str, options: Mapping[str, Json]) -> Outpost:
    context = BuildContext(state_dir=Path(os.environ["OUTPOST_STATE_DIR"]))
    wanted = sys.argv[1]
    if wanted == "local":
        from outpost_local.options import LocalOptions, Mode
        from outpost_local.outpost import LocalOutpost

        return LocalOutpost(name, LocalOptions(mode=Mode.PROCESS), context)
    from outpost_testing.mutants import MUTANTS
    from outpost_testing.reference import ReferenceOutpost

    kinds = {"reference": ReferenceOutpost} | {m.outpost.type: m.outpost for m in MUTANTS}
    return kinds[wanted](name, OutpostOptions(), context)


if __name__ == "__main__":
    sys.exit(main(build, server=f"served {sys.argv[1]}"))
