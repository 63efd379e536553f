"""The tokens that stand for no text, and the file that a vocabulary is in."""

# One name for both kinds of files, so that saving one kind over the other leaves nothing behind.
VOCABULARY_FILE = "vocabulary.model"
# Attributes of the tokenizer. What is not required may be missing in a vocabulary.
REQUIRED_TOKENS = {"start_token": "<bos>", "end_token": "<eos>", "pad_token": "<pad>"}
IMAGE_TOKENS = {
    "start_of_image_token": "<start_of_image>",
    "end_of_image_token": "<end_of_image>",
    "image_token": "<image_soft_token>",
}
MASK_TOKEN = "<mask>"
# Text like any other, to stay visible in what is generated.
TURN_TOKENS = {"start_of_turn_token": "<start_of_turn>", "end_of_turn_token": "<end_of_turn>"}
# What steers a model and is no text, beside what a file calls special: not tags as `<table>`.
CONTROL_TOKENS = (
    r"<(pad|eos|bos|unk|mask|(start|end)_of_(image|turn)|image_soft_token|unused\d+)>"
    r"|\[(multimodal|@BOS@)\]"
)
