"""syncctl: finds the verb, runs it, and turns every end into an exit status.  Only what a verb needs is imported."""

from __future__ import annotations

import os
import sys

from ctl import argv
from proto.errors import EXIT_DONE, SyncError
from proto.record import TYPE_CHECKING
from proto.text import escape_text

if TYPE_CHECKING:
    from typing import NoReturn

EXIT_INTERRUPTED = 130
EXIT_PIPE = 141
"""As the shell calls the end by SIGPIPE: whoever read the output has gone."""


def main(words: list[str] | None = None) -> int:
    """Run a command line (sys.argv's when None); the exit status."""
    words = sys.argv[1:] if words is None else words
    if None in (sys.stdin, sys.stdout, sys.stderr):
        _stand_in()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = _dispatch(words)
        sys.stdout.flush()
        return status
    except SyncError as e:
        return report(e, json="--json" in words)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # nothing more can be said; the interpreter must not try it again when it exits
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_PIPE
    except Exception as e:
        if os.environ.get("SYNCCTL_TRACEBACK"):
            raise
        said = f"{type(e).__name__}: {e}"
        hint = "this is a defect; run it again with SYNCCTL_TRACEBACK=1 and report it"
        return report(SyncError("internal", said, hint), json="--json" in words)


def _stand_in() -> None:
    """Standard streams that were closed lead nowhere: else the next socket, or the agent's, would get their numbers."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - for as long as the process lives


def entry() -> NoReturn:
    """The command: taking the interpreter down in order would cost a fifth of a whole ``syncctl status``."""
    status = main()
    try:
        sys.stderr.flush()
    except OSError:
        pass
    os._exit(status)


def report(error: SyncError, *, json: bool) -> int:
    """Print an error: what failed, then what to do about it; its exit status."""
    sys.stdout.flush()
    if json:
        from proto.jsonl import dump_line

        value = {"t": "error", "code": error.code, "message": error.message, "hint": error.hint}
        sys.stdout.write(dump_line({**value, "exit": error.exit_status}).decode())
        sys.stdout.flush()
    text = f"syncctl: {escape_text(error.message)}\n"
    sys.stderr.write(text + (f"  {escape_text(error.hint)}\n" if error.hint else ""))
    sys.stderr.flush()
    return error.exit_status


def _dispatch(words: list[str]) -> int:
    if not words:
        from ctl.usage import OVERVIEW

        sys.stderr.write(OVERVIEW)
        return 2
    verb, rest = words[0], words[1:]
    if verb in ("-h", "--help"):
        verb, rest = "help", rest[:1]
    elif verb in ("-V", "--version"):
        verb = "version"
    if verb not in argv.VERBS:
        raise argv.unknown_verb(verb)
    options = rest[: rest.index("--")] if "--" in rest else rest
    if "--help" in options or "-h" in options:
        verb, rest = "help", [verb]
    operands, values = argv.parse(verb, rest)
    return _run(verb, operands, values)


def _run(verb: str, operands: list[str], values: argv.Values) -> int:
    if verb in ("push", "pull", "sync", "flush", "verify"):
        from ctl import jobs

        return jobs.run(verb, operands, values)
    if verb == "status":
        from ctl import status

        return status.status(operands, values)
    if verb in ("start", "stop", "restart", "relay", "enable", "disable"):
        from ctl import agent

        return agent.run(verb, values)
    if verb == "trash":
        from ctl import trash

        return trash.run(operands, values)
    if verb in ("add", "remove", "list", "events", "watch", "pause", "resume"):
        from ctl import pairs

        return pairs.run(verb, operands, values)
    from ctl import usage

    sys.stdout.write(usage.version() if verb == "version" else usage.help_text(operands[0] if operands else None))
    return EXIT_DONE
