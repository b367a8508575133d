"""Makes datasets readable by Hugging Face's `load_dataset(folder)`, by the card's front matter and a table.

- parquet: the Parquet loader reads the index, whose schema marks the audio column.
- files: AudioFolder reads rows and paths from `metadata.parquet`. (The Parquet loader could read the index itself, but
  it resolves relative paths against the reader's working folder. It does so for more rows than a table is written of.)
- webdataset: the WebDataset loader reads the tars that the index names; the front matter gives the types, which it
  would otherwise guess from the first five rows.

The last two loaders need torchcodec, and with it FFmpeg, before they give the first row. So datasets of these layouts
with up to 256 MB of audio get `huggingface.parquet`, a copy with the audio bytes in it, for the Parquet loader.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from musicgen.dataset import paths
from musicgen.dataset.reader import Dataset
from musicgen.dataset.readme import CURRENT_CONFIG, CURRENT_DESCRIPTION
from musicgen.dataset.status import RunStatus
from musicgen.manifest.json_columns import member_type

# These columns are not in the JSON of a tar's members (musicgen/dataset/writer.py).
INDEX_PATTERN = f"{paths.INDEX}/**/*.parquet"

COLUMNS_NOT_IN_TARS = frozenset({"audio", "audio_offset", "created_at", "codes"})


@dataclass(frozen=True, slots=True)
class CurrentTable:
    """The files that the configuration `current` reads, and the loader's options; without files there is none.

    `run` is the one whose manifest it is, `is_foreign` whether somebody else's file has the table's name.
    """

    run: str
    rows: int  # of the manifest
    files: tuple[str, ...] = ()
    options: Mapping[str, object] = field(default_factory=dict)
    is_foreign: bool = False


def front_matter(
    dataset: Dataset, data_files: list[str], fingerprint: str | None, current: CurrentTable | None = None
) -> dict[str, object]:
    """Return the keys `configs` and `dataset_info` of the card, for the files that `list_data_files` gave.

    `load_dataset` knows the rows in its cache by this text alone, without a look at the files. So it names the state of
    the index (`Dataset.fingerprint`), or a dataset that grew would be loaded as it was. None: as earlier releases did.
    """
    if not data_files:
        return {}
    configs = [_format_config(data_files, fingerprint)]
    if current is not None and current.files:
        configs.append(_format_current_config(current, fingerprint))
    metadata: dict[str, object] = {"configs": configs}
    if data_files == [INDEX_PATTERN] and _first_part_lacks_columns(dataset):
        metadata["dataset_info"] = _describe_grown_index(dataset, configs)
    if dataset.info.layout != "webdataset" or data_files == [paths.HUGGINGFACE_COPY]:
        return metadata
    version = dataset.info.schema_version
    fields = [field for field in dataset.schema() if field.name not in COLUMNS_NOT_IN_TARS]
    features = [_describe_feature(field.with_type(member_type(field.type, version))) for field in fields]
    metadata["dataset_info"] = {
        "config_name": "default",
        "features": [
            {"name": dataset.info.format, "dtype": "audio"},
            {"name": "json", "struct": features},
            {"name": "__key__", "dtype": "string"},
            {"name": "__url__", "dtype": "string"},
        ],
    }
    return metadata


def _first_part_lacks_columns(dataset: Dataset) -> bool:
    """Whether the Parquet loader, which takes the columns of the first file for those of all, would miss some."""
    first = next(dataset.parts(), None)
    if first is None:
        return False
    with dataset.store.open(first) as file:
        return set(pq.read_schema(file).names) != set(dataset.schema().names)


def _describe_grown_index(dataset: Dataset, configs: list[dict[str, object]]) -> list[dict[str, object]]:
    """Return `dataset_info` with the columns of the whole index, for the configurations that read it."""
    audio = {"name": "audio", "dtype": "audio"}
    features = [
        audio if field.name == "audio" and pa.types.is_struct(field.type) else _describe_feature(field)
        for field in dataset.schema()
    ]
    index_files = configs[0]["data_files"]
    names = [config["config_name"] for config in configs if config["data_files"] == index_files]
    return [{"config_name": name, "features": features} for name in names]


def list_data_files(
    dataset: Dataset, runs: Sequence[RunStatus], table: str | None, reads_index: bool = False
) -> list[str]:
    """List the files or patterns that `load_dataset` reads, beside or instead of a table; none if it cannot.

    With `reads_index` it reads the index also of layout files, where `audio` is a path in the dataset.
    """
    if dataset.info.layout == "parquet" or reads_index:
        return [INDEX_PATTERN]
    if table == paths.HUGGINGFACE_COPY:
        return [table]
    if dataset.info.layout == "webdataset":
        return _committed_tars(dataset, runs)
    return [] if table is None else [table, f"{paths.AUDIO}/**"]


def _committed_tars(dataset: Dataset, runs: Sequence[RunStatus]) -> list[str]:
    """List the tars to load: one glob if every tar is committed, else one for each run, or its committed ones by name.

    Tars of uncommitted attempts would give their clips twice. The parts of a run are read only if it has such tars.
    """
    stored: Counter[str] = Counter()
    for file_info in dataset.store.list(paths.AUDIO):
        stored[(paths.parse_audio_tar(file_info.path) or ("", 0))[0]] += 1
    patterns: list[str] = []
    uncommitted = stored.total() - sum(stored[run.run] for run in runs)
    for run in runs:
        count = run.tars
        if run.hidden or count != stored[run.run]:
            names = _read_tar_names(dataset.run(run.run))
            count = len(names)
        if count != stored[run.run]:
            uncommitted += stored[run.run] - count
            patterns += names
        elif count:
            patterns.append(f"{paths.AUDIO}/{run.run}/*.tar")
    return patterns if patterns and uncommitted else [f"{paths.AUDIO}/*/*.tar"]


def _read_tar_names(run: Dataset) -> list[str]:
    names: set[str] = set()
    for batch in run.batches(["audio"]):
        names.update(pc.unique(batch.column("audio")).to_pylist())
    return sorted(names)


def _format_config(data_files: list[str], fingerprint: str | None) -> dict[str, object]:
    config: dict[str, object] = {
        "config_name": "default",
        "data_files": [{"split": "train", "path": data_files}],
    }
    if fingerprint is not None:
        config["description"] = f"index {fingerprint}"
    return config


def _format_current_config(current: CurrentTable, fingerprint: str | None) -> dict[str, object]:
    return {
        "config_name": CURRENT_CONFIG,
        "data_files": [{"split": "train", "path": list(current.files)}],
        **current.options,
        "description": f"{CURRENT_DESCRIPTION} {current.run}, index {fingerprint}",
    }


def _describe_feature(field: pa.Field) -> dict[str, object]:
    return {"name": field.name, **_describe_type(field.type)}


def _describe_type(value_type: pa.DataType) -> dict[str, object]:
    """Return a type that `member_type` gave as the front matter writes it."""
    if pa.types.is_struct(value_type):
        return {"struct": [_describe_feature(field) for field in value_type]}
    if not pa.types.is_list(value_type):
        return {"dtype": _datasets_type(value_type)}
    element = _describe_type(value_type.value_type)
    return {"list": element.get("dtype") or element.get("struct") or element}


def _datasets_type(arrow_type: pa.DataType) -> str:
    """Return the name of a type in `datasets`."""
    if pa.types.is_date(arrow_type):
        return str(arrow_type).partition("[")[0]
    return {"float": "float32", "double": "float64", "halffloat": "float16"}.get(str(arrow_type), str(arrow_type))
