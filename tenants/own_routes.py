"""How a provider is called with a tenant's own credentials, and what else may serve beside them. Pure.

Decides where such a call goes: to the address that the operator gave the provider, or, where the tenant names a region
or a resource of its own, to the vendor's own address there. A tenant never gives an address.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from providers.base import OWN, Endpoint
from tenants.snapshots import OwnCredential

_AZURE = "https://{}.openai.azure.com"


@dataclass(frozen=True, slots=True)
class OwnRoutes:
    """A tenant's own ways to one provider. `is_only` holds also where none of them can be called: then nothing is."""

    first: tuple[Endpoint, ...] = ()  # before the platform's
    last: tuple[Endpoint, ...] = ()  # behind them
    is_only: bool = False  # the platform's are not used


def own_routes(
    credentials: Iterable[OwnCredential], templates: Mapping[str, Endpoint | None]
) -> Mapping[str, OwnRoutes]:
    """By the providers' slugs; `templates` are how the platform calls them, without its credentials."""
    found: dict[str, OwnRoutes] = {}
    for credential in credentials:
        template = templates.get(credential.provider)
        if template is None:
            continue
        routes = found.get(credential.provider, OwnRoutes())
        if credential.use == "only":
            routes = replace(routes, is_only=True)
        if credential.secret is not None:
            endpoint = own_endpoint(template, credential)
            if credential.use == "last":
                routes = replace(routes, last=(*routes.last, endpoint))
            else:
                routes = replace(routes, first=(*routes.first, endpoint))
        found[credential.provider] = routes
    return found


def own_endpoint(template: Endpoint, credential: OwnCredential) -> Endpoint:
    """How the provider is called with this credential."""
    base_url, region = template.base_url, credential.region or template.region
    if credential.resource:
        base_url = _AZURE.format(credential.resource)
    elif region != template.region:
        base_url = ""  # what the operator wrote down is in another region: the vendor's own address there
    return replace(
        template,
        base_url=base_url,
        region=region,
        project=credential.project or ("" if template.kind == "vertex" else template.project),
        credential_id=f"{OWN}{credential.credential_id}",
        secret=credential.secret or {},
    )
