"""How every request on the control socket ends, and the bounds that its messages share."""

from __future__ import annotations

from proto import limits
from proto.record import NamedTuple
from proto.schema import check_text, check_uint

LOCATION_MAX = limits.ROOT_MAX + 1024
NAME_MAX = 64
TARGETS_MAX = 1024


class Error(NamedTuple):
    """The request, or one job of it, ended by an error.  ``id`` 0: the connection did."""

    id: int
    code: str
    message: str
    hint: str | None = None
    job: int | None = None
    remaining: int = 0

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_uint("id", self.id, limits.U32)
        check_text("code", self.code, 32)
        check_text("message", self.message, 4 * limits.TEXT_MAX)
        if self.hint is not None:
            check_text("hint", self.hint)
        if self.job is not None:
            check_uint("job", self.job)
        check_uint("remaining", self.remaining, TARGETS_MAX)


class End(NamedTuple):
    """The request was carried out; nothing more comes for it."""

    id: int

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_uint("id", self.id, limits.U32)


def check_ids(request: int, job: int) -> None:
    """A request's number and a job's."""
    check_uint("id", request, limits.U32)
    check_uint("job", job)
