"""The keys of a job file come from its models: sections, sections that may be a number, free mappings."""

from pydantic import BaseModel

from musicgen.job import Job
from musicgen.job_keys import known_keys, suggest_key, suggest_nearest


class Nested(BaseModel):
    depth: int = 1


class Model(BaseModel):
    name: str = ""
    nested: Nested = Nested()
    number_or_nested: int | Nested = 1
    optional: Nested | None = None
    free: dict[str, str] = {}


def test_sections_are_models_wherever_they_are_allowed() -> None:
    section = {"depth": None}
    assert known_keys(Model) == {
        "name": None,
        "nested": section,
        "number_or_nested": section,
        "optional": section,
        "free": None,
    }


def test_a_job_has_the_keys_of_its_actors_and_any_columns() -> None:
    keys = known_keys(Job)
    assert keys["cluster"] is not None
    assert keys["cluster"]["actors"] == {"min": None, "max": None}
    assert keys["manifest"] is not None
    assert keys["manifest"]["columns"] is None


def test_advice_on_unknown_keys() -> None:
    keys = known_keys(Model)
    assert suggest_key(("depth",), keys, keys) == "; did you mean `nested.depth`?"
    assert suggest_key(("nam",), keys, keys) == "; did you mean `name`?"
    assert suggest_key(("nested", "xyz"), {"depth": None}, keys) == "; `nested` knows depth"
    assert "environment" in suggest_key(("access_key",), keys, keys)
    assert suggest_nearest("promt", ["prompt", "id"]) == "; did you mean `prompt`?"
    assert suggest_nearest("xyz", ["prompt", "id"]) == ""
