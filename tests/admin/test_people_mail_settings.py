"""What the environment may say about mail and proxies: nonsense and half of it is refused at start."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from config.environment import BadEnvironment, load

WHOLE = {
    "QUIVER_SMTP_URL": "smtp://quiver:p%40ss@mail.example:587",
    "QUIVER_MAIL_FROM": "Quiver <quiver@example.com>",
    "QUIVER_PUBLIC_URL": "https://quiver.example",
}
NEEDED = {name: os.environ[name] for name in ("DJANGO_SECRET_KEY", "QUIVER_ENCRYPTION_KEYS")}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"QUIVER_MAIL_FROM": ""}, "needs QUIVER_MAIL_FROM"),
        ({"QUIVER_PUBLIC_URL": ""}, "needs QUIVER_PUBLIC_URL"),
        ({"QUIVER_SMTP_URL": "https://mail.example"}, "must be smtp://host"),
        ({"QUIVER_SMTP_URL": "smtp://"}, "must be smtp://host"),
        ({"QUIVER_SMTP_URL": "smtp://mail.example:99999"}, "QUIVER_SMTP_URL"),
        ({"QUIVER_TRUSTED_PROXIES": "10.0.0.0/8, everybody"}, "QUIVER_TRUSTED_PROXIES"),
    ],
)
def test_half_of_it_is_refused(change: dict[str, str], says: str) -> None:
    with pytest.raises(BadEnvironment, match=says):
        load(NEEDED | WHOLE | change)


@pytest.mark.parametrize(
    ("url", "host", "port", "starttls", "tls"),
    [
        ("smtp://quiver:p%40ss@mail.example:587", "mail.example", 587, True, False),
        ("smtp://quiver:p%40ss@mail.example:2525", "mail.example", 2525, True, False),
        ("smtps://quiver:p%40ss@mail.example", "mail.example", 465, False, True),
        ("smtp://relay.internal", "relay.internal", 25, False, False),
    ],
)
def test_a_password_never_travels_in_clear(url: str, host: str, port: int, starttls: bool, tls: bool) -> None:
    program = (
        "from config import settings as s; "
        "print([s.EMAIL_HOST, s.EMAIL_PORT, s.EMAIL_USE_TLS, s.EMAIL_USE_SSL, s.SESSION_COOKIE_SECURE])"
    )
    environment = os.environ | WHOLE | {"QUIVER_SMTP_URL": url}
    said = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == str([host, port, starttls, tls, True])
