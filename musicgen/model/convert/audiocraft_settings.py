"""Reads the settings of an audiocraft checkpoint: `xp.cfg`, the YAML of the training run, which lies in the pickle."""

import re
from collections.abc import Mapping

import yaml

from musicgen.errors import ModelError

_REFERENCE = re.compile(r"\$\{([\w.]+)\}")  # OmegaConf's `${section.key}`, as a whole value
_MAX_REFERENCES = 8


class AudiocraftSettings:
    """The settings by dotted path; a reference to another setting is followed."""

    def __init__(self, values: Mapping[str, object], where: str):
        self._values = values
        self.where = where

    @classmethod
    def parse(cls, text: object, where: str) -> "AudiocraftSettings":
        """Parse the YAML; `where` names the file in errors. Raises `ModelError`."""
        try:
            values = yaml.safe_load(text) if isinstance(text, str) else None
        except yaml.YAMLError:
            values = None
        if not isinstance(values, dict):
            raise ModelError(f"{where}: lacks the settings `xp.cfg`; it is no exported checkpoint of audiocraft")
        return cls(values, where)

    def get(self, path: str, default: object = None) -> object:
        """Return a setting, or `default` where it or its section is absent."""
        value: object = f"${{{path}}}"
        for _ in range(_MAX_REFERENCES):
            reference = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
            if reference is None:
                return value
            value = self._look_up(reference[1], default)
        raise ModelError(f"{self.where}: the setting {path} refers to itself")

    def section(self, path: str) -> Mapping[str, object]:
        """Return a section; an empty one where it is absent or null."""
        section = self.get(path)
        return section if isinstance(section, Mapping) else {}

    def integer(self, path: str) -> int:
        """Return a positive integer. Raises `ModelError`."""
        value = self.get(path)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ModelError(f"{self.where}: the setting {path} is {value!r}; it must be a positive integer")
        return value

    def number(self, path: str) -> float:
        """Return a positive number. Raises `ModelError`."""
        value = self.get(path)
        if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
            raise ModelError(f"{self.where}: the setting {path} is {value!r}; it must be a positive number")
        return float(value)

    def integers(self, path: str) -> list[int]:
        """Return a list of integers. Raises `ModelError`."""
        value = self.get(path)
        if not isinstance(value, list) or not all(isinstance(item, int) for item in value):
            raise ModelError(f"{self.where}: the setting {path} is {value!r}; it must be a list of integers")
        return value

    def expect(self, **expected: object) -> None:
        """Raise `ModelError` if a setting is there and differs from what is supported; `a__b` stands for `a.b`."""
        for name, supported in expected.items():
            path = name.replace("__", ".")
            if (value := self.get(path, supported)) != supported:
                raise ModelError(f"{self.where}: {path} is {value!r}; only {supported!r} can be converted")

    def _look_up(self, path: str, default: object) -> object:
        value: object = self._values
        for part in path.split("."):
            if not isinstance(value, Mapping) or part not in value:
                return default
            value = value[part]
        return value
