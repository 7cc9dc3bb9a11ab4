"""Measurements, each as a ratio against the raw floor or a named peer in the same run."""

import sys
from pathlib import Path

# what tests talk to is what benchmarks talk to
sys.path.append(str(Path(__file__).parents[1] / "tests"))
