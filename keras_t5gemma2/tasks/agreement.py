"""Whether a backbone and a preprocessor are parts of one model."""

_REMEDY = "Load both from the same preset, or make the preprocessor for this backbone"


def check_agreement(backbone, preprocessor):
    """Raises where what a preprocessor makes is not what a backbone reads.

    What a preprocessor of another class does not have is not looked at.

    Args:
        backbone: `T5Gemma2Backbone`, or `None`.
        preprocessor: `T5Gemma2Seq2SeqLMPreprocessor`, or `None`. A tokenizer that waits for its
            vocabulary agrees with every model.

    Raises:
        ValueError: the two differ; the message gives both values.
    """
    config = getattr(backbone, "config", None)
    tokenizer = getattr(preprocessor, "tokenizer", None)
    if config is None or tokenizer is None:
        return
    converter = getattr(preprocessor, "image_converter", None)
    if getattr(tokenizer, "has_vocabulary", False):
        _check_vocabulary(config, tokenizer)
        _check_image_ids(config, tokenizer, converter)
    if converter is None:
        return
    vision = config.vision
    if vision is None:
        raise ValueError(
            "A preprocessor must have an image converter only if the backbone has a vision "
            "tower. Received: a preprocessor with image_converter="
            f"{type(converter).__name__}, and a backbone of text only, with config.vision=None. "
            "Make the preprocessor with `image_converter=None`, or load the backbone without "
            "`text_only=True`"
        )
    pairs = [("tokens_per_image", preprocessor.tokens_per_image, vision.tokens_per_image)]
    if hasattr(converter, "image_size"):
        size = (vision.image_size, vision.image_size)
        pairs.append(("image_size", tuple(converter.image_size), size))
    for name, ours, theirs in pairs:
        _check_equal(name, ours, theirs)


def _check_vocabulary(config, tokenizer):
    size = tokenizer.vocabulary_size()
    if size > config.vocabulary_size:
        raise ValueError(
            "A tokenizer must not have more tokens than the backbone's embedding table has rows: "
            f"the id of its last one would mean nothing. Received: a tokenizer of {size} tokens, "
            f"and a backbone of vocabulary_size={config.vocabulary_size}. Take the tokenizer that "
            "the model was trained with, without tokens added to it"
        )


def _check_image_ids(config, tokenizer, converter):
    """Ids matter to a model with images, and the end-of-image id, which has a vector of its own,
    wherever the table holds it."""
    end, image = tokenizer.end_of_image_token_id, tokenizer.image_token_id
    sees_images = converter is not None and config.vision is not None
    theirs = config.end_of_image_token_id
    has_end = None not in (end, theirs) and theirs < config.vocabulary_size
    if sees_images or has_end:
        _check_equal("end_of_image_token_id", end, config.end_of_image_token_id)
    if sees_images:
        _check_equal("image_token_id", image, config.image_token_id)


def _check_equal(name, ours, theirs):
    if ours != theirs:
        raise ValueError(
            f"`{name}` must be the same in preprocessor and backbone. Received: {name}={ours} of "
            f"the preprocessor, {name}={theirs} of the backbone. {_REMEDY}"
        )
