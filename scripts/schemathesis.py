#!/usr/bin/env python3
"""Holds a running service against its own document: asks each operation of /openapi.json with what Schemathesis makes up,
good and bad, and fails on an answer that the document does not have, on an undocumented method, and on every 5xx.

  scripts/mongod.py run -- scripts/schemathesis.py [OPTION OF SCHEMATHESIS…]      or: make schemathesis

MONGODB_URI names the server. The service is built, and gets demo callbacks first. Most questions are asked with a key of
every scope, others with keys of one scope and with a user's token. Schemathesis itself comes from PyPI, pinned, into the
user's cache folder.
"""

import fcntl
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from mongod import cache_folder

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = ROOT / "scripts" / "schemathesis"
SCOPES = ["read", "write", "admin", "metrics"]
KEY = "a-key-of-schemathesis-with-every-scope"
APP_SECRET = "a-secret-of-schemathesis"
CONFIG = """
http.listen = "127.0.0.1:{port}"
http.open_metrics = false
http.trusted_proxies = ["127.0.0.1"]
spool.path = "{folder}/spool"
stream.max_subscribers = 1
mongodb = {{ uri = "{uri}", database = "{database}" }}
[[apps]]
name = "otc"
provider = "netease"
app_key = "a-key"
app_secrets = ["{secret}"]
order_id = {{ field = "ext", pointer = "/orderId" }}
[auth]
token_rate = {{ per_second = 20, burst = 40 }}
[[auth.token_keys]]
name = "site"
algorithm = "HS256"
secret = "a-secret-of-the-site-of-32-bytes"
"""
KEY_CONFIG = """
[[auth.keys]]
name = "{name}"
secret = "{secret}"
scopes = {scopes}
"""


def keys():
    """A key of every scope, and one of each."""
    return {KEY: SCOPES, **{f"{KEY}-{scope}": [scope] for scope in SCOPES}}


def schemathesis():
    """The program, in an environment of its own for each set of versions, which other branches and clones share."""
    pinned = SETTINGS / "requirements.txt"
    name = f"schemathesis-{hashlib.sha256(pinned.read_bytes()).hexdigest()[:16]}"
    environment = cache_folder(name) / name
    program = environment / "bin" / "schemathesis"
    if starts(program):
        return program
    with (environment.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Another run may have done it meanwhile.
        if not starts(program):
            print(f"installing Schemathesis into {environment}", file=sys.stderr)
            # An environment cannot be moved, and one left by a Python that is gone is made anew.
            subprocess.run([sys.executable, "-m", "venv", "--clear", environment], check=True)
            pip = [environment / "bin" / "pip", "--disable-pip-version-check", "install", "--quiet"]
            subprocess.run([*pip, "-r", pinned], check=True)
    return program


def starts(program):
    """Whether it is there, whole, and so is the Python that it names."""
    try:
        return subprocess.run([program, "--version"], capture_output=True).returncode == 0
    except OSError:
        return False


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_ready(service, url):
    for _ in range(600):
        if service.poll() is not None:
            sys.exit("error: the service ended at once")
        try:
            with urllib.request.urlopen(url + "/readyz", timeout=5) as answer:
                if b'"status":"ready"' in answer.read():
                    return
        except OSError:
            pass
        time.sleep(0.1)
    sys.exit("error: the service is not ready after a minute")


def subscriber(url):
    """Takes the one place of a live stream, so that what Schemathesis asks of streams has an end: its right questions are
    answered 503. What streams say is for the integration tests.
    """
    headers = {"Authorization": f"Bearer {KEY}"}
    request = urllib.request.Request(url + "/v1/unread/stream?user=nobody&peers=buyer1", headers=headers)
    stream = urllib.request.urlopen(request, timeout=20)
    if stream.headers["Content-Type"] != "text/event-stream":
        sys.exit("error: a stream is no stream")
    return stream


def only_refused(url):
    """What was asked, and never answered well: then nothing of its answers was looked at."""
    request = urllib.request.Request(url + "/metrics", headers={"Authorization": f"Bearer {KEY}"})
    with urllib.request.urlopen(request, timeout=5) as answer:
        counts = re.findall(r'http_requests_total\{route="(\w+)",method="(\w+)",status="(\d+)"\}', answer.read().decode())
    asked = {(route, method) for route, method, status in counts if status not in ("404", "405")}
    asked -= {(route, method) for route, method, status in counts if status < "300"}
    # The one dead letter stays one, and the one stream is taken.
    asked -= {("dead_letter_retry", "POST"), ("unread_stream", "GET"), ("unread_stream", "POST")}
    return sorted(asked)


def main():
    program = schemathesis()
    subprocess.run(["cargo", "build", "--locked", "--quiet"], cwd=ROOT, check=True)
    service_program = ROOT / "target" / "debug" / "im-callback"
    with tempfile.TemporaryDirectory(prefix="im-callback-schemathesis-") as folder:
        port = free_port()
        config, log = Path(folder) / "im.toml", Path(folder) / "log"
        config.write_text(CONFIG.format(
            port=port, folder=folder, uri=os.environ["MONGODB_URI"], database=f"schemathesis_{port}",
            secret=APP_SECRET,
        ) + "".join(
            KEY_CONFIG.format(name="-".join(scopes), secret=secret, scopes=json.dumps(scopes))
            for secret, scopes in keys().items()
        ))
        url = f"http://127.0.0.1:{port}"
        with log.open("w") as lines:
            service = subprocess.Popen([service_program, "serve", "--config", config], stderr=lines)
        try:
            wait_until_ready(service, url)
            send = [service_program, "send", "--config", config]
            subprocess.run([*send, ROOT / "scripts" / "demo" / "market-day.jsonl"], check=True)
            subprocess.run([*send, SETTINGS / "team.jsonl"], check=True)
            # A dead letter.
            subprocess.run([*send, "-"], input=b"not JSON\n", check=True)
            token = [service_program, "token", "--config", config, "--user", "seller1", "--team", "77", "--for", "1h"]
            token = subprocess.run(token, check=True, capture_output=True, text=True).stdout.strip()
            others = " ".join([token, *list(keys())[1:]])
            environment = {
                **os.environ, "SCHEMATHESIS_URL": url, "SCHEMATHESIS_KEY": KEY, "SCHEMATHESIS_OTHERS": others,
                "SCHEMATHESIS_APP_SECRET": APP_SECRET, "PYTHONPATH": str(SETTINGS),
            }
            ask = [program, "--config-file", SETTINGS / "schemathesis.toml", "run", url + "/openapi.json"]
            with subscriber(url):
                outcome = subprocess.run([*ask, *sys.argv[1:]], cwd=folder, env=environment).returncode
            if service.poll() is not None:
                sys.exit("error: the service ended")
            unseen = [] if sys.argv[1:] else only_refused(url)
        finally:
            service.terminate()
            service.wait(timeout=30)
        # A query that failed is answered 503, which is a documented answer and no good one here.
        wrong = [line for line in log.read_text().splitlines() if " ERROR " in line or "panicked" in line]
        if wrong:
            sys.exit("error: the service's log has errors:\n" + "\n".join(wrong[:20]))
        if unseen:
            sys.exit(f"error: of these no good answer was seen; scripts/schemathesis/hooks.py helps: {unseen}")
        sys.exit(outcome)


if __name__ == "__main__":
    main()
