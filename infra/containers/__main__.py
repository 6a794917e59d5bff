"""`python3 -m infra.containers COMMAND`: see COMMANDS."""

import argparse
import sys
from pathlib import Path

from infra.containers.check import check, prepare
from infra.containers.engine import Docker
from infra.containers.passwords import write_passwords
from infra.containers.stack import Stack
from infra.report import Report
from reaseq.errors import InfrastructureError

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "passwords": "write passwords for docker-compose.yml into .env",
    "up": "start the system, with whatever it needs and this machine lacks",
    "smoke": "send an item and an event, and rank with them",
    "down": "stop the system, and the engine if `up` started it; state is kept",
    "remove": "like down, and remove state and images",
    "check": "start, kill, stop and restart all of it, report, and remove everything",
}


def main() -> int:
    """Run a command. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python3 -m infra.containers", formatter_class=argparse.RawTextHelpFormatter)
    listing = "\n".join(f"{name:10} {purpose}" for name, purpose in COMMANDS.items())
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help=listing)
    command = parser.parse_args().command
    report = Report()
    docker = Docker(ROOT / "var" / ("containers-check" if command == "check" else "containers"), ROOT)
    if command == "check":  # beside a system that runs here, and without its volumes
        docker.environment["COMPOSE_PROJECT_NAME"] = "reaseq-check"
    try:
        run(command, docker, report)
    except InfrastructureError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        if command == "check":
            print(f"\n{report.table()}")
    return 0


def run(command: str, docker: Docker, report: Report) -> None:
    """Run a command. Raises InfrastructureError."""
    if command == "passwords":
        print(f"new in .env: {', '.join(write_passwords(ROOT / '.env')) or 'nothing, all are there'}")
    elif command == "check":
        check(docker, report)
    elif command == "up":
        stack = prepare(docker, report)
        with report.step("up, until all are healthy"):
            stack.up()
        print("console: http://127.0.0.1:8080")
        if docker.own_engine:
            names = ("DOCKER_HOST", "DOCKER_CONFIG")
            print("for docker commands: export", *(f"{name}={docker.environment.get(name, '')}" for name in names))
    else:
        docker.start()
        docker.provide_compose()
        stack = Stack(docker)
        if command == "smoke":
            print(stack.smoke())
        else:
            stack.down(volumes=command == "remove")
            docker.stop(remove=command == "remove")


if __name__ == "__main__":
    sys.exit(main())
