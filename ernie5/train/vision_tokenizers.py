"""The vision tokenizers of a run: a series of rising bits, one of which is in use at a time (report §2.2.1)."""

import logging
import shutil
from pathlib import Path

from ernie5.config.schema import Config, VisionConfig
from ernie5.errors import UserError
from ernie5.modality.vision_codes import VisionCoder
from ernie5.tokenizers.vision.tokenizer import VisionTokenizer

logger = logging.getLogger(__name__)

FOLDER = "vision_tokenizers"  # in the run folder; each in a folder named by its bits


class VisionTokenizers:
    """By their number of bits. Copied into the run folder, from which a resumed run takes them."""

    def __init__(self, config: Config, run_dir: Path, resumed: dict[str, str] | None, copies_them: bool = True):
        """`resumed`: the digests that a checkpoint was trained with, None in a new run. Raises UserError.

        Of the processes of a run, one `copies_them`.
        """
        self.by_bits: dict[int, VisionTokenizer] = {}
        self.folders: dict[int, Path] = {}
        copies = [run_dir / FOLDER / folder_name(int(bits)) for bits in resumed or {}]
        if not all(copy.exists() for copy in copies):  # resumed into another folder
            copies = []
        if resumed is None and copies_them:
            shutil.rmtree(run_dir / FOLDER, ignore_errors=True)  # of a run that died before its first checkpoint
        for folder in copies or map(Path, config.tokenizer.vision):
            tokenizer = VisionTokenizer.from_pretrained(folder)
            check_tokenizer(tokenizer, config.model.vision, folder)
            bits = tokenizer.config.bits
            if bits in self.by_bits:
                raise UserError(f"{folder}: tokenizer.vision names two tokenizers of {bits} bits: leave one out")
            self.by_bits[bits] = tokenizer
            self.folders[bits] = run_dir / FOLDER / folder_name(bits)
            if copies_them and not copies:
                tokenizer.save_pretrained(self.folders[bits])
        for i, stage in enumerate(config.stages):
            missing = [switch.bits for switch in stage.vision.switches if switch.bits not in self.by_bits]
            if missing:
                raise UserError(
                    f"stages.{i}.vision.switches: there is no tokenizer of {missing[0]} bits; tokenizer.vision has "
                    f"{', '.join(map(str, sorted(self.by_bits)))}: name a folder with one, or change the switch"
                )

    @property
    def digests(self) -> dict[str, str]:
        """What decides the codes of each."""
        return {str(bits): tokenizer.digest for bits, tokenizer in sorted(self.by_bits.items())}

    @property
    def most_bits(self) -> int:
        return max(self.by_bits)

    def coder(self, bits: int, scale_weight_power: float) -> VisionCoder:
        """Encodes media with the tokenizer of so many bits."""
        return VisionCoder(self.by_bits[bits], scale_weight_power)

    def require(self, digests: dict[str, str], where: Path) -> None:
        """UserError unless these are the tokenizers that a checkpoint was trained with."""
        if digests != self.digests:
            raise UserError(
                f"{where}: was trained with other vision tokenizers than {self.folders[self.most_bits].parent}: "
                "restore that folder, or start a new run"
            )


def folder_name(bits: int) -> str:
    return f"{bits:03d}_bits"


def check_tokenizer(tokenizer: VisionTokenizer, vision: VisionConfig, folder: Path) -> None:
    """UserError if the backbone was not made for this tokenizer."""
    if tokenizer.config.encoder != vision.encoder:
        raise UserError(
            f"{folder}: the tokenizer's encoder is {tokenizer.config.encoder}, but model.vision.encoder is "
            f"{vision.encoder}: make them equal"
        )
    if tokenizer.config.bits > vision.max_bits:
        raise UserError(
            f"{folder}: the tokenizer has {tokenizer.config.bits} bits, but model.vision.max_bits is "
            f"{vision.max_bits}: raise it, or take a tokenizer of fewer bits"
        )
