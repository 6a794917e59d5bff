"""`python -m benchmarks.http_caller`: an HTTP client in a process of its own, which does not share the service's GIL.

The first line of its input is a JSON list of request bodies. Each further line is a port and the number of a body; the answer
is a line with the seconds that `POST /v1/rank` took.
"""

import json
import sys
import time
from http.client import HTTPConnection


def main() -> None:
    """Make one call for each line, over one connection per port."""
    bodies = [json.dumps(body) for body in json.loads(sys.stdin.readline())]
    connections: dict[int, HTTPConnection] = {}
    for line in sys.stdin:
        port, number = map(int, line.split())
        connection = connections.setdefault(port, HTTPConnection("127.0.0.1", port))
        started = time.perf_counter()
        connection.request("POST", "/v1/rank", bodies[number], {"content-type": "application/json"})
        response = connection.getresponse()
        content = response.read()
        took_s = time.perf_counter() - started
        if response.status != 200 or json.loads(content)["fallback_level"] != "fresh":
            sys.exit(f"not ranked: {response.status} {content[:500]!r}")
        print(took_s, flush=True)


if __name__ == "__main__":
    main()
