"""Describes every setting of a job file, from the models that check it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from musicgen.errors import JobError
from musicgen.job import Job
from musicgen.job_keys import suggest_nearest
from musicgen.value_types import JsonObject


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting: its dotted key, the values it takes, its default as YAML, and what it does in a sentence."""

    key: str
    values: str
    default: str  # "required" if there is none
    description: str


@dataclass(frozen=True, slots=True)
class SettingsSection:
    """A section of a job file and its settings."""

    name: str
    description: str
    settings: tuple[Setting, ...]


def list_settings(only: str | None = None) -> list[SettingsSection]:
    """Return the sections of a job file, in its order, or only the one of this name. Raises `JobError` for another."""
    schema = Job.model_json_schema()
    definitions: JsonObject = schema["$defs"]
    sections = []
    for name, reference in schema["properties"].items():
        section = _resolve(reference, definitions)
        sections.append(SettingsSection(name, section["description"], tuple(_list_keys(name, section, definitions))))
    names = [section.name for section in sections]
    if only is not None and only not in names:
        advice = suggest_nearest(only, names) or f"; sections are {', '.join(names)}"
        raise JobError(f"there is no section `{only}` in a job{advice}")
    return [section for section in sections if only in (None, section.name)]


def format_markdown(sections: list[SettingsSection]) -> str:
    """Return the reference page, docs/settings.md."""
    lines = [
        "# Settings of a job",
        "",
        "Made by `musicgen settings --markdown` from the models that check a job file. A setting is given in the file,",
        "or on the command line as `--set SECTION.KEY=VALUE`; flags count more than `--set`, and `--set` more than",
        "the file.",
    ]
    for section in sections:
        lines += [
            "",
            f"## {section.name}",
            section.description,
            "",
            "| setting | values | default | |",
            "|---|---|---|---|",
        ]
        for setting in section.settings:
            cells = (f"`{setting.key}`", setting.values, f"`{setting.default}`", setting.description)
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _list_keys(prefix: str, section: JsonObject, definitions: JsonObject) -> Iterator[Setting]:
    for name, field in section["properties"].items():
        below = _resolve(field, definitions)
        if "properties" in below:
            yield from _list_keys(f"{prefix}.{name}", below, definitions)
            continue
        default = json.dumps(field["default"], ensure_ascii=False) if "default" in field else "required"
        if "default" not in field and name not in section.get("required", ()):
            default = "{}"
        text = default.strip('"') if default != '""' else default
        yield Setting(f"{prefix}.{name}", _describe_values(field, definitions), text, field["description"])


def _resolve(field: JsonObject, definitions: JsonObject) -> JsonObject:
    reference = field.get("$ref")
    resolved: JsonObject = definitions[reference.rpartition("/")[2]] if reference else field
    return resolved


def _describe_values(field: JsonObject, definitions: JsonObject) -> str:
    """Return in words which values a schema allows."""
    if alternatives := field.get("anyOf"):
        return ", or ".join(_describe_values(alternative, definitions) for alternative in alternatives)
    if "$ref" in field:
        properties = _resolve(field, definitions)["properties"]
        return "`{" + ", ".join(f"{name}: ..." for name in properties) + "}`"
    if "enum" in field or "const" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    kinds = {
        "integer": "a whole number",
        "number": "a number",
        "string": "text",
        "boolean": "`true`, `false`",
        "null": "null",
        "array": "a list of texts",
        "object": "a mapping of texts",
    }
    return f"{kinds[field['type']]}{_describe_range(field)}"


def _describe_range(field: JsonObject) -> str:
    if "maxLength" in field:
        return f" of at most {field['maxLength']:,} character{'' if field['maxLength'] == 1 else 's'}"
    # Pydantic writes a limit under its own name where a check of ours comes before it.
    words = {"gt": "more than", "exclusiveMinimum": "more than", "ge": "at least", "minimum": "at least"}
    words |= {"le": "at most", "maximum": "at most"}
    limits = [f"{text} {field[name]:,}" for name, text in words.items() if name in field]
    return f" {' and '.join(limits)}" if limits else ""
