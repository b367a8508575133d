"""Downloads from a hub: a server on loopback that speaks its API, and what was recorded of the real repositories."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from musicgen.model.checkpoint.identity import checkpoint_identity
from musicgen.presets import Preset, all_presets
from tests.fixtures.hub_server import HubServer, Repository, read_folder, serve_hub

ROOT = Path(__file__).parents[3]
MAIN, OTHER = "a" * 40, "b" * 40
PINNED = "4ef1664" + "0" * 33
LISTINGS = yaml.safe_load((ROOT / "tests" / "fixtures" / "hub_listings.yaml").read_text())

_RESOLVE = """
import json, sys
from musicgen.errors import ModelError
from musicgen.model import resolve_checkpoint
for name, revision, allow_pr in json.loads(sys.argv[1]):
    try:
        found = resolve_checkpoint(name, revision, allow_pr)
        answer = {"commit": found.revision, "identity": found.identity, "pull_request": str(found.pull_request)}
    except ModelError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer))
"""


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with serve_hub({}) as hub:
        yield hub


def resolve(hub: HubServer, home: Path, *cases: tuple[str, str | None, bool], **env: str) -> list[dict[str, str]]:
    """What `resolve_checkpoint` gives for each (name, revision, allow_pr) in a process that knows only this hub."""
    done = subprocess.run(
        [sys.executable, "-c", _RESOLVE, json.dumps(cases)],
        env=os.environ | hub.env(home) | env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def pickled_with_conversion(folder: Path, author: str = "SFconvertbot", status: str = "open") -> Repository:
    """A repository whose main branch holds a pickle, and a pull request with the safetensors."""
    pickled = read_folder(folder, **{"model.safetensors": None, "pytorch_model.bin": b"pickle" * 4_000})
    converted = read_folder(folder)
    request = {"num": 10, "author": author, "status": status, "title": "Adding `safetensors` variant of this model"}
    return Repository({"main": MAIN, "refs/pr/10": PINNED}, {MAIN: pickled, PINNED: converted}, [request])


@pytest.mark.parametrize("preset", [preset for preset in all_presets() if preset.hub], ids=lambda preset: preset.name)
def test_a_preset_that_works_has_safetensors_at_its_revision(preset: Preset) -> None:
    if preset.hub not in LISTINGS and preset.family == "audioldm2":
        pytest.skip("no listing of this repository was recorded, since no hub could be reached; docs/models.md says so")
    listing = LISTINGS[preset.hub][preset.revision or "main"]
    has_safetensors = bool({"model.safetensors", "model.safetensors.index.json"} & set(listing["files"]))
    assert has_safetensors == preset.works
    assert preset.commit_prefix == listing.get("commit")


def test_main_is_downloaded_without_pickles(hub: HubServer, text_checkpoint: Path, tmp_path: Path) -> None:
    hub.repositories["me/model"] = Repository.of_folder(text_checkpoint, MAIN, **{"pytorch_model.bin": b"pickle"})
    (found,) = resolve(hub, tmp_path, ("me/model", None, False))
    assert found == {"commit": MAIN, "identity": checkpoint_identity(text_checkpoint), "pull_request": "None"}
    assert not any("bin" in request for request in hub.requests)
    hub.repositories.clear()  # from now on the hub knows nothing, and the cache is enough
    assert resolve(hub, tmp_path, ("me/model", MAIN, False), HF_HUB_OFFLINE="1") == [found]


def test_a_pull_request_is_named_and_used_only_if_allowed(
    hub: HubServer, text_checkpoint: Path, tmp_path: Path
) -> None:
    hub.repositories["me/model"] = pickled_with_conversion(text_checkpoint)
    refused, used, planned = resolve(
        hub, tmp_path, ("me/model", None, False), ("me/model", None, True), ("me/model", PINNED, False)
    )
    assert "holds no model.safetensors at main: it holds pytorch_model.bin (0.00 GB)" in refused["error"]
    assert f"pull request 10 by SFconvertbot (commit {PINNED})" in refused["error"]
    assert "set model.allow_pr=true" in refused["error"]
    assert "musicgen convert me/model FOLDER" in refused["error"]
    assert used["pull_request"] == f"pull request 10 by SFconvertbot (commit {PINNED})"
    assert used["commit"] == planned["commit"] == PINNED
    assert used["identity"] == planned["identity"] == checkpoint_identity(text_checkpoint)
    assert not any(request.endswith(".bin") for request in hub.requests)


@pytest.mark.parametrize(("author", "status"), [("somebody", "open"), ("SFconvertbot", "closed")])
def test_other_pull_requests_are_never_used(
    hub: HubServer, text_checkpoint: Path, tmp_path: Path, author: str, status: str
) -> None:
    hub.repositories["me/model"] = pickled_with_conversion(text_checkpoint, author, status)
    refused, also = resolve(hub, tmp_path, ("me/model", None, False), ("me/model", None, True))
    assert "pull request" not in refused["error"]
    assert "musicgen convert me/model FOLDER" in refused["error"]
    assert "No open pull request by SFconvertbot" in also["error"]


def test_a_repository_in_audiocrafts_format_is_to_be_converted(
    hub: HubServer, text_checkpoint: Path, tmp_path: Path
) -> None:
    files = {"state_dict.bin": b"x" * 20_000, "compression_state_dict.bin": b"x", "README.md": b"a model"}
    hub.repositories["me/model"] = Repository({"main": MAIN, "v2": MAIN}, {MAIN: files})
    main, tagged = resolve(hub, tmp_path, ("me/model", None, False), ("me/model", "v2", False))
    assert "it holds state_dict.bin (0.00 GB), compression_state_dict.bin" in main["error"]
    assert "musicgen convert me/model FOLDER, then" in main["error"]
    assert "musicgen convert me/model FOLDER --revision v2, then" in tagged["error"]


def test_a_preset_is_used_only_at_the_commit_that_it_was_checked_at(
    hub: HubServer, text_checkpoint: Path, tmp_path: Path
) -> None:
    repository = hub.repositories["facebook/musicgen-medium"] = pickled_with_conversion(text_checkpoint)
    (found,) = resolve(hub, tmp_path, ("musicgen-medium", None, False))
    assert found["commit"] == PINNED
    repository.commits[OTHER] = repository.commits[PINNED]
    repository.refs["refs/pr/10"] = OTHER
    changed, chosen = resolve(hub, tmp_path, ("musicgen-medium", None, False), ("musicgen-medium", OTHER, False))
    assert f"refs/pr/10 of the hub model facebook/musicgen-medium is commit {OTHER} now" in changed["error"]
    assert f"checked at 4ef1664; to use it all the same, set model.revision to {OTHER}" in changed["error"]
    assert chosen["commit"] == OTHER


def test_what_the_hub_does_not_have(hub: HubServer, text_checkpoint: Path, tmp_path: Path) -> None:
    hub.repositories["me/model"] = Repository.of_folder(text_checkpoint, MAIN)
    no_model, no_revision = resolve(hub, tmp_path, ("me/absent", None, False), ("me/model", "v9", False))
    assert "no model 'me/absent' on the hub" in no_model["error"]
    assert "has no revision 'v9'" in no_revision["error"]
    (away,) = resolve(hub, tmp_path, ("me/model", None, False), HF_ENDPOINT="http://127.0.0.1:9")
    assert "the hub cannot be reached" in away["error"]
