"""A Pub/Sub push endpoint: prints what PUSH_SERVICE_ACCOUNT pushes, signed for PUSH_AUDIENCE.

Needs: pip install google-auth requests. To try it: docs/local.md, "Run your own program".
"""
import base64
import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import google.auth.transport.requests
from google.oauth2 import id_token

AUDIENCE, ACCOUNT = os.environ["PUSH_AUDIENCE"], os.environ["PUSH_SERVICE_ACCOUNT"]
MAX_BODY = 15 << 20
GOOGLE = google.auth.transport.requests.Request()


def verify(authorization):
    scheme, _, token = authorization.partition(" ")
    claims = id_token.verify_oauth2_token(token, GOOGLE, AUDIENCE)
    if scheme != "Bearer" or claims.get("email") != ACCOUNT or claims.get("email_verified") is not True:
        raise ValueError("not a token of the push service account")


class Push(BaseHTTPRequestHandler):
    def do_POST(self):
        try:
            verify(self.headers.get("Authorization", ""))
        except Exception as refused:  # of several kinds
            print("refused:", type(refused).__name__, flush=True)
            return self.send_error(401)
        length = min(int(self.headers.get("Content-Length", 0)), MAX_BODY)
        try:
            message = json.loads(self.rfile.read(length))["message"]
            print(message["messageId"], base64.b64decode(message.get("data", "")), flush=True)
        except (ValueError, LookupError, TypeError):
            return self.send_error(400)
        self.send_response(204)
        self.end_headers()


ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", 3000))), Push).serve_forever()
