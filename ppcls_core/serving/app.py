"""The application: its paths, and the way of an image to its classes."""

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import Field
from starlette.datastructures import QueryParams

from data_catalog.base.config import Config, closest
from ppcls_core.inference.predict import rank
from ppcls_core.inference.sidecar import Sidecar
from ppcls_core.serving.access import Access
from ppcls_core.serving.batching import Batcher, Load
from ppcls_core.serving.guard import Guard
from ppcls_core.serving.http import new_api, page_response
from ppcls_core.serving.limits import Metrics, Refused, ServeConfig, cut
from ppcls_core.serving.pictures import (
    JSON,
    MULTIPART,
    JsonBody,
    Upload,
    network_input,
    read_pictures,
)

PATHS = ("/", "/health", "/ready", "/metrics", "/predict", "/openapi.json")
QUERY = ("top_k",)  # parameters of /predict
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            MULTIPART: {
                "schema": {
                    "type": "object",
                    "properties": {
                        "image": {"type": "array", "items": {"type": "string", "format": "binary"}}
                    },
                }
            },
            JSON: {"schema": JsonBody.model_json_schema()},
        },
    }
}


@dataclass(frozen=True)
class ServedModel:
    """A model to serve; `load` is called once, in the thread that then owns the predictor."""

    sidecar: Sidecar
    load: Load
    recipe: str = ""  # whose student it is

    @property
    def title(self) -> str:
        """Its architecture, after the recipe where there is one."""
        architecture = self.sidecar.architecture
        return f"{self.recipe} ({architecture})" if self.recipe else architecture


class ClassScore(Config):
    """A class, and how probable the model finds it."""

    number: int = Field(serialization_alias="class")
    name: str
    probability: float


class Prediction(Config):
    """The best classes of an image, the best first."""

    image: str  # name of its file, or its number in the request
    predictions: list[ClassScore]


class Answer(Config):
    """The response to a request: its images in order."""

    model: str
    images: list[Prediction]


class ModelService:
    """A model at work, and its application."""

    def __init__(
        self, model: ServedModel, config: ServeConfig, access: Access, decoders: int
    ) -> None:
        self.metrics = Metrics()
        self.batcher = Batcher(config, self.metrics)
        self._model, self.config = model, config
        self._decoders = ThreadPoolExecutor(decoders, "decode")
        title = f"ppcls serve: {model.title}"
        self._api = new_api(title, PATHS, lifespan=self._lifespan)
        self._add_routes()
        self.guard = Guard(self._api, config, access, self.metrics, PATHS)

    @asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        self.batcher.start(self._model.load, self._model.sidecar.preprocess.size)
        yield
        self._decoders.shutdown(wait=False, cancel_futures=True)
        self.batcher.stop()

    def _add_routes(self) -> None:
        get = self._api.get
        get("/health")(health)
        get("/ready")(self.ready)
        get("/metrics", response_class=Response)(self.metrics_text)
        get("/", response_class=HTMLResponse, include_in_schema=False)(page)
        self._api.post("/predict", openapi_extra=BODY)(self.predict)

    async def ready(self) -> JSONResponse:
        """200 when the model is loaded and warm, 503 until then."""
        sidecar, is_ready = self._model.sidecar, self.batcher.is_ready
        content = {
            "status": "ready" if is_ready else "loading",
            "model": self._model.title,
            "classes": len(sidecar.classes),
            "image_size": sidecar.preprocess.size,
        }
        return JSONResponse(content, 200 if is_ready else 503)

    async def metrics_text(self) -> Response:
        """The metrics in the text format of Prometheus."""
        return Response(generate_latest(self.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def predict(
        self, request: Request, top_k: Annotated[int, Query(ge=1, le=1_000_000)] = 5
    ) -> Answer:
        """The best classes of each image, `top_k` of them or as many as there are."""
        _check_query(request.query_params)
        self.batcher.check_room()  # before a body is taken in
        body = await request.body()
        pictures = read_pictures(request.headers.get("content-type", ""), body, self.config)
        with self.batcher.taking_on(len(pictures)):
            images = await self._decoded(pictures)
            rows = await self.batcher.logits(images)
        found = [
            Prediction(image=picture.name, predictions=self._best(row, top_k))
            for picture, row in zip(pictures, rows, strict=True)
        ]
        return Answer(model=self._model.title, images=found)

    async def _decoded(self, pictures: list[Upload]) -> list[np.ndarray]:
        run = asyncio.get_running_loop().run_in_executor
        jobs = [run(self._decoders, self._decode, picture) for picture in pictures]
        done = await asyncio.gather(*jobs, return_exceptions=True)  # none is left behind
        for one in done:
            if isinstance(one, BaseException):
                raise one
        return done  # type: ignore[return-value]

    def _decode(self, picture: Upload) -> np.ndarray:
        begun = time.perf_counter()
        image = network_input(picture, self._model.sidecar.preprocess, self.config.max_pixels)
        self.metrics.decoding.observe(time.perf_counter() - begun)
        return image

    def _best(self, logits: np.ndarray, top_k: int) -> list[ClassScore]:
        (best,) = rank(logits[None], self._model.sidecar.classes, top_k)
        if not best:
            raise Refused(500, "logits that are not finite", "numbers", "train or export it anew")
        return [ClassScore(number=g.number, name=g.name, probability=g.probability) for g in best]


def _check_query(query: QueryParams) -> None:
    for name in query:
        if name not in QUERY:
            known = closest(name, QUERY).removeprefix("; ")
            raise Refused(422, f"query parameter {cut(name)}", " or ".join(QUERY), known)
        if len(query.getlist(name)) > 1:
            raise Refused(422, f"query parameter {cut(name)} twice", "it once", "give one value")


async def health() -> dict[str, str]:
    """200 as long as the process answers."""
    return {"status": "alive"}


async def page() -> HTMLResponse:
    """The page on which one drops a picture and sees its classes."""
    return page_response("page.html")
