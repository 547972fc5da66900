"""The script in `docs/` sets up a tenant over REST alone, and what it made works."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.scenarios.platform import Platform
from tests.up.processes import CHECKOUT, eventually

pytestmark = pytest.mark.slow
SCRIPT = CHECKOUT / "docs" / "setup_tenant.py"
NAME = "text-embedding-3-small"


def test_the_script_of_the_docs_sets_up_a_tenant(platform: Platform) -> None:
    platform.add_model("fake", "scripted-model")
    done = subprocess.run(
        [sys.executable, SCRIPT, "scripted", f"fake/{NAME}", "fake/scripted-model"],
        env={"QUIVER_URL": f"http://127.0.0.1:{platform.port}", "QUIVER_OPERATOR_KEY": platform.operator_key},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    said = json.loads(done.stdout)
    key, admin = said["agent_key"], said["admin_key"]
    eventually(lambda: platform.embed(key, input="a text").status == 200, 10)
    answer = platform.embed(key, input="another text", model="auto", task_type="search").json["quiver"]
    assert (answer["model"], answer["provider"]) == (NAME, "fake")
    models = platform.operate("GET", "/tenant-models", key=admin)["results"]
    assert [(each["model_name"], each["is_default"], each["daily_token_limit"]) for each in models] == [
        (NAME, True, None),
        ("scripted-model", False, 100_000),
    ]
    budgets = platform.operate("GET", "/budgets", key=admin)["results"]
    assert sorted((each["scope"], each["amount"]) for each in budgets) == [("agent", "10"), ("tenant", "100")]
    records = platform.operate("GET", "/usage/records?agent_id=crawler", key=admin)["results"]
    assert answer["request_id"] in [each["request_id"] for each in records]
    assert platform.ask("GET", "/api/v1/limits", key=key).status == 403  # the agent's key embeds, and no more


def test_the_script_is_short_enough_to_be_read() -> None:
    assert len(SCRIPT.read_text().splitlines()) <= 40
