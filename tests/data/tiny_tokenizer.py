"""A tokenizer small enough to reason about: an id a character. Worker processes import it by this name."""

import random
import time

FIRST = 10  # ids below are special


class TinyTokenizer:
    """Ids are code points; with dropout, one that depends on the seed is put before the text."""

    bos_id, eos_id, pad_id, user_id, assistant_id = 1, 2, 0, 3, 4

    def encode(self, text, bpe_dropout=0.0, seed=None):
        ids = [FIRST + ord(character) for character in text]
        return [FIRST + 0x110000 + random.Random(seed).randrange(1 << 30), *ids] if bpe_dropout else ids

    def decode(self, ids):
        return "".join(chr(i - FIRST) for i in ids if i >= FIRST)

    def apply_chat_template(self, messages):
        parts = [([self.bos_id], False)]
        for message in messages:
            is_answer = message["role"] == "assistant"
            parts.append(([self.assistant_id if is_answer else self.user_id], False))
            parts.append((self.encode(message.get("reasoning_content", "") + message["content"]), is_answer))
        return parts


class VisualTinyTokenizer(TinyTokenizer):
    """With the marks of media, and turns that are closed."""

    end_id = 9
    special_ids = {"<boi>": -1, "<eoi>": -2, "<bov>": -3, "<eov>": -4, "<image>": -5, "<video>": -6, "<sep>": -7}
    special_ids |= {"<boa>": -8, "<eoa>": -9, "<audio>": -10}

    def apply_chat_template(self, messages):
        parts = super().apply_chat_template(messages)
        return parts[:-1] + [([*parts[-1][0], self.end_id], parts[-1][1])]


class BreakingTokenizer(TinyTokenizer):
    """Fails in a chosen way on any text that holds a trigger."""

    def __init__(self, trigger, failure):
        self.trigger, self.failure = trigger, failure

    def encode(self, text, bpe_dropout=0.0, seed=None):
        if self.trigger in text:
            self.failure()
        return super().encode(text, bpe_dropout, seed)


class SlowTokenizer(TinyTokenizer):
    """Takes a moment for each text, so that workers finish out of step."""

    def encode(self, text, bpe_dropout=0.0, seed=None):
        time.sleep(0.002 * (len(text) % 3))
        return super().encode(text, bpe_dropout, seed)
