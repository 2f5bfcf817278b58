"""Makes raylab's models known to transformers as soon as it is imported, and not before.

transformers has no plugins: a package must register its classes itself. To import transformers for that would take
every raylab process seconds, so the registration waits for the module that holds transformers' registry of models.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # every program that imports anything of raylab passes here, and `typing` is not free
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_REGISTRY = "transformers.models.auto.configuration_auto"


def register_when_imported() -> None:
    """Register raylab's classes with transformers: at once if its registry is imported, else when it will be."""
    if _REGISTRY in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _Finder())


class _Finder:
    """Finds the registry where Python finds it, and has raylab's classes registered once it is there."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find the one module that this finder waits for; None for every other."""
        if fullname != _REGISTRY:
            return None
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            _register()

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


def _register() -> None:
    from raylab.model.auto.config import register

    register()
