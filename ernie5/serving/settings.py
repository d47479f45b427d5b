"""What a server allows, and what it serves."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ernie5.config.schema import ModelConfig

if TYPE_CHECKING:
    from ernie5.tokenizers.text import TextTokenizer

ChatTemplate = Literal["plain", "chat"]
MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Beyond these a request is refused: 413 for its size, 429 for too many of them, 504 for its time, else 400."""

    body_bytes: int = 32 * MIB
    body_seconds: float = 30.0  # in which the body has to arrive
    prompt_tokens: int = 8192
    completion_tokens: int = 2048
    schema_bytes: int = 1 << 16  # of a JSON schema, which the engine reads between two steps
    answers: int = 8  # `n` times prompts of one request
    running: int = 64  # requests in the engine at a time
    waiting: int = 128  # further requests that wait for one of them to end
    seconds: float = 300.0  # of one request, in the queue and in the engine
    media: int = 16  # of one request
    media_bytes: int = 16 * MIB  # of one medium as a file
    media_pixels: int = 1 << 24  # of one picture or frame as it is stored
    media_seconds: float = 10.0  # that decoding one medium may take
    drain_seconds: float = 30.0  # that running requests have to end after SIGTERM


@dataclass(frozen=True, kw_only=True)
class Served:
    """The model behind the server."""

    name: str  # by which requests ask for it
    config: ModelConfig
    tokenizer: "TextTokenizer"
    draws: bool  # it has a vision tokenizer
    speaks: bool  # it has an audio tokenizer
    clones: bool = False  # it has a speaker encoder, so that it takes voices
    created: int = 0  # seconds since 1970
    chat_template: ChatTemplate = "plain"


@dataclass(frozen=True, kw_only=True)
class Access:
    """Who may ask, and what may be fetched for them."""

    api_keys: tuple[str, ...] = ()  # none: everybody may ask
    # Names by which the server may be called; none: any. A page of another site can make its own name stand for this
    # machine, and a browser would let it ask; it cannot make the browser call the server by another name.
    host_names: tuple[str, ...] = ()
    url_hosts: tuple[str, ...] = ()  # `host` or `host:port` from which media named by URL are fetched


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    served: Served
    limits: Limits = field(default_factory=Limits)
    access: Access = field(default_factory=Access)
