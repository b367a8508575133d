"""Checkpoints of pickles become the published format: the same bytes, and the same codes as they mean there."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from musicgen.errors import ModelError
from musicgen.model import resolve_checkpoint
from musicgen.model.convert.conversion import convert_checkpoint
from musicgen.model.convert.pickles import open_pickle
from tests.conftest import S3
from tests.fixtures.audiocraft_checkpoint import same_bytes
from tests.fixtures.random_checkpoint import EXTRA_FILES, write_pickled
from tests.musicgen.engine.conftest import load, one_thread
from tests.musicgen.engine.test_parity import PROMPTS, compare

__all__ = ["load", "one_thread"]

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("shards", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_pickles_of_transformers(text_checkpoint: Path, load: Callable[..., Any], tmp_path: Path, shards: int) -> None:
    source = write_pickled(text_checkpoint, tmp_path / "source", shards)
    done = convert_checkpoint(str(source), str(tmp_path / "new"))
    assert (done.format, done.companions) == ("pickled", {})
    found, expected = load_file(tmp_path / "new" / "model.safetensors"), {}
    for path in source.glob("pytorch_model*.bin"):
        expected |= torch.load(path, weights_only=True)
    expected.pop("text_encoder.encoder.embed_tokens.weight")  # the same table as text_encoder.shared.weight
    assert found.keys() == expected.keys()
    assert all(same_bytes(found[name], expected[name]) for name in found)
    for name in EXTRA_FILES:
        assert (tmp_path / "new" / name).read_bytes() == (source / name).read_bytes()
    if shards == 1:  # our engine on the new folder, transformers on the old one and the new one
        compare(load(tmp_path / "new"), text_checkpoint, PROMPTS[:2], slots=2)
        compare(load(tmp_path / "new"), tmp_path / "new", PROMPTS[:1], slots=1)


def test_a_damaged_index_is_named(text_checkpoint: Path, tmp_path: Path) -> None:
    source = write_pickled(text_checkpoint, tmp_path / "source", shards=2)
    (source / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(ModelError, match=r"lacks pytorch_model-00002-of-00002\.bin, which its index names"):
        convert_checkpoint(str(source), str(tmp_path / "new"))
    index = {"weight_map": {"a": "../../elsewhere.bin"}}
    (source / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="outside its folder"):
        convert_checkpoint(str(source), str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


class Exploit:
    """Unpickled carelessly, it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "state_dict.bin"])
def test_a_pickle_that_holds_code_is_not_run(text_checkpoint: Path, tmp_path: Path, name: str) -> None:
    source = write_pickled(text_checkpoint, tmp_path / "source", shards=1)
    if name == "state_dict.bin":
        (source / "pytorch_model.bin").unlink()
        torch.save({"pretrained": "facebook/encodec_32khz"}, source / "compression_state_dict.bin")
    torch.save({"a": torch.zeros(1), "best_state": Exploit(tmp_path / "mark")}, source / name)
    with pytest.raises(ModelError, match=f"{name}: holds more than tensors, and is not opened"):
        convert_checkpoint(str(source), str(tmp_path / "new"))
    assert not (tmp_path / "mark").exists()
    assert not (tmp_path / "new").exists()
    assert not list(tmp_path.glob(".convert-*"))
    (source / name).write_bytes(b"no zip")
    with pytest.raises(ModelError, match=f"{name}: not a whole file of torch"):
        open_pickle(source / name)


def test_a_folder_that_is_there_is_left_alone(text_checkpoint: Path, tmp_path: Path) -> None:
    source = write_pickled(text_checkpoint, tmp_path / "source", shards=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note.txt").write_text("mine")
    with pytest.raises(ModelError, match="is there already and not empty"):
        convert_checkpoint(str(source), str(tmp_path / "mine"))
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["note.txt"]
    with pytest.raises(ModelError, match="holds safetensors; there is nothing to convert"):
        convert_checkpoint(str(text_checkpoint), str(tmp_path / "new"))
    with pytest.raises(ModelError, match="only hub models have revisions"):
        convert_checkpoint(str(source), str(tmp_path / "new"), "main")
    with pytest.raises(ModelError, match="holds neither"):
        convert_checkpoint(str(tmp_path / "mine"), str(tmp_path / "new"))


_CONNECT = """
import socket, sys
from musicgen.model.convert.isolation import leave_network
settle = leave_network(try_namespace=sys.argv[2] == "namespace")
import torch
print(settle())
socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=5)
print("connected")
"""


@pytest.mark.parametrize("way", ["namespace", "sockets"])
def test_the_process_that_opens_pickles_has_no_network(way: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()  # from here it can be reached
        command = [sys.executable, "-c", _CONNECT, str(server.getsockname()[1]), way]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert done.stdout.strip() in ({"sockets disabled"} if way == "sockets" else {"its own network namespace"})
    assert "PermissionError" in done.stderr if way == "sockets" else "OSError" in done.stderr


_MEASURE = """
import re, sys
from pathlib import Path
from musicgen.model.convert.pickled_format import convert_pickled
def anonymous_mb():
    return int(re.search(r"RssAnon:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024
converted = convert_pickled(Path(sys.argv[1]))
start, peak = anonymous_mb(), 0.0
def measure(done, total):
    global peak
    peak = max(peak, anonymous_mb())
converted.write(Path(sys.argv[2]), measure)
print(peak - start)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_checkpoint(tmp_path: Path) -> None:
    """400 MB of tensors, of 40 MB each, in less than two of them."""
    source, target = tmp_path / "source", tmp_path / "new"
    source.mkdir()
    target.mkdir()
    torch.save({f"{index}.weight": torch.ones(10, 1_000_000) for index in range(10)}, source / "pytorch_model.bin")
    command = [sys.executable, "-c", _MEASURE, str(source), str(target)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=True)
    assert (target / "model.safetensors").stat().st_size > 400e6
    assert float(done.stdout) < 80


def test_an_older_torch_is_refused_with_the_remedy(tmp_path: Path) -> None:
    packages = tmp_path / "packages" / "torch-2.9.1.dist-info"
    packages.mkdir(parents=True)
    (packages / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.9.1\n")
    env = os.environ | {"PYTHONPATH": f"{packages.parent}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "musicgen", "convert", str(tmp_path), str(tmp_path / "new")]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    assert "torch 2.9.1" in done.stderr
    assert "pip install 'torch>=2.10'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_from_a_bucket_to_a_bucket(
    text_checkpoint: Path, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from musicgen.storage import open_store

    monkeypatch.setenv("MUSICGEN_CACHE", str(tmp_path / "cache"))
    source = write_pickled(text_checkpoint, tmp_path / "source", shards=2)
    store = open_store(f"{s3.uri}/pickled")
    for path in source.iterdir():
        store.write(path.name, path)
    with pytest.raises(ModelError, match=rf"musicgen convert {s3.uri}/pickled NEW_FOLDER"):
        resolve_checkpoint(f"{s3.uri}/pickled")
    done = convert_checkpoint(f"{s3.uri}/pickled", f"{s3.uri}/new")
    assert done.target == f"{s3.uri}/new"
    assert resolve_checkpoint(f"{s3.uri}/new").identity == (
        resolve_checkpoint(convert_checkpoint(str(source), str(tmp_path / "new")).target).identity
    )
    with pytest.raises(ModelError, match="is there already and not empty"):
        convert_checkpoint(str(source), f"{s3.uri}/new")
    assert not list((tmp_path / "cache" / "converted").iterdir())
