"""Fifty dialogues, and the chat templates of Gemma 2 and of Gemma 3 to compare with."""

# As the published files have them, but for how their lines are broken.
GEMMA_2 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}"
    "{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
GEMMA_3 = (
    "{{ bos_token }}\n"
    "{%- if messages[0]['role'] == 'system' -%}\n"
    "    {%- if messages[0]['content'] is string -%}\n"
    "        {%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}\n"
    "    {%- else -%}\n"
    "        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '\n\n' -%}\n"
    "    {%- endif -%}\n"
    "    {%- set loop_messages = messages[1:] -%}\n"
    "{%- else -%}\n"
    '    {%- set first_user_prefix = "" -%}\n'
    "    {%- set loop_messages = messages -%}\n"
    "{%- endif -%}\n"
    "{%- for message in loop_messages -%}\n"
    "    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}\n"
    '        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/'
    '...") }}\n'
    "    {%- endif -%}\n"
    "    {%- if (message['role'] == 'assistant') -%}\n"
    '        {%- set role = "model" -%}\n'
    "    {%- else -%}\n"
    "        {%- set role = message['role'] -%}\n"
    "    {%- endif -%}\n"
    "    {{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else \"\") }}\n"
    "    {%- if message['content'] is string -%}\n"
    "        {{ message['content'] | trim }}\n"
    "    {%- elif message['content'] is iterable -%}\n"
    "        {%- for item in message['content'] -%}\n"
    "            {%- if item['type'] == 'image' -%}\n"
    "                {{ '<start_of_image>' }}\n"
    "            {%- elif item['type'] == 'text' -%}\n"
    "                {{ item['text'] | trim }}\n"
    "            {%- endif -%}\n"
    "        {%- endfor -%}\n"
    "    {%- else -%}\n"
    '        {{ raise_exception("Invalid content type") }}\n'
    "    {%- endif -%}\n"
    "    {{ '<end_of_turn>\n' }}\n"
    "{%- endfor -%}\n"
    "{%- if add_generation_prompt -%}\n"
    "    {{'<start_of_turn>model\n'}}\n"
    "{%- endif -%}\n"
)

IMAGE = {"type": "image"}
_TEXTS = (
    *(
        "Spell 42.",
        "  And in German? ",
        "\n\nzwei\n\n\nlines\t",
        "",
        " ",
        "日本語で?",
        "кот 🐈‍⬛ n̈",
    ),
    *(
        "a  b   c",
        "<table><b>x</b></table>",
        "{{ bos_token }}",
        "1 < 2 <end",
        "▁▁ x",
        "\u00a0y\u2003",
    ),
)


def user(content):
    return {"role": "user", "content": content}


def model(content):
    return {"role": "assistant", "content": content}


def system(content):
    return {"role": "system", "content": content}


def text(content):
    return {"type": "text", "text": content}


def _dialogues():
    for one in _TEXTS:
        yield [user(one)]
        yield [user("Hello."), model(one), user(one)]
        yield [system(one), user(one)]
    yield [user([text(" What? ")])]
    yield [user([IMAGE, text(" What? ")]), model("A cat."), user([text("And"), IMAGE, IMAGE])]
    yield [system([text("Be short.")]), user([text("a "), text(" b")]), model([text(" c ")])]
    yield [user("a"), {"role": "model", "content": "b"}, user("c"), model("d")]
    yield [system("Be short.")]
    # Roles that do not alternate.
    yield [user("a"), user("b")]
    yield [model("a")]
    yield [system("a"), model("b"), user("c")]
    yield [user("a"), system("b"), model("c")]
    yield [system("a"), system("b"), user("c")]
    yield [user("a"), model("b"), model("c")]


DIALOGUES = list(_dialogues())
