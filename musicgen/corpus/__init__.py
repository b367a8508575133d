"""Makes music to train on: pieces composed by rule and public-domain tunes, arranged, rendered and captioned."""

from musicgen.corpus.write import write_corpus

__all__ = ["write_corpus"]
