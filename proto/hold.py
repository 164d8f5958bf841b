"""The one line by which the far end of a link says that it is there.

``syncctl start --hold`` and ``syncctl relay`` run behind a login shell that may print whatever it likes first.  So
the line carries a mark that is searched for, and its message in hex, which no shell, locale or terminal changes:

    @syncctl: HEX OF A CBOR MAP \\n

For the relay the multiplexer's frames begin right behind it.
"""

from __future__ import annotations

from proto.codec import cbor2
from proto.errors import RemoteProtocolError
from proto.limits import TEXT_MAX
from proto.record import NamedTuple
from proto.schema import Message, Registry, check_bytes, check_path, check_text, from_head_untrusted, registry, to_head
from proto.strict import loads_untrusted

MARK = b"@syncctl:"
NOISE_MAX = 64 << 10
"""What a login shell may print before our line; a greeting is a few hundred bytes."""
LINE_MAX = 32 << 10


class Ready(NamedTuple):
    """The agent there runs; ``socket`` is where it listens for agents."""

    version: str
    agent: bytes
    socket: bytes

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_text("version", self.version, 64)
        check_bytes("agent", self.agent, 16, 16)
        check_path("socket", self.socket, TEXT_MAX)


class Failed(NamedTuple):
    """It does not, and this is why."""

    code: str
    message: str
    hint: str | None = None

    def validate(self) -> None:
        """Raise RemoteProtocolError when an invariant does not hold."""
        check_text("code", self.code, 32)
        check_text("message", self.message)
        if self.hint is not None:
            check_text("hint", self.hint)


HOLD_MESSAGES: Registry = registry(Ready, Failed)


def encode_line(message: Message) -> bytes:
    """The marked line that says ``message``, its line end included."""
    return MARK + cbor2.dumps(to_head(message)).hex().encode() + b"\n"


class LineScanner:
    """Finds the marked line in what a remote command prints."""

    def __init__(self) -> None:
        self.noise = b""
        """What came before the line, as far as it is known yet."""
        self.rest = b""
        """What came behind it."""
        self._found = False

    def feed_untrusted(self, data: bytes) -> Ready | Failed | None:
        """The message, once its line is whole.  Raises RemoteProtocolError past the cap or for a broken line."""
        if self._found:
            raise AssertionError("fed after the line was found")
        self.noise += data
        start = self.noise.find(MARK)
        if start < 0 and len(self.noise) <= NOISE_MAX:
            return None
        end = self.noise.find(b"\n", start)
        if start < 0 or start > NOISE_MAX or (end if end >= 0 else len(self.noise)) - start > LINE_MAX:
            raise RemoteProtocolError(f"no marked line within {NOISE_MAX} bytes of output")
        if end < 0:
            return None
        self._found = True
        line, self.noise, self.rest = self.noise[start + len(MARK) : end], self.noise[:start], self.noise[end + 1 :]
        try:
            body = bytes.fromhex(line.decode("ascii"))
        except ValueError:
            raise RemoteProtocolError("the marked line is not hexadecimal") from None
        head = loads_untrusted(body)
        if type(head) is not dict or not all(type(key) is str for key in head):
            raise RemoteProtocolError("the marked line holds no map")
        message: Ready | Failed = from_head_untrusted(HOLD_MESSAGES, head)
        return message
