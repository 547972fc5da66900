"""Seals secrets for rows: AES-GCM, bound to the tenant, table and row they belong to, under named keys.

Owns the sealed form `<key id>:<base64 of nonce + ciphertext>`. The first key writes, all of them read, so that a new
key can be put in front while rows under the old one are still there. A sealed text that was moved to another row,
table or tenant does not open.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE_BYTES = 12


class SealBroken(Exception):
    """The sealed text is damaged, belongs to another row, or its key is not among ours."""


class Sealer:
    """Seals and opens maps of secrets. `keys` as in `QUIVER_ENCRYPTION_KEYS`: `id:base64,id:base64`, 32 bytes each."""

    def __init__(self, keys: str) -> None:
        self._keys = parse_keys(keys)
        self._writer = next(iter(self._keys))

    def seal(self, secret: Mapping[str, str], *, tenant: str, table: str, row: str) -> str:
        nonce = os.urandom(_NONCE_BYTES)
        cipher = AESGCM(self._keys[self._writer])
        body = cipher.encrypt(nonce, msgspec.json.encode(dict(secret)), _binding(tenant, table, row))
        return f"{self._writer}:{base64.b64encode(nonce + body).decode()}"

    def open(self, sealed: str, *, tenant: str, table: str, row: str) -> dict[str, str]:
        """Raises `SealBroken`; its text names the key id, never the content."""
        key_id, _, text = sealed.partition(":")
        key = self._keys.get(key_id)
        if key is None:
            raise SealBroken(f"no encryption key {key_id!r} among QUIVER_ENCRYPTION_KEYS")
        try:
            raw = base64.b64decode(text, validate=True)
            plain = AESGCM(key).decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], _binding(tenant, table, row))
        except (InvalidTag, binascii.Error, ValueError) as error:
            raise SealBroken(f"a secret of {table} does not open with key {key_id!r}") from error
        return msgspec.json.decode(plain, type=dict[str, str])

    @property
    def writer(self) -> str:
        """The id of the first key."""
        return self._writer


def parse_keys(keys: str) -> dict[str, bytes]:
    """Key ids to 32-byte keys, in order. Raises ValueError with a message that shows no key."""
    found: dict[str, bytes] = {}
    for number, part in enumerate(filter(None, (p.strip() for p in keys.split(","))), start=1):
        key_id, _, text = part.partition(":")
        try:
            key = base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise ValueError(f"key {number} is not id:base64") from error
        if not key_id or len(key) != 32 or key_id in found:
            raise ValueError(f"key {number} must be id:base64 of 32 bytes, with an id of its own")
        found[key_id] = key
    if not found:
        raise ValueError("at least one key is needed, as id:base64 of 32 bytes")
    return found


def _binding(tenant: str, table: str, row: str) -> bytes:
    return msgspec.json.encode([tenant, table, row])
