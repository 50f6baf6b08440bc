"""How the long programs keep count: what was tried, how often it came out as it should, and what was lost.

Each row is printed as one line that `programs/reliability.py` reads; anything lost makes the exit status 1.
"""

import contextlib
import faulthandler
import sys
import time

# A hang is a result too, and the worst one: after this many seconds without a row every stack is printed.
PATIENCE = 900


class Ledger:
    def __init__(self):
        self.lost = 0
        self.patience()

    def patience(self):
        faulthandler.dump_traceback_later(PATIENCE, exit=True)

    @contextlib.contextmanager
    def row(self, what):
        """A row of the table; its `Count` is filled in inside."""
        count, began = Count(), time.monotonic()
        try:
            yield count
        finally:
            self.lost += len(count.lost)
            remark = f"{count.remark}; " if count.remark else ""
            cells = (what, count.tried, count.tried - len(count.lost), len(count.lost))
            print("ROW", *cells, f"{remark}{time.monotonic() - began:.0f} s", sep="\t", flush=True)
            for reason in count.lost[:10]:
                print("LOST", what, reason, sep="\t", flush=True)
            self.patience()

    def close(self):
        faulthandler.cancel_dump_traceback_later()
        sys.exit(1 if self.lost else 0)


class Count:
    def __init__(self):
        self.tried, self.lost, self.remark = 0, [], ""

    def check(self, good, reason="not as it should be"):
        """One more case, with what to say if it is lost."""
        self.tried += 1
        if not good:
            self.lost.append(str(reason))

    @contextlib.contextmanager
    def case(self, what=""):
        """One more case, which is lost if an assertion or anything else fails in it."""
        self.tried += 1
        try:
            yield
        except Exception as error:
            self.lost.append(f"{what}: {type(error).__name__}: {str(error)[:300]}")
