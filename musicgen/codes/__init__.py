"""Encodes a manifest of audio files to a Parquet file of EnCodec codes, and decodes codes to audio files.

A codes file has one row per audio file: `id`, `prompt` (where the manifest has them), `audio` (the URI),
`audio_sha256`, `frames`, `codes` [codebooks][frames], `error`. An audio file that cannot be read gives a row with
`error` and without codes. The metadata of the schema describe the codec. The index of a dataset made with
`audio.codes: true` can be decoded too.
"""

from musicgen.codes.codes_file import CodesSummary
from musicgen.codes.decode_codes import decode_codes
from musicgen.codes.encode_manifest import encode_manifest

__all__ = ["CodesSummary", "decode_codes", "encode_manifest"]
