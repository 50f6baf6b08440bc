"""`python -m benchmarks.inverse.memory WHO`: MiB that some steps of the chapter's DPS take at most."""

import sys

from benchmarks.harness.measure import peak, reset_peak
from benchmarks.inverse.speed import guided

if __name__ == "__main__":
    restore = guided(sys.argv[1], 3)
    before = reset_peak()
    restore()
    print(peak() - before)
