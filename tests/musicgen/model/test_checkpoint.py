"""Names to folders, weights that are whole, and identities that are content."""

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from musicgen.errors import ModelError
from musicgen.model import resolve_checkpoint
from musicgen.model.checkpoint.identity import cache_folder, checkpoint_identity
from musicgen.model.checkpoint.weights import read_headers, weight_files
from musicgen.presets import find_preset
from musicgen.storage import open_store
from tests.conftest import S3


@pytest.fixture
def copied(text_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the text checkpoint that a test may damage."""
    return Path(shutil.copytree(text_checkpoint, tmp_path / "copy"))


def upload(folder: Path, uri: str) -> None:
    store = open_store(uri)
    for path in folder.iterdir():
        store.write(path.name, path)


def test_the_embedded_checkpoint_is_whole_and_small() -> None:
    checkpoint = resolve_checkpoint("embedded")
    assert checkpoint.revision is None
    assert (checkpoint.spec.sample_rate, checkpoint.spec.frame_rate, checkpoint.spec.codebooks) == (16000, 50.0, 4)
    assert sum(path.stat().st_size for path in checkpoint.folder.iterdir()) < 40e6
    assert len(checkpoint.identity) == 64


def test_the_embedded_preset_describes_the_embedded_checkpoint() -> None:
    preset, spec = find_preset("embedded"), resolve_checkpoint("embedded").spec
    assert preset is not None
    for name in ("kind", "sample_rate", "frame_rate", "codebooks", "channels", "pattern", "controls"):
        assert getattr(preset, name) == getattr(spec, name), name
    assert preset.codebook_size in (None, spec.codebook_size)
    assert preset.window_s * spec.frame_rate == spec.max_frames


def test_resolving_needs_no_torch(text_checkpoint: Path) -> None:
    code = (
        "import sys; from musicgen.model import resolve_checkpoint; resolve_checkpoint(sys.argv[1]).identity;"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(text_checkpoint)], check=False).returncode == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("musicgen-smal", "did you mean 'musicgen-small'"),
        ("/no/such/folder", "no model '/no/such/folder'"),
        ("two words", "a hub name such as"),
        ("facebook/musicgen-nothing", "the hub cannot be reached and facebook/musicgen-nothing is not in its cache"),
        ("ftp://host/model", "ftp:// cannot be used"),
    ],
)
def test_unknown_names_say_what_could_be_meant(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        resolve_checkpoint(name)


def test_only_hub_models_have_revisions(text_checkpoint: Path) -> None:
    for name in (str(text_checkpoint), "embedded", "s3://bucket/model"):
        with pytest.raises(ModelError, match="only hub models have revisions"):
            resolve_checkpoint(name, "main")


def test_a_preset_is_its_hub_model_at_a_commit(
    text_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--facebook--musicgen-small"
    shutil.copytree(text_checkpoint, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    checkpoint = resolve_checkpoint("facebook/musicgen-small", "main")
    assert checkpoint.revision == commit
    assert checkpoint.identity == checkpoint_identity(text_checkpoint)
    assert resolve_checkpoint("facebook/musicgen-small", commit).folder == checkpoint.folder
    assert resolve_checkpoint("musicgen-small", "main").folder == checkpoint.folder


def test_a_preset_that_does_not_work_says_why() -> None:
    with pytest.raises(ModelError, match=r"does not work yet: .*audiocraft"):
        resolve_checkpoint("musicgen-style")


def test_pickled_weights_are_refused(copied: Path) -> None:
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pickled weights are not loaded.*convert"):
        resolve_checkpoint(copied)
    (copied / "pytorch_model.bin").unlink()
    with pytest.raises(ModelError, match=r"no model\.safetensors"):
        resolve_checkpoint(copied)
    (copied / "state_dict.bin").touch()
    with pytest.raises(ModelError, match="audiocraft's format"):
        resolve_checkpoint(copied)


def test_damaged_weights_are_found_by_their_header(copied: Path) -> None:
    weights = copied / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(ModelError, match="truncated"):
        read_headers(copied)
    weights.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(ModelError, match="git lfs pull"):
        read_headers(copied)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("decoder.lm_heads.1.weight", None, r"lacks the tensor decoder\.lm_heads\.1\.weight"),
        ("enc_to_dec_proj.weight", None, r"lacks the tensor enc_to_dec_proj\.weight"),
        ("decoder.model.decoder.layers.1.fc1.weight", (8, 8), r"fc1\.weight has the shape \(8, 8\), its config says"),
    ],
)
def test_tensors_that_do_not_fit_the_config_are_found_while_planning(
    copied: Path, name: str, value: tuple[int, int] | None, message: str
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(copied / "model.safetensors")
    tensors.pop(name)
    save_file(tensors | ({} if value is None else {name: torch.zeros(value)}), copied / "model.safetensors")
    with pytest.raises(ModelError, match=message):
        resolve_checkpoint(copied)


def test_sharded_weights(copied: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(copied / "model.safetensors")
    (copied / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, held in files.items():
        save_file({name: tensors[name] for name in held}, copied / file)
    index = copied / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: file for file, held in files.items() for name in held}}))
    assert [path.name for path in weight_files(copied)] == sorted(files)
    assert set(read_headers(copied)) == set(names)
    (copied / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match="lacks model-00002-of-00002"):
        resolve_checkpoint(copied)
    index.write_text(json.dumps({"weight_map": {"a": "../../elsewhere.safetensors"}}))
    with pytest.raises(ModelError, match="outside its folder"):
        resolve_checkpoint(copied)


def test_identity_is_content(text_checkpoint: Path, copied: Path) -> None:
    first = checkpoint_identity(text_checkpoint)
    (copied / "README.md").write_text("not part of the model")
    assert checkpoint_identity(copied) == first
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        path = copied / name
        original = path.read_bytes()
        path.write_bytes(original.replace(b"1", b"2", 1) if name != "model.safetensors" else original[:-1] + b"\x7f")
        os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
        assert checkpoint_identity(copied) != first, name
        path.write_bytes(original)
    assert checkpoint_identity(copied) == first


def test_hashes_are_remembered_until_a_file_changes(
    copied: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MUSICGEN_CACHE", str(tmp_path / "own"))
    first = checkpoint_identity(copied)
    notes = {path: path.stat().st_mtime_ns for path in (cache_folder() / "sha256").iterdir()}
    assert len(notes) == len([path for path in copied.iterdir() if path.name != "generation_config.json"])
    assert checkpoint_identity(copied) == first
    assert {path: path.stat().st_mtime_ns for path in (cache_folder() / "sha256").iterdir()} == notes
    monkeypatch.setenv("MUSICGEN_CACHE", "/proc/nowhere")  # a home that cannot be written
    assert checkpoint_identity(copied) == first


def test_a_bucket_is_staged_once_per_node(
    text_checkpoint: Path, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUSICGEN_CACHE", str(tmp_path))
    uri = f"{s3.uri}/models/small"
    upload(text_checkpoint, uri)
    open_store(uri).write("pytorch_model.bin", b"not wanted")
    found = []
    threads = [threading.Thread(target=lambda: found.append(resolve_checkpoint(uri))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len({checkpoint.folder for checkpoint in found}) == 1
    assert found[0].identity == checkpoint_identity(text_checkpoint)
    assert not (found[0].folder / "pytorch_model.bin").exists()
    staged = [path for path in (tmp_path / "models").iterdir() if path.is_dir()]
    assert staged == [found[0].folder]
    config = json.loads((text_checkpoint / "config.json").read_text()) | {"note": "changed"}
    open_store(uri).write("config.json", json.dumps(config).encode())
    assert resolve_checkpoint(uri).folder != found[0].folder


def test_a_bucket_without_a_checkpoint(s3: S3) -> None:
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        resolve_checkpoint(f"{s3.uri}/nothing")
    with pytest.raises(ModelError, match="cannot be read"):
        resolve_checkpoint("s3://no-such-bucket-here/model")
