"""The family of AudioLDM 2."""

from musicgen.families.audioldm2.audioldm2_family import FAMILY as FAMILY
