"""The endpoint: routes in OpenAI's form around an `Engine`. Long: what a request may ask for.

Needs the extra `serve`.
"""

import asyncio
import contextlib
import json
import time

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from keras_t5gemma2.messages import cause, shown
from keras_t5gemma2.preprocessing.sources import read_rows
from keras_t5gemma2.serving import asked, guard, replies
from keras_t5gemma2.serving.errors import RequestError, of_value
from keras_t5gemma2.serving.limits import Limits
from keras_t5gemma2.serving.metrics import Metrics
from keras_t5gemma2.serving.page import headers_of, page
from keras_t5gemma2.serving.tickets import End, TooLongError, rows_of
from keras_t5gemma2.serving.writing import Writing, of_engine, too_late, too_long


class Endpoint:
    """Answers requests with one model.

    Args:
        lm: `T5Gemma2Seq2SeqLM`, with a preprocessor.
        engine: `Engine` of this model.
        embedder: `T5Gemma2TextEmbedder` of the same backbone.
        name: string, what the model is called.
        limits: `Limits`.
    """

    def __init__(self, lm, engine, embedder, name, limits):
        self._lm, self._engine, self._embedder = lm, engine, embedder
        self._name, self._limits = name, limits
        self._created, self._spelling = int(time.time()), None
        self.metrics = Metrics(engine)

    def routes(self):
        """A list of Starlette's `Route`."""
        posts = {
            "/v1/completions": self.complete,
            "/v1/chat/completions": self.chat,
            "/v1/embeddings": self.embed,
            "/v1/attention": self.attend,
        }
        gets = {
            "/": self.page,
            "/health": self.health,
            "/metrics": self.show_metrics,
            "/v1/models": self.models,
            "/v1/models/{name:path}": self.model,
        }
        return [
            *(
                Route(path, self._counted(path, run), methods=["POST"])
                for path, run in posts.items()
            ),
            *(Route(path, run, methods=["GET"]) for path, run in gets.items()),
        ]

    # Small ones

    async def page(self, request):
        """The page for people."""
        preprocessor = self._lm.preprocessor
        has_chat = preprocessor.template_to_write() is not None
        sees_images = self._lm.backbone.config.vision is not None
        text = page(self._name, has_chat, sees_images)
        return HTMLResponse(text, headers=headers_of(text))

    async def health(self, request):
        """Whether the engine takes requests."""
        is_well = self._engine.is_alive
        return JSONResponse({"status": "ok" if is_well else "closing"}, 200 if is_well else 503)

    async def show_metrics(self, request):
        """Counts, as Prometheus reads them."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

    async def models(self, request):
        """The one model."""
        return JSONResponse({"object": "list", "data": [self._about_model()]})

    async def model(self, request):
        """The one model, by its name."""
        self._check_model({"model": request.path_params["name"]})
        return JSONResponse(self._about_model())

    def _about_model(self):
        about = {"id": self._name, "object": "model", "created": self._created}
        return {**about, "owned_by": "keras_t5gemma2"}

    def _check_model(self, body):
        name = body.get("model") if isinstance(body, dict) else None
        if name is not None and name != self._name:
            raise RequestError(
                404,
                f"The model must be {self._name!r}. Received: model={shown(name)}",
                "model",
                "model_not_found",
            )

    # Texts

    async def complete(self, request, began):
        """Texts for texts and images."""
        body = await self._body(request)
        wanted = await asyncio.to_thread(asked.completion_of, body, self._limits)
        return await self._write(request, wanted, "completion", asked.COMPLETION, "prompt", began)

    async def chat(self, request, began):
        """Answers to a dialogue."""
        body = await self._body(request)
        wanted = await asyncio.to_thread(asked.chat_of, body, self._limits)
        return await self._write(request, wanted, "chat", asked.CHAT, "messages", began)

    async def _write(self, request, wanted, kind, known, default, began):
        writing = Writing(self._lm, wanted, known, default)
        await asyncio.to_thread(writing.prepare)
        spelling = None
        if wanted.alternatives is not None:
            spelling = await asyncio.to_thread(self._spell)
        form = replies.Replies(kind, self._name, spelling)
        if wanted.streams:
            events = self._stream(writing, form, wanted, began)
            async with _while_connected(request):
                first = await anext(events)  # an error before it has a status of its own
            return _Events(first, events, writing)
        async with _while_connected(request):
            return JSONResponse(await self._whole(writing, form, began))

    async def _whole(self, writing, form, began):
        count = len(writing.tickets)
        texts, tokens, reasons = [""] * count, [[] for _ in range(count)], [None] * count
        async for number, event in writing.events(self._engine, self._limits.seconds):
            if isinstance(event, End):
                texts[number] += writing.texts[number].finish()
                reasons[number] = _REASONS[event.is_finished]
                continue
            self._note_first(tokens, began)
            tokens[number] += event
            texts[number] += writing.texts[number].add([token.id for token in event])
        rows = zip(texts, tokens, reasons, strict=True)
        choices = [form.choice(n, *row) for n, row in enumerate(rows)]
        return form.whole(choices, self._usage(writing))

    async def _stream(self, writing, form, wanted, began):
        """Yields the events of an answer; an error after the first one is an event, too."""
        has_begun, seen = False, [[]]
        try:
            async for number, event in writing.events(self._engine, self._limits.seconds):
                if not isinstance(event, End):
                    self._note_first(seen, began)
                    seen[0].extend(event)
                for part in _parts(number, event, writing.texts[number], form, wanted):
                    has_begun = True
                    yield _event(form.piece([part]))
            usage = self._usage(writing)
            if wanted.has_usage:
                yield _event(form.piece([], usage))
            yield "data: [DONE]\n\n"
        except RequestError as error:
            if not has_begun:
                raise
            yield _event(error.body())

    def _note_first(self, tokens, began):
        if not any(tokens):
            self.metrics.began(time.monotonic() - began)

    def _usage(self, writing):
        unique = writing.tickets[:: max(1, writing.count)]
        read = sum(ticket.tokens_read for ticket in unique)
        written = sum(text.count for text in writing.texts)
        self.metrics.tokens(read, written)
        return replies.usage_of(read, written)

    def _spell(self):
        if self._spelling is None:
            self._spelling = replies.Spelling(self._lm.preprocessor.tokenizer)
        return self._spelling

    # Vectors

    async def embed(self, request, began):
        """Vectors of texts."""
        body = await self._body(request)
        texts, form, dimensions, prompt = asked.embedding_of(body, self._limits)
        prompt = self._embedder.prompts.get(prompt, prompt) or ""
        rows = [{"encoder_text": prompt + text} for text in texts]
        count = sum(await asyncio.to_thread(self._tokens_of, rows, "input", asked.EMBEDDING))
        parts, end = [], time.monotonic() + self._limits.seconds
        for start in range(0, len(rows), _MOST_EMBEDDED):
            some = rows[start : start + _MOST_EMBEDDED]
            run = lambda some=some: self._embedder.encode_text(some, dimensions=dimensions)  # noqa: E731
            parts.append(await self._called(run, "input", asked.EMBEDDING, end))
        self.metrics.tokens(count, 0)
        return JSONResponse(replies.embeddings(np.concatenate(parts), form, self._name, count))

    async def attend(self, request, began):
        """Where the model looks in its input while it writes a text."""
        body = await self._body(request)
        row, text = await asyncio.to_thread(asked.attention_of, body, self._limits)
        (read,) = await asyncio.to_thread(self._tokens_of, [row], "prompt", asked.ATTENTION)
        written = len(self._lm.preprocessor.tokenizer.tokenize(text)) + 1
        if read * written > _MOST_WEIGHTS or written > self._limits.max_tokens:
            most = min(_MOST_WEIGHTS // read, self._limits.max_tokens)
            raise RequestError(
                400,
                f"`text` must have at most {most} tokens beside a prompt of {read}. Received: "
                f"{written} tokens. Shorten it",
                "text",
            )
        run = lambda: self._lm.attention(row, text)  # noqa: E731
        end = time.monotonic() + self._limits.seconds
        found = await self._called(run, "prompt", asked.ATTENTION, end)
        return JSONResponse(replies.attention(found, self._name))

    async def _called(self, run, default, known, end):
        """What a function gives that the thread of the engine calls, until a time."""
        with of_engine():
            future = asyncio.wrap_future(self._engine.call(run))
        try:
            async with asyncio.timeout(end - time.monotonic()):
                return await future
        except TimeoutError as error:
            raise too_late() from error
        except (ValueError, TypeError) as error:
            raise of_value(error, default, known) from error

    def _tokens_of(self, rows, default, known):
        """How many tokens the encoder reads of each row, images included; each must fit."""
        try:
            found = rows_of(self._lm, read_rows(rows)[0])
        except TooLongError as error:
            raise too_long(error, default) from error
        except (ValueError, TypeError) as error:
            raise of_value(error, default, known) from error
        return [len(ids) for ids in found.encoder_ids]

    # Every request

    async def _body(self, request):
        data = bytearray()
        async for part in request.stream():
            data += part
            if len(data) > self._limits.body_bytes:
                raise guard.too_large(self._limits.body_bytes)
        try:
            body = json.loads(bytes(data), parse_constant=_refused)
        except (ValueError, RecursionError) as error:
            raise RequestError(400, f"The body must be JSON: {cause(error)}") from error
        self._check_model(body)
        return body

    def _counted(self, path, run):
        async def counted(request):
            began = time.monotonic()
            done = lambda code: self.metrics.done(path, code, time.monotonic() - began)  # noqa: E731
            try:
                response = await run(request, began)
            except BaseException as error:
                done(error.status if isinstance(error, RequestError) else 500)
                raise
            if isinstance(response, _Events):
                response.when_done = done  # with the last event
            else:
                done(response.status_code)
            return response

        return counted


def make_app(lm, engine, embedder, name, limits=None, api_key=None, hosts=None, on_close=None):
    """The ASGI application of a model.

    Args:
        lm: `T5Gemma2Seq2SeqLM`.
        engine: `Engine` of this model.
        embedder: `T5Gemma2TextEmbedder` of the same backbone.
        name: string, what the model is called.
        limits: `Limits`, or `None` for the usual ones.
        api_key: string that requests must have, or `None`.
        hosts: collection of names that the server may be asked by, or `None` for any.
        on_close: function that is called when the server shuts down, or `None`.
    """
    limits = Limits() if limits is None else limits

    @contextlib.asynccontextmanager
    async def lifespan(app):
        yield
        if on_close is not None:
            await asyncio.to_thread(on_close)

    endpoint = Endpoint(lm, engine, embedder, name, limits)
    handlers = {RequestError: _on_request_error, HTTPException: _on_http_error, 500: _on_fault}
    app = Starlette(routes=endpoint.routes(), exception_handlers=handlers, lifespan=lifespan)
    return guard.Guard(app, api_key, hosts, limits.body_bytes)


# Texts that are encoded in one call of the engine, between which others are written.
_MOST_EMBEDDED = 32
# Weights of attention for each head, of an answer: tokens that are read times tokens written.
_MOST_WEIGHTS = 1 << 18
_REASONS = {True: "stop", False: "length"}


def _event(body):
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


def _parts(number, event, text, form, wanted):
    """The parts of an answer that an event of a text brings, which may be none."""
    if isinstance(event, End):
        rest = text.finish()
        last = form.part(number, "", [], _REASONS[event.is_finished])
        return [form.part(number, rest, []), last] if rest else [last]
    is_first = text.count == 0
    piece = text.add([token.id for token in event])
    is_said = piece or is_first or wanted.alternatives is not None
    return [form.part(number, piece, event, None, is_first)] if is_said else []


class _Events(StreamingResponse):
    """Server-sent events, of which nothing more is computed when the client has gone.

    Attributes:
        when_done: function of the status, called when the last event is sent or the client has
            gone.
    """

    def __init__(self, first, rest, writing):
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(self._all(first, rest), 200, headers, "text/event-stream")
        self._writing, self.when_done = writing, lambda code: None

    @staticmethod
    async def _all(first, rest):
        yield first
        async for event in rest:
            yield event

    async def __call__(self, scope, receive, send):
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._writing.cancel()
            self.when_done(self.status_code)


@contextlib.asynccontextmanager
async def _while_connected(request):
    """Inside, the work ends when the client goes."""
    task, has_gone = asyncio.current_task(), False

    async def watch():
        nonlocal has_gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        has_gone = True
        task.cancel()

    watching = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if not has_gone:
            raise
        task.uncancel()
        raise RequestError(499, "The client has gone") from None
    finally:
        watching.cancel()


def _refused(name):
    raise ValueError(f"{name} is no JSON")


async def _on_request_error(request, error):
    return JSONResponse(error.body(), error.status, headers=error.headers)


async def _on_http_error(request, error):
    told = RequestError(error.status_code, f"{error.detail}: {request.method} {request.url.path}")
    return JSONResponse(told.body(), error.status_code, headers=error.headers)


async def _on_fault(request, error):
    told = RequestError(500, "The server has a fault, which its log tells")
    return JSONResponse(told.body(), 500)
