"""What Schemathesis cannot make up: signatures, and ids of what is there. Two of three cases get them, and one of four is
asked by another caller.
"""

import hashlib
import itertools
import json
import os
import time
from pathlib import Path

import requests
import schemathesis

URL, KEY = os.environ["SCHEMATHESIS_URL"], os.environ["SCHEMATHESIS_KEY"]
# A token of `seller1`, and keys of one scope.
OTHERS = os.environ["SCHEMATHESIS_OTHERS"].split()
TURN = itertools.count()
CALLBACKS = (Path(__file__).parent.parent / "demo" / "market-day.jsonl").read_text().splitlines()
# Of those callbacks.
PEOPLE = ["seller1", "seller2", "buyer1", "buyer3"]
MESSAGES = ["900101", "otc/p2p/900102", "900103"]
KNOWN = {
    "app": ["otc"], "user": PEOPLE, "users": PEOPLE, "peer": PEOPLE, "peers": PEOPLE, "order": ["A-1001", "B-2001"],
    "orders": ["A-1001", "B-2001"], "team": ["77"], "teams": ["77"],
}
# One of these is given.
CHOICES = {"/v1/messages": ["peer", "team"], "/v1/read": ["peer", "order", "team"]}


class Signed(requests.auth.AuthBase):
    """Signs a callback as NetEase does."""

    def __call__(self, request):
        if next(TURN) % 3:
            body = request.body or b""
            body = body.encode() if isinstance(body, str) else body
            digest, now = hashlib.md5(body).hexdigest(), str(int(time.time() * 1000))
            signed = os.environ["SCHEMATHESIS_APP_SECRET"] + digest + now
            request.headers["MD5"], request.headers["CurTime"] = digest, now
            request.headers["CheckSum"] = hashlib.sha1(signed.encode()).hexdigest()
            request.headers.pop("AppKey", None)
        return request


class AnyCaller(requests.auth.AuthBase):
    """Asks as another caller now and then. A request without the key is one about that."""

    def __call__(self, request):
        if request.headers.get("Authorization") == f"Bearer {KEY}" and not next(TURN) % 4:
            request.headers["Authorization"] = f"Bearer {some(OTHERS)}"
        return request


@schemathesis.hook
def before_call(context, case, kwargs):
    is_callback = case.operation.path.startswith("/callbacks")
    kwargs["auth"] = Signed() if is_callback else AnyCaller()
    # Each case has an address of its own, also where Schemathesis sends it again with a wrong key: an address that sends
    # many of those is answered 429, and 401 is what it wants to see.
    turn = next(TURN)
    case.headers["X-Forwarded-For"] = f"198.18.{turn // 256 % 256}.{turn % 256}"


def some(values):
    """One of these, another one each time."""
    return values[next(TURN) % len(values)]


def is_right(value):
    """Whether a field may hold this. What is wrong is not made right, since the service must refuse it."""
    if isinstance(value, list):
        return all(isinstance(item, str) for item in value) and value != []
    return value is None or (isinstance(value, str) and value != "")


def with_known(path, asked):
    """The same question about what is there."""
    asked = dict(asked)
    for name, values in KNOWN.items():
        if asked.get(name) and is_right(asked[name]):
            asked[name] = [some(values) for _ in asked[name]] if isinstance(asked[name], list) else some(values)
    choice = CHOICES.get(path, [])
    if all(is_right(asked.get(name)) for name in choice):
        for name in choice:
            asked.pop(name, None)
        for name in choice and [some(choice)]:
            asked[name] = some(KNOWN[name])
    if path == "/v1/messages" and all(is_right(asked.get(name)) for name in ("before", "after")):
        asked.pop("before", None)
        asked.pop("after", None)
        place = some([None, "before", "after"])
        if place:
            asked[place] = some(["1789500005000", "1789500099000", *cursors(asked)])
    if path == "/v1/read" and isinstance(asked.get("up_to"), int) and asked["up_to"] > 0:
        asked["up_to"] = 1789500003000
    return asked


def cursors(asked):
    """Those of the newest page of this conversation."""
    names = [name for name in ("user", "peer", "team") if name in asked]
    question = {"app": "otc", "limit": 2, **{name: asked[name] for name in names}}
    headers = {"Authorization": f"Bearer {KEY}"}
    answer = requests.get(URL + "/v1/messages", params=question, headers=headers, timeout=20)
    return [value for name, value in answer.json().items() if name in ("older", "newer")]


@schemathesis.hook.apply_to(path_regex="app")
def map_path_parameters(context, path_parameters):
    if next(TURN) % 3:
        if "digest" not in path_parameters:
            return {**path_parameters, "app": "otc"}
        headers = {"Authorization": f"Bearer {KEY}"}
        answer = requests.get(URL + "/v1/dead-letters?limit=20", headers=headers, timeout=20)
        ids = [letter["id"].split("/") for letter in answer.json()["deadLetters"]]
        if ids:
            app, digest = some(ids)
            return {**path_parameters, "app": app, "digest": digest}
    return path_parameters


@schemathesis.hook.apply_to(operation_id="take_callback")
def map_body(context, body):
    return json.loads(some(CALLBACKS)) if next(TURN) % 3 else body


@schemathesis.hook.apply_to(path_regex="v1/(unread|unread/stream|messages|read|presence)$", method="POST")
def map_body(context, body):
    return with_known(context.operation.path, body) if isinstance(body, dict) and next(TURN) % 3 else body


@schemathesis.hook.apply_to(path_regex="v1/(trace|unread|unread/stream|messages|presence)$")
def map_query(context, query):
    if not query or not next(TURN) % 3:
        return query
    if "trace" in context.operation.path:
        query = {name: value for name, value in query.items() if name in ("app", "reader")}
        return {**query, "id": some(MESSAGES)}
    return with_known(context.operation.path, query)
