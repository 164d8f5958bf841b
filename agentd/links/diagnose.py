"""Why ssh did not get there, from its exit status and its words.

OpenSSH has one exit status, 255, for all of its own failures; its messages are not translated.  They are hostile text
all the same (a host's greeting comes the same way): they choose among our errors and are shown escaped, no more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentd.links.settings import describe_agent
from proto.errors import EXIT_NO_AGENT, SyncError
from proto.text import escape_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proto.hold import Failed

_LINE_SHOWN = 300

# (error code, what stands in a line of stderr); the first that occurs decides
_SIGNS: tuple[tuple[str, tuple[bytes, ...]], ...] = (
    ("host-key-changed", (b"marked as revoked", b"REMOTE HOST IDENTIFICATION HAS CHANGED", b"REVOKED HOST KEY")),
    ("host-key-unknown", (b"host key is known for", b"Host key verification failed", b"HOST IDENTIFICATION")),
    ("config", (b"ad configuration option", b"Bad owner or permissions", b"keyword ", b"Can't open user config file")),
    ("auth-refused", (b"Permission denied (", b"Too many authentication failures", b"authentication methods")),
)

_WORDS = {
    "host-key-changed": "its host key is not the one in known_hosts",
    "host-key-unknown": "its host key is not in known_hosts",
    "config": "ssh does not accept its configuration",
    "auth-refused": "it refused every key",
    "unreachable": "ssh could not connect",
}


def explain_ssh(host: str, stderr: bytes, environ: Mapping[str, str]) -> SyncError:
    """The error for an ssh that ended with 255 before the remote command said anything."""
    lines = [line.strip() for line in stderr.replace(b"\r", b"\n").split(b"\n") if line.strip()]
    for code, signs in _SIGNS:
        for line in lines:
            if any(sign in line for sign in signs):
                return _error(host, code, line, environ)
    return _error(host, "unreachable", lines[-1] if lines else b"", environ)


def _error(host: str, code: str, line: bytes, environ: Mapping[str, str]) -> SyncError:
    words = "its host key is marked as revoked in known_hosts" if b"evoked" in line else _WORDS[code]
    message = f"{escape_text(host)}: {words}"
    if code == "auth-refused":
        message += f" ({describe_agent(environ)})"
    if line and code != "host-key-changed":  # whose line is a banner of its own
        message += ": " + escape_text(line[:_LINE_SHOWN])
    return SyncError(code, message)


def explain_silence(host: str, returncode: int | None, noise: bytes, stderr: bytes) -> SyncError:
    """The error for a remote command that ended, or went on for too long, without its marked line."""
    shown = escape_text(host)
    if noise.strip():
        head = escape_text(noise.strip().split(b"\n")[0][:80])
        return SyncError("noisy-shell", f"{shown}: the login shell there prints, and syncctl's answer was lost: {head}")
    lines = [line for line in stderr.replace(b"\r", b"\n").split(b"\n") if line.strip()]
    said = ": " + escape_text(lines[-1][:_LINE_SHOWN]) if lines else ""
    if returncode is None:
        return SyncError("remote-failed", f"{shown}: syncctl there does not answer{said}")
    return SyncError("remote-failed", f"{shown}: syncctl there ended with status {returncode}{said}")


def from_far_end(host: str, failed: Failed) -> SyncError:
    """The error that the far end itself reported."""
    error = SyncError.from_wire(failed.code, f"{escape_text(host)}: {escape_text(failed.message)}")
    if error.exit_status == EXIT_NO_AGENT:  # which is to mean the agent here
        error = SyncError("remote-failed", error.message)
    if failed.hint is not None:
        error.hint = escape_text(failed.hint)
    return error
