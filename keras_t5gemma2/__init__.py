"""T5Gemma 2 for Keras 3: text and images in, text out, on JAX, TensorFlow and PyTorch."""

from keras_t5gemma2 import constraints
from keras_t5gemma2.adapters.suggestion import RankSuggestion, suggest_ranks
from keras_t5gemma2.config import (
    AttentionConfig,
    BackboneConfig,
    ExpertsConfig,
    StackConfig,
    VisionConfig,
    interleave,
)
from keras_t5gemma2.evaluation.evaluate import EvaluateGeneration, evaluate_generation
from keras_t5gemma2.evaluation.memorization import Memorization, memorization
from keras_t5gemma2.generation.beam_search import BeamSearch
from keras_t5gemma2.inspection.drawing import show_attention
from keras_t5gemma2.kernels.attention.choices import kernels_for
from keras_t5gemma2.kernels.runtime.compilation_cache import enable_compilation_cache
from keras_t5gemma2.model.backbone import T5Gemma2Backbone
from keras_t5gemma2.model.t5gemma1 import T5GemmaBackbone
from keras_t5gemma2.preprocessing.chat_preprocessor import T5Gemma2ChatPreprocessor
from keras_t5gemma2.preprocessing.denoising_preprocessor import T5Gemma2DenoisingPreprocessor
from keras_t5gemma2.preprocessing.image_converter import T5Gemma2ImageConverter
from keras_t5gemma2.preprocessing.image_features import ImageFeatures
from keras_t5gemma2.preprocessing.preprocessor import T5Gemma2Seq2SeqLMPreprocessor
from keras_t5gemma2.preprocessing.t5gemma1 import T5GemmaSeq2SeqLMPreprocessor, T5GemmaTokenizer
from keras_t5gemma2.preprocessing.tokenizer import T5Gemma2Tokenizer
from keras_t5gemma2.registry import presets
from keras_t5gemma2.tasks.batch_inference import BatchInference
from keras_t5gemma2.tasks.merging import merge_models
from keras_t5gemma2.tasks.seq2seq_lm import T5Gemma2Seq2SeqLM
from keras_t5gemma2.tasks.t5gemma1 import (
    T5GemmaSeq2SeqLM,
    T5GemmaTextClassifier,
    T5GemmaTextEmbedder,
    T5GemmaTokenClassifier,
)
from keras_t5gemma2.tasks.text_classifier import T5Gemma2TextClassifier
from keras_t5gemma2.tasks.text_embedder import T5Gemma2TextEmbedder
from keras_t5gemma2.tasks.token_classifier import T5Gemma2TokenClassifier
from keras_t5gemma2.tasks.upcycle import upcycle
from keras_t5gemma2.training.adaptive_rank import AdaptiveRank
from keras_t5gemma2.training.checkpoint import TrainingCheckpoint
from keras_t5gemma2.training.distillation import Distillation
from keras_t5gemma2.training.embedding_loss import EmbeddingLoss
from keras_t5gemma2.training.on_policy_distillation import OnPolicyDistillation
from keras_t5gemma2.training.policy_gradient import PolicyGradient
from keras_t5gemma2.training.relora import ReLoRA
from keras_t5gemma2.training.teacher_samples import TeacherSamples
from keras_t5gemma2.training.warp import WARP

__version__ = "0.1.0"

__all__ = [
    "WARP",
    "AdaptiveRank",
    "AttentionConfig",
    "BackboneConfig",
    "BatchInference",
    "BeamSearch",
    "Distillation",
    "EmbeddingLoss",
    "EvaluateGeneration",
    "ExpertsConfig",
    "ImageFeatures",
    "Memorization",
    "OnPolicyDistillation",
    "PolicyGradient",
    "RankSuggestion",
    "ReLoRA",
    "StackConfig",
    "T5Gemma2Backbone",
    "T5Gemma2ChatPreprocessor",
    "T5Gemma2DenoisingPreprocessor",
    "T5Gemma2ImageConverter",
    "T5Gemma2Seq2SeqLM",
    "T5Gemma2Seq2SeqLMPreprocessor",
    "T5Gemma2TextClassifier",
    "T5Gemma2TextEmbedder",
    "T5Gemma2TokenClassifier",
    "T5Gemma2Tokenizer",
    "T5GemmaBackbone",
    "T5GemmaSeq2SeqLM",
    "T5GemmaSeq2SeqLMPreprocessor",
    "T5GemmaTextClassifier",
    "T5GemmaTextEmbedder",
    "T5GemmaTokenClassifier",
    "T5GemmaTokenizer",
    "TeacherSamples",
    "TrainingCheckpoint",
    "VisionConfig",
    "constraints",
    "enable_compilation_cache",
    "evaluate_generation",
    "interleave",
    "kernels_for",
    "memorization",
    "merge_models",
    "presets",
    "show_attention",
    "suggest_ranks",
    "upcycle",
]
