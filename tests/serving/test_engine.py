"""Texts of tickets that come and go are those of `generate`, token for token."""

import queue
import random
import threading
import time

import numpy as np
import pytest
from served import tiny
from tasks import ONE_LAYER, small_task

from keras_t5gemma2 import constraints
from keras_t5gemma2.serving import engine as module
from keras_t5gemma2.serving.engine import ClosedError, Engine, FullError
from keras_t5gemma2.serving.lane import Lane
from keras_t5gemma2.serving.tickets import End, tickets_of

DIGITS = constraints.regex("[0-9]{1,3} [a-z]{2,4}")
NESTED = constraints.grammar('start: "(" start ")" | /[a-z]{2,5}/')
KINDS = [
    {},
    {"temperature": 1.0, "seed": 3},
    {"temperature": 0.8, "top_k": 5, "seed": 1},
    {"top_p": 0.9, "seed": 8},
    {"repetition_penalty": 1.3},
    {"no_repeat_ngram_size": 2},
    {"stop": ["e", "17"]},
    {"temperature": 1.5, "seed": 2, "min_p": 0.05},
    {"constraint": DIGITS},
    {"constraint": DIGITS, "temperature": 2.0, "seed": 5},
    {"constraint": NESTED},
    {"constraint": NESTED, "temperature": 1.5, "seed": 6},
]
PROMPTS = ["", "vier", "17 de"]


def small():
    lm = small_task(ONE_LAYER)
    lm.preprocessor.set_lengths(encoder_sequence_length=80, decoder_sequence_length=200)
    return lm


def compare(lm, jobs, **options):
    """Lets all jobs run in threads of their own, and compares each with `generate`."""
    with_engine = Engine(lm, **options)
    found = [None] * len(jobs)

    def write(number):
        time.sleep(random.Random(number).random() / 4)
        row, count, length, settings = jobs[number]
        asked = tickets_of(lm, row, 0, count, length, alternatives=2, **settings)
        found[number] = with_engine.write(asked)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(len(jobs))]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    with_engine.close()
    for (row, count, length, settings), texts in zip(jobs, found, strict=True):
        want = lm.generate(
            [row],
            max_new_tokens=length,
            num_return_sequences=count,
            return_scores=True,
            verbose=0,
            **settings,
        )
        for n, (tokens, end) in enumerate(texts):
            assert [token.id for token in tokens] == want.token_ids[n].tolist(), (row, settings)
            assert end.is_finished == want.finished[n]
            log_probs = [token.log_prob for token in tokens]
            np.testing.assert_allclose(log_probs, want.log_probs[n], atol=2e-4)
    return with_engine


def jobs_of(count, seed=0):
    draws, jobs = random.Random(seed), []
    for number in range(count):
        settings = draws.choice(KINDS)
        row = {"encoder_text": f"Spell {number % 9} in {draws.choice(['Dutch', 'German'])}."}
        row["encoder_text"] *= draws.choice([1, 1, 4])
        row["decoder_text"] = draws.choice(PROMPTS)
        times = 2 if "seed" in settings else 1
        jobs.append((row, times, draws.choice([5, 20, 50]), settings))
    return jobs


@pytest.mark.once
def test_rows_come_and_go_and_are_those_of_generate():
    lm = small()
    texts = ["the cat", "what is in the garden", "a dog"]
    jobs = [({"encoder_text": text}, 1, 40, {}) for text in texts * 2]
    engine = compare(lm, jobs, most_rows=2)
    assert engine.counts["encoded"] == 3 and engine.counts["shared"] == 3


@pytest.mark.slow
@pytest.mark.once
def test_all_settings():
    compare(tiny(), jobs_of(14), most_rows=5)


@pytest.mark.slow
@pytest.mark.parametrize("most_rows", [1, 5, 32])
def test_many_rows_of_all_settings(most_rows):
    compare(tiny(), jobs_of(150, most_rows), most_rows=most_rows)


@pytest.mark.once
@pytest.mark.parametrize(
    "kind", [{"cross_attention_cache": "shared"}, {"cache_dtype": "int8"}, {"dtype": "bfloat16"}]
)
def test_other_caches(kind):
    lm = small_task(ONE_LAYER, dtype=kind.pop("dtype", None))
    lm.preprocessor.set_lengths(encoder_sequence_length=80, decoder_sequence_length=200)
    for name, value in kind.items():
        setattr(lm, name, value)
    engine = Engine(lm, most_rows=3)
    tickets = [tickets_of(lm, text, max_new_tokens=30)[0] for text in ("the cat", "a dog", "bee")]
    found = [[token.id for token in tokens] for tokens, _ in engine.write(tickets)]
    engine.close()
    texts = lm.generate(["the cat", "a dog", "bee"], max_new_tokens=30, return_scores=True)
    assert found == [ids.tolist() for ids in texts.token_ids]


@pytest.mark.once
def test_cancelled_rows_free_their_place():
    lm = small()
    engine = Engine(lm, most_rows=1)
    (long,) = tickets_of(lm, "the cat", max_new_tokens=190, stop_token_ids=())
    events, has_begun = [], threading.Event()
    long.deliver = lambda event: (events.append(event), has_begun.set())
    engine.submit([long])
    assert has_begun.wait(60)
    long.is_cancelled = True
    (short,) = tickets_of(lm, "a dog", max_new_tokens=2, stop_token_ids=())
    assert len(engine.write([short])[0][0]) == 2
    engine.close()
    assert isinstance(events[-1], ClosedError)
    assert sum(len(event) for event in events[:-1]) < 190


@pytest.mark.once
def test_errors_are_those_of_a_lane_and_the_engine_goes_on(monkeypatch):
    lm, advance = small(), Lane.advance
    engine = Engine(lm)
    ask = lambda: engine.write(tickets_of(lm, "the cat", max_new_tokens=3))  # noqa: E731
    want = ask()
    with monkeypatch.context() as patch:
        patch.setattr(Lane, "advance", lambda *arguments: {}["fault"])
        with pytest.raises(KeyError, match="fault"):
            ask()
    with monkeypatch.context() as patch:
        patch.setattr(module, "encoded_rows", lambda *arguments: {}["fault"])
        with pytest.raises(KeyError, match="fault"):
            engine.write(tickets_of(lm, "a red bee", max_new_tokens=3))
    assert ask() == want and Lane.advance is advance
    assert engine.call(lambda: 3).result() == 3
    with pytest.raises(ZeroDivisionError):
        engine.call(lambda: 1 / 0).result()
    engine.close()
    assert not engine.is_alive
    with pytest.raises(ClosedError, match="must be open"):
        ask()
    with pytest.raises(ClosedError, match="must be open"):
        engine.call(lambda: 3)


@pytest.mark.once
def test_texts_of_grammars():
    jobs = [(f"Spell {n} in German.", 1, 12, KINDS[-1 - n % 2]) for n in range(4)]
    compare(tiny(), [({"encoder_text": text}, *rest) for text, *rest in jobs], most_rows=3)


def parts_of_two_lanes(lm):
    """Tickets whose inputs are encoded together, and which are written in two batches."""
    return [
        tickets_of(lm, "the cat", max_new_tokens=length, stop_token_ids=())[0]
        for length in (3, 100)
    ]


@pytest.mark.once
def test_a_grammar_leaves_the_others_their_chunks(monkeypatch):
    advance, seen = Lane.advance, {False: [], True: []}

    def advanced(self, steps, *args):
        seen[self.is_stepwise].append(steps)
        if self.is_stepwise:
            time.sleep(module._SECONDS)
        return advance(self, steps, *args)

    monkeypatch.setattr(Lane, "advance", advanced)
    lm = small()
    settings = [{"constraint": NESTED, "temperature": 1.5, "seed": 6}, {}]
    tickets = [tickets_of(lm, "vier", 0, 1, 60, **each)[0] for each in settings]
    with_engine = Engine(lm)
    with_engine.write(tickets)
    with_engine.close()
    assert max(seen[True]) == module._SHORTEST_CHUNK < max(seen[False])


@pytest.mark.once
def test_a_part_that_cannot_join_fails_alone(monkeypatch):
    lm, join = small(), Lane.join
    engine = Engine(lm)
    want = engine.write(parts_of_two_lanes(lm)[:1])

    def failing(lane, tickets, *rest):
        return {}["fault"] if lane._length > 100 else join(lane, tickets, *rest)

    monkeypatch.setattr(Lane, "join", failing)
    tickets = parts_of_two_lanes(lm)
    events = [[], []]
    for ticket, found in zip(tickets, events, strict=True):
        ticket.deliver = found.append
    is_held = threading.Event()
    engine.call(is_held.wait)  # so that both join at once
    engine.submit(tickets)
    is_held.set()
    assert engine.write(parts_of_two_lanes(lm)[:1]) == want  # the thread lives
    engine.close()
    assert [type(event) for event in events[1]] == [KeyError]
    *tokens, end = events[0]
    assert isinstance(end, End) and sum(map(len, tokens)) == 3


@pytest.mark.once
def test_a_fault_between_batches_ends_what_waits_and_not_the_thread(monkeypatch):
    lm, events, is_held = small(), queue.Queue(), threading.Event()
    engine = Engine(lm)
    engine.call(is_held.wait)
    while engine._calls:  # until the thread has it
        time.sleep(0.01)
    (ticket,) = tickets_of(lm, "the cat", max_new_tokens=3)
    ticket.deliver = events.put
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "_drop_cancelled", lambda self: {}["fault"])
        engine.submit([ticket])
        call = engine.call(lambda: 3)
        is_held.set()
        while isinstance(event := events.get(timeout=60), list):
            pass  # tokens of the round that had begun
        assert isinstance(event, KeyError)
        with pytest.raises(KeyError, match="fault"):
            call.result(timeout=60)
    assert engine.is_alive
    assert len(engine.write(tickets_of(lm, "the cat", max_new_tokens=3))[0][0]) == 3
    engine.close()


@pytest.mark.once
def test_functions_wait_in_a_queue_with_an_end_and_take_turns_with_texts():
    lm, order, is_held = small(), [], threading.Event()
    engine = Engine(lm, most_waiting=3)
    engine.call(is_held.wait)
    while engine._calls:  # until the thread has it
        time.sleep(0.01)
    calls = [engine.call(lambda: order.append("call")) for _ in range(3)]
    with pytest.raises(FullError, match="At most 3 calls may wait. Received: 1 more beside 3"):
        engine.call(lambda: None)
    (ticket,) = tickets_of(lm, "the cat", max_new_tokens=1, stop_token_ids=())
    ticket.deliver = lambda event: order.append(type(event).__name__)
    engine.submit([ticket])
    is_held.set()
    [call.result() for call in calls]
    engine.close()
    assert order.index("End") < 3 and order.count("call") == 3, order


@pytest.mark.once
def test_logits_that_are_not_finite():
    lm = small()
    engine = Engine(lm)
    lm.backbone.token_embedding.embeddings.assign(
        lm.backbone.token_embedding.embeddings.numpy() * np.nan
    )
    with pytest.raises(ValueError, match="The logits of new token 1 are not finite"):
        engine.write(tickets_of(lm, "the cat", max_new_tokens=3))
    engine.close()


@pytest.mark.once
def test_a_full_queue():
    lm = small()
    with pytest.raises(ValueError, match="most_rows=0"):
        Engine(lm, most_rows=0)
    engine = Engine(lm, most_waiting=2)
    with pytest.raises(FullError, match="At most 2 texts may wait. Received: 3 more beside 0"):
        engine.submit(tickets_of(lm, "the cat", count=3, temperature=1.0) * 1)
    engine.close()


@pytest.mark.once
def test_what_is_kept_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "_KEPT_BYTES", 1)
    lm = small()
    engine = Engine(lm)
    engine.write(tickets_of(lm, "the cat", max_new_tokens=2))
    engine.write(tickets_of(lm, "the cat", max_new_tokens=2))
    engine.close()
    assert engine.counts["encoded"] == 2 and not engine._kept
