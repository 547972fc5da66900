"""The form of an API key: `qv_<live|test>_<id>_<secret>_<checksum>`. Pure.

Owns minting the text, refusing a mistyped one without a look-up, and the digest that is kept. A SHA-256 is enough: the
secret has 160 random bits, so there is nothing to guess from a stolen digest.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import zlib
from dataclasses import dataclass

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_LENGTH, _SECRET_LENGTH, _CHECKSUM_LENGTH = 12, 32, 6
_FORM = re.compile(r"qv_(?:live|test)_[0-9A-Za-z]{12}_[0-9A-Za-z]{32}_[0-9A-Za-z]{6}", re.ASCII)


@dataclass(frozen=True, slots=True)
class MintedKey:
    text: str  # shown once
    prefix: str  # `qv_live_<id>`, kept to recognise it
    digest: bytes  # kept


def mint(*, live: bool = True) -> MintedKey:
    """A new key."""
    prefix = f"qv_{'live' if live else 'test'}_{_random(_ID_LENGTH)}"
    body = f"{prefix}_{_random(_SECRET_LENGTH)}"
    text = f"{body}_{_checksum(body)}"
    return MintedKey(text, prefix, digest(text))


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def is_well_formed(text: str) -> bool:
    """Whether this can be a key of ours at all: form and checksum."""
    return _FORM.fullmatch(text) is not None and _checksum(text[: -_CHECKSUM_LENGTH - 1]) == text[-_CHECKSUM_LENGTH:]


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def _checksum(body: str) -> str:
    value = zlib.crc32(body.encode())
    digits = []
    for _ in range(_CHECKSUM_LENGTH):
        value, rest = divmod(value, 62)
        digits.append(_ALPHABET[rest])
    return "".join(reversed(digits))
