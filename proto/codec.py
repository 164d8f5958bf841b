"""cbor2's codec.

The package's own module imports typing for its hints, which would double what a command imports (see
``proto/record.py``), so the codec is loaded without it; it is the same when the package is imported later.
"""

from __future__ import annotations

import sys

from proto.record import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    import cbor2 as cbor2
else:
    NAME = "cbor2._cbor2"

    def _find(name: str, places: list[str] | None) -> ModuleSpec | None:
        for finder in sys.meta_path:
            spec = finder.find_spec(name, places) if hasattr(finder, "find_spec") else None
            if spec is not None:
                return spec
        return None

    def _load() -> ModuleType | None:
        package = _find("cbor2", None)
        spec = package and _find(NAME, package.submodule_search_locations)
        if not spec:
            return None
        module = spec.loader.create_module(spec)
        sys.modules[NAME] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[NAME]
            raise
        return module

    cbor2 = sys.modules.get("cbor2") or _load()
    if cbor2 is None:
        import cbor2
