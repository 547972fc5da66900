"""Who acts in a request of the control plane, in the words of the audit log: a key, a person, or nobody known."""

from __future__ import annotations

from django.http import HttpRequest

from audit.actors import Actor, Kind
from tenants.authentication import Caller
from tenants.models import ApiKey, User


def actor_of(request: HttpRequest) -> Actor:
    """Whoever is let in by now: REST authentication puts its caller where a session has its person."""
    where = _where(request)
    who: object = getattr(request, "user", None)
    if isinstance(who, Caller):
        return Actor(Kind.KEY, str(who.grant.key_id), _words(who), **where)
    if isinstance(who, User):
        return person(request, who)
    return Actor(Kind.ANONYMOUS, "", "somebody who was not signed in", **where)


def person(request: HttpRequest, user: User) -> Actor:
    """Somebody who has proven who they are in this request, whether or not the session says so yet."""
    return Actor(Kind.PERSON, str(user.pk), user.email, **_where(request))


def _where(request: HttpRequest) -> dict[str, str]:
    return {"address": request.META.get("REMOTE_ADDR", ""), "request_id": str(getattr(request, "request_id", ""))}


def _words(caller: Caller) -> str:
    row = ApiKey.objects.filter(id=caller.grant.key_id).first()
    return str(caller.grant.key_id) if row is None else str(row)
