"""push, pull, sync, flush and verify: one request, and its progress until the end."""

from __future__ import annotations

import sys
from os import fsencode, get_terminal_size
from time import monotonic

from ctl import argv, render
from ctl.client import connect, environment
from proto import control_jobs as control
from proto.control_ends import End, Error
from proto.errors import EXIT_DONE, EXIT_PROBLEMS, SyncError
from proto.job import format_location
from proto.record import TYPE_CHECKING
from proto.text import escape_text, shown

if TYPE_CHECKING:
    from typing import Any

    from ctl.client import Client

EXIT_INTERRUPTED = 130

_FIRST_S = 0.5
_TERMINAL_S = 0.1
_PLAIN_S = 5.0
_GRACE_S = 5.0
"""How much longer than the agent the CLI waits for a timeout, or for a cancelled job's last word."""

_REQUEST, _CANCEL = 1, 2
_ANSWERS = (
    control.Accepted, control.Progress, control.Items, control.Problems, control.Paths, control.Notice, control.Result,
)  # fmt: skip


def run(verb: str, operands: list[str], values: argv.Values) -> int:
    """Carry the verb out; the exit status.  Raises SyncError."""
    if verb == "sync":
        return _sync(operands, values)
    if verb == "flush":
        return _run(control.Flush(_REQUEST, operands, environment(), _timeout_ms(values)), values)
    if verb == "verify":
        return _verify(operands, values)
    return _push_or_pull(verb, operands, values)


def _push_or_pull(verb: str, operands: list[str], values: argv.Values) -> int:
    source, destination = argv.location(operands[0]), argv.location(operands[1])
    if verb == "push" and source.host is not None:
        raise SyncError("usage", f"push: the source {source} is on another host", "'syncctl pull' brings from there")
    if verb == "pull" and destination.host is not None:
        raise SyncError(
            "usage", f"pull: the destination {destination} is on another host", "'syncctl push' sends there"
        )
    request = control.Run(_REQUEST, format_location(source), format_location(destination), **_options(values))
    return _run(request, values)


def _sync(operands: list[str], values: argv.Values) -> int:
    # PWD travels as text only, and a directory's name need not be text
    targets = _targets(operands) or [argv.absolute(b".")]
    return _run(control.Sync(_REQUEST, targets, **_options(values), whole=not operands), values)


def _verify(operands: list[str], values: argv.Values) -> int:
    """Both ends read again, and compared; what differs is listed, and with --repair sent."""
    repair = bool(values.pop("repair", False))
    values |= {"checksum": True, "itemize": True, "verify": True}
    if not repair:
        values["dry_run"] = True
    return _run(control.Sync(_REQUEST, _targets(operands), **_options(values), whole=True, reread=True), values)


def _targets(operands: list[str]) -> list[bytes]:
    targets = []
    for word in operands:
        target = fsencode(word)
        path = b"/" in target or target in (b".", b"..") or target.startswith(b"~")
        targets.append(argv.absolute(target) if path else target)
    return targets


def _options(values: argv.Values) -> dict[str, Any]:
    """The fields that RUN and SYNC share."""
    fields: dict[str, Any] = {
        name: True
        for name in ("delete", "checksum", "dry_run", "itemize", "owner", "group", "force", "profile", "detach")
        if name in values
    }
    if "hard_links" in values:
        fields["hard_links"] = values["hard_links"]
    fields["timeout_ms"] = _timeout_ms(values)
    fields |= {name: values[name] for name in ("max_delete", "compress", "fsync") if name in values}
    if "trash" in values:
        fields["trash"] = int(values["trash"])
    return {"env": environment(), "excludes": values.get("exclude", []), **fields}


def _timeout_ms(values: argv.Values) -> int | None:
    return max(1, int(values["timeout"] * 1000)) if values.get("timeout") else None


def _run(request: control.Run | control.Sync | control.Flush, values: argv.Values) -> int:
    request.validate()
    client = connect(*_ANSWERS, start=True)
    view = _Json(values) if values.get("json") else _Text(values)
    job = _Job(client, view, values.get("timeout"))
    try:
        client.ask(request)
        return job.follow()
    except KeyboardInterrupt:
        view.pause()
        return job.cancel()
    finally:
        view.pause()
        client.close()


_FATES = {
    "held": "was changed at the destination by someone else, and stays as it is there",
    "open": "not done",
    "excluded": "the pair excludes it",
}
"""What is said of paths; those that failed have their problems, and what landed is in the result."""


class _Job:
    """A request under way."""

    def __init__(self, client: Client, view: _Text | _Json, timeout_s: float | None) -> None:
        self._client = client
        self._view = view
        self._timeout_s = timeout_s
        self._number: int | None = None
        self._status = EXIT_DONE

    def follow(self) -> int:
        """Take the answers in until the last one."""
        started = monotonic()
        while True:
            wait = None
            if self._timeout_s is not None:
                wait = max(0.0, started + self._timeout_s + _GRACE_S - monotonic())
            found = self._client.receive(wait)
            if found is None:
                raise SyncError("timeout", f"the agent gave no end within {self._timeout_s:g} s")
            message, payload = found
            self._view.show(message, payload)
            if type(message) is control.Accepted:
                self._number = message.job
                started = monotonic()
            elif type(message) is control.Result:
                trouble = message.problem_count or self._view.differs
                self._status = self._status or (EXIT_PROBLEMS if trouble else EXIT_DONE)
                if not message.remaining:
                    return self._status
            elif type(message) is End:
                sys.stderr.write("syncctl: no pair is watched\n")
                return self._status
            elif type(message) is Error and message.id == _REQUEST:
                error = SyncError.from_wire(message.code, message.message, message.hint)
                if not message.remaining and self._status == EXIT_DONE:
                    raise error
                self._view.error(error)
                self._status = error.exit_status if self._status in (EXIT_DONE, EXIT_PROBLEMS) else self._status
                if not message.remaining:
                    return self._status
            if type(message) is control.Accepted and self._view.detach and not message.remaining:
                return EXIT_DONE

    def cancel(self) -> int:
        """The first Ctrl-C: ask for a clean end and wait for it a little; the second one leaves at once."""
        try:
            if self._number is not None:
                self._client.ask(control.Cancel(_CANCEL, self._number))
                until = monotonic() + _GRACE_S
                while (found := self._client.receive(max(0.0, until - monotonic()))) is not None:
                    if type(found[0]) in (control.Result, Error):
                        break
        except (KeyboardInterrupt, SyncError):
            pass
        sys.stderr.write("syncctl: interrupted; what was applied is kept\n")
        return EXIT_INTERRUPTED


class _Json:
    """One JSON object a line, on stdout."""

    def __init__(self, values: argv.Values) -> None:
        from proto.jsonl import dump_line, to_json

        self._to_json, self._dump = to_json, dump_line
        self._next = 0.0
        self._verify = bool(values.get("verify")) and bool(values.get("dry_run"))
        self.detach = bool(values.get("detach"))
        self.differs = False
        """Whether a comparison found anything."""

    def show(self, message: Any, payload: Any) -> None:
        """Print one answer; of progress, some."""
        if type(message) is control.Progress:
            now = monotonic()
            if now < self._next:
                return
            self._next = now + _FIRST_S
        elif type(message) in (Error, End):
            return
        self.differs = self.differs or (self._verify and type(message) is control.Items)
        value = self._to_json(message, payload)
        if type(message) is control.Result:
            value["speedup"] = round(render.speedup(message.stats, message.wire_sent + message.wire_received), 2)
        sys.stdout.write(self._dump(value).decode())
        sys.stdout.flush()

    def error(self, error: SyncError) -> None:
        """Print an error that is not the last word."""
        from ctl.main import report

        report(error, json=True)

    def pause(self) -> None:
        """Nothing is pending."""


class _Text:
    """Lines for a person: results and items on stdout, everything else on stderr."""

    def __init__(self, values: argv.Values) -> None:
        self.detach = bool(values.get("detach"))
        self.differs = False
        """Whether a comparison found anything."""
        self._verify = bool(values.get("verify")) and bool(values.get("dry_run"))
        self._stats = bool(values.get("stats"))
        self._dry_run = bool(values.get("dry_run"))
        self._terminal = sys.stderr.isatty()
        self._drawn = False
        self._rate = render.Rate()
        self._started = monotonic()
        self._next = self._started + (_FIRST_S if self._terminal else _PLAIN_S)
        self._several = False

    def show(self, message: Any, payload: Any) -> None:
        """Print one answer."""
        kind = type(message)
        if kind is control.Progress:
            self._progress(message)
            return
        self.pause()
        if kind is control.Items:
            self.differs = self.differs or self._verify
            lines = bytes(payload or b"").removesuffix(b"\0").split(b"\0")
            sys.stdout.write("".join(render.item(line) + "\n" for line in lines if line))
        elif kind is control.Problems:
            for problem in control.unpack_problems_untrusted(payload or b""):
                sys.stderr.write(f"syncctl: {render.problem(*problem)}\n")
        elif kind is control.Paths and message.fate in _FATES:
            said = _FATES[message.fate]
            sys.stderr.write("".join(f"syncctl: {shown(path)}: {said}\n" for path in message.paths))
        elif kind is control.Notice:
            sys.stderr.write(f"syncctl: {escape_text(message.text)}\n")
        elif kind is control.Accepted:
            self._accepted(message)
        elif kind is control.Result:
            self._result(message)

    def error(self, error: SyncError) -> None:
        """Print an error that is not the last word."""
        from ctl.main import report

        report(error, json=False)

    def pause(self) -> None:
        """Take the progress line away."""
        if self._drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._drawn = False

    def _accepted(self, message: control.Accepted) -> None:
        self._several = self._several or message.remaining > 0
        self._started = monotonic()
        self._rate = render.Rate()
        if self.detach:
            sys.stdout.write(f"job {message.job}\n")
        elif self._several:
            sys.stdout.write(f"{escape_text(message.pair or '')}: {shown(message.destination)}\n")

    def _result(self, message: control.Result) -> None:
        wire = (message.wire_sent, message.wire_received)
        seconds = message.duration_us / 1e6
        if self._stats:
            sys.stdout.write(render.statistics(message.stats, message.epochs, seconds, wire) + "\n")
        if message.profile:
            sys.stdout.write(render.profile(message.profile) + "\n")
        if self._verify and not message.problem_count:
            sys.stdout.write("something differs, see above\n" if self.differs else "both ends are the same\n")
            return
        line = render.summary(message.stats, message.problem_count, seconds, wire, dry_run=self._dry_run)
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    def _progress(self, message: control.Progress) -> None:
        now = monotonic()
        self._rate.add(now, render.done_bytes(message.counters))
        if now < self._next:
            return
        line = escape_text(render.progress(message.phase, message.counters, self._rate.value()))
        if self._terminal:
            self._next = now + _TERMINAL_S
            try:
                width = get_terminal_size(2).columns or 80
            except OSError:
                width = 80
            sys.stderr.write("\r" + line[: max(width - 1, 1)] + "\x1b[K")
            self._drawn = True
        else:
            self._next = now + _PLAIN_S
            sys.stderr.write(line + "\n")
        sys.stderr.flush()
