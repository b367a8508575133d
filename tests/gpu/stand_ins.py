"""Stand-ins for two libraries that a borrowed card may lack: with them `tests.gpu` needs torch, transformers, numpy,
soundfile and this source tree alone.

lazy_loader imports a package's names when they are first used, and pydantic checks presets and configs, whose values
the checks take as they are.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any, Self


class _PlainModel:
    """Takes the place of pydantic's `BaseModel`: it holds the values, unchecked."""

    def __init__(self, **values: Any):
        self.__dict__.update(values)

    @classmethod
    def model_validate(cls, values: dict[str, Any]) -> Self:
        return cls(**values)


def _attach(package: str, submod_attrs: dict[str, list[str]]) -> tuple[Any, Any, list[str]]:
    """Do what `lazy_loader.attach` does for a package's `__getattr__`, `__dir__` and `__all__`."""
    modules = {name: f"{package}.{module}" for module, names in submod_attrs.items() for name in names}

    def get_attribute(name: str) -> Any:
        if name not in modules:
            raise AttributeError(name)
        return getattr(import_module(modules[name]), name)

    return get_attribute, lambda: sorted(modules), sorted(modules)


def install_stand_ins() -> None:
    """Put stand-ins in place of those libraries that are not installed."""
    stand_ins: dict[str, dict[str, Any]] = {
        "lazy_loader": {"attach": _attach},
        "pydantic": {
            "BaseModel": _PlainModel,
            "ConfigDict": dict,
            "Field": lambda *args, **kwargs: None,
            "ValidationError": type("ValidationError", (ValueError,), {}),
        },
    }
    for name, attributes in stand_ins.items():
        try:
            import_module(name)
        except ModuleNotFoundError:
            module = ModuleType(name)
            module.__dict__.update(attributes)
            sys.modules[name] = module
