"""The passwords of docker-compose.yml, in the file `.env`, which Compose reads by itself."""

import re
import secrets
from pathlib import Path

NAMES = ("KAFKA_PASSWORD", "REDIS_PASSWORD", "VLLM_PASSWORD", "GRAFANA_PASSWORD")
BYTES = 24


def write_passwords(file: Path) -> list[str]:
    """Add a random password for each name that `file` lacks, and return those names. Only the owner may read the file."""
    text = file.read_text() if file.exists() else ""
    present = set(re.findall(r"^(\w+)=.", text, flags=re.MULTILINE))
    missing = [name for name in NAMES if name not in present]
    if text and not text.endswith("\n"):
        text += "\n"
    file.touch(mode=0o600)
    file.chmod(0o600)
    file.write_text(text + "".join(f"{name}={secrets.token_hex(BYTES)}\n" for name in missing))
    return missing
