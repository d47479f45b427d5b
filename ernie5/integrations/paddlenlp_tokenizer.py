"""The text tokenizer under PaddleNLP's interface; `ernie5.integrations.paddlenlp` makes the class from this adapter."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from ernie5.errors import UserError
from ernie5.tokenizers.text import TextTokenizer
from ernie5.tokenizers.text.model_file import read_pieces
from ernie5.tokenizers.text.tokenizer import MODEL_FILE

Conversation = str | list[list[str]] | list[dict[str, str]]  # a question; [question, answer] rounds; messages


class TokenizerAdapter:
    """TextTokenizer as a PretrainedTokenizer, with the same ids. Nothing is added to a text: no <s>, no </s>.

    A token is a piece of `tokenizer.model`, in the spelling of that file. Text that looks like a special token is text,
    unless `split_special_tokens=False` asks for PaddleNLP's habit (which also strips the spaces around such a token).
    """

    resource_files_names = {"vocab_file": MODEL_FILE}
    model_input_names = ["input_ids", "attention_mask"]
    padding_side = "right"

    def __init__(self, vocab_file: str, split_special_tokens: bool = True, **kwargs: Any):
        """`vocab_file` is the model file in a folder that `save_pretrained` wrote. UserError: it is not."""
        # PaddleNLP has called its own __init__ already, with these arguments.
        self.split_special_tokens = split_special_tokens
        self.text = TextTokenizer.from_pretrained(Path(vocab_file).parent)
        self._pieces = [piece.text for piece in read_pieces(Path(vocab_file).read_bytes())]
        self._id_of_piece = {piece: i for i, piece in enumerate(self._pieces)}

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return self.text.vocab_size

    def __len__(self) -> int:
        return self.text.vocab_size

    def get_vocab(self) -> dict[str, int]:
        return dict(self._id_of_piece)

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return [self._pieces[i] for i in self.text.encode(text)]

    def _convert_token_to_id(self, token: str) -> int:
        return self._id_of_piece.get(token, self.unk_token_id)

    def _convert_id_to_token(self, index: int) -> str:
        return self._pieces[index]

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        return self.text.decode(self.convert_tokens_to_ids(tokens), skip_special_tokens=False)

    def _decode(self, token_ids: int | Sequence[int], skip_special_tokens: bool = False, **kwargs: Any) -> str:
        ids = [token_ids] if isinstance(token_ids, int) else [int(i) for i in token_ids]
        return self.text.decode(ids, skip_special_tokens)

    def apply_chat_template(
        self,
        conversation: Conversation,
        tokenize: bool = True,
        context_data: dict[str, Any] | None = None,
        add_generation_prompt: bool = True,
        **kwargs: Any,
    ) -> Any:
        """As PaddleNLP's, but the words of a message can never become a special token. kwargs: as for `__call__`."""
        messages = _messages(conversation)
        if not tokenize:
            return super().apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
        parts = self.text.apply_chat_template(messages, add_generation_prompt)
        return self.encode_plus([i for ids, _ in parts for i in ids], add_special_tokens=False, **kwargs)

    def encode_chat_inputs(
        self, conversations: Conversation, context_data: dict[str, Any] | None = None, **kwargs: Any
    ) -> dict[str, list[list[list[int]]]]:
        """{"conversations": [[ids without loss, ids with loss], ...]}, one pair for each answer."""
        rounds, prompt = [], []
        for ids, has_loss in self.text.apply_chat_template(_messages(conversations)):
            if has_loss:
                rounds.append([prompt, ids])
                prompt = []
            else:
                prompt = prompt + ids
        return {"conversations": rounds}

    def save_pretrained(
        self, save_directory: str | PathLike, filename_prefix: str | None = None, **kwargs: Any
    ) -> tuple[str, ...]:
        """Writes the files of `TextTokenizer.save_pretrained`. UserError: a prefix, which our loader would not find."""
        if filename_prefix:
            raise UserError(f"filename_prefix is {filename_prefix!r}: leave it out and choose another folder instead")
        self.text.save_pretrained(save_directory)
        return tuple(str(path) for path in sorted(Path(save_directory).glob("*token*")))

    def _add_tokens(self, new_tokens: Sequence[Any], special_tokens: bool = False) -> int:
        """Loading calls this with the special tokens, which are there. Another token would have no id in the model."""
        unknown = [str(token) for token in new_tokens if str(token) not in self._id_of_piece]
        if unknown:
            raise UserError(
                f"the token {unknown[0]!r} is not in the vocabulary, which is fixed: train another tokenizer"
            )
        return super()._add_tokens(new_tokens, special_tokens)


def _messages(conversation: Conversation) -> list[dict[str, str]]:
    """The three forms of a conversation that PaddleNLP takes, as messages; an answer may be missing at the end."""
    if isinstance(conversation, str):
        return [{"role": "user", "content": conversation}]
    messages = []
    for turn in conversation:
        if isinstance(turn, dict):
            messages.append(turn)
        else:
            messages += [
                {"role": role, "content": text} for role, text in zip(("user", "assistant"), turn, strict=False)
            ]
    return messages
