"""Makes `dataset.json` again from the plans of the runs and one index part."""

from musicgen.dataset import paths
from musicgen.dataset.info import DatasetInfo
from musicgen.dataset.run_report import read_report
from musicgen.dataset.schema import index_columns
from musicgen.job_sections import AudioSettings
from musicgen.plan.planned_runs import list_runs
from musicgen.repair.document_repair import NotMended, put_document
from musicgen.run_plan import Plan
from musicgen.storage import Store
from musicgen.storage.parquet_reader import ParquetReader

_PREFIX = "manifest_"  # of a carried column whose own name the index needs


def mend_info(store: Store) -> str:
    """Put the `dataset.json` of a dataset that has lost it, or whose own is damaged. Returns what was done.

    Raises `NotMended` if the runs do not say all that was in it.
    """
    put_document(store, paths.INFO, _build_info(store).to_json())
    return "made again from the runs' plans"


def _build_info(store: Store) -> DatasetInfo:
    listing = list_runs(store)
    ranks = listing.ranks()
    plans = [run.plan for _, run in sorted(listing.runs.items(), key=lambda item: ranks[item[0]])]
    known = [plan for plan in plans if plan is not None]
    if not known or len(known) < len(plans):
        raise NotMended("it cannot be made again: no run's plan can be read; restore it from a copy")
    if _is_of_version_1(store, listing.index_parts):
        raise NotMended("it cannot be made again: a release before 0.2 wrote it; restore it from a copy")
    audio = AudioSettings.model_validate(known[-1].job["audio"])
    carried: dict[str, str] = {}
    names: dict[str, str] = {}
    for plan in reversed(known):  # the last one has the columns of those before it, in the order of the dataset
        carried |= {name: kind for name, kind in plan.carried.items() if name not in carried}
        names |= {source: name for source, name in plan.carried_names.items() if source not in names}
    info = DatasetInfo.of(audio.layout, audio.format, None, audio.codes)
    return DatasetInfo(
        info.layout,
        info.format,
        carried,
        info.codes,
        carried_names=_find_sources(carried, names),
        checksums=True,
        begun_by=_find_release(store, known[0]) or info.begun_by,
        has_own_checksums=True,
    )


def _is_of_version_1(store: Store, index_parts: list[str]) -> bool:
    for path in index_parts[:1]:
        with store.open(path) as file:
            return not set(index_columns()) <= set(ParquetReader(file).schema_arrow.names)
    return False


def _find_sources(carried: dict[str, str], names: dict[str, str]) -> dict[str, str]:
    """Return the index's name of each carried column of the manifests. Raises `NotMended` if that is not certain.

    `names` are those that plans tell; earlier releases wrote none.
    """
    for name in carried.keys() - names.values():
        if name.startswith(_PREFIX):
            raise NotMended(
                f"it cannot be made again: the index's column {name} may be the manifest's {name} or "
                f"{name.removeprefix(_PREFIX)}; restore it from a copy"
            )
        names[name] = name
    sources = {name: source for source, name in names.items()}
    return {sources[name]: name for name in carried}


def _find_release(store: Store, plan: Plan) -> str:
    """Return the release that made the dataset's first run, if its report says so."""
    report = read_report(store, plan.run)
    for session in report.sessions if report else ():
        if version := session.versions.get("musicgen-batch"):
            return f"musicgen-batch {version}"
    return ""
