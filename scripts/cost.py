#!/usr/bin/env python3
"""Instructions and allocations of one callback, from its bytes to its documents, compared with those kept.

  scripts/cost.py           fails when a callback costs more than 3 % above bench/cost.json
  scripts/cost.py --renew   keeps what it costs now

Needs valgrind (Debian: apt-get install valgrind), MongoDB does not take part. Valgrind counts and reads no
clock, so a busy machine changes nothing; another compiler may.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "bench" / "cost.json"
TOLERANCE = 0.03
# Two runs that differ in nothing but how many callbacks they take.
FEW, MANY = 2000, 4000

TOOLS = {
    "instructions": (["--tool=callgrind", "--callgrind-out-file=/dev/null"], r"Collected : ([\d,]+)"),
    "allocations": (["--tool=dhat", "--dhat-out-file=/dev/null"], r"Total: .* in ([\d,]+) blocks"),
}


def output(command):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"error: {' '.join(command)} failed:\n{done.stderr}")
    return done


def build():
    """The path of the program that is counted."""
    cargo = ["cargo", "bench", "--locked", "--bench", "cost", "--no-run", "--message-format=json"]
    messages = map(json.loads, output(cargo).stdout.splitlines())
    return next(
        message["executable"]
        for message in messages
        if message["reason"] == "compiler-artifact" and message["target"]["name"] == "cost"
    )


def count(program, what, callbacks):
    options, pattern = TOOLS[what]
    said = output(["valgrind", *options, program, str(callbacks), str(MANY)]).stderr
    found = re.search(pattern, said) or sys.exit(f"error: valgrind does not say what it counted:\n{said}")
    return int(found[1].replace(",", ""))


def measure():
    program = build()
    costs = {"compiler": output(["rustc", "--version"]).stdout.strip()}
    for what in TOOLS:
        few, many = (count(program, what, callbacks) for callbacks in (FEW, MANY))
        costs[what] = round((many - few) / (MANY - FEW), 1)
    return costs


def compare(kept, now):
    """Says how they differ; whether something costs too much."""
    if kept["compiler"] != now["compiler"]:
        print(f"kept with {kept['compiler']}, counted with {now['compiler']}")
    too_much = False
    for what in TOOLS:
        change = now[what] / kept[what] - 1
        print(f"{what} a callback: {now[what]:,} ({change:+.1%} of {kept[what]:,} kept)")
        if change > TOLERANCE:
            print(f"error: more {what} than kept; if that is meant, keep them: scripts/cost.py --renew")
            too_much = True
        elif change < -TOLERANCE:
            print(f"fewer {what} than kept; keep that: scripts/cost.py --renew")
    return too_much


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--renew", action="store_true", help="keep what it costs now")
    arguments = parser.parse_args()
    if not shutil.which("valgrind"):
        sys.exit("error: valgrind is missing, and counts nothing without it; Debian: apt-get install valgrind")
    if not arguments.renew and not KEPT.exists():
        sys.exit(f"error: no {KEPT.relative_to(ROOT)} to compare with; make it: scripts/cost.py --renew")
    now = measure()
    if arguments.renew:
        KEPT.write_text(json.dumps(now, indent=2) + "\n")
        print(f"kept: {now}")
        return 0
    return int(compare(json.loads(KEPT.read_text()), now))


if __name__ == "__main__":
    sys.exit(main())
