"""The family of MusicGen."""

from musicgen.families.musicgen.musicgen_family import FAMILY as FAMILY
