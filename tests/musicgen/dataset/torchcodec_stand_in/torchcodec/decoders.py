"""Decoding, as far as `datasets` uses it."""

import io
from types import SimpleNamespace

import soundfile
import torch


class AudioDecoder:
    """Decodes a file's path, its bytes or a file object."""

    def __init__(self, source, stream_index=None, sample_rate=None, num_channels=None):
        samples, self._rate = soundfile.read(
            io.BytesIO(source) if isinstance(source, bytes) else source, dtype="float32", always_2d=True
        )
        self._data = torch.from_numpy(samples.T.copy())
        self.metadata = SimpleNamespace(path=None)

    def get_all_samples(self):
        """Every sample, [channels, samples]."""
        return SimpleNamespace(data=self._data, sample_rate=self._rate)


class VideoDecoder:
    """Imported, never used."""
