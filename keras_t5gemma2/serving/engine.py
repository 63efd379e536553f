"""One thread that owns the model, and lets all that waits share its batches. Long: one class."""

import collections
import concurrent.futures
import contextlib
import math
import threading
import time

import keras
import numpy as np
from keras import tree

from keras_t5gemma2.generation import calls, decoding
from keras_t5gemma2.generation.compiled_steps import programs_of, remembered
from keras_t5gemma2.generation.drawing import PerCall
from keras_t5gemma2.options import counted
from keras_t5gemma2.serving.batch_programs import MOST_STEPS
from keras_t5gemma2.serving.lane import Lane, length_of
from keras_t5gemma2.serving.tickets import encoded_rows

# Rows that are encoded together, and bytes of what was encoded last that is kept.
_MOST_ENCODED = 8
_KEPT_BYTES = 128 << 20
# About 35 programs for each length of inputs and of texts that there is.
_MOST_PROGRAMS = 512
# A chunk's tokens come together: while one takes less than this, the next has twice the steps.
_SECONDS = 0.05
_SHORTEST_CHUNK = 2


class FullError(RuntimeError):
    """So much waits already that nothing more is taken."""


class ClosedError(RuntimeError):
    """The engine takes nothing any more."""


class Engine:
    """Writes the texts of many tickets at a time.

    Args:
        lm: `T5Gemma2Seq2SeqLM`, whose sampler is set to greedy choice.
        most_rows: int. Texts that are written together.
        most_waiting: int. Tickets that may wait for a place, and likewise functions of `call`.

    Attributes:
        counts: dict of numbers since the start: `encoded` rows, `shared` rows that an earlier one
            was encoded for, `chunks`, and `rows_of_chunks`, the rows in use of all of these.

    Example:

    >>> from keras_t5gemma2.serving.tickets import tickets_of
    >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    >>> engine = Engine(lm)
    >>> (ticket,) = tickets_of(lm, "Spell 7 in Dutch.", max_new_tokens=8)
    >>> tokens, end = engine.write([ticket])[0]
    >>> lm.preprocessor.tokenizer.detokenize([token.id for token in tokens]), end.is_finished
    ('zeven<eos>', True)
    >>> engine.close()
    """

    def __init__(self, lm, most_rows=32, most_waiting=256):
        for name, value in {"most_rows": most_rows, "most_waiting": most_waiting}.items():
            counted(name, value)
        self._lm, self._most_rows, self._most_waiting = lm, most_rows, most_waiting
        lm.generator.sampler = "greedy"
        call = calls.call_of(lm.generator, verbose=0)
        self._call = call._replace(sampler=PerCall(), sampler_key=("serving",))
        programs_of(lm.generator).most = _MOST_PROGRAMS
        self._waiting: collections.deque = collections.deque()
        self._calls: collections.deque = collections.deque()
        self._lanes: dict = {}
        self._kept: collections.OrderedDict = collections.OrderedDict()
        # Grammars are called from Python in each step: their chunks say nothing of the others.
        self._steps = {is_stepwise: _SHORTEST_CHUNK for is_stepwise in (False, True)}
        self._changed = threading.Condition()
        self._is_closing = self._is_dropping = False
        self.counts = collections.Counter()
        self._thread = threading.Thread(target=self._work, name="t5gemma2 engine", daemon=True)
        self._thread.start()

    # From any thread --------------------------------------------------------------------------

    @property
    def is_alive(self):
        """Whether the thread runs and takes tickets."""
        return self._thread.is_alive() and not self._is_closing

    @property
    def waiting(self):
        """How many tickets wait."""
        return len(self._waiting)

    @property
    def running(self):
        """How many texts are being written."""
        return sum(len(lane) for lane in list(self._lanes.values()))

    def submit(self, tickets):
        """Lets tickets wait for their turn: all of them, or none.

        Raises:
            FullError: too many wait.
            ClosedError: the engine is closed.
        """
        with self._changed:
            self._check_room(self._waiting, len(tickets), "texts")
            self._waiting.extend(tickets)
            self._changed.notify()

    def call(self, function):
        """A `concurrent.futures.Future` of `function()`, which the thread of the model calls.

        One function is called between two chunks of the texts that are written.

        Raises:
            FullError: too many wait.
            ClosedError: the engine is closed.
        """
        future: concurrent.futures.Future = concurrent.futures.Future()
        with self._changed:
            self._check_room(self._calls, 1, "calls")
            self._calls.append((function, future))
            self._changed.notify()
        return future

    def _check_room(self, waiting, count, what):
        if not self.is_alive:
            raise ClosedError("The engine must be open. Received: one that was closed")
        if len(waiting) + count > self._most_waiting:
            raise FullError(
                f"At most {self._most_waiting} {what} may wait. Received: {count} more beside "
                f"{len(waiting)}. Ask again later"
            )

    def write(self, tickets):
        """Lists of tokens and the `End` of each ticket, when all are done."""
        found = [([], concurrent.futures.Future()) for _ in tickets]
        for ticket, (tokens, future) in zip(tickets, found, strict=True):
            ticket.deliver = _collector(tokens, future)
        self.submit(tickets)
        return [(tokens, future.result()) for tokens, future in found]

    def close(self, drops=False):
        """Takes nothing more, and returns when what was taken is done, or dropped."""
        with self._changed:
            self._is_closing, self._is_dropping = True, self._is_dropping or drops
            self._changed.notify()
        self._thread.join()

    # In the thread ----------------------------------------------------------------------------

    def _work(self):
        while self._wait():
            try:
                self._go_on()
            except Exception as error:  # a fault of ours: what it met is lost, the next is not
                self._fail_all(error)

    def _go_on(self):
        self._drop_cancelled()
        self._call_next()
        self._let_join()
        for key, lane in list(self._lanes.items()):
            self._advance(key, lane)

    def _wait(self):
        """Waits for work; whether there is any."""
        with self._changed:
            while not (self._waiting or self._calls or self._lanes or self._is_closing):
                self._changed.wait()
            if self._is_dropping:
                for ticket in self._waiting:
                    ticket.is_cancelled = True
                for lane in self._lanes.values():
                    for ticket in filter(None, lane.tickets):
                        ticket.is_cancelled = True
            return bool(self._waiting or self._calls or self._lanes)

    def _drop_cancelled(self):
        with self._changed:
            left = [ticket for ticket in self._waiting if not ticket.is_cancelled]
            gone = [ticket for ticket in self._waiting if ticket.is_cancelled]
            self._waiting = collections.deque(left)
        for lane in self._lanes.values():
            for slot, ticket in enumerate(list(lane.tickets)):
                if ticket is not None and ticket.is_cancelled:
                    gone.append(ticket)
                    lane.leave(slot)
        self._lanes = {key: lane for key, lane in self._lanes.items() if len(lane)}
        for ticket in gone:
            ticket.end(ClosedError("The text was cancelled before its end"))

    def _call_next(self):
        while self._calls:
            function, future = self._calls.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)
            return

    # Joining

    def _let_join(self):
        """Encodes what waits, as far as there is room, in the order in which it came."""
        room = self._most_rows - self.running
        with self._changed:
            taken = [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]
        groups = collections.defaultdict(list)
        for ticket in taken:
            with self._failing([ticket]):
                groups[ticket.shape].append(ticket)
        for of_shape in groups.values():
            with self._failing(of_shape):
                self._join(of_shape)

    def _join(self, tickets):
        groups = self._encoded(tickets)
        parts = collections.defaultdict(list)
        for ticket, (group, row) in zip(tickets, groups, strict=True):
            parts[self._lane_of(ticket), id(group)].append((ticket, group, row))
        for (key, _), part in parts.items():
            of_part, (group, *_), rows = zip(*part, strict=True)
            with self._failing(of_part):  # those of other parts have joined, or will
                self._lane(key, of_part[0]).join(list(of_part), group, list(rows))
        self._lanes = {key: lane for key, lane in self._lanes.items() if len(lane)}

    def _lane_of(self, ticket):
        config = self._lm.backbone.config.decoder
        length = length_of(config, len(ticket.prompt) + ticket.budget)
        return length, ticket.constraint_key, self._call_of(ticket).cross_attention_cache

    def _lane(self, key, ticket):
        if key not in self._lanes:
            options = self._lm.generator, self._call_of(ticket), key[0], ticket.constraint
            self._lanes[key] = Lane(*options, self._most_rows)
        return self._lanes[key]

    def _call_of(self, ticket):
        """The `Call` of a ticket's rows: what is kept of the input must be the same in a lane."""
        config, dtype = self._lm.backbone.config.decoder, self._lm.generator.dtype
        size = 1 if self._call.cache_dtype == "int8" else np.dtype(dtype).itemsize
        asked, width = self._call.cross_attention_cache, ticket.shape[0]
        is_shared = decoding.is_shared(asked, config, self._most_rows, width, size)
        return self._call._replace(cross_attention_cache="shared" if is_shared else "projected")

    def _encoded(self, tickets):
        """For each ticket a `Memory` and its row in it: equal inputs are encoded once."""
        keys = [ticket.key for ticket in tickets]
        new = {key: t for key, t in zip(keys, tickets, strict=True) if key not in self._kept}
        found = {key: self._kept[key] for key in keys if key in self._kept}
        rest = list(new.items())
        for start in range(0, len(rest), _MOST_ENCODED):
            part = rest[start : start + _MOST_ENCODED]
            size = 1 << (len(part) - 1).bit_length()
            call = self._call_of(part[0][1])
            rows = encoded_rows([ticket for _, ticket in part], size)
            group = remembered(self._lm.generator, rows, call)
            found |= {key: (group, row) for row, (key, _) in enumerate(part)}
        self.counts["encoded"] += len(new)
        self.counts["shared"] += len(tickets) - len(new)
        self._keep(found)
        return [found[key] for key in keys]

    def _keep(self, found):
        for key, value in found.items():
            self._kept[key] = value
            self._kept.move_to_end(key)
        while self._kept and self._kept_bytes() > _KEPT_BYTES:
            self._kept.popitem(last=False)

    def _kept_bytes(self):
        groups = {id(group): group for group, _ in self._kept.values()}
        return sum(_bytes_of(group) for group in groups.values())

    # Writing

    def _advance(self, key, lane):
        began = time.perf_counter()
        awaited = bool(self._waiting) and self.running >= self._most_rows
        count, steps = len(lane), self._steps[lane.is_stepwise]
        try:
            self._deliver(lane, lane.advance(steps, awaited))
            if len(lane) and not self._waiting:
                lane.shrink()
        except Exception as error:
            del self._lanes[key]
            self._fail(filter(None, lane.tickets), error)
            return
        self.counts["chunks"] += 1
        self.counts["rows_of_chunks"] += count
        if not len(lane):
            del self._lanes[key]
        is_quick = time.perf_counter() - began < _SECONDS
        steps = steps * 2 if is_quick else steps // 2
        self._steps[lane.is_stepwise] = max(_SHORTEST_CHUNK, min(MOST_STEPS, steps))

    def _deliver(self, lane, found):
        for slot, tokens, end in found:
            ticket = lane.tickets[slot]
            self.counts["tokens"] += len(tokens)
            if end is not None:
                lane.leave(slot)
            ticket.deliver(tokens)
            if end is not None:
                ticket.end(end)

    # Faults

    @contextlib.contextmanager
    def _failing(self, tickets):
        """Inside, an error is that of these tickets alone."""
        try:
            yield
        except Exception as error:
            self._fail(tickets, error)

    def _fail(self, tickets, error):
        for ticket in tickets:
            ticket.is_cancelled = True
            ticket.end(error)

    def _fail_all(self, error):
        running = [ticket for lane in self._lanes.values() for ticket in filter(None, lane.tickets)]
        with self._changed:
            waiting, self._waiting = list(self._waiting), collections.deque()
            called = list(self._calls)
            self._calls.clear()
        self._lanes = {}
        self._fail([*running, *waiting], error)
        for _, future in called:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)


def _bytes_of(memory):
    leaves = tree.flatten((memory.shared, memory.layers))
    dtypes = [np.dtype(keras.backend.standardize_dtype(x.dtype)) for x in leaves]
    return sum(t.itemsize * math.prod(x.shape) for t, x in zip(dtypes, leaves, strict=True))


def _collector(tokens, future):
    def deliver(event):
        if isinstance(event, list):
            tokens.extend(event)
        elif isinstance(event, Exception):
            future.set_exception(event)
        else:
            future.set_result(event)

    return deliver
