"""Each kind of object of a dataset is deleted, cut short and changed by a bit; each is named, and mended."""

import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from musicgen.dataset import paths
from musicgen.dataset.card import publish_card
from musicgen.dataset.info import InfoDamaged
from musicgen.dataset.reader import open_dataset
from musicgen.dataset.removal import remove_clips
from musicgen.dataset.verification import verify_dataset
from musicgen.repair import document_repair, open_repairable, repair_dataset
from musicgen.repair.repair_report import RepairReport
from musicgen.run_plan import PlanOutline
from musicgen.storage import Store, open_store
from tests.fixtures.planning import PlannedCheckpoint
from tests.fixtures.toy_dataset import ROWS, ToyDataset, ToyEngine

LAYOUTS = ("files", *(pytest.param(layout, marks=pytest.mark.slow) for layout in ("parquet", "webdataset")))
# A second night, with a column that the first has not, a row that it has made, and a row that is refused.
LATER_ROWS = "prompt,id,bpm,mood,key\nwarm piano,a,80,calm,C\nlate flute,g,60,calm,D\n,h,60,calm,D\nlate drum,i,,,E\n"
DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "deleted": lambda content: None,
    "cut": lambda content: content[: len(content) * 2 // 3],
    "empty": lambda content: b"",
    "flipped": lambda content: (
        content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 4]) + content[len(content) // 2 + 1 :]
    ),
}
NO_LOSS = r"runs/.*(slots\.json|drivers/.*|keys-.*)|removed/.*"  # nothing else shows these
# What cannot come out as it was: a part is a revision, and times, reasons and hosts are in no other place.
NEW = r"index/.*|failures/.*/part-.*|removed/.*-0001\.json|runs/.*/drivers/.*"
TABLES = {paths.CURRENT_COPY, paths.HUGGINGFACE_COPY}  # verification compares their rows with the index
ALSO = r"README\.md|huggingface\.parquet|current\.parquet|runs/.*/keys-.*"  # what follows from an index part
OF_MANIFESTS = r"dataset\.json|runs/.*/(rows|part-\d+)\.parquet|failures/.*/plan\.parquet"


@pytest.fixture(scope="module", params=LAYOUTS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ToyDataset:
    """A dataset of two nights with a removed clip, which tests copy."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "later").mkdir()
    store, settings = open_store(str(folder / "dataset")), (f"audio.layout={request.param}",)
    first = ToyDataset(folder, store, settings)
    first.make(ROWS)
    ToyDataset(folder / "later", store, settings).make(LATER_ROWS)
    remove_clips(first.dataset, ["f"])
    publish_card(first.dataset)
    return first


@pytest.fixture
def store(made: ToyDataset, tmp_path: Path) -> Store:
    """A copy of it, to be damaged; the manifests lie where they were."""
    shutil.copytree(made.folder / "dataset", tmp_path / "dataset")
    return open_store(str(tmp_path / "dataset"))


def kind_of(path: str) -> str:
    return re.sub(r"[0-9a-f]{8,}|\d+", "*", path)


def digests(store: Store) -> dict[str, str]:
    return {info.path: hashlib.sha256(store.read(info.path)).hexdigest() for info in store.list()}


def is_named(store: Store, path: str) -> bool:
    try:
        report = verify_dataset(open_dataset(store.uri), deep=True)
    except InfoDamaged as error:
        return path == paths.INFO and "musicgen repair" in str(error)
    return path in {fault.location for fault in report.faults} | {fault.part for fault in report.faults}


def repair(store: Store) -> RepairReport:
    dataset, first = open_repairable(store.uri)
    report = repair_dataset(
        dataset,
        make_engine=lambda *_: ToyEngine(),
        find_checkpoint=lambda plan: PlannedCheckpoint(identity=plan.model.identity),  # type: ignore[arg-type,return-value]
    )
    report.mendings += [first] if first else []
    return report


def damage(store: Store, path: str, content: bytes | None) -> None:
    store.delete(path)
    if content is not None:
        Path(store.uri, path).write_bytes(content)


def check_object(store: Store, path: str, changed: bytes | None, before: dict[str, str]) -> str | None:
    """Damage an object, and return what is wrong with how that was named and mended."""
    contents = {name: store.read(name) for name in before}
    damage(store, path, changed)
    is_needed = changed is not None or not re.fullmatch(NO_LOSS, path)
    problem = None
    if is_needed and not is_named(store, path):
        problem = "is not named"
    elif is_needed:
        report = repair(store)
        after = digests(store)
        differing = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
        allowed = {path} if re.fullmatch(NEW, path) else set()
        allowed |= TABLES  # row groups differ with the table that was there before
        if paths.parse_index_part(path):
            allowed |= {name for name in differing if re.fullmatch(ALSO, name)}
        if report.failed:
            problem = "; ".join(map(str, report.failed))
        elif not verify_dataset(open_dataset(store.uri), deep=True).sound:
            problem = f"is not sound after {report.mendings}"
        elif differing - allowed:
            problem = f"differs: {sorted(map(kind_of, differing))}"
    for name in digests(store).keys() - contents.keys():
        store.delete(name)
    for name, content in contents.items():
        damage(store, name, content)
    return problem


def check_kinds(store: Store, how: str) -> dict[str, str]:
    """Damage an object of each kind in turn, and return what is wrong with what followed, by path."""
    before = digests(store)
    chosen = {kind_of(path): path for path in sorted(before)}
    problems = {path: check_object(store, path, DAMAGES[how](store.read(path)), before) for path in chosen.values()}
    return {path: problem for path, problem in problems.items() if problem is not None}


@pytest.mark.slow
@pytest.mark.parametrize("how", DAMAGES)
def test_every_kind_of_object_is_named_and_mended(store: Store, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_repair, "_MOST_BYTES_TRIED", 1 << 10)
    assert check_kinds(store, how) == {}


def test_what_runs_keep_of_their_manifests_is_made_again_bit_by_bit(store: Store) -> None:
    before = digests(store)
    damaged = {path for path in before if re.fullmatch(OF_MANIFESTS, path)}
    for path in damaged:
        damage(store, path, DAMAGES["cut"](store.read(path)))
    report = repair(store)
    assert (report.failed, {mending.path for mending in report.mendings}) == ([], damaged)
    assert digests(store) == before


def test_without_the_manifest_it_is_said_what_cannot_be_made_again(made: ToyDataset, store: Store) -> None:
    runs = [PlanOutline.from_json(store.read(paths.order_entry(number))) for number in (1, 2)]
    keys = {outline.run: paths.manifest_rows(outline.run) for outline in runs}
    part = runs[1].manifest_files[0]
    manifests = {path: path.read_text() for path in made.folder.rglob("rows.csv")}
    try:
        for path, text in manifests.items():
            path.write_text(text.replace("warm piano", "cold piano"))
        for name in (*keys.values(), part):
            store.delete(name)
        report = repair(store)
    finally:
        for path, text in manifests.items():
            path.write_text(text)
    failures = {mending.path: mending.failure for mending in report.failed}
    # The first run was to make all rows of its manifest, and so has their keys.
    assert failures.keys() == {part, keys[runs[1].run]}
    assert all(
        "rows.csv): its rows are not those that the run was planned of; restore that" in text
        for text in failures.values()
    )
