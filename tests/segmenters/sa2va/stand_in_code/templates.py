"""How the stand-in is talked to."""

PROMPT_TEMPLATE = {
    "chat": {
        "INSTRUCTION": "<|im_start|>user\n{input}<|im_end|>\n<|im_start|>assistant\n",
        "STOP_WORDS": ["<|im_end|>", "<|endoftext|>"],
    }
}
