"""What modules on the command's way take instead of ``typing``, which costs as much as all else that they import.

typing brings re and enum with it, and its NamedTuple compiles a constructor for each class.  Type checkers see typing's
own; a class made here behaves as one of those does, without ``_make()``.
"""

from __future__ import annotations

from operator import itemgetter

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any, Self
    from typing import NamedTuple as NamedTuple
else:

    class _Fields(type):
        def __new__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> type:
            if bases:
                fields = tuple(body.get("__annotations__", ()))
                body["_field_defaults"] = {field: body[field] for field in fields if field in body}
                body["_fields"] = body["__match_args__"] = fields
                body["__slots__"] = ()
                body.update((field, property(itemgetter(i))) for i, field in enumerate(fields))
            return super().__new__(cls, name, bases or (tuple,), body)

    class NamedTuple(metaclass=_Fields):
        """A tuple whose fields are the annotations of the class's body, in order, with the defaults given there."""

        __slots__ = ()

        def __new__(cls, *values: Any, **named: Any) -> Self:  # noqa: D102
            fields, given = cls._fields, len(values)
            if named or given != len(fields):
                rest, known = fields[given:], {**cls._field_defaults, **named}
                if given > len(fields) or not known.keys() >= set(rest) >= named.keys():
                    raise TypeError(f"not what {cls.__name__}({', '.join(fields)}) is made of")
                values += tuple([known[field] for field in rest])
            return tuple.__new__(cls, values)

        def _asdict(self) -> dict[str, Any]:
            return dict(zip(self._fields, self, strict=True))

        def _replace(self, /, **named: Any) -> Self:
            return type(self)(**{**self._asdict(), **named})

        def __repr__(self) -> str:
            fields = ", ".join([f"{field}={value!r}" for field, value in self._asdict().items()])
            return f"{type(self).__name__}({fields})"

        def __getnewargs__(self) -> tuple[Any, ...]:
            return tuple(self)
