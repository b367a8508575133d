"""Damage that is made by hand, or by bits that flip, is mended: the dataset is what it was."""

import hashlib
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from musicgen.dataset import paths
from musicgen.dataset.gc_gate import find_gate, put_gate
from musicgen.dataset.index_part import read_footer
from musicgen.dataset.info import InfoDamaged
from musicgen.dataset.reader import Dataset, open_dataset
from musicgen.dataset.run_report import read_report
from musicgen.dataset.verification import verify_dataset
from musicgen.errors import JobError, ModelError, StoreError
from musicgen.families.registry import resolve_checkpoint
from musicgen.repair import document_repair, open_repairable, repair_dataset
from musicgen.repair.clip_maker import find_run_checkpoint
from musicgen.repair.repair_report import RepairReport
from musicgen.run_plan import Plan
from musicgen.storage import open_store
from tests.fixtures.planning import PlannedCheckpoint
from tests.fixtures.toy_dataset import ToyDataset, ToyEngine, make_toy_dataset

LAYOUTS = ("files", "parquet", pytest.param("webdataset", marks=pytest.mark.slow))
DERIVED = ("README.md", "huggingface.parquet", "current.parquet")  # published again where the index has changed


@pytest.fixture(scope="module", params=LAYOUTS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ToyDataset:
    """A published dataset, which tests copy."""
    return make_toy_dataset(tmp_path_factory.mktemp(request.param), f"audio.layout={request.param}")


@pytest.fixture(autouse=True)
def _few_bits_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trying the bits of an index part takes seconds, which one test spends."""
    monkeypatch.setattr(document_repair, "_MOST_BYTES_TRIED", 1 << 10)


@pytest.fixture
def toy(made: ToyDataset, tmp_path: Path) -> ToyDataset:
    """A copy of it, to be damaged."""
    shutil.copytree(made.folder / "dataset", tmp_path / "dataset")
    return ToyDataset(tmp_path, open_store(str(tmp_path / "dataset")), made.settings)


class Engines:
    """Makes engines, and remembers what they made."""

    def __init__(self, detune_hz: float = 0.0) -> None:
        self.detune_hz = detune_hz
        self.engines: list[ToyEngine] = []

    def __call__(self, dataset: Dataset, plan: Plan) -> ToyEngine:
        self.engines.append(ToyEngine(self.detune_hz))
        return self.engines[-1]

    @property
    def made(self) -> list[str]:
        return [prompt for engine in self.engines for prompt in engine.made]


def repair(toy: ToyDataset, engines: Engines | None = None, **options: bool) -> RepairReport:
    dataset, first = open_repairable(toy.store.uri)
    report = repair_dataset(
        dataset,
        make_engine=engines or Engines(),
        find_checkpoint=lambda plan: PlannedCheckpoint(identity=plan.model.identity),  # type: ignore[arg-type,return-value]
        **options,
    )
    report.mendings += [first] if first else []
    return report


def read_objects(toy: ToyDataset) -> dict[str, str]:
    """The sha256 of each object."""
    return {file.path: hashlib.sha256(toy.store.read(file.path)).hexdigest() for file in toy.store.list()}


def read_rows(toy: ToyDataset) -> list[dict]:
    return open_dataset(toy.store.uri).to_arrow().to_pylist()


def without_times(rows: list[dict]) -> list[dict]:
    return [row | {"created_at": None, "engine": None} for row in rows]


def flip(toy: ToyDataset, path: str, *positions: int) -> None:
    content = bytearray(toy.store.read(path))
    for position in positions:
        content[position % len(content)] ^= 1 << position % 8
    Path(toy.store.uri, path).write_bytes(content)


def check_good(toy: ToyDataset, report: RepairReport) -> None:
    assert report.is_good, report.failed
    checked = verify_dataset(open_dataset(toy.store.uri), deep=True)
    assert (checked.faults, checked.notes) == ([], [])


def test_a_sound_dataset_is_left_as_it_is(toy: ToyDataset) -> None:
    before = read_objects(toy)
    engines = Engines()
    assert repair(toy, engines).mendings == []
    assert (read_objects(toy), engines.engines) == (before, [])


def test_every_lost_object_is_made_again(toy: ToyDataset) -> None:
    before = read_objects(toy)
    for path in before:
        if path.startswith("runs/") and not path.endswith("plan.json"):
            continue  # `test_every_object` loses these
        if path == "dataset.json" or path.endswith("/plan.parquet"):
            continue  # `test_every_object` loses these
        failures = toy.dataset.failures(all=True).drop_columns(["error", "created_at"])
        contents, rows = {file: toy.store.read(file) for file in before}, read_rows(toy)
        toy.store.delete(path)
        check_good(toy, repair(toy))
        assert without_times(read_rows(toy)) == without_times(rows)
        assert toy.dataset.failures(all=True).drop_columns(["error", "created_at"]).equals(failures)
        after = read_objects(toy)
        after = {path: after[path] for path in after if path in before or not paths.parse_run_keys(path)}
        assert after.keys() == before.keys()  # publishing adds keys and counts of runs that had none
        changed = {name for name in before if after[name] != before[name]}
        assert changed <= ({path, *DERIVED} if path.startswith(("failures", "index")) else set()), path
        for file in changed:
            toy.store.write(file, contents[file])


def test_a_lost_report_is_made_again_from_its_sessions_or_from_the_index(tmp_path: Path) -> None:
    toy = make_toy_dataset(tmp_path)
    before, (run,) = read_objects(toy), toy.dataset.runs()
    report_file = paths.report_file(run)
    (session_file,) = (path for path in before if path.startswith(paths.sessions_folder(run)))
    for path in (report_file, session_file):
        toy.store.delete(path)
        check_good(toy, repair(toy))
        assert read_objects(toy) == before, path
    for path in (report_file, session_file):
        toy.store.delete(path)
    report = repair(toy)
    check_good(toy, report)
    (mending,) = report.mendings
    assert (mending.path, "the cost are lost" in mending.action) == (report_file, True)
    made_again = read_report(toy.store, run)
    assert made_again is not None
    assert made_again.published_at
    assert [(session.made, session.failed, session.engines) for session in made_again.sessions] == [
        (4, 1, (ToyEngine.fingerprint,))
    ]


def test_flipped_bits_are_turned_back_or_made_again(toy: ToyDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_repair, "_MOST_BYTES_TRIED", 16 << 10)
    draw = random.Random(5)
    kinds = {path.rpartition("/")[0].partition("/r")[0] + Path(path).suffix: path for path in sorted(read_objects(toy))}
    for path in kinds.values():
        before, rows = read_objects(toy), read_rows(toy)
        size = toy.store.size(path)
        flip(toy, path, draw.randrange(8 * size))
        if is_edited_readme(toy):  # outside our part, which is the user's
            assert path == "README.md"
            toy.store.delete(path)
        report = repair(toy)
        check_good(toy, report)
        changed = {name for name, digest in read_objects(toy).items() if before.get(name) != digest}
        # Made again, as a revision, and with it what is derived of it.
        larger = {path, *DERIVED, *filter(paths.parse_run_keys, changed)} if path.startswith("index") else set()
        assert changed <= larger, (path, changed, report.mendings)
        assert read_rows(toy) == rows


def is_edited_readme(toy: ToyDataset) -> bool:
    try:
        return verify_dataset(open_dataset(toy.store.uri), deep=True).sound
    except InfoDamaged:
        return False


def damage_beyond_one_bit(toy: ToyDataset, path: str) -> None:
    flip(toy, path, 40, 90, 200, 333, 1000)


def test_a_part_with_many_flipped_bits_is_made_again_with_the_times_that_can_be_read(toy: ToyDataset) -> None:
    path, rows, before = next(toy.dataset.parts()), read_rows(toy), read_objects(toy)
    damage_beyond_one_bit(toy, path)
    report = repair(toy)
    check_good(toy, report)
    footer = read_footer(toy.store, path)
    assert (footer.revision, footer.attempt) == (1, "drv-0")
    assert "repaired" in (footer.reason or "")
    assert without_times(read_rows(toy)) == without_times(rows)
    after = read_objects(toy)
    assert {name for name in before if after.get(name) != before[name]} <= {path, *DERIVED}


def test_clips_of_which_other_bits_come_out_are_refused(toy: ToyDataset) -> None:
    victim = toy.dataset.to_arrow(["key", "audio", "audio_sha256"]).to_pylist()[0]
    path = victim["audio"] if isinstance(victim["audio"], str) else next(toy.dataset.parts())
    content = bytearray(toy.store.read(path))
    content[600:700] = bytes(100)
    toy.store.write(path, bytes(content))
    before = read_objects(toy)
    report = repair(toy, Engines(detune_hz=1.0))
    assert not report.is_good
    assert "--other-bits" in report.failed[0].failure
    index_and_audio = {name: digest for name, digest in read_objects(toy).items() if name.startswith(("ind", "aud"))}
    assert index_and_audio == {name: digest for name, digest in before.items() if name.startswith(("ind", "aud"))}
    report = repair(toy, Engines(detune_hz=1.0), other_bits=True)
    check_good(toy, report)
    footer = read_footer(toy.store, next(toy.dataset.parts()))
    assert footer.replaced
    assert footer.replaced[victim["key"]] == victim["audio_sha256"]
    assert toy.dataset.to_arrow(["audio_sha256"])["audio_sha256"][0].as_py() != victim["audio_sha256"]


def test_no_gc_begins_while_audio_with_new_bits_has_no_part_yet(tmp_path: Path) -> None:
    toy = make_toy_dataset(tmp_path)
    toy.store.delete(toy.dataset.to_arrow(["audio"])["audio"][0].as_py())

    class Watching(Engines):
        def __call__(self, dataset: Dataset, plan: Plan) -> ToyEngine:
            with pytest.raises(JobError, match="gc"):
                put_gate(dataset.store)
            return super().__call__(dataset, plan)

    check_good(toy, repair(toy, Watching(detune_hz=1.0), other_bits=True))
    assert find_gate(toy.store) is None


def test_a_checkpoint_whose_folder_no_plan_names_is_found_where_the_user_says(tmp_path: Path) -> None:
    plan = ToyDataset(tmp_path, open_store(str(tmp_path / "dataset")), ("model.name=/home/ann/night",)).plan()
    plan = replace(plan, model=replace(plan.model, identity=resolve_checkpoint("embedded").identity))
    with pytest.raises(ModelError, match=r"night.*; say with --model where the checkpoint is"):
        find_run_checkpoint(plan)
    assert find_run_checkpoint(plan, "embedded").identity == plan.model.identity


def test_only_what_is_damaged_is_made_again(tmp_path: Path) -> None:
    toy = make_toy_dataset(tmp_path)
    rows = toy.dataset.to_arrow(["prompt", "audio"]).to_pylist()
    toy.store.delete(rows[2]["audio"])
    engines = Engines()
    check_good(toy, repair(toy, engines))
    assert engines.made == [rows[2]["prompt"]]


def test_a_dry_run_changes_nothing(toy: ToyDataset) -> None:
    toy.store.delete(next(toy.dataset.parts()))
    before, engines = read_objects(toy), Engines()
    report = repair(toy, engines, dry_run=True)
    assert (read_objects(toy), engines.engines) == (before, [])
    assert next(iter(report.mendings)).action == "make it again from its run's plan"


def test_what_cannot_be_made_again_is_said_and_the_rest_is_made(made: ToyDataset, toy: ToyDataset) -> None:
    lost = next(file.path for file in toy.store.list("failures") if file.path.endswith("/plan.parquet"))
    part = next(toy.dataset.parts())
    toy.store.delete(lost)
    toy.store.delete(part)
    manifest = made.folder / "rows.csv"
    manifest.rename(made.folder / "away.csv")
    try:
        report = repair(toy)
    finally:
        (made.folder / "away.csv").rename(manifest)
    assert [mending.path for mending in report.failed] == [lost]
    assert {fault.location for fault in verify_dataset(toy.dataset, deep=True).faults} == {lost}


def test_a_store_without_if_match_is_refused(toy: ToyDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def replace(self: object, path: str, data: bytes, etag: str) -> bool:
        toy.store.write(path, data)
        return True

    part = next(toy.dataset.parts())
    toy.store.delete(part)
    monkeypatch.setattr(type(toy.store), "replace_if_match", replace)
    with pytest.raises(StoreError, match="If-Match"):
        repair(toy)
    assert not toy.store.exists(part)


def test_a_part_that_another_replaced_meanwhile_is_left_alone(toy: ToyDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    path = next(toy.dataset.parts())
    damage_beyond_one_bit(toy, path)
    theirs = toy.store.read(path) + b"theirs"

    class Meddling(Engines):
        def __call__(self, dataset: Dataset, plan: Plan) -> ToyEngine:
            toy.store.write(path, theirs)
            return super().__call__(dataset, plan)

    report = repair(toy, Meddling())
    assert path in [mending.path for mending in report.failed]
    assert "was changed by another meanwhile" in str(report.failed)
    assert toy.store.read(path) == theirs


def test_in_a_bucket_too(s3, tmp_path: Path) -> None:
    toy = make_toy_dataset(tmp_path, "audio.layout=webdataset", uri=s3.uri)
    parts, rows = list(toy.dataset.parts()), read_rows(toy)
    toy.store.delete(parts[0])
    content = bytearray(toy.store.read(parts[1]))
    content[200:300] = bytes(100)
    toy.store.write(parts[1], bytes(content))
    check_good(toy, repair(toy))
    assert without_times(read_rows(toy)) == without_times(rows)
