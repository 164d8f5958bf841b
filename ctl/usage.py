"""The texts of --help."""

from __future__ import annotations

import sys

from ctl.argv import VERBS, unknown_verb
from proto.version import VERSION

OVERVIEW = """\
usage: syncctl COMMAND ...

  push SRC [HOST:]DST        bring SRC's state to DST
  pull [HOST:]SRC DST        the same, from there to here
  sync [NAME | PATH]...      the named pairs, or just these paths of them; alone: the pair you are in
  add NAME SRC DST           make a pair            list, remove NAME
  watch NAME                 sync a pair whenever its source changes, until Ctrl-C
  pause NAME, resume NAME    leave a watched pair alone, go on
  flush [NAME]...            until what changed in watched pairs is at the far end
  verify NAME...             read both ends again and say what differs
  trash list NAME            what a destination kept of what was deleted; restore, empty
  status                     the agent, its links, pairs and jobs
  events                     what happens, as it happens
  start, stop, restart       the agent here; other commands start it when it is needed
  enable, disable            start it at login
  relay                      the far end of the stdio transport
  version, help [COMMAND]

Exit status: 0 done, 1 done with problems, 2 usage, 3 no agent, 4 host unreachable or refused, 5 timeout,
6 refused by a guard; 130 interrupted.
"""

_LOCATIONS = """\
HOST is an ssh alias, user@host, [v6 address], or a URL: ssh://user@host:port/path.  Remote paths are relative to the
remote home, and ~ works; ./a:b is local.  SRC and DST are roots that correspond to each other, trailing slash or not;
SRC may be one file.  DST's last component is made.
"""

_OPTIONS = """\
  --delete             delete at DST what SRC does not have
  --max-delete N       refuse to delete more than N entries; without it, more than 100 that are more than half of all
  --force              go on where a guard would refuse: an empty source, a changed root, too many deletions
  --trash AGE          keep what is deleted or overwritten in DST/.syncctl-trash for so long: 12h, 30d, 4w
  --no-trash           do not, whatever the pair says
  --checksum           compare by content, not by size and time
  --exclude PATTERN    leave out what matches, with rsync's meaning; may be repeated
  --owner, --group     keep owner, group (as far as privileges go)
  --no-hard-links      make names of one file files of their own; -H, --hard-links links them, as is the default
  -n, --dry-run        change nothing, say what would be done
  -i, --itemize        a line for each change, in rsync's form
  --compress WHEN      auto (where the link is slower than this processor; the default), never, always
  --fsync WHEN         what is acknowledged is on disk: batch (synced many files at once; the default), always (each by
                       itself), never (when the kernel likes: a power cut may take it back)
  -z, --no-compress    the same as --compress=always, --compress=never
  --stats              figures at the end
  --profile            where the time went, stage by stage, here and there
  --json               one JSON object a line: progress, items, problems, result
  --timeout SECONDS    give up after that time, with status 5
  --detach             leave the job to the agent and return at once
"""

_VERBS = {
    "push": f"usage: syncctl push SRC [HOST:]DST [options]\n\n{_OPTIONS}\n{_LOCATIONS}",
    "pull": f"usage: syncctl pull [HOST:]SRC DST [options]\n\n{_OPTIONS}\n{_LOCATIONS}",
    "sync": f"""\
usage: syncctl sync [NAME | PATH]... [options]

A PATH is synced by itself, with everything below it, in the pair whose source holds it (the innermost if there are
several), within 10 seconds unless --timeout says otherwise; no operand means the whole pair of the current directory.
Of a mirror, what its source does not have is deleted at the destination.

{_OPTIONS}""",
    "add": f"""\
usage: syncctl add NAME SRC [HOST:]DST [options]

  --mirror             delete at DST what SRC does not have
  --exclude PATTERN    leave out what matches, with rsync's meaning; may be repeated
  --watch              sync it whenever SRC changes, for as long as the agent runs
  --trash AGE          keep what is deleted or overwritten in DST/.syncctl-trash for so long: 12h, 30d, 4w
  --on-conflict WHAT   what becomes of a file that someone else changed at DST since the last sync: overwrite (the
                       default), stop (it stays, and is a problem), keep-both (it stays there under another name)

Adds [pair.NAME] to config.toml, which you may as well edit yourself.

{_LOCATIONS}""",
    "remove": "usage: syncctl remove NAME\n\nTakes [pair.NAME] out of config.toml.  Both trees stay as they are.\n",
    "list": "usage: syncctl list [--json]\n",
    "watch": """\
usage: syncctl watch NAME [--json]

Syncs the pair whenever its source changes, and prints what happens, until Ctrl-C.  For good: watch = true in its table.
""",
    "pause": "usage: syncctl pause NAME\n\nLeaves a watched pair alone until 'syncctl resume', or the agent's end.\n",
    "resume": "usage: syncctl resume NAME\n\nGoes on with a pair that is paused, for whatever reason.\n",
    "flush": """\
usage: syncctl flush [NAME]... [--timeout SECONDS] [--stats] [--json]

Returns when everything that had changed in these watched pairs (or all) is at the far end, or says what is not.
""",
    "verify": """\
usage: syncctl verify NAME... [--repair] [--timeout SECONDS] [--stats] [--json]

  --repair             send what differs

Reads all files at both ends and compares them.  What differs is listed in rsync's form; the exit status is 1 then.
""",
    "trash": """\
usage: syncctl trash list NAME|DST [--json]
       syncctl trash restore NAME|DST PATH... [--batch BATCH]
       syncctl trash empty NAME|DST

  --batch BATCH        from this session's; else from the newest that has the path

What syncs with --trash deleted and overwrote in a destination on this host: one line for each file, with the session
that it was in, and its path from DST's root.  What is restored goes back there, over nothing that is there by now; a
mirror's next sync takes it away again unless its source has it too.  'empty' removes all of it for good.
""",
    "status": """\
usage: syncctl status [NAME]... [--json | --porcelain]

  --porcelain          one line for all watched pairs, or for each NAME: name, state, problems, the last sync's Unix
                       time or -, and why; with tabs between them

Never starts an agent; without one the exit status is 3.
""",
    "start": "usage: syncctl start [--foreground]\n\n  --foreground         stay, and log to the terminal\n",
    "stop": "usage: syncctl stop\n\nEnds the agent, and its jobs cleanly.  Without an agent the exit status is 3.\n",
    "restart": "usage: syncctl restart\n",
    "events": "usage: syncctl events [--json]\n\nUntil Ctrl-C.\n",
    "relay": "usage: syncctl relay\n\nRun by an agent on another host, where ssh forwards no sockets.\n",
    "enable": "usage: syncctl enable\n\nStarts the agent at login, by systemd or launchd.\n",
    "disable": "usage: syncctl disable\n",
    "version": "usage: syncctl version\n",
    "help": "usage: syncctl help [COMMAND]\n",
}


def help_text(verb: str | None) -> str:
    """The help of a verb, or the overview.  Raises SyncError ``usage`` for a word that is no verb."""
    if verb is None:
        return OVERVIEW
    if verb not in VERBS:
        raise unknown_verb(verb)
    return _VERBS[verb]


def version() -> str:
    """The version line."""
    python = ".".join(map(str, sys.version_info[:3]))
    return f"syncctl {VERSION} (Python {python})\n"
