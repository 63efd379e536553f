"""One request for texts: its tickets, and what comes of them, on the loop of the server."""

import asyncio
import contextlib

from keras_t5gemma2.preprocessing.chat_template import turn_end
from keras_t5gemma2.serving.engine import ClosedError, FullError
from keras_t5gemma2.serving.errors import RequestError, of_value
from keras_t5gemma2.serving.replies import Text
from keras_t5gemma2.serving.tickets import End, TooLongError, tickets_of


class Writing:
    """The texts of a request while they are written.

    Args:
        lm: `T5Gemma2Seq2SeqLM`.
        asked: `asked.Asked`.
        known: names of arguments that the request may have.
        default: string, the argument that holds the inputs.

    Attributes:
        tickets: list of `Ticket`, one for each text.
        texts: list of `Text`, likewise.
        count: int, how many texts in turn are of one row.
    """

    def __init__(self, lm, asked, known, default):
        self._lm, self._asked, self._known, self._default = lm, asked, known, default
        self.tickets, self.texts, self.count = [], [], asked.count

    def prepare(self):
        """Makes the tickets, which takes time: not on the loop of the server.

        Raises:
            RequestError: what is asked is not possible.
        """
        asked, preprocessor = self._asked, self._lm.preprocessor
        try:
            ends, options = self._ends()
            for number, row in enumerate(asked.inputs):
                self.tickets += tickets_of(
                    self._lm,
                    row,
                    number,
                    asked.count,
                    asked.max_new_tokens,
                    alternatives=asked.alternatives,
                    **options,
                    **asked.settings,
                )
        except TooLongError as error:
            raise too_long(error, self._default) from error
        except (ValueError, TypeError) as error:
            raise of_value(error, self._default, self._known) from error
        stop = (*asked.settings.get("stop", ()), *ends)
        make = lambda ticket: Text(preprocessor.tokenizer, ticket.prompt, stop)  # noqa: E731
        self.texts = [make(ticket) for ticket in self.tickets]

    def _ends(self):
        """Strings that end a text beside those that are asked, and options of `tickets_of`."""
        preprocessor = self._lm.preprocessor
        ends = [preprocessor.end_of_text] if preprocessor.end_of_text else []
        if "messages" not in self._asked.inputs[0]:
            return ends, {}
        end, stops = turn_end(preprocessor)
        return [*ends, *([end] if end else [])], {"stop_token_ids": stops}

    async def events(self, engine, seconds):
        """Yields (number of the text, list of `Token`s or `End`) until all texts have ended.

        Args:
            engine: `Engine`.
            seconds: float, until what is not written yet is given up.

        Raises:
            RequestError: the engine takes no more, or fails, or the time is over.
        """
        queue, loop = asyncio.Queue(), asyncio.get_running_loop()

        def deliver_to(number):
            def deliver(event):
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                    loop.call_soon_threadsafe(queue.put_nowait, (number, event))

            return deliver

        for number, ticket in enumerate(self.tickets):
            ticket.deliver = deliver_to(number)
        with of_engine():
            engine.submit(self.tickets)
        running, end = len(self.tickets), loop.time() + seconds
        try:
            while running:
                number, event = await asyncio.wait_for(queue.get(), end - loop.time())
                if isinstance(event, Exception):
                    raise RequestError(500, f"The model has failed: {event}") from event
                running -= isinstance(event, End)
                yield number, event
        except TimeoutError as error:
            raise too_late() from error
        finally:
            self.cancel()

    def cancel(self):
        """Tells the engine that nobody waits."""
        for ticket in self.tickets:
            ticket.is_cancelled = True


def too_late():
    """The error of a request whose time is over."""
    return RequestError(504, "The answer took too long, and was given up", code="timeout")


def too_long(error, param):
    """The error of an input that has too many tokens."""
    return RequestError(400, str(error), param, "context_length_exceeded")


@contextlib.contextmanager
def of_engine():
    """Inside, errors of an engine that takes no more are those of a request."""
    try:
        yield
    except FullError as error:
        again = {"retry-after": "1"}
        raise RequestError(429, str(error), code="queue_full", headers=again) from error
    except ClosedError as error:
        raise RequestError(503, "The server is shutting down") from error
