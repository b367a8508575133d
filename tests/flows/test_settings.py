"""`musicgen settings` and the page that is made of it."""

import json
from pathlib import Path

from typer.testing import CliRunner

from flows.cli.main import app
from flows.stages import open_job, plan_run
from musicgen.job import Job
from musicgen.job_keys import known_keys
from musicgen.job_reference import format_markdown, list_settings
from musicgen.plan.expected_actors import ExpectedActors

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def test_the_page_is_made_of_the_models() -> None:
    assert PAGE.read_text() == format_markdown(list_settings()), "run: musicgen settings --markdown > docs/settings.md"


def test_every_setting_has_its_values_and_its_meaning() -> None:
    settings = {setting.key: setting for section in list_settings() for setting in section.settings}
    for section, keys in known_keys(Job).items():
        for name in keys or ():
            assert any(key == f"{section}.{name}" or key.startswith(f"{section}.{name}.") for key in settings), name
    assert all(setting.description.endswith(".") for setting in settings.values())
    assert settings["generation.top_p"].values == "a number at least 0 and at most 1"
    assert settings["generation.duration_s"].values == "a number more than 0"
    assert settings["cluster.actors"].values == "a whole number at least 1, or `{min: ..., max: ...}`, or `auto`"
    assert settings["manifest.csv.quote"].values == "text of at most 1 character, or null"
    assert (settings["manifest.uri"].default, settings["audio.codes"].default) == ("required", "false")


def test_it_lists_one_section_or_names_the_nearest() -> None:
    listed = CliRunner().invoke(app, ["settings", "audio"])
    assert listed.exit_code == 0
    assert listed.stdout.startswith("audio: ")
    assert "  audio.format = flac   (flac, wav, ogg, mp3)" in listed.stdout
    assert "generation" not in listed.stdout
    assert [section["name"] for section in json.loads(CliRunner().invoke(app, ["settings", "--json"]).stdout)] == [
        *known_keys(Job)
    ]
    wrong = CliRunner().invoke(app, ["settings", "modell"])
    assert wrong.exit_code == 2
    assert "did you mean `model`?" in wrong.stderr


def test_an_edited_manifest_needs_supersede(tmp_path: Path) -> None:
    manifest, out = tmp_path / "rows.csv", str(tmp_path / "out")
    manifest.write_text("prompt\npiano\n")
    arguments = ["--manifest", str(manifest), "--output", out, "--set", "cluster.shard_rows=1"]
    first = Job.load(None, ["cluster.shard_rows=1"], manifest=str(manifest), output=out)
    plan_run(open_job(first), ExpectedActors())  # interrupted before anything was made
    manifest.write_text("prompt\ngrand piano\n")
    refused = CliRunner().invoke(app, ["plan", *arguments])
    assert refused.exit_code == 2
    assert "plan what is missing with --supersede" in refused.stderr
    planned = CliRunner().invoke(app, ["plan", *arguments, "--supersede", "--json"])
    assert planned.exit_code == 0, planned.stderr
    assert json.loads(planned.stdout)["to_close"]
