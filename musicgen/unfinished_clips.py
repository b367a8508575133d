"""How far clips are that are still being made."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class UnfinishedClips:
    """Clips and seconds of audio, of which each clip counts by the part of it that is done."""

    clips: float = 0.0
    audio_s: float = 0.0

    def __add__(self, other: "UnfinishedClips") -> "UnfinishedClips":
        return UnfinishedClips(self.clips + other.clips, self.audio_s + other.audio_s)

    def without(self, clips: float) -> "UnfinishedClips":
        """Return what is left without so many clips, which have been finished meanwhile."""
        left = max(0.0, self.clips - clips)
        return UnfinishedClips(left, self.audio_s * left / self.clips) if left else UnfinishedClips()
