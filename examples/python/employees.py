"""Lists the employees of a connection. Needs the package requests.

Usage: employees.py CONNECTION [PROXY_URL]
"""
import sys

import requests

connection = sys.argv[1]
proxy = sys.argv[2] if len(sys.argv) > 2 else "http://127.0.0.1:8484"

session = requests.Session()
session.headers["Pleo-Connection"] = connection


def employees():
    query = {"limit": 10}
    while True:
        response = session.get(f"{proxy}/v2/employees", params=query, timeout=120)
        if response.headers.get("Content-Type") == "application/problem+json":
            problem = response.json()  # from the proxy; Pleo's errors have another form
            if problem["code"] == "reauthorization_required":
                instructions = problem.get("connect_url") or problem["message"]
                print(f"{problem['connection']} must be connected again: {instructions}", file=sys.stderr)
                sys.exit(2)
        response.raise_for_status()
        page = response.json()
        yield from page["data"]
        if not page["pagination"]["hasNextPage"]:
            return
        query["after"] = page["pagination"]["endCursor"]


for employee in employees():
    print(f"{employee['firstName']} {employee['lastName']} <{employee['email']}>")
