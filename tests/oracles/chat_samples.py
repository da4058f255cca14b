"""Chat templates in Jinja, each in the form of conversations of a family of models, written anew from its description.

The forms are those of the models' own documentation: where roles stand, what ends a turn, what a missing system message
becomes, what is refused.
"""

from __future__ import annotations

_ALTERNATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('not in turn') }}{% endif %}"
)
_SPLIT = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set rest = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}"
)

TEMPLATES = {
    "chatml": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "chatml with a default system message": (
        "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nBe of help.<|im_end|>\n' }}{% endif %}"
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "chatml that thinks": (
        "{% if tools %}{{ tools | tojson }}{% endif %}"
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
        "{% if m.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
        "{% if m.role == 'assistant' %}{% generation %}{{ m.content.split('</think>')[-1] }}{% endgeneration %}"
        "{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
    ),
    "llama 2": (
        _SPLIT + "{% for m in rest %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' }}"
        "{% if loop.first and system %}{{ '<<SYS>>\n' + system + '\n<</SYS>>\n\n' }}{% endif %}"
        "{{ m.content | trim + ' [/INST]' }}{% else %}{{ ' ' + m.content | trim + ' ' + eos_token }}{% endif %}"
        "{% endfor %}"
    ),
    "llama 3": (
        "{{ bos_token }}{% for m in messages %}"
        "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    "llama 3.1": (
        "{{ bos_token }}{% if date is not defined %}{% set date = '26 Jul 2024' %}{% endif %}" + _SPLIT +
        "{{ '<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: ' }}"
        "{{ date }}"
        "{{ '\n\n' + system | trim + '<|eot_id|>' }}{% for m in rest %}"
        "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    "mistral v1": (
        "{{ bos_token }}" + _ALTERNATE + "{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
        "{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
    ),
    "mistral v3": (
        "{{ bos_token }}" + _ALTERNATE + "{% if m.role == 'user' %}{{ '[INST] ' + m.content + '[/INST]' }}"
        "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
    ),
    "mistral v7": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}"
        "{{ '[SYSTEM_PROMPT]' + m.content + '[/SYSTEM_PROMPT]' }}{% elif m.role == 'user' %}"
        "{{ '[INST]' + m.content + '[/INST]' }}{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
    ),
    "mistral with today's date": (
        "{% set today = strftime_now('%Y-%m-%d') %}" + _SPLIT + "{{ bos_token + '[SYSTEM_PROMPT]' }}"
        "{{ system or 'Today is ' + today + '.' }}{{ '[/SYSTEM_PROMPT]' }}{% for m in rest %}"
        "{% if m.role == 'user' %}{{ '[INST]' + m.content + '[/INST]' }}{% else %}{{ m.content + eos_token }}"
        "{% endif %}{% endfor %}"
    ),
    "gemma": (
        "{{ bos_token }}" + _ALTERNATE +
        "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content | trim }}"
        "{{ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
    ),
    "gemma 3": (
        "{{ bos_token }}" + _SPLIT + "{% for m in rest %}"
        "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}"
        "{{ system + '\n\n' if loop.first and system }}{{ m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
    ),
    "phi 3 mini": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
        "{{ '<|user|>\n' + m.content + '<|end|>\n<|assistant|>\n' }}{% elif m.role == 'assistant' %}"
        "{{ m.content + '<|end|>\n' }}{% endif %}{% endfor %}"
    ),
    "phi 3.5": (
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
    ),
    "phi 4": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
    ),
    "deepseek v2": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ 'User: ' + m.content + '\n\n' }}"
        "{% elif m.role == 'assistant' %}{{ 'Assistant: ' + m.content + eos_token }}"
        "{% else %}{{ m.content + '\n\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
    ),
    "deepseek r1": (
        "{% set ns = namespace(system='') %}{% for m in messages %}{% if m.role == 'system' %}"
        "{% set ns.system = ns.system + ('\n\n' if ns.system else '') + m.content %}{% endif %}{% endfor %}"
        "{{ bos_token + ns.system }}{% for m in messages %}{% if m.role == 'user' %}{{ '<｜User｜>' + m.content }}"
        "{% elif m.role == 'assistant' %}{{ '<｜Assistant｜>' + m.content + '<｜end▁of▁sentence｜>' }}"
        "{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}"
    ),
    "zephyr": (
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}"
        "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"
    ),
    "command r": (
        "{{ bos_token }}{% for m in messages %}{{ '<|START_OF_TURN_TOKEN|><|' }}"
        "{{ {'system': 'SYSTEM', 'user': 'USER', 'assistant': 'CHATBOT'}[m.role] + '_TOKEN|>' + m.content }}"
        "{{ '<|END_OF_TURN_TOKEN|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}"
    ),
    "vicuna": (
        _SPLIT + "{{ system + ' ' if system else 'A chat between a curious user and an assistant. ' }}"
        "{% for m in rest %}"
        "{% if m.role == 'user' %}{{ 'USER: ' + m.content + ' ' }}{% else %}{{ 'ASSISTANT: ' + m.content + eos_token }}"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
    ),
    "braces and quotation marks": (
        "{% for m in messages %}{{ '{{ \"' + m.role + '\" }}: `' + m.content + '`%}\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '{{' }}{% endif %}"
    ),
}  # fmt: skip

# What fixed texts do not describe, and why.
NO_FORM = {
    "the length of a message": (
        "{% for m in messages %}{{ m.role }} {{ m.content | length }}: {{ m.content }}\n{% endfor %}",
        "depends on",
    ),
    "the number of a turn": (
        "{% for m in messages %}{{ loop.index }} {{ m.role }}: {{ m.content }}\n{% endfor %}",
        "depends on",
    ),
    "the number of messages": (
        "{{ messages | length }}{% for m in messages %}{{ m.content }}\n{% endfor %}",
        "depends on",
    ),
    "a message twice": ("{% for m in messages %}{{ m.content }} {{ m.content }}{% endfor %}", "once"),
    "letters in upper case": ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "once"),
    "a date of another form": (
        "{{ strftime_now('%d %b') }}{% for m in messages %}{{ m.content }}{% endfor %}",
        "render",
    ),
    "tools alone": ("{{ tools[0].name }}", "render"),
    "no Jinja": ("{% for", "render"),
    "one turn": (
        "{% if messages | length > 2 %}{{ raise_exception('one turn') }}{% endif %}{{ messages[-1].content }}",
        "refuses a conversation",
    ),
}  # fmt: skip

_SYSTEM, _FIRST, _ANSWER, _SECOND = (
    {"role": role, "content": text}
    for role, text in (
        ("system", "You are a pirate.\nSpeak so."),
        ("user", "Where is {{ the }} treasure?"),
        ("assistant", "Under the palm: 42° north.\n\n1. Dig.\n2. Run."),
        ("user", "漢字 and 🙂, \"quoted\" 'so' \\n"),
    )
)
CONVERSATIONS = (
    [_FIRST],
    [_FIRST, _ANSWER, _SECOND],
    [_FIRST, _ANSWER, _SECOND, _ANSWER, _FIRST],
    [_SYSTEM, _FIRST],
    [_SYSTEM, _FIRST, _ANSWER, _SECOND],
)
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
