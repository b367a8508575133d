"""The job file as text: YAML with file and line, `${VAR}` and overrides."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import yaml

from musicgen.errors import JobError, first_line, redact_urls
from musicgen.job_keys import KeyPath, KeyTree, suggest_key

_VARIABLE = re.compile(r"\$\$|\$\{([^}]*)\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET_QUERY = re.compile(
    r"[?&][^=&]*(secret|token|signature|password|credential|access_?key)[^=&]*=[^&\s]*", re.IGNORECASE
)


def reveals_secret(uri: str) -> str | None:
    """Return why this URI may not be in a job (it holds credentials), or None."""
    if redact_urls(uri) != uri or _SECRET_QUERY.search(uri):
        return (
            "holds credentials; take them out: they come from the environment (AWS_ACCESS_KEY_ID ...) or the "
            "usual AWS places"
        )
    return None


def redact_credentials(text: str) -> str:
    """Mask the credentials of URIs in a text."""
    return _SECRET_QUERY.sub("?...", redact_urls(text))


class JobDocument:
    """The raw values of a job, and where each came from.

    Messages show values as they were written, before `${VAR}` is replaced, since a variable may hold a secret.
    """

    def __init__(
        self, values: dict[str, object] | None = None, origins: dict[KeyPath, str] | None = None, name: str = ""
    ):
        self.values: dict[str, object] = values or {}
        self.name = name
        self._origins = origins or {}

    @classmethod
    def read(cls, path: str | Path) -> "JobDocument":
        """Read a YAML file. Raises `JobError` with file and line."""
        name = str(path)
        try:
            text = Path(path).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise JobError(f"{name}: there is no such job file") from None
        except UnicodeDecodeError:
            raise JobError(f"{name}: the job file is not UTF-8 text") from None
        except OSError as error:
            raise JobError(f"{name}: the job file cannot be read: {error.strerror}") from None
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            values = yaml.safe_load(text)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            at = f":{mark.line + 1}" if mark else ""
            raise JobError(f"{name}{at}: not valid YAML: {error.problem or error.context}") from None
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise JobError(f"{name}: not valid YAML: {first_line(error)}") from None
        if node is None:
            return cls(name=name)
        if not isinstance(values, dict):
            raise JobError(
                f"{name}: a job file holds sections such as `manifest:` and `output:`, this one holds "
                f"{_describe_kind(values)}"
            )
        origins: dict[KeyPath, str] = {}
        try:
            for key, line, repeated in _list_keys(node, ()):
                if repeated:
                    raise JobError(f"{name}:{line}: `{'.'.join(key)}` is given twice")
                origins[key] = f"{name}:{line}: "
        except RecursionError:
            raise JobError(f"{name}: an alias (*name) stands inside its own anchor (&name)") from None
        return cls(values, origins, name)

    def override(self, text: str) -> None:
        """Apply one `section.key=value`; the value is a YAML scalar (or flow mapping)."""
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise JobError(
                f"--set {redact_credentials(text)}: write it as section.key=value, for example generation.duration_s=8"
            )
        try:
            parsed = yaml.safe_load(value) if value.strip() else None
        except (yaml.YAMLError, ValueError):
            raise JobError(f"--set {key}: the value is not valid YAML") from None
        self.set(key.strip(), parsed, origin="--set")

    def set(self, key: str, value: object, origin: str) -> None:
        """Set the value at a dotted key; `origin` is the flag that gave it."""
        steps = tuple(key.split("."))
        target = self.values
        for step in steps[:-1]:
            if not isinstance(target.get(step), dict):
                target[step] = {}
            target = cast(dict[str, object], target[step])
        target[steps[-1]] = value
        self._origins[steps] = f"{origin}: "

    def origin(self, key: KeyPath) -> str:
        """Return where a key, or else its section, was given, as the beginning of a message ("job.yaml:7: ")."""
        while key:
            if key in self._origins:
                return self._origins[key]
            key = key[:-1]
        return f"{self.name}: " if self.name else ""

    def check_keys(self, known: KeyTree) -> None:
        """Raise `JobError` for the first key that is not known, with the one that was probably meant."""
        self._check_section(self.values, known, (), known)

    def _check_section(
        self, values: Mapping[object, object] | Mapping[str, object], tree: KeyTree, section: KeyPath, known: KeyTree
    ) -> None:
        for name, value in values.items():
            key = (*section, str(name))
            if not isinstance(name, str) or name not in tree:
                raise JobError(f"{self.origin(key)}unknown key `{'.'.join(key)}`{suggest_key(key, tree, known)}")
            below = tree[name]
            if isinstance(below, Mapping) and isinstance(value, Mapping):
                self._check_section(value, below, key, known)

    def expand_variables(self) -> dict[str, object]:
        """Return the values with `${VAR}` replaced from the environment (`$$` is a dollar).

        A section without keys is left out.
        """
        try:
            expanded = {name: self._expand(value, (name,)) for name, value in self.values.items()}
        except RecursionError:
            raise JobError(f"{self.name}: an alias (*name) stands inside its own anchor (&name)") from None
        return {name: value for name, value in expanded.items() if value is not None}

    def _expand(self, value: object, key: KeyPath) -> object:
        if isinstance(value, Mapping):
            return {name: self._expand(item, (*key, str(name))) for name, item in value.items()}
        if isinstance(value, list):
            return [self._expand(item, (*key, str(i))) for i, item in enumerate(value)]
        if not isinstance(value, str):
            return value

        def variable(match: re.Match[str]) -> str:
            name = match.group(1)
            if name is None:
                return "$"
            if not _NAME.fullmatch(name):
                raise JobError(
                    f"{self.origin(key)}`{'.'.join(key)}`: ${{{name}}} is no variable name; write $$ for a dollar sign"
                )
            if name not in os.environ:
                raise JobError(f"{self.origin(key)}`{'.'.join(key)}`: the environment variable {name} is not set")
            return os.environ[name]

        return _VARIABLE.sub(variable, value)

    def known_path(self, steps: list[str]) -> list[str]:
        """Return the part of a pydantic location that is keys of this document, without union branches and the like."""
        values: object = self.values
        for count, step in enumerate(steps):
            if count >= 2 and not (isinstance(values, Mapping) and step in values):
                return steps[:count]
            values = values.get(step) if isinstance(values, Mapping) else None
        return steps

    def show_value(self, key: KeyPath) -> str | None:
        """Return the value at a key as the user wrote it, shortened; None if there is none or it is a section."""
        value: object = self.values
        for step in key:
            if not isinstance(value, Mapping) or step not in value:
                return None
            value = value[step]
        if isinstance(value, Mapping | list):
            return None
        text = "empty" if value is None else str(value)
        return text if len(text) <= 80 else text[:77] + "..."


def _describe_kind(value: object) -> str:
    return "a list" if isinstance(value, list) else "only text" if isinstance(value, str) else f"only {value!r}"


def _list_keys(node: yaml.Node, section: KeyPath) -> Iterator[tuple[KeyPath, int, bool]]:
    """Yield every key below a node, its line, and whether the same mapping had it before."""
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for name, value in node.value:
        if not isinstance(name, yaml.ScalarNode):
            continue
        key = (*section, name.value)
        yield key, name.start_mark.line + 1, name.value in seen
        seen.add(name.value)
        yield from _list_keys(value, key)
