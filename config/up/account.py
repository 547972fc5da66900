"""Whose rights PostgreSQL's processes get: it refuses to run as root.

As an ordinary user: that user's. As root: those of the data's owner when that is somebody else; else a user namespace,
in which root is seen as `nobody` and files stay root's; where namespaces are forbidden, `nobody` itself, to whom the
data directory is then given.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from config.up.failures import UpError

_CLONE_NEWUSER = 0x10000000
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Account:
    """`enter` runs in a child before its program; `own` hands a directory or file over beforehand."""

    name: str
    enter: Callable[[], None]
    own: Callable[[Path], None]


def unprivileged(data_dir: Path, probe: Sequence[str | Path]) -> Account:
    """The account to run PostgreSQL under: the first one in which the command `probe` works."""
    if os.geteuid() != 0:
        return OWN
    owner = data_dir.stat().st_uid if data_dir.exists() else 0
    candidates = (user(owner),) if owner != 0 else (NAMESPACE, user(pwd.getpwnam("nobody").pw_uid))
    for account in candidates:
        try:
            if subprocess.run(probe, preexec_fn=account.enter, capture_output=True, check=False).returncode == 0:
                return account
        except (subprocess.SubprocessError, OSError):
            continue  # not allowed here, or the checkout is out of this account's reach
    raise UpError(
        f"PostgreSQL does not run as root, and {' or '.join(account.name for account in candidates)} cannot reach "
        f"{probe[0]}; run as an ordinary user, or set DATABASE_URL"
    )


def user(uid: int) -> Account:
    """The account of another user, who gets the data."""
    entry = pwd.getpwuid(uid)

    def enter() -> None:
        os.setgroups([])
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)

    def own(path: Path) -> None:
        for found in [path, *path.rglob("*")]:
            os.chown(found, entry.pw_uid, entry.pw_gid, follow_symlinks=False)
        parent = path.parent.stat()
        if parent.st_uid != entry.pw_uid:
            path.parent.chmod(parent.st_mode | 0o011)  # it must pass through; secrets have modes of their own

    return Account(entry.pw_name, enter, own)


def _enter_nothing() -> None:
    """The process is an ordinary user's already."""


def _own_nothing(path: Path) -> None:
    """Files stay whose they are."""


def _enter_namespace() -> None:
    if _libc.unshare(_CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "no user namespace")
    _write("/proc/self/setgroups", b"deny")
    _write("/proc/self/uid_map", b"65534 0 1")
    _write("/proc/self/gid_map", b"65534 0 1")


def _write(path: str, text: bytes) -> None:
    file = os.open(path, os.O_WRONLY)
    os.write(file, text)
    os.close(file)


OWN = Account("this user", _enter_nothing, _own_nothing)
NAMESPACE = Account("a user namespace", _enter_namespace, _own_nothing)
