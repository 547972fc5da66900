"""`quickstart.json`: what somebody, or a script, needs to use a platform that `up` started.

It is there only while the platform answers. When `up` stops or starts it becomes `quickstart.last.json`, so that the
next start can go on with the same credentials.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from config.up.home import read_json, write_private


class Quickstart:
    """The file of one home."""

    def __init__(self, home: Path) -> None:
        self.path = home / "quickstart.json"
        self._last = home / "quickstart.last.json"

    def retire(self) -> dict[str, Any] | None:
        """Takes the file away, when there is one, and returns what the last one said."""
        if self.path.exists():
            self.path.replace(self._last)
        return read_json(self._last) or None

    def write(self, content: dict[str, Any]) -> None:
        """Publishes the file."""
        write_private(self.path, content)


def curl(content: dict[str, Any]) -> str:
    """A command that works: an embedding for the demo tenant, or the catalogue when there is none."""
    if not content.get("api_key"):
        url = f"{content['base_url']}/api/v1/embedding-models/catalog"
        return shlex.join(["curl", "-s", url, "-H", f"Authorization: Bearer {content['operator_key']}"])
    body = json.dumps({"model": content["model"], "input": "Where does the river meet the sea?"})
    words = ["curl", "-s", f"{content['base_url']}/v1/embeddings"]
    words += ["-H", f"Authorization: Bearer {content['api_key']}", "-H", "Content-Type: application/json", "-d", body]
    return shlex.join(words)


def summary(content: dict[str, Any]) -> str:
    """Addresses, credentials and the command, for the console."""
    lines = {
        "API": content["base_url"],
        "API reference": f"{content['base_url']}/api/docs",
        "admin": content["admin_url"],
        "  e-mail": content["admin_email"],
        "  password": content["admin_password"],
        "operator key": content["operator_key"],
    }
    if content.get("api_key"):
        lines |= {"tenant": content["tenant"], "  API key": content["api_key"], "  model": content["model"]}
        lines["  owner"] = f"{content['owner_email']}, password {content['owner_password']}"
    lines["all of this"] = f"{content['home']}/quickstart.json"
    lines["logs"] = f"{content['home']}/logs (a line per request in web.log)"
    table = "\n".join(f"  {name:<14} {value}" for name, value in lines.items())
    return f"\n{table}\n\n  {curl(content)}\n"
