"""Keeps the messages of an inbox in a SQLite database, each message once."""

import base64
import http.client
import json
import os
import sqlite3
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

INBOX = os.environ.get("INBOX_URL", "http://127.0.0.1:8080")
HEADERS = {"Authorization": "Bearer " + os.environ["INBOX_TOKEN"]} if "INBOX_TOKEN" in os.environ else {}

db = sqlite3.connect(os.environ.get("DATABASE", "messages.db"))
db.execute("CREATE TABLE IF NOT EXISTS effects (message TEXT, data BLOB)")
db.execute("CREATE TABLE IF NOT EXISTS progress (id INTEGER PRIMARY KEY CHECK (id = 1), token TEXT)")


def get(path, is_data=False):
    """Returns what the inbox answers, None for data that have expired. Ends the program where asking again cannot help."""
    request = urllib.request.Request(INBOX + path, headers=HEADERS)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        if is_data and error.code == 404:
            return None
        problem = f"{error.code}: {error.read(1000).decode(errors='replace')}"
        if error.code < 500 and error.code != 429:
            sys.exit(problem)
        raise OSError(problem) from None


def poll(after):
    """Returns the messages after a token, and the token after them. Waits up to 25 seconds for the first."""
    query = urllib.parse.urlencode({"after": after, "wait": "25s", "source": "pubsub"})
    page = json.loads(get("/messages:poll?" + query))
    messages = []
    for message in page["messages"]:
        if "quarantined" in message:  # its data are a push that could not be decoded
            print("skipped", message["messageId"], "quarantined:", message["quarantined"]["reason"], flush=True)
            continue
        message["data"] = base64.b64decode(message["data"])
        if message.get("truncated"):  # a page has the first 4 KiB
            message["data"] = get(f"/messages/{message['id']}/data", is_data=True)
            if message["data"] is None:
                print("skipped", message["messageId"], "expired", flush=True)
                continue
        messages.append(message)
    return messages, page["next"]


while True:
    (after,) = db.execute("SELECT token FROM progress").fetchone() or ("",)
    try:
        messages, after = poll(after)
    except (OSError, http.client.HTTPException) as error:  # the inbox is being restarted, or the network is away
        print(error, flush=True)
        time.sleep(1)
        continue
    with db:  # one transaction: the effects, and the token after them
        for message in messages:
            db.execute("INSERT INTO effects VALUES (?, ?)", (message["id"], message["data"]))
        db.execute("INSERT INTO progress VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET token = excluded.token", (after,))
    for message in messages:
        print("processed", message["messageId"], flush=True)
