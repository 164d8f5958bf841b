"""The messages of the control socket that watch pairs, and that ask of watched ones."""

from __future__ import annotations

from proto import limits
from proto.control_ends import NAME_MAX
from proto.control_jobs import check_environment
from proto.record import NamedTuple
from proto.schema import check_text, check_uint

_NO_ENV: dict[str, str] = {}


class Watch(NamedTuple):
    """Watch a pair for as long as this request lasts; answered as EVENTS is, by the events of that pair alone."""

    id: int
    name: str
    env: dict[str, str] = _NO_ENV
    after: int | None = None
    """As in EVENTS."""

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_uint("id", self.id, limits.U32)
        check_text("name", self.name, NAME_MAX)
        check_environment(self.env)
        if self.after is not None:
            check_uint("after", self.after)


class Pause(NamedTuple):
    """Leave a watched pair alone until RESUME; a batch under way is cancelled."""

    id: int
    name: str

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_uint("id", self.id, limits.U32)
        check_text("name", self.name, NAME_MAX)


class Resume(NamedTuple):
    """Go on with a pair that is paused, for whatever reason."""

    id: int
    name: str

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_uint("id", self.id, limits.U32)
        check_text("name", self.name, NAME_MAX)
