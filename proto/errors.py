"""Every error: a stable code, the exit status it ends a command with, and what to do about it.

An *error* ends a session or a command.  A *problem* is one path's trouble; it is data, never raised.
"""

from __future__ import annotations

EXIT_DONE = 0
EXIT_PROBLEMS = 1
EXIT_USAGE = 2
EXIT_NO_AGENT = 3
EXIT_UNREACHABLE = 4
EXIT_TIMEOUT = 5
EXIT_GUARD = 6

#: code -> (exit status, default next step).  Codes are part of the protocol: add, never rename.
CODES: dict[str, tuple[int, str]] = {
    # the person's input
    "usage": (EXIT_USAGE, "see 'syncctl --help'"),
    "config": (EXIT_USAGE, "correct the file named above"),
    "no-such-pair": (EXIT_USAGE, "'syncctl list' shows the pairs; 'syncctl add' makes one"),
    # the agent here
    "no-agent": (EXIT_NO_AGENT, "start it with 'syncctl start'"),
    "agent-stopping": (EXIT_NO_AGENT, "run the command again"),
    "agent-busy": (EXIT_NO_AGENT, "wait for other commands to end, or restart it with 'syncctl restart'"),
    # the way to the other host
    "unreachable": (EXIT_UNREACHABLE, "check the name, the network and that sshd runs there"),
    "host-key-unknown": (EXIT_UNREACHABLE, "connect once with 'ssh HOST' and confirm the key's fingerprint"),
    "host-key-changed": (
        EXIT_UNREACHABLE,
        "find out why it changed; then 'ssh-keygen -R HOST' and connect once with ssh",
    ),
    "auth-refused": (EXIT_UNREACHABLE, "check that 'ssh HOST' logs in without asking; 'ssh-add -l' shows loaded keys"),
    "remote-missing": (EXIT_UNREACHABLE, "install syncctl there, or set remote_command in config.toml"),
    "remote-failed": (EXIT_UNREACHABLE, "run 'ssh HOST syncctl start --foreground' to see why"),
    "forwarding-denied": (EXIT_UNREACHABLE, 'set transport = "stdio" for this host in config.toml'),
    "noisy-shell": (EXIT_UNREACHABLE, "make the login files there print only in interactive shells"),
    "incompatible": (EXIT_UNREACHABLE, "upgrade syncctl on the side named above"),
    "ssh-missing": (EXIT_UNREACHABLE, 'install the OpenSSH client, or set transport = "asyncssh"'),
    "link-lost": (EXIT_UNREACHABLE, "run the command again; what was acknowledged is not sent twice"),
    "protocol": (EXIT_UNREACHABLE, "upgrade both sides; if it stays, report it with the agents' logs"),
    "not-permitted": (EXIT_UNREACHABLE, "run both agents as the user who owns the files"),
    # the roots
    "source-missing": (EXIT_GUARD, "check the path; nothing was changed"),
    "source-unreadable": (EXIT_GUARD, "check its permissions; nothing was changed"),
    "source-empty": (
        EXIT_GUARD,
        "an empty source with --delete would empty the destination; give --force if that is meant",
    ),
    "source-type": (EXIT_GUARD, "a source is a directory or a regular file"),
    "destination-missing": (EXIT_GUARD, "make the directory that is to hold it; only the last component is made"),
    "destination-type": (EXIT_GUARD, "name a destination of the source's kind: for one file, its whole name there"),
    "destination-read-only": (EXIT_GUARD, "remount it writable or choose another place"),
    "destination-full": (EXIT_GUARD, "make room and run it again; what arrived is kept"),
    "destination-unwritable": (EXIT_GUARD, "check its permissions; nothing was changed"),
    "destination-precious": (EXIT_GUARD, "name a directory below it; give --force if that is meant"),
    "overlap": (EXIT_GUARD, "choose roots that do not contain each other"),
    "root-changed": (EXIT_GUARD, "check what is mounted there; give --force if the change is meant"),
    "root-busy": (EXIT_GUARD, "wait for the command that holds it, or cancel it"),
    "paused": (EXIT_GUARD, "'syncctl resume NAME' goes on; 'syncctl status' says why it is paused"),
    "max-delete": (EXIT_GUARD, "look with --dry-run; give a higher --max-delete or --force if it is meant"),
    # how it ended
    "timeout": (EXIT_TIMEOUT, "give a longer --timeout; the work done so far is kept"),
    "cancelled": (EXIT_PROBLEMS, "run it again; the work done so far is kept"),
    "internal": (EXIT_PROBLEMS, "this is a defect; please report it with the agent's log"),
}


class SyncError(Exception):
    """An error a person sees: what failed (with its path or host), the cause, and the next step.

    ``code`` is a key of CODES.  ``hint`` overrides the code's own next step.
    """

    def __init__(self, code: str, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.exit_status, default_hint = CODES[code]
        self.hint = default_hint if hint is None else hint

    @classmethod
    def from_wire(cls, code: str, message: str, hint: str | None = None) -> SyncError:
        """An error that another process reported; a code this version does not know becomes ``internal``."""
        return cls(code if code in CODES else "internal", message, hint)


class ProtocolError(Exception):
    """Abstract parent: the rules of a connection were broken.  The connection is not used again."""


class LocalProtocolError(ProtocolError):
    """We were about to break them: a defect of this program."""


class RemoteProtocolError(ProtocolError):
    """The peer broke them.  The only exception that functions ending in ``_untrusted`` raise."""


def broken(where: str, error: ProtocolError) -> SyncError:
    """What a person is told of a connection whose rules were broken: ``where`` it was noticed, and by whom."""
    who = "peer violated the protocol" if isinstance(error, RemoteProtocolError) else "a defect here"
    return SyncError("protocol", f"{where}: {who}: {error}")
