"""Finds the checkpoint that a model's name means and brings it to this machine.

Without torch, so that planning starts fast.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property, partial
from pathlib import Path

from musicgen.errors import ModelError
from musicgen.model.checkpoint.expected_tensors import check_tensors
from musicgen.model.checkpoint.hub import PullRequest, Snapshot, download_checkpoint
from musicgen.model.checkpoint.identity import checkpoint_identity
from musicgen.model.checkpoint.layout import MUSICGEN_LAYOUT, FileLayout
from musicgen.model.checkpoint.staging import stage_from_store
from musicgen.model.checkpoint.weights import read_headers
from musicgen.model.spec import ModelSpec
from musicgen.model.spec_reader import read_spec
from musicgen.presets import EMBEDDED, Preset, find_preset, suggest_names

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on this machine. `revision` is a hub commit; None for a folder, a bucket and the embedded model."""

    name: str  # as the user wrote it
    folder: Path
    revision: str | None
    spec: ModelSpec
    pull_request: PullRequest | None = None  # that the weights are of, where `allow_pr` let one be used

    @cached_property
    def identity(self) -> str:
        """The sha256 over configs, tokenizer and weights; see `musicgen.model.checkpoint.identity`."""
        return checkpoint_identity(self.folder)


def resolve_checkpoint(name: str | os.PathLike[str], revision: str | None = None, allow_pr: bool = False) -> Checkpoint:
    """Find the checkpoint that `name` means and bring it to this machine.

    `name` is `embedded`, a preset of configs/models, a local folder, an object-store folder (`s3://...`, copied once
    per node) or a hub name (`owner/name`, downloaded once; `revision` is a branch, tag or commit). With `allow_pr` a
    hub revision without safetensors is replaced by the pull request in which the hub's converter added them. Raises
    `ModelError`: nothing of that name, hub unreachable, weights missing or pickled, kind not supported, tensors that do
    not fit the config; its cause is the `StoreError`, if an object store is why.
    """
    name = os.fspath(name)
    place = locate_checkpoint(name, revision, allow_pr)
    return Checkpoint(name, place.folder, place.commit, read_checked_spec(place.folder), place.pull_request)


def read_checked_spec(folder: Path) -> ModelSpec:
    """Read the configs of a checkpoint's folder, and check its tensors against them. Raises `ModelError`."""
    spec = read_spec(folder)
    check_tensors(spec, read_headers(folder), folder)
    return spec


def locate_checkpoint(
    name: str, revision: str | None, allow_pr: bool, layouts: Sequence[FileLayout] = (MUSICGEN_LAYOUT,)
) -> Snapshot:
    """Bring the files of the checkpoint that `name` means to this machine, of whichever layout it is.

    Raises `ModelError`.
    """
    if name == EMBEDDED:
        _refuse_revision(name, revision)
        return Snapshot(Path(__file__).parents[2] / "embedded" / "checkpoint")
    if "://" in name:
        _refuse_revision(name, revision)
        return Snapshot(stage_from_store(name, partial(_choose_published_files, name, layouts)))
    path = Path(name).expanduser()
    preset = find_preset(name)
    if path.is_dir() and (preset is None or preset.name != name):
        _refuse_revision(name, revision)
        return Snapshot(path.resolve())
    if preset is not None:
        return _download_preset(preset, revision, allow_pr, layouts)
    if path.is_absolute() or name.startswith((".", "~")) or not _HUB_NAME.fullmatch(name):
        raise ModelError(f"no model {name!r}: {suggest_names(name)}")
    return download_checkpoint(name, revision, allow_pr, layouts)


def _download_preset(preset: Preset, revision: str | None, allow_pr: bool, layouts: Sequence[FileLayout]) -> Snapshot:
    """Download a preset at the commit that it was checked at, or at another revision that the user names."""
    if not preset.works or preset.hub is None:
        raise ModelError(f"the preset {preset.name!r} does not work yet: {preset.status}")
    snapshot = download_checkpoint(preset.hub, revision or preset.revision, allow_pr, layouts)
    if revision is None and preset.commit_prefix and not (snapshot.commit or "").startswith(preset.commit_prefix):
        raise ModelError(
            f"{preset.revision} of the hub model {preset.hub} is commit {snapshot.commit} now, and the preset "
            f"{preset.name} was checked at {preset.commit_prefix}; to use it all the same, set model.revision to "
            f"{snapshot.commit}"
        )
    return snapshot


def _refuse_revision(name: str, revision: str | None) -> None:
    if revision is not None:
        raise ModelError(
            f"model.revision {revision!r} means nothing for {name!r}: only hub models have revisions; leave it out"
        )


def _choose_published_files(uri: str, layouts: Sequence[FileLayout], names: Sequence[str]) -> list[str]:
    """Choose what is copied of a bucket's folder. Raises `ModelError` if it holds no checkpoint, or a pickled one."""
    patterns = [pattern for layout in layouts for pattern in layout.patterns]
    files = [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]
    pickles = [name for name in names if fnmatch(name, "pytorch_model*.bin") or name == "state_dict.bin"]
    if pickles and not any(name.endswith((".safetensors", ".safetensors.index.json")) for name in files):
        raise ModelError(
            f"{uri}: has {pickles[0]} and no safetensors, and pickled weights are not loaded since that runs code; "
            f"convert them once: musicgen convert {uri} NEW_FOLDER"
        )
    markers = [layout.marker for layout in layouts]
    if not any(marker in files for marker in markers):
        raise ModelError(
            f"no model at {uri}: it holds no {' or '.join(markers)}; give the folder of a checkpoint in the published "
            "format"
        )
    return files
