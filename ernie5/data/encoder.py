"""Sample number n of a run, encoded: what a loader needs, in its own process or in a worker's."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from ernie5.data.manifest import BadLine
from ernie5.data.media_settings import TEXT_ALONE, MediaSettings
from ernie5.data.mixture import Mixture
from ernie5.data.pieces import Pieces
from ernie5.data.sequence import EncodedSample, Tokenizer, encode_sample

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A malformed line, or one whose medium cannot be read, that `bad_line: skip` leaves out."""

    cause: str


class Encoder:
    """A pure function of a sample's number; can be pickled."""

    def __init__(
        self,
        pieces: Sequence[Pieces],
        mixture: Mixture,
        tokenizer: Tokenizer,
        bpe_dropout: float,
        skip_bad_lines: bool,
        media: MediaSettings = TEXT_ALONE,
    ):
        self.pieces, self.mixture, self.tokenizer = pieces, mixture, tokenizer
        self.bpe_dropout, self.skip_bad_lines, self.media = bpe_dropout, skip_bad_lines, media

    def __call__(self, number: int) -> EncodedSample | Skipped:
        """Raises UserError for a sample that cannot be used."""
        draw = self.mixture.draw(number)
        try:
            sample = self.pieces[draw.source].sample(draw.index, draw.epoch)
            return encode_sample(sample, self.tokenizer, self.bpe_dropout, draw.seed, self.media)
        except BadLine as error:
            if not self.skip_bad_lines:
                raise
            return Skipped(str(error))
