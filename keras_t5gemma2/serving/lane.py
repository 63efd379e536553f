"""A batch whose rows come and go: the host's side of `batch_programs`. Long: one class."""

import math

import numpy as np
from keras import ops

from keras_t5gemma2.constraints import token_grammars
from keras_t5gemma2.constraints.token_grammars import TokenGrammar
from keras_t5gemma2.generation import batching, finite
from keras_t5gemma2.generation import cache as caches
from keras_t5gemma2.generation.compiled_steps import program
from keras_t5gemma2.generation.settings import OF_ROWS, Settings
from keras_t5gemma2.serving import batch_programs as programs
from keras_t5gemma2.serving.tickets import End, Token
from keras_t5gemma2.sharding.batch import to_devices

# Few numbers of rows, each of which is a program: one client, some, and many. No more than some
# join at once.
_GROWTH = 8
# Tokens that end a row, at most; there is as a rule one, or two.
_MOST_STOPS = 4
_SHORTEST = 64


def length_of(config, tokens):
    """The length of a lane for rows of so many tokens: few lengths, and no ring ends inside.

    Args:
        config: `StackConfig` of the decoder.
        tokens: int. Tokens of a prompt and the new ones.
    """
    length = batching.size_of(tokens, smallest=_SHORTEST)
    counts = set(caches.slot_counts(config, length))
    whole = math.lcm(*(count for count in counts if count < length), 1)
    return -(-length // whole) * whole


class Lane:
    """A batch of rows that are decoded together.

    Args:
        generator: `Generator`.
        call: `calls.Call`, whose sampler is `PerCall` and whose caches are of one kind.
        length: int, as `length_of` gives it.
        constraint: `token_automaton.Automaton` or `TokenGrammar` of all its rows, or `None`.
        most_rows: int.

    Attributes:
        tickets: list of a `Ticket` or `None` for each row.
    """

    def __init__(self, generator, call, length, constraint, most_rows):
        self._generator, self._call, self._length = generator, call, length
        self._grammar = constraint if isinstance(constraint, TokenGrammar) else None
        is_automaton = constraint is not None and self._grammar is None
        self._constraint = to_devices(constraint) if is_automaton else None
        self._most_rows = most_rows
        self._running, self._index, self._width = None, length, 0
        self.tickets: list = []
        self._rows: list = []  # `_Row` or `None`

    def __len__(self):
        return sum(ticket is not None for ticket in self.tickets)

    @property
    def is_stepwise(self):
        """Whether each step asks a grammar which tokens may come."""
        return self._grammar is not None

    @property
    def free(self):
        """How many rows may join."""
        return self._most_rows - len(self)

    # Rows -------------------------------------------------------------------------------------

    def join(self, tickets, group, rows):
        """Lets tickets join, at most `free`.

        Args:
            tickets: list of `Ticket`.
            group: `Memory` of a few rows.
            rows: list of ints, for each ticket its row of the group.
        """
        for start in range(0, len(tickets), _GROWTH):
            some = slice(start, start + _GROWTH)
            self._join(tickets[some], group, rows[some])

    def _join(self, tickets, group, rows):
        count = self._size_for(len(tickets))
        fill = [*range(len(tickets)), *[len(tickets) - 1] * (count - len(tickets))]
        self._width = max(self._width, group.positions.shape[1])
        group = self._picked(group, [rows[place] for place in fill])
        self._make_room(len(tickets), group)
        self._rewind(at_least=1)
        slots = [n for n, ticket in enumerate(self.tickets) if ticket is None][: len(tickets)]
        longest = max(len(ticket.prompt) for ticket in tickets)
        width = 1 if longest == 1 else batching.size_of(longest, smallest=16)
        prompts, mask = np.zeros((2, count, width), "int32")
        for n, place in enumerate(fill):
            prompt = tickets[place].prompt
            prompts[n, width - len(prompt) :] = prompt
            mask[n, width - len(prompt) :] = 1
        arrays = {
            "slots": np.array([slots[place] for place in fill], "int32"),
            "prompts": prompts,
            "mask": mask,
        }
        backbone, cache_dtype = self._generator.model.backbone, self._call.cache_dtype

        def join(running, group, arrays):
            return programs.joined(backbone, running, group, **arrays, cache_dtype=cache_dtype)

        self._running = self._run("join", join)(self._running, group, to_devices(arrays))
        for ticket, slot in zip(tickets, slots, strict=True):
            self.tickets[slot] = ticket
            self._rows[slot] = _Row(ticket, self._index)

    def _picked(self, group, rows):
        """A `Memory` of some rows of a group, as wide as the lane's.

        In a program of its own: how many rows were encoded and how long they were is no matter of
        the one that lets them join.
        """
        width, numbers = self._width, to_devices(np.array(rows, "int32"))
        pick = lambda _, group, numbers: programs.picked(group, numbers, width)  # noqa: E731
        return self._run("pick", pick, width)((), group, numbers)

    def leave(self, slot):
        """Frees a row."""
        self.tickets[slot] = self._rows[slot] = None
        if not len(self):
            self._running, self.tickets, self._rows, self._width = None, [], [], 0

    def shrink(self):
        """Takes fewer rows where those in use fit into them."""
        size = self._size_for(len(self))
        if self._running is not None and size * 2 <= len(self.tickets):
            self._resize([n for n, ticket in enumerate(self.tickets) if ticket is not None], size)

    def _size_for(self, count):
        size = 1
        while size < count:
            size *= _GROWTH
        return max(count, min(size, self._most_rows))

    def _make_room(self, count, group):
        if self._running is None:
            size, backbone = self._size_for(count), self._generator.model.backbone
            names = () if self._constraint is None else ("constraint",)
            length, dtype = self._length, self._call.cache_dtype

            def begin(_, group):
                return programs.begun(backbone, group, size, length, names, dtype)

            self._running = self._run("begin", begin, size, length, names)((), group)
            self._index = length
            self.tickets, self._rows = [None] * size, [None] * size
        elif len(self) + count > len(self.tickets) or self._is_narrow:
            kept = [n for n, ticket in enumerate(self.tickets) if ticket is not None]
            size = max(len(self.tickets), self._size_for(len(self) + count))
            self._resize(kept, size)

    @property
    def _is_narrow(self):
        return self._running.memory.positions.shape[1] < self._width

    def _resize(self, kept, size):
        rows, width = np.zeros(size, "int32"), self._width
        rows[: len(kept)] = kept
        resize = lambda running, rows: programs.resized(running, rows, width)  # noqa: E731
        run = self._run("resize", resize, width)
        self._running = run(self._running, to_devices(rows))
        missing = [None] * (size - len(kept))
        self.tickets = [*(self.tickets[n] for n in kept), *missing]
        self._rows = [*(self._rows[n] for n in kept), *missing]

    def _rewind(self, at_least):
        if self._index + at_least > 2 * self._length:
            self._running = self._run("rewind", lambda running: programs.rewound(running))(
                self._running
            )
            self._index -= self._length
            for row in self._rows:
                if row is not None:
                    row.first -= self._length

    # Steps ------------------------------------------------------------------------------------

    def advance(self, steps, is_awaited):
        """Yields for each row that has new tokens its slot, a list of `Token`s, and maybe `End`.

        Args:
            steps: int, at most `batch_programs.MOST_STEPS`.
            is_awaited: bool. Whether to return as soon as a row ends.

        Returns:
            A list of (slot, tokens, `End` or exception or `None`).
        """
        self._rewind(at_least=1)
        first = self._index
        left = max(row.end - first for row in self._rows if row is not None)
        steps = min(steps, 2 * self._length - first, left, 1 if self._grammar else steps)
        settings, asked = self._asked(is_awaited)
        generator, call = self._generator, self._call

        def advance(running, steps, settings, asked):
            return programs.advanced(generator, call, running, steps, settings, asked)

        run = self._run("advance", advance)
        arrays = to_devices({"steps": np.array(steps, "int32"), "asked": asked, "s": settings})
        if self._constraint is not None:
            arrays["s"]["constraint"] = self._constraint
        given = arrays["steps"], arrays["s"], arrays["asked"]
        self._running, chunk = run(self._running, *given)
        chunk = chunk._replace(**{n: ops.convert_to_numpy(x) for n, x in _host(chunk, asked)})
        self._index = int(chunk.index)
        found = []
        for slot, row in enumerate(self._rows):
            if row is not None:
                columns = self._index - first
                found.append((slot, *row.read(chunk, slot, columns, first, generator.dtype)))
        return found

    def _asked(self, is_awaited):
        """The settings of all rows, and what else a chunk is asked."""
        size, width = len(self.tickets), 2 * self._length
        # Of a row that is not used the likeliest token is the cheapest.
        settings = Settings(temperature=0.0).numbers(range(size), 1, size)
        settings["draws"] = np.zeros((size, width), "float32")
        settings["budget"] = np.zeros((size,), "int32")
        asked = {
            "is_used": np.zeros((size,), bool),
            "stops": np.full((size, _MOST_STOPS), -1, "int32"),
            "wants": np.zeros((size,), bool),
            "is_awaited": np.array(is_awaited),
        }
        for slot, row in enumerate(self._rows):
            if row is None:
                continue
            ticket = row.ticket
            for name in OF_ROWS:
                settings[name][slot] = ticket.numbers[name]
            begin = max(row.first, 0)
            draws = ticket.draws[begin - row.first : width - row.first]
            settings["draws"][slot, begin : begin + len(draws)] = draws
            settings["budget"][slot] = row.end
            asked["is_used"][slot] = True
            asked["stops"][slot, : len(ticket.stops)] = ticket.stops[:_MOST_STOPS]
            asked["wants"][slot] = ticket.alternatives is not None
        return settings | self._bits(), asked

    def _bits(self):
        """Which tokens the grammar of the rows, where they have one, lets come next."""
        if self._grammar is None:
            return {}
        free = self._grammar.reader()  # of a row that nobody reads
        readers = [free if row is None else row.grammar for row in self._rows]
        return {"bits": token_grammars.bits_of(readers)}

    def _run(self, name, function, *key):
        return program(self._generator, ("serve", name, *key), lambda: function, self._call)


def _host(chunk, asked):
    """The fields that the host reads: probabilities only where they are wanted."""
    for name, value in chunk._asdict().items():
        if name in ("index", "ids", "broken") or asked["wants"].any():
            yield name, value


class _Row:
    """A row in use, of which `first` is the slot of its first new token.

    Attributes:
        grammar: the `Reader` of the last rule, which is a constraint where there is one.
    """

    def __init__(self, ticket, first):
        self.ticket, self.first = ticket, first
        self._written, self._readers = 0, [rule.reader() for rule in ticket.rules]
        self.grammar = self._readers[-1] if self._readers else None

    @property
    def end(self):
        return self.first + self.ticket.budget

    def read(self, chunk, slot, columns, first, dtype):
        """New tokens, and an `End`, an exception or `None`."""
        tokens = []
        for column in range(columns):
            if chunk.broken[slot] <= first + column:
                what = f"The logits of new token {self._written + 1}"
                return tokens, finite.error(what, dtype)
            id = int(chunk.ids[slot, column])
            has_ended = [reader.read(id) for reader in self._readers]
            if any(reader.is_lost for reader in self._readers):
                return tokens, End(False)  # no token at all was allowed
            tokens.append(self._token(chunk, slot, column, id))
            self._written += 1
            if id in self.ticket.stops or any(has_ended):
                return tokens, End(True)
            if self._written == self.ticket.budget:
                return tokens, End(any(reader.is_complete for reader in self._readers))
        return tokens, None

    def _token(self, chunk, slot, column, id):
        count = self.ticket.alternatives
        if count is None:
            return Token(id)
        pairs = zip(
            chunk.alternatives[slot, column, :count].tolist(),
            chunk.of_alternatives[slot, column, :count].tolist(),
            strict=True,
        )
        return Token(id, float(chunk.log_probs[slot, column]), tuple(pairs))
