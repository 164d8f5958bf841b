"""The messages of the control socket, between a CLI or an editor and its agent.

The asking side sends its Hello and a request in one write.  Every answer carries its request's ``id``, so several can
be under way on one connection.  A request's last answer is END, or the RESULT, ERROR or (detached) ACCEPTED whose
``remaining`` is 0.  Rows of a list are messages of their own: no answer outgrows a frame.

The classes live in six modules, so that a command pays for the import of those that it uses only.
"""

from proto.control_agent import AddPair, Event, Events, Heartbeat, RemovePair, Stop
from proto.control_ends import End, Error
from proto.control_jobs import (
    Accepted,
    Cancel,
    Flush,
    Items,
    Notice,
    Paths,
    Problems,
    Progress,
    Result,
    Run,
    Sync,
    known_problem,
    pack_problems,
    unpack_problems_untrusted,
)
from proto.control_state import AgentInfo, JobInfo, LinkInfo, ListPairs, PairInfo, Status
from proto.control_trash import Trash, Trashed, TrashEntry
from proto.control_watch import Pause, Resume, Watch
from proto.schema import Registry, registry

__all__ = [
    "CONTROL_REPLIES",
    "CONTROL_REQUESTS",
    "Accepted",
    "AddPair",
    "AgentInfo",
    "Cancel",
    "End",
    "Error",
    "Event",
    "Events",
    "Flush",
    "Heartbeat",
    "Items",
    "JobInfo",
    "LinkInfo",
    "ListPairs",
    "Notice",
    "PairInfo",
    "Paths",
    "Pause",
    "Problems",
    "Progress",
    "RemovePair",
    "Request",
    "Result",
    "Resume",
    "Run",
    "Status",
    "Stop",
    "Sync",
    "Trash",
    "TrashEntry",
    "Trashed",
    "Watch",
    "known_problem",
    "pack_problems",
    "unpack_problems_untrusted",
]

Request = (
    Run | Sync | Flush | Cancel | Status | Stop | AddPair | RemovePair | ListPairs | Events | Watch | Pause | Resume
    | Trash
)  # fmt: skip
CONTROL_REQUESTS: Registry = registry(
    Run, Sync, Flush, Cancel, Status, Stop, AddPair, RemovePair, ListPairs, Events, Watch, Pause, Resume, Trash
)
CONTROL_REPLIES: Registry = registry(
    Accepted, Progress, Items, Problems, Paths, Notice, Result, Error,
    AgentInfo, LinkInfo, PairInfo, JobInfo, Event, Heartbeat, End, TrashEntry,
    Trashed,
)  # fmt: skip
