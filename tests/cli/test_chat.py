"""A dialogue by lines."""

import io
import json
import os
import signal
import sys

import numpy as np
import pytest
from command_line import error_of, parsed, printed, run
from PIL import Image

import keras_t5gemma2
from keras_t5gemma2.cli import chat

TINY = ("chat", "t5gemma2_tiny", "--max-new-tokens", "4", "--quiet")
FIRST, SECOND = "Spell 4268 in German.", "And in Dutch?"


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(scope="module")
def lm():
    lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    lm.compile(sampler="greedy")
    return lm


def answers_of(lm, *contents, system=None):
    """What a dialogue of these messages must come to."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    answers = []
    for content in contents:
        messages.append({"role": "user", "content": content})
        answers.append(lm.chat(messages, max_new_tokens=4, verbose=0))
        messages.append({"role": "assistant", "content": answers[-1]})
    return answers


def given(monkeypatch, *lines, kind=io.StringIO):
    monkeypatch.setattr(sys, "stdin", kind("".join(f"{line}\n" for line in lines)))


@pytest.mark.once
def test_each_line_gets_its_answer_in_the_dialogue_so_far(lm, monkeypatch, capsys):
    want = answers_of(lm, FIRST, SECOND)
    given(monkeypatch, FIRST, "", SECOND)
    assert printed(capsys, *TINY) == "".join(f"{text}\n" for text in want)


@pytest.mark.once
def test_json(lm, monkeypatch, capsys):
    want = answers_of(lm, f"{FIRST}\nShort.", SECOND, system="Be short.")
    given(monkeypatch, json.dumps(f"{FIRST}\nShort."), SECOND)
    lines = parsed(capsys, *TINY, "--json", "--system", "Be short.")
    assert [line["content"] for line in lines] == want
    assert [(line["index"], line["role"]) for line in lines] == [(0, "assistant"), (1, "assistant")]
    other = [{"role": "user", "content": SECOND}]
    parts = {"role": "user", "content": [{"type": "text", "text": FIRST}]}
    given(monkeypatch, FIRST, json.dumps(other), json.dumps(parts))
    lines = parsed(capsys, *TINY, "--json")
    assert [line["content"] for line in lines[1:]] == answers_of(lm, SECOND, FIRST)


@pytest.mark.once
@pytest.mark.parametrize("line", ["{", '{"role": "model", "content": "a"}', '{"a": 1}', '["a"]'])
def test_lines_that_are_no_messages(line, monkeypatch, capsys):
    given(monkeypatch, line)
    error = error_of(capsys, *TINY, "--json")
    assert "must be JSON" in error or "must be a string, a message of the user" in error
    assert "line 1 of stdin" in error


@pytest.mark.once
def test_a_terminal_has_commands_and_goes_on_after_an_error(lm, monkeypatch, capsys, tmp_path):
    given(monkeypatch, FIRST, "/new", "/nothing", "/image none.png", FIRST, kind=Terminal)
    run(*TINY)
    found = capsys.readouterr()
    assert found.out == answers_of(lm, FIRST)[0] + "\n" + answers_of(lm, FIRST)[0] + "\n"
    assert found.err.count("error: A line with a slash must be /new") == 2
    assert "Received: '/nothing'" in found.err and chat._PROMPT in found.err


@pytest.mark.once
def test_an_image_stands_before_the_text(monkeypatch, tmp_path):
    asked = []

    class Lm:
        def chat(self, messages, **options):
            asked.append(messages)
            return iter(["a", "b"])

    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((8, 8, 3), "uint8")).save(path)
    talk = chat.Talk(Lm(), None, {})
    talk.obey(f"/image {path}")
    assert list(talk.answer("What?")) == ["a", "b"]
    image, text = asked[0][0]["content"]
    assert (image["image"], text["text"]) == (str(path), "What?")
    assert list(talk.answer("And?")) == ["a", "b"] and asked[1][-1]["content"] == "And?"


@pytest.mark.once
def test_a_file_that_is_no_image_blocks_nothing(lm, monkeypatch, capsys, tmp_path):
    path = tmp_path / "a.png"
    path.write_text("no image")
    given(monkeypatch, f"/image {path}", FIRST, kind=Terminal)
    run(*TINY)
    found = capsys.readouterr()
    assert found.out == answers_of(lm, FIRST)[0] + "\n"
    assert found.err.count("error: ") == 1 and "a.png" in found.err


@pytest.mark.once
def test_images_of_a_message_without_an_answer_are_gone(tmp_path):
    asked = []

    class Lm:
        def chat(self, messages, **options):
            asked.append(messages)
            if len(asked) == 1:
                raise ValueError("no vision tower")
            return iter(["a"])

    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((8, 8, 3), "uint8")).save(path)
    talk = chat.Talk(Lm(), None, {})
    talk.obey(f"/image {path}")
    with pytest.raises(ValueError, match="no vision tower"):
        list(talk.answer("What?"))
    assert list(talk.answer("And?")) == ["a"]
    assert asked[1] == [{"role": "user", "content": "And?"}]


@pytest.mark.once
def test_ctrl_c_leaves_with_what_was_written(monkeypatch, capsys):
    class Interrupted(io.StringIO):
        def readline(self):
            os.kill(os.getpid(), signal.SIGINT)
            return ""

    monkeypatch.setattr(sys, "stdin", Interrupted())
    assert "Interrupted" in error_of(capsys, *TINY, code=130)
