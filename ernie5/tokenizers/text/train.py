"""Learns a text tokenizer from text (report §3.1)."""

import io
import logging
import os
from collections import Counter
from collections.abc import Iterable

from ernie5.errors import UserError
from ernie5.tokenizers.text.merges import Merges
from ernie5.tokenizers.text.presplit import Segmenter, is_too_long, presplit
from ernie5.tokenizers.text.tokenizer import NUM_FIXED, TextTokenizer, build_model
from ernie5.tokenizers.text.units import BASE_SYMBOLS, UnitSpeller, bytes_of_piece

logger = logging.getLogger(__name__)

MAX_PIECE_UNITS = 16  # longest learned piece, in code units
MIN_COUNT = 2  # a unit or merge seen less often is not learned
_LONGEST_PART = 256  # units; a longer part of the text is cut, which no piece is long enough to notice much


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    *,
    max_bytes: int = 100_000_000,
    segmenter: Segmenter | None = None,
    num_threads: int | None = None,
) -> TextTokenizer:
    """Learns a tokenizer of at most `vocab_size` ids, special tokens and bytes included, from the texts.

    The room beside those goes to what occurs most often: a code unit counts as often as it is seen, a merge as often as
    it is made. A text too small to fill the room gives a smaller vocabulary and a logged line. At most `max_bytes`
    (UTF-8) are read. The result depends on the texts, `vocab_size`, `max_bytes` and the segmenter alone. Raises
    UserError when there is no text or `vocab_size` leaves no room.
    """
    room = vocab_size - NUM_FIXED
    if room < 1:
        raise UserError(f"vocab_size is {vocab_size}: {NUM_FIXED} ids are special tokens and bytes, so give more")
    parts = _count_parts(texts, max_bytes, segmenter)
    if not parts:
        raise UserError("there is no text to train the tokenizer on: give files that are not empty")
    unit_counts = _count_units(parts)
    unit_counts = Counter({unit: count for unit, count in unit_counts.most_common(room) if count >= MIN_COUNT})
    parts = _respell(parts, frozenset(unit_counts))
    merge_counts, merges = _learn_merges(parts, unit_counts, room, num_threads or os.cpu_count() or 1)
    units, merges = _most_frequent(unit_counts, merges, merge_counts, room)
    tokenizer = TextTokenizer(build_model(units, merges))
    if tokenizer.vocab_size < vocab_size:
        logger.info("the text gives a vocabulary of %d, not %d", tokenizer.vocab_size, vocab_size)
    return tokenizer


def _count_parts(texts: Iterable[str], max_bytes: int, segmenter: Segmenter | None) -> Counter[str]:
    """How often each part (`presplit`) occurs."""
    parts: Counter[str] = Counter()
    left = max_bytes
    for text in texts:
        size = len(text.encode("utf-8", "surrogatepass"))
        if size > left:
            text = text.encode("utf-8", "surrogatepass")[:left].decode("utf-8", "ignore")
        parts.update(presplit(text, segmenter))
        left -= size
        if left <= 0:
            logger.info("the tokenizer is trained on the first %d bytes of the text", max_bytes)
            break
    return parts


def _count_units(parts: Counter[str]) -> Counter[str]:
    """How often each code unit, as its symbol, occurs. Ties are in the order of the units."""
    spell, counts = UnitSpeller().spell, Counter()
    for part, count in parts.items():
        for symbol in spell(part):
            counts[symbol] += count
    for symbol in BASE_SYMBOLS:
        counts.pop(symbol, None)
    return Counter(dict(sorted(counts.items())))


def _respell(parts: Counter[str], alphabet: frozenset[str]) -> Counter[str]:
    """The parts in symbols, cut where a unit is spelled in bytes, in an order that does not depend on the text's."""
    spell, base = UnitSpeller(alphabet).spell, str.maketrans(dict.fromkeys(BASE_SYMBOLS, " "))
    respelled: Counter[str] = Counter()
    for part, count in parts.items():
        for run in spell(part).translate(base).split(" "):
            for start in range(0, len(run), _LONGEST_PART):
                respelled[run[start : start + _LONGEST_PART]] += count
    return Counter(dict(sorted(respelled.items())))


def _learn_merges(
    parts: Counter[str], unit_counts: Counter[str], room: int, num_threads: int
) -> tuple[Counter[str], list[str]]:
    """The merges in the order learned, and how often each is made; at least all that are worth a place in the room.

    sentencepiece also lists pieces that are too long for their script, and some that nothing is left to merge into;
    when too few remain without them, it is asked for more.
    """
    asked = room
    while True:
        learned = _sentencepiece_merges(parts, len(unit_counts) + asked, num_threads)
        allowed = [piece for piece in learned if not is_too_long(_text_of(piece))]
        counts = _count_merges(parts, allowed)
        merges = [piece for piece in allowed if counts[piece] >= MIN_COUNT]
        rarest = counts[merges[-1]] if merges else 0  # what was not learned is rarer still
        worth_more = sum(count >= rarest for count in unit_counts.values())
        if len(merges) + worth_more >= room or len(learned) < asked:
            return counts, merges
        asked *= 2


def _sentencepiece_merges(parts: Counter[str], num_pieces: int, num_threads: int) -> list[str]:
    if not any(len(part) > 1 for part in parts):
        return []
    import sentencepiece  # here, because an exported model runs without it

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([f"{part}\t{count}" for part, count in parts.items()]),
        model_writer=model,
        input_format="tsv",  # a part and how often it occurs
        model_type="bpe",
        vocab_size=num_pieces + 1,  # <unk> is sentencepiece's own
        hard_vocab_limit=False,
        character_coverage=1.0,  # the alphabet is chosen already
        max_sentencepiece_length=MAX_PIECE_UNITS,
        max_sentence_length=8 * _LONGEST_PART,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        split_by_unicode_script=False,
        split_by_number=False,
        split_by_whitespace=False,
        bos_id=-1,
        eos_id=-1,
        num_threads=num_threads,
        minloglevel=2,  # errors only
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [processor.id_to_piece(i) for i in range(1, len(processor))]
    return [piece for piece in pieces if len(piece) > 1]


def _count_merges(parts: Counter[str], merges: list[str]) -> Counter[str]:
    """How often each merge is made when all parts are encoded, on the way to longer ones included."""
    replay, counts = Merges({piece: rank for rank, piece in enumerate(merges)}), Counter()
    for part, count in parts.items():
        for piece in replay.count_made(part):
            counts[piece] += count
    return counts


def _most_frequent(
    unit_counts: Counter[str], merges: list[str], merge_counts: Counter[str], room: int
) -> tuple[list[str], list[str]]:
    """The units and merges that occur most often, as many as there is room for, without those that nothing makes."""
    alphabet = list(unit_counts)
    ranked = [(-count, 0, place) for place, count in enumerate(unit_counts.values())]
    ranked += [(-merge_counts[piece], 1, place) for place, piece in enumerate(merges)]
    ranked.sort()
    while True:
        kept = sorted(ranked[:room], key=lambda entry: entry[2])
        units = [alphabet[place] for _, kind, place in kept if kind == 0]
        chosen = [merges[place] for _, kind, place in kept if kind == 1]
        reachable = _reachable(chosen, frozenset(units))
        if len(reachable) == len(chosen):
            return units, chosen
        lost = set(chosen) - set(reachable)
        ranked = [entry for entry in ranked if entry[1] == 0 or merges[entry[2]] not in lost]


def _reachable(merges: list[str], units: frozenset[str]) -> list[str]:
    """Without the pieces that no merges make, or that hold a unit that was not kept."""
    merges = [piece for piece in merges if units.issuperset(piece)]
    while True:
        replay = Merges({piece: rank for rank, piece in enumerate(merges)})
        made = [piece for piece in merges if replay.split(piece) == [piece]]
        if len(made) == len(merges):
            return made
        merges = made


def _text_of(piece: str) -> str:
    return bytes_of_piece(piece).decode("utf-16-be", "surrogatepass")
