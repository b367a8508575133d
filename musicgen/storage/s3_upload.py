"""Uploads to S3: small objects in one request, large ones in parts."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from musicgen.errors import StoreError
from musicgen.parallel import map_ordered
from musicgen.storage.s3_api import Sender
from musicgen.storage.s3_faults import UploadGone

PART_BYTES = 32 << 20
_THREADS = 4  # at most twice as many parts are in memory


def upload(send: Sender, target: dict[str, str], data: bytes | Path, condition: dict[str, str]) -> None:
    """Write an object whole. `target` is its `Bucket` and `Key`; `condition` as for `put_object`.

    Raises `UploadGone` if a large object was completed, perhaps, and the reply was lost: the caller looks at it.
    """
    size = data.stat().st_size if isinstance(data, Path) else len(data)
    if size <= PART_BYTES:
        body = data.read_bytes() if isinstance(data, Path) else data
        send(lambda client: client.put_object(**target, Body=body, **condition), len(body))
        return
    begun = send(lambda client: client.create_multipart_upload(**target))
    upload_of = {**target, "UploadId": begun["UploadId"]}

    def upload_part(part: tuple[int, bytes]) -> dict[str, object]:
        number, body = part
        reply = send(lambda client: client.upload_part(**upload_of, PartNumber=number, Body=body), len(body))
        return {"PartNumber": number, "ETag": reply["ETag"]}

    try:
        parts = list(map_ordered(upload_part, enumerate(_cut(data), 1), threads=_THREADS))
        manifest = {"Parts": parts}
        # The store may copy all parts together before it answers.
        send(lambda client: client.complete_multipart_upload(**upload_of, MultipartUpload=manifest, **condition), size)
    except UploadGone:
        raise
    except BaseException:
        with contextlib.suppress(StoreError, FileNotFoundError):  # parts without an object cost the user money
            send(lambda client: client.abort_multipart_upload(**upload_of))
        raise


def _cut(data: bytes | Path) -> Iterator[bytes]:
    """Yield the data in parts."""
    if isinstance(data, Path):
        with data.open("rb") as file:
            while part := file.read(PART_BYTES):
                yield part
    else:
        for start in range(0, len(data), PART_BYTES):
            yield data[start : start + PART_BYTES]
