#!/usr/bin/env python3
"""Receives webhooks of pleo-auth-proxy on this machine: webhooks.py PORT SECRET_FILE"""
import base64, hmac, json, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

lines = [line.strip() for line in open(sys.argv[2])]
keys = [base64.b64decode(line.removeprefix("whsec_")) for line in lines if line and not line.startswith("#")]


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        message, at = self.headers["webhook-id"], self.headers["webhook-timestamp"]
        signed = f"{message}.{at}.".encode() + body
        expected = [b"v1," + base64.b64encode(hmac.digest(key, signed, "sha256")) for key in keys]
        received = self.headers["webhook-signature"].encode().split()
        if abs(time.time() - int(at)) > 300 or not any(hmac.compare_digest(a, b) for a in expected for b in received):
            return self.send_error(401)
        event = json.loads(body)  # a message may arrive twice: process each id once
        print(message, event["type"], event["data"]["name"], event["data"]["status"], flush=True)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *args):
        pass


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver).serve_forever()
