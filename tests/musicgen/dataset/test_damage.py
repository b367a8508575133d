"""No damage goes unnoticed: bits that flip in any object of a dataset, and objects that are lost."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from musicgen.dataset import paths
from musicgen.dataset.info import InfoDamaged
from musicgen.dataset.reader import open_dataset
from musicgen.dataset.verification import verify_dataset
from musicgen.dataset.verification_report import VerificationReport
from musicgen.errors import StoreUnavailable
from musicgen.storage import open_store, patience
from tests.fixtures.toy_dataset import ToyDataset, make_toy_dataset

LAYOUTS = ("files", "parquet", "webdataset")
GOLDEN = Path(__file__).parents[2] / "fixtures" / "golden"


@pytest.fixture(scope="module", params=LAYOUTS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ToyDataset:
    """A published dataset, which tests copy."""
    return make_toy_dataset(tmp_path_factory.mktemp(request.param), f"audio.layout={request.param}")


@pytest.fixture
def toy(made: ToyDataset, tmp_path: Path) -> ToyDataset:
    """A copy of it, to be damaged."""
    shutil.copytree(made.folder, tmp_path, dirs_exist_ok=True)
    return ToyDataset(tmp_path, open_store(str(tmp_path / "dataset")), made.settings)


def verify(toy: ToyDataset, **options: bool) -> VerificationReport:
    return verify_dataset(open_dataset(toy.store.uri), **options)


def named(report: VerificationReport) -> dict[str, str]:
    return {fault.location: fault.kind for fault in report.faults}


def find_unnoticed(toy: ToyDataset, flips: int, seed: int) -> list[str]:
    """Flip one bit at a time, in an object drawn at random, and return those that a deep verification does not name."""
    draw = random.Random(seed)
    objects = sorted(file.path for file in toy.store.list())
    unnoticed = []
    for _ in range(flips):
        path = Path(toy.store.uri, draw.choice(objects))
        content = path.read_bytes()
        changed, position, bit = bytearray(content), draw.randrange(len(content)), draw.randrange(8)
        changed[position] ^= 1 << bit
        path.write_bytes(changed)
        try:
            report = verify(toy, deep=True)
            noticed = not report.sound or bool(report.notes)
        except InfoDamaged:
            noticed = True
        if not noticed:
            unnoticed.append(f"{path}: byte {position}, bit {bit}")
        path.write_bytes(content)
    return unnoticed


def test_what_was_made_is_sound(toy: ToyDataset) -> None:
    report = verify(toy, deep=True)
    assert (report.faults, report.notes, report.rows, report.failed) == ([], [], 4, 1)


@pytest.mark.parametrize("seed", [1])
def test_no_flipped_bit_goes_unnoticed(toy: ToyDataset, seed: int) -> None:
    assert find_unnoticed(toy, 20, seed) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
def test_none_of_many_flipped_bits_goes_unnoticed(toy: ToyDataset, seed: int) -> None:
    assert find_unnoticed(toy, 250, seed) == []


def list_lost(toy: ToyDataset) -> Iterator[str]:
    """The objects whose loss must be named: all but what nothing else needs."""
    for file in toy.store.list():
        is_report = file.path.endswith("report.json") or "/sessions/" in file.path
        is_needed = is_report or not file.path.startswith("runs/") or file.path.endswith(("plan.json", ".parquet"))
        if is_needed and not paths.parse_run_keys(file.path):  # without keys and counts the parts are read
            yield file.path


def test_every_lost_object_is_named(toy: ToyDataset) -> None:
    for path in list(list_lost(toy)):
        if path == "dataset.json":
            continue
        content = toy.store.read(path)
        toy.store.delete(path)
        assert path in named(verify(toy, deep=True)), path
        toy.store.write(path, content)
    assert verify(toy, deep=True).sound


def test_a_lost_part_is_named_without_deep_too(toy: ToyDataset) -> None:
    path = next(toy.dataset.parts())
    toy.store.delete(path)
    report = verify(toy)
    assert named(report)[path] == "index"
    assert "with 2 rows" in str(report.faults)


def test_a_part_of_an_unfinished_run_is_not_lost(tmp_path: Path) -> None:
    toy = ToyDataset(tmp_path, open_store(str(tmp_path / "dataset")))
    plan = toy.plan()
    toy.make_shards(plan, 1)
    assert verify(toy).faults == []


def test_quick_looks_at_names_and_sizes_alone(toy: ToyDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("musicgen.dataset.clip_verification.read_audio_bytes", lambda *_: pytest.fail("audio was read"))
    report = verify(toy, quick=True)
    assert (report.sound, report.audio_checked) == (True, 0)
    if toy.dataset.info.layout == "parquet":
        return
    path = toy.dataset.to_arrow(["audio"])["audio"][-1].as_py()
    content = toy.store.read(path)
    toy.store.write(path, content[:1000])
    assert set(named(verify(toy, quick=True)).values()) == {"size"}
    toy.store.delete(path)
    assert named(verify(toy, quick=True))[path] == "missing"


def test_a_sample_reads_that_many_clips(toy: ToyDataset) -> None:
    report = verify_dataset(toy.dataset, sample=3)
    assert (report.sound, report.audio_checked, report.rows) == (True, 3, 4)
    assert verify_dataset(toy.dataset, sample=100, deep=True).audio_checked == 4


def test_a_store_that_cannot_be_used_for_a_moment_is_no_damage(
    toy: ToyDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(patience, "LONGEST_PAUSE_S", 0.01)
    dataset, real, failed = toy.dataset, type(toy.store).read, set[str]()

    def read(self: object, path: str, *span: int) -> bytes:
        if path not in failed:
            failed.add(path)
            raise StoreUnavailable("503 Slow Down")
        return real(self, path, *span)

    monkeypatch.setattr(type(toy.store), "read", read)
    assert verify_dataset(dataset, deep=True).sound
    assert len(failed) > 3


def test_a_store_that_stays_away_is_said_and_no_damage(toy: ToyDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise StoreUnavailable("503 Slow Down")

    monkeypatch.setattr("musicgen.dataset.whole_file.SHORT_PATIENCE_S", 0.0)
    monkeypatch.setattr("musicgen.dataset.clip_verification.SHORT_PATIENCE_S", 0.0)
    monkeypatch.setattr("musicgen.dataset.clip_verification.read_audio_bytes", fail)
    with pytest.raises(StoreUnavailable):
        verify(toy)


def test_an_edited_readme_is_no_fault_and_is_said(toy: ToyDataset) -> None:
    text = toy.store.read("README.md").decode()
    toy.store.write("README.md", text.replace("# Generated music", "# Night album").encode())
    report = verify(toy, deep=True)
    assert report.sound
    assert report.notes == ["README.md was changed outside the card since it was published; that part is yours"]
    toy.store.write("README.md", text.replace("clips", "clps").encode())
    assert named(verify(toy, deep=True)) == {"README.md": "card"}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_dataset_without_checksums_is_sound(name: str) -> None:
    report = verify_dataset(open_dataset(str(GOLDEN / name)), deep=True)
    assert report.faults == []
