"""EnCodec both ways, as streams: a manifest of audio to a Parquet file of codes, and codes back to audio files.

A codes file has one row per audio file: `id`, `prompt` (where the manifest has them), `audio` (the URI),
`audio_sha256`, `frames`, `codes` [codebooks][frames], `error`. A file that cannot be read is a row with `error` and no
codes: the others go on. Its schema's metadata say which codec made it. An index of a dataset made with `audio.codes:
true` decodes as well.
"""

from musicgen.codes.codes_file import CodesSummary
from musicgen.codes.decode_codes import decode_codes
from musicgen.codes.encode_manifest import encode_manifest

__all__ = ["CodesSummary", "decode_codes", "encode_manifest"]
