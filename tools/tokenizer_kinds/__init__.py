"""What `tools/tokenizer.py` does with each kind of tokenizer. Functions import Paddle, so that --help is quick."""
