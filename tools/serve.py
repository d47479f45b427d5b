"""Serves a trained model over HTTP: OpenAI's interface, and a page to talk to it.

    python tools/serve.py runs/digits/model
    python tools/serve.py runs/digits/model --port 9000 --api-key-file keys.txt --max-pages 1024

Then http://127.0.0.1:8000/ is the page, and http://127.0.0.1:8000/v1 the base URL for any client of OpenAI's interface:

    curl http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' \\
        -d '{"model": "digits", "prompt": "3 + 4 =", "temperature": 0, "max_tokens": 4}'

Pictures, films and sounds go in as data URLs and come out in base64; every field is described at /openapi.json,
docs/guides/serving.md shows each way. Also there: /health, /ready, /metrics (Prometheus), /v1/expert_use.

Requests share the model: each step reads for all of them at once. Where they have no room together, the youngest begins
again later. SIGTERM lets what runs end, answers 503 to the rest, and ends; a second one ends at once.

Without keys everybody who reaches the port may ask, so other addresses than this machine's own need keys (or
--allow-anyone): one a line in --api-key-file, which only you may read, or one in the environment, ERNIE5_API_KEY.
"""

import argparse
import ipaddress
import logging

from ernie5.errors import UserError, exit_cleanly

MIB = 1 << 20


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="DIR", help="model folder, such as model/ of a run")
    parser.add_argument("--model-name", metavar="NAME", help="by which requests ask for it (default: its own)")
    parser.add_argument("--chat-template", choices=("plain", "chat"),
                        help="how messages become a prompt. chat: turns, for models trained on chats; plain: their "
                        "contents one behind the other, for models trained on documents, as those of the digit world "
                        "(default: chat_template of generation_config.json, else plain)")  # fmt: skip
    parser.add_argument("--num-layers", type=int, default=0, help="elastic depth: layers to run; 0: all")
    parser.add_argument("--top-k-experts", type=int, default=0, help="elastic sparsity: experts a token; 0: as trained")
    parser.add_argument("--threads", type=int, default=0, help="of the math libraries; 0: one a core")
    add_network_options(parser.add_argument_group("network"))
    add_engine_options(parser.add_argument_group("engine"))
    add_limits(parser.add_argument_group("limits", "Beyond them a request is refused: 413, 429, 504 or 400."))
    return parser.parse_args()


def add_network_options(network: argparse._ArgumentGroup) -> None:
    network.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s: this machine)")
    network.add_argument("--port", type=int, default=8000, help="default %(default)s")
    network.add_argument("--api-key-file", metavar="FILE", help="keys, one a line; readable by you alone")
    network.add_argument("--allow-anyone", action="store_true", help="serve other machines without a key")
    network.add_argument("--allow-url-host", metavar="HOST[:PORT]", action="append", default=[],
                         help="fetch media that requests name by URL from this host; without it none is ever "
                         "fetched. Redirects are not followed")  # fmt: skip


def add_engine_options(engine: argparse._ArgumentGroup) -> None:
    engine.add_argument("--max-pages", type=int, default=4096,
                        help="of 64 tokens' keys and values each, for all requests (default %(default)s)")  # fmt: skip
    engine.add_argument("--max-step-tokens", type=int, default=1024,
                        help="read by one step: more serve long prompts faster, fewer keep words flowing beside them "
                        "(default %(default)s)")  # fmt: skip
    engine.add_argument("--speculate", action="store_true", help="guess words ahead with the prediction block")
    engine.add_argument("--no-shared-prefixes", action="store_true", help="read equal beginnings for each request anew")


def add_limits(limits: argparse._ArgumentGroup) -> None:
    limits.add_argument("--max-running", type=int, default=64, help="requests in the engine (default %(default)s)")
    limits.add_argument("--max-waiting", type=int, default=128, help="requests that wait besides (default %(default)s)")
    limits.add_argument("--max-prompt-tokens", type=int, default=8192, help="default %(default)s")
    limits.add_argument("--max-completion-tokens", type=int, default=2048, help="default %(default)s")
    limits.add_argument("--max-body-mib", type=float, default=32, help="of a request, in MiB (default %(default)s)")
    limits.add_argument("--max-seconds", type=float, default=300, help="of an answer (default %(default)s)")
    limits.add_argument("--max-media", type=int, default=16, help="pictures, films and sounds of a request "
                        "(default %(default)s)")  # fmt: skip
    limits.add_argument("--drain-seconds", type=float, default=30,
                        help="that answers have to end after SIGTERM (default %(default)s)")  # fmt: skip


def check(arguments: argparse.Namespace) -> None:
    """UserError for numbers out of range."""
    for name in ("max_pages", "max_step_tokens", "max_running", "max_prompt_tokens", "max_completion_tokens"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} must be 1 or more")
    for name in ("max_body_mib", "max_seconds"):
        if not 0 < getattr(arguments, name) < 1e9:
            raise UserError(f"--{name.replace('_', '-')} must be a number above 0")
    if min(arguments.max_waiting, arguments.max_media, arguments.threads) < 0 or not 0 <= arguments.drain_seconds < 1e9:
        raise UserError("--max-waiting, --max-media, --threads and --drain-seconds must be 0 or more")
    if not 0 <= arguments.port < 1 << 16:
        raise UserError("--port must be from 0 (any that is free) to 65535")


def is_own(host: str) -> bool:
    """Whether this machine alone reaches the address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_openness(arguments: argparse.Namespace, keys: tuple[str, ...]) -> None:
    """UserError for a server that strangers reach and nobody meant to open to them."""
    if not (is_own(arguments.host) or keys or arguments.allow_anyone):
        raise UserError(
            f"--host {arguments.host}: other machines reach it, and no key is asked for: give --api-key-file FILE, or "
            "--allow-anyone"
        )


def main() -> None:
    arguments = parse_arguments()
    check(arguments)
    try:
        from ernie5.serving.run import bind, read_keys, run, url_of
    except ModuleNotFoundError as error:
        if error.name.partition(".")[0] not in ("fastapi", "uvicorn", "starlette", "pydantic", "prometheus_client"):
            raise
        raise UserError(f"serving needs {error.name}, which is not installed: pip install 'ernie5[serve]'") from None
    keys = read_keys(arguments.api_key_file)
    check_openness(arguments, keys)
    listener = bind(arguments.host, arguments.port)  # before the model is loaded: a taken port is told at once
    from ernie5.config.schema import OpsConfig
    from ernie5.ops import runtime

    runtime.start_paddle(arguments.threads)
    runtime.configure(OpsConfig())
    from ernie5.inference.engine import EngineSettings
    from ernie5.serving.app import create_app
    from ernie5.serving.load import load
    from ernie5.serving.settings import Access, Limits, ServerSettings

    engine_settings = EngineSettings(
        max_pages=arguments.max_pages,
        max_running=arguments.max_running,
        max_step_tokens=arguments.max_step_tokens,
        speculate=arguments.speculate,
        share_prefixes=not arguments.no_shared_prefixes,
    )
    elastic = arguments.num_layers, arguments.top_k_experts
    served, engine = load(arguments.model, engine_settings, arguments.model_name, arguments.chat_template, *elastic)
    limits = Limits(
        body_bytes=int(arguments.max_body_mib * MIB),
        prompt_tokens=arguments.max_prompt_tokens,
        completion_tokens=arguments.max_completion_tokens,
        running=arguments.max_running,
        waiting=arguments.max_waiting,
        seconds=arguments.max_seconds,
        media=arguments.max_media,
        media_bytes=int(arguments.max_body_mib * MIB),
        drain_seconds=arguments.drain_seconds,
    )
    names = ("localhost", "127.0.0.1", "[::1]", arguments.host) if is_own(arguments.host) and not keys else ()
    access = Access(api_keys=keys, host_names=names, url_hosts=tuple(arguments.allow_url_host))
    settings = ServerSettings(served=served, limits=limits, access=access)
    locks = "a key is asked for" if keys else "no key is asked for"
    logging.info("serving %s at %s (%s)", served.name, url_of(listener), locks)
    run(create_app(settings, engine), listener)


if __name__ == "__main__":
    exit_cleanly(main)
