"""What stories about people share, wherever they are told."""

from tests.admin.conftest import mailbox

__all__ = ["mailbox"]
