"""Puts the dataset's card into a README that may hold a person's own text: only what bears our marks is rewritten.

The body of the card stands between two HTML comments. Front matter has no room for such marks (it must begin the file),
so its keys are told apart by name: what `load_dataset` and the hub need is rewritten, the rest is written once. The
license follows the weights as long as nobody has changed it, which the first mark knows.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from musicgen.own_checksum import BLANK, blank_text, fill_text

_BEGIN = re.compile(r"<!-- musicgen:begin(?: license=(?P<license>\S+))?[^>]*-->")
_END = re.compile(r"<!-- musicgen:end -->")
_FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n(?P<yaml>(?:.*\r?\n)*?)---[ \t]*(?:\r?\n|\Z)")
CURRENT_CONFIG = "current"
CURRENT_DESCRIPTION = "manifest of run"  # the description of our configuration `current` begins so
_DEFAULT_CONFIG = (None, "default")  # names of the other configuration that is ours; all others are a person's
_CONFIG_KEYS = ("configs", "dataset_info")
_REWRITTEN_KEYS = ("size_categories", *_CONFIG_KEYS)


@dataclass(frozen=True, slots=True)
class Card:
    """A dataset card: its front matter, the heading of a new README, and the body that is written anew each time."""

    front_matter: Mapping[str, object]
    title: str
    body: str

    @property
    def license(self) -> str:
        """Return the license in the front matter."""
        return str(self.front_matter["license"])

    def to_text(self) -> str:
        """Return a README that holds the card alone."""
        return fill_text(f"---\n{dump_yaml(self.front_matter)}---\n\n# {self.title}\n\n{self._marked_body()}\n")

    def merge_into(self, text: str) -> str | None:
        """Return a README with its marked part and front matter brought up to date.

        None if it has no marks, or if it cannot be told what is ours: then it must be left alone.
        """
        begins, ends = list(_BEGIN.finditer(text)), list(_END.finditer(text))
        if len(begins) != 1 or len(ends) != 1 or ends[0].start() < begins[0].end():
            return None
        newline = "\r\n" if "\r\n" in text else "\n"
        marked = self._marked_body().replace("\n", newline)
        head, tail = text[: begins[0].start()], text[ends[0].end() :]
        front_matter = _FRONT_MATTER.match(head)
        if front_matter is None:
            begin = f"---\n{dump_yaml(self.front_matter)}---\n\n".replace("\n", newline)
            return fill_text(f"{begin}{head}{marked}{tail}")
        updated = self._update(front_matter["yaml"], begins[0]["license"])
        if updated is None:
            return None
        start, end = front_matter.span("yaml")
        updated = updated.replace("\r\n", "\n").replace("\n", newline)
        return fill_text(f"{head[:start]}{updated}{head[end:]}{marked}{tail}")

    def complete(self, text: str) -> str | None:
        """Return a README that was cut short within our part, or before it, with that part whole; None for others."""
        known = blank_text(text)
        if blank_text(self.to_text()).startswith(known):
            return self.to_text()
        begin = _BEGIN.search(known)
        if begin is None or not blank_text(self._marked_body()).startswith(known[begin.start() :]):
            return None
        return text[: begin.start()] + self._marked_body()

    def _marked_body(self) -> str:
        note = "this part is written anew after every run, the rest of the file is yours"
        begin = f"<!-- musicgen:begin license={self.license} sha256={BLANK} ({note}) -->"
        return f"{begin}\n{self.body.strip()}\n<!-- musicgen:end -->"

    def _update(self, yaml_text: str, written_license: str | None) -> str | None:
        """Return the front matter with our keys brought up to date and all others as they stand; None if unreadable."""
        stored = load_yaml(yaml_text)
        if stored is None:
            return None
        wanted: dict[str, object] = {name: self.front_matter.get(name) for name in _REWRITTEN_KEYS}
        for name in _CONFIG_KEYS:
            wanted[name] = _merge_configs(stored.get(name), self.front_matter.get(name))
        if "license" in stored and stored["license"] == written_license:
            wanted["license"] = self.license
        return _replace_keys(yaml_text, stored, wanted)


def read_front_matter(text: str) -> dict[str, object] | None:
    """Parse the front matter of a README; None if it has none that can be read."""
    match = _FRONT_MATTER.match(text)
    return None if match is None else load_yaml(match["yaml"])


def dump_yaml(document: Mapping[str, object]) -> str:
    """Return a mapping as YAML, its keys in order."""
    import yaml

    return yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True, width=200)


def load_yaml(text: str) -> dict[str, object] | None:
    """Parse YAML that is a mapping with names for keys; None if it is anything else."""
    import yaml

    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):  # ValueError: a date that does not exist
        return None
    document = {} if document is None else document
    return document if isinstance(document, dict) and all(isinstance(name, str) for name in document) else None


def _merge_configs(stored: object, own: object) -> object:
    """Return our entry of a list by `config_name` with those that a person has added; None if there is none."""
    others = [
        config
        for config in (stored if isinstance(stored, list) else [stored])
        if isinstance(config, dict) and not _is_ours(config)
    ]
    if not others:
        return own
    if isinstance(own, list):  # a name that a person has taken is theirs
        taken = {config.get("config_name") for config in others}
        own = [config for config in own if config.get("config_name") not in taken]
    if own is None:
        return others if isinstance(stored, list) else stored
    return [*(own if isinstance(own, list) else [own]), *others]


def _is_ours(config: Mapping[str, object]) -> bool:
    name = config.get("config_name")
    is_current = name == CURRENT_CONFIG and str(config.get("description")).startswith(CURRENT_DESCRIPTION)
    return name in _DEFAULT_CONFIG or is_current


def _replace_keys(text: str, stored: Mapping[str, object], wanted: Mapping[str, object]) -> str | None:
    """Return YAML with some keys replaced, added, or (where the value is None) deleted; all other lines stay.

    None if the lines of a key cannot be told, as in `{a: 1}` on one line.
    """
    spans = _find_keys(text)
    if spans is None:
        return None
    added = ""
    for name, value in wanted.items():
        if stored.get(name) == value:
            continue
        lines = "" if value is None else dump_yaml({name: value})
        if name not in spans:
            added += lines
            continue
        start, end = spans[name]
        text = text[:start] + lines + text[end:]
        spans = _find_keys(text)
        if spans is None:
            return None
    text += ("\n" if added and text and not text.endswith("\n") else "") + added
    expected = {name: value for name, value in {**stored, **wanted}.items() if value is not None or name not in wanted}
    return text if load_yaml(text) == expected else None


def _find_keys(text: str) -> dict[str, tuple[int, int]] | None:
    """Return where the lines of each key of a YAML mapping begin and end, without comments that follow them."""
    import yaml

    try:
        root = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError:
        return None
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode) or root.flow_style:
        return None
    starts = [key.start_mark.index for key, _ in root.value]
    if any(key.start_mark.column for key, _ in root.value):
        return None
    spans = {}
    for (key, _), start, end in zip(root.value, starts, [*starts[1:], len(text)], strict=True):
        while end > start and re.fullmatch(r"(?:#.*)?\s*", last := text[start:end].splitlines(keepends=True)[-1]):
            end -= len(last)
        spans[key.value] = (start, end)
    return spans


def quote_code(text: str) -> str:
    """Return a text as a Markdown code span of one line, which no backtick, line break or comment in it can end."""
    line = "".join(character if character.isprintable() else " " for character in text).replace("<!--", "<! --")
    fence = "`" * (_count_backticks(line) + 1)
    space = " " if line.startswith("`") or line.endswith("`") else ""  # Markdown takes it away again
    return f"{fence}{space}{line}{space}{fence}"


def fence_code(text: str) -> str:
    """Return lines as a Markdown code block, which no backticks in them can end."""
    fence = "`" * max(3, _count_backticks(text) + 1)
    return f"{fence}\n{text}\n{fence}"


def _count_backticks(text: str) -> int:
    """Return the length of the longest row of backticks."""
    return max(map(len, re.findall("`+", text)), default=0)
