"""Run the long programs one after the other and write their tables: reliability.py [--quick] [--out FILE] [NAME ...].

Each row of docs/reliability.md is made by one of these commands. NAMEs choose among them; --quick tries a few cases of
each, to see that they run. Exit status 1 if anything was lost.
"""

import argparse
import datetime
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

import torch

from rust_diffusion import __version__
from tools import PROGRAMS, child_environment

# (name, program, arguments, arguments of a quick try)
LONG = [
    ("kills", "kill_and_resume.py", ["30", "20", "0.4", "all"], ["2", "5", "0.4", "KILL"]),
    ("disk", "disk.py", ["20"], ["2"]),
    ("damage", "damage.py", ["1000"], ["10"]),
    ("out-of-memory", "out_of_memory.py", ["40"], ["2"]),
    ("memory", "memory.py", [], ["0.03"]),
    ("threads", "threads.py", ["10"], ["1"]),
    ("repeat", "repeat.py", ["2"], ["1"]),
    ("fuzz", None, ["3000"], ["20"]),
]
HEAD = "| what was tried | times | survived | lost | remark |\n|---|---:|---:|---:|---|\n"


def machine():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "?")
    return (
        f"rust_diffusion {__version__}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"{cpu} ({os.cpu_count()} cores), {platform.system()} {platform.release()}, {datetime.date.today()}"
    )


def rows_of(text):
    return [line.split("\t")[1:] for line in text.splitlines() if line.startswith("ROW\t")]


def run(program, arguments):
    """(rows, whether all is well) of one program; what it says is shown as it comes."""
    command, extra = [sys.executable, str(PROGRAMS / str(program)), *arguments], {}
    if program is None:
        command = [sys.executable, "-m", "pytest", "-q", str(PROGRAMS.parent / "package" / "test_fuzz.py")]
        command += ["-o", "faulthandler_timeout=3600"]
        extra = {"FUZZ_CASES": arguments[0]}
    began, said = time.monotonic(), []
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**child_environment(), **extra}
    )
    for line in process.stdout:
        said.append(line)
        if line.startswith(("ROW", "LOST")):
            print("   ", line.rstrip().replace("\t", "  "), flush=True)
    status = process.wait()
    rows = rows_of("".join(said))
    if program is None:
        found = re.search(r"Fuzzed: (\d+) cases, (\d+) calls", "".join(said))
        cases, calls = found.groups() if found else ("0", "0")
        failed = len(re.findall(r"^FAILED", "".join(said), re.MULTILINE))
        remark = f"{calls} calls of public functions; {time.monotonic() - began:.0f} s"
        rows = [
            [
                "Hypothesis: any arguments to any public function",
                cases,
                str(int(cases) - failed),
                str(failed),
                remark,
            ]
        ]
    if status and not any(row[3] != "0" for row in rows):
        rows.append([f"{program or 'fuzz'} ended with status {status}", "1", "0", "1", ""])
    if status:
        print("".join(said[-30:]), flush=True)
    return rows, status == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(name for name, *_ in LONG))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    unknown = set(options.names) - {name for name, *_ in LONG}
    if unknown:
        parser.error(f"no program is called {', '.join(sorted(unknown))}")
    parts, good = [], True
    for name, program, arguments, quick in LONG:
        if options.names and name not in options.names:
            continue
        chosen = quick if options.quick else arguments
        print(f"==> {name}", flush=True)
        rows, well = run(program, chosen)
        good &= well
        command = f"FUZZ_CASES={chosen[0]} pytest tests/package/test_fuzz.py"
        if program is not None:
            command = " ".join(["python", f"tests/programs/{program}", *chosen])
        table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
        parts.append(f"## {name}\n\n`{command.strip()}`\n\n{HEAD}{table}")
        if options.out:  # after each, so that an hour is not lost
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(f"{machine()}\n\n" + "\n".join(parts))
    print(f"{machine()}\n{'Nothing was lost.' if good else 'Something was lost: see above.'}")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
