"""Messages as frozen tuples, and the checks that hold each to its schema.

A message is a ``NamedTuple`` with a ``validate()``.  On the wire it is a CBOR map of its fields by name, with the tag
(its class's name in kebab case) as ``t``; a field whose value is None is left out.  NamedTuple and not dataclass:
importing dataclasses would cost the CLI as much as the rest of its work (see ``proto/record.py``).
"""

from __future__ import annotations

from proto.errors import RemoteProtocolError
from proto.limits import TEXT_MAX, U64
from proto.record import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, Protocol

    Head = dict[str, Any]

    Profile = dict[str, Any]
    """Where the time of one end of a session went: see check_profile()."""

    Registry = dict[str, type[Any]]

    class Message(Protocol):
        """What every message class offers."""

        def validate(self) -> None:
            """Raise RemoteProtocolError when an invariant of this message does not hold."""

        def _asdict(self) -> dict[str, Any]: ...
else:
    Head = Profile = Registry = dict
    Message = object


_tags: dict[type[Any], str] = {}


def tag_of(cls: type[Any]) -> str:
    """The tag of a message class: ``ListEnd`` is ``list-end``."""
    tag = _tags.get(cls)
    if tag is None:
        tag = _tags[cls] = "".join("-" + c.lower() if c.isupper() else c for c in cls.__name__)[1:]
    return tag


def registry(*classes: type[Any]) -> Registry:
    """The message set of one socket, by tag."""
    return {tag_of(cls): cls for cls in classes}


def to_head(message: Message) -> Head:
    """The CBOR map that stands for ``message``."""
    head: Head = {"t": tag_of(type(message))}
    for name, value in message._asdict().items():
        if value is not None:
            head[name] = value
    return head


def from_head_untrusted(messages: Registry, head: Head) -> Any:
    """The message that ``head`` stands for.

    Raises RemoteProtocolError for an unknown tag, a field too many or too few, or a value out of its range.
    """
    tag = head.get("t")
    cls = messages.get(tag) if type(tag) is str else None
    if cls is None:
        raise RemoteProtocolError(f"unknown message {printable(tag)}")
    fields = {name: value for name, value in head.items() if name != "t"}
    if None in fields.values():
        raise RemoteProtocolError(f"{tag}: a field without a value is left out, not null")
    unknown = fields.keys() - set(cls._fields)
    if unknown:
        raise RemoteProtocolError(f"{tag}: unknown field {printable(min(unknown))}")
    missing = set(cls._fields) - fields.keys() - cls._field_defaults.keys()
    if missing:
        raise RemoteProtocolError(f"{tag}: field {min(missing)} is missing")
    message = cls(**fields)
    message.validate()
    return message


def printable(value: object, limit: int = 80) -> str:
    """A short, one-line, escaped rendering of a peer's value for an error message."""
    text = ascii(value) if not isinstance(value, int) or abs(value) <= U64 else "a huge integer"
    return text if len(text) <= limit else text[: limit - 1] + "…"


def check_uint(name: str, value: object, maximum: int = U64, minimum: int = 0) -> None:
    """``value`` is an int (not a bool) within ``minimum`` and ``maximum``."""
    if type(value) is not int or not minimum <= value <= maximum:
        raise RemoteProtocolError(f"{name}: {printable(value)} is not an integer from {minimum} to {maximum}")


def check_bool(name: str, value: object) -> None:
    """``value`` is true or false."""
    if type(value) is not bool:
        raise RemoteProtocolError(f"{name}: {printable(value)} is not a boolean")


def check_bytes(name: str, value: object, maximum: int, minimum: int = 0) -> None:
    """``value`` is a byte string of ``minimum`` to ``maximum`` bytes."""
    if type(value) is not bytes or not minimum <= len(value) <= maximum:
        raise RemoteProtocolError(f"{name}: not a byte string of {minimum} to {maximum} bytes")


def check_text(name: str, value: object, maximum: int = TEXT_MAX) -> None:
    """``value`` is a text of at most ``maximum`` characters that UTF-8 can hold."""
    if type(value) is not str or len(value) > maximum:
        raise RemoteProtocolError(f"{name}: not a text of at most {maximum} characters")
    if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):  # JSON can say half a surrogate pair
        raise RemoteProtocolError(f"{name}: not a text that UTF-8 can hold")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """``value`` is one of ``choices``."""
    if type(value) is not str or value not in choices:
        raise RemoteProtocolError(f"{name}: {printable(value)} is not one of {', '.join(choices)}")


def check_list(name: str, value: object, maximum: int) -> None:
    """``value`` is a list (or tuple, when built here) of at most ``maximum`` items."""
    if type(value) not in (list, tuple) or len(value) > maximum:  # type: ignore[arg-type]
        raise RemoteProtocolError(f"{name}: not a list of at most {maximum} items")


def check_path(name: str, value: object, maximum: int) -> None:
    """``value`` is a non-empty path of bytes without NUL."""
    check_bytes(name, value, maximum, 1)
    if b"\0" in value:  # type: ignore[operator]
        raise RemoteProtocolError(f"{name}: a path cannot hold a NUL byte")


def check_counters(name: str, value: Any) -> None:
    """``value`` is a small map from names to unsigned numbers."""
    if type(value) is not dict or len(value) > 64:
        raise RemoteProtocolError(f"{name}: not a map of at most 64 counters")
    for key, number in value.items():
        check_text(name, key, 32)
        check_uint(name, number)


def check_profile(name: str, value: Any) -> None:
    """``value`` is ``{wall_us, cpu_us, stages: {stage: {spent_us, first_us, last_us}}}`` with at most 32 stages."""
    _check_figures(name, value, ("wall_us", "cpu_us"), "stages")
    stages = value["stages"]
    if type(stages) is not dict or len(stages) > 32:
        raise RemoteProtocolError(f"{name}: not a map of at most 32 stages")
    for stage, figures in stages.items():
        check_text(name, stage, 32)
        _check_figures(name, figures, ("spent_us", "first_us", "last_us"))


def _check_figures(name: str, value: Any, numbers: tuple[str, ...], *others: str) -> None:
    if type(value) is not dict or value.keys() != {*numbers, *others}:
        raise RemoteProtocolError(f"{name}: not a map of {', '.join((*numbers, *others))}")
    for number in numbers:
        check_uint(f"{name}.{number}", value[number])
