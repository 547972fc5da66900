#!/usr/bin/env python3
"""Sets up a tenant over REST alone: two models, limits, keys and an agent; prints its keys, which are shown this once.

QUIVER_URL=http://127.0.0.1:8000 QUIVER_OPERATOR_KEY=qv_live_… python3 docs/setup_tenant.py acme openai/small local/tiny
"""

import json
import os
import sys
import urllib.request


def call(method, path, body=None, key=os.environ["QUIVER_OPERATOR_KEY"]):
    request = urllib.request.Request(f"{os.environ['QUIVER_URL']}/api/v1{path}", method=method)
    request.add_header("Authorization", f"Bearer {key}")
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, None if body is None else json.dumps(body).encode()) as answer:
        return json.load(answer)


def catalogue_id(model):
    provider, _, name = model.partition("/")
    found = call("GET", f"/embedding-models/catalog?provider={provider}&q={name}")["models"]
    return next(each["id"] for each in found if each["model_name"] == name)


slug, first, second = sys.argv[1:]
tenant = call("POST", "/tenants", {"name": slug.title(), "slug": slug, "tier": "standard"})
admin = call("POST", "/api-keys", {"name": "admin", "scopes": ["admin"], "tenant": tenant["id"]})["key"]
models = [
    {"model_id": catalogue_id(second), "daily_token_limit": 100_000, "rate_limit_rpm": 600},
    {"model_id": catalogue_id(first), "is_default": True, "priority": 10, "fallback_model_id": catalogue_id(second)},
]
call("POST", "/tenant-models", models, admin)
call("POST", "/agents", {"agent_id": "crawler", "preferences": {"task_models": {"search": first}}}, admin)
month = {"measure": "usd", "period": "month", "thresholds": [80, 100]}
limits = [{"scope": "tenant", "amount": "100"}, {"scope": "agent", "scope_id": "crawler", "amount": "10"}]
call("POST", "/limits", [month | each for each in limits], admin)
key = call("POST", "/api-keys", {"name": "crawler", "scopes": ["embeddings"], "agent_id": "crawler"}, admin)["key"]
json.dump({"tenant_id": tenant["id"], "admin_key": admin, "agent_key": key}, sys.stdout)
