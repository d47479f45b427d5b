"""Special tokens: their names and ids, which never change, and the chat template."""

ROLES = ("system", "user", "assistant", "tool")
NUM_RESERVED = 19

# The id of a special token is its place here. BOI ... EOA and SEP are those of the report's Figures 2 and 3;
# <image>, <video>, <audio> hold the place of a media row; a chat turn runs from its role's token to <|end|>.
SPECIAL_TOKENS = (
    *("<pad>", "<unk>", "<s>", "</s>", "<sep>"),
    *("<boi>", "<eoi>", "<bov>", "<eov>", "<boa>", "<eoa>"),
    *("<image>", "<video>", "<audio>"),
    *(f"<|{role}|>" for role in ROLES),
    *("<|end|>", "<think>", "</think>"),
    *(f"<|reserved_{i}|>" for i in range(NUM_RESERVED)),
)
SPECIAL_IDS = {token: i for i, token in enumerate(SPECIAL_TOKENS)}

# What `apply_chat_template` does, for toolkits that read the template from tokenizer_config.json.
CHAT_TEMPLATE = (
    "{{ '<s>' }}{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% if message.get('reasoning_content') %}"
    "{{ '<think>' + message['reasoning_content'] + '</think>' }}{% endif %}"
    "{{ message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
