"""What the server tells of itself: models, health, metrics, the use of experts."""

from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from ernie5.serving import replies
from ernie5.serving.asking import check_model, sizes_of
from ernie5.serving.http import Json
from ernie5.serving.metrics import plain
from ernie5.serving.service import Service


def about_routes(service: Service) -> APIRouter:
    routes, served, limits = APIRouter(), service.settings.served, service.settings.limits

    def card() -> dict[str, Any]:
        seen = ["image", "video"] if served.config.vision is not None else []
        sound = ["audio"] if served.speaks else []
        return {
            "id": served.name,
            "object": "model",
            "created": served.created,
            "owned_by": "ernie5",
            "input_modalities": ["text", *seen, *sound],
            "output_modalities": ["text", *(["image", "video"] if served.draws else []), *sound],
            "sizes": sizes_of(served),
            "takes_voices": served.clones,
            "chat_template": served.chat_template,
            "max_prompt_tokens": limits.prompt_tokens,
            "max_completion_tokens": limits.completion_tokens,
        }

    @routes.get("/v1/models", response_model=replies.ModelList)
    async def models() -> Response:
        """The one model that is served."""
        return Json({"object": "list", "data": [card()]})

    @routes.get("/v1/models/{model:path}", response_model=replies.ModelCard)
    async def model(model: str) -> Response:
        check_model(model, served)
        return Json(card())

    @routes.get("/v1/expert_use")
    async def expert_use() -> Response:
        """The engine's statistics: pages, prefix hits, and how often which expert was chosen."""
        return Json(plain(await service.engine.statistics()))

    @routes.get("/health", response_model=replies.Health)
    async def health() -> Response:
        """Whether the process lives: 503 once the engine has failed for good."""
        status = "failed" if service.engine.is_broken else "draining" if service.is_draining else "ok"
        return Json({"status": status}, 503 if status == "failed" else 200)

    @routes.get("/ready", response_model=replies.Health)
    async def ready() -> Response:
        """Whether to send requests here: 503 also while the server is being stopped."""
        status = "failed" if service.engine.is_broken else "draining" if service.is_draining else "ok"
        return Json({"status": status}, 200 if status == "ok" else 503)

    @routes.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """In Prometheus form."""
        statistics = {} if service.engine.is_broken else await service.engine.statistics()
        return Response(service.metrics.text(statistics), media_type=CONTENT_TYPE_LATEST)

    return routes
