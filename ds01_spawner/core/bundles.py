"""The bundles that are there without a policy file: DS01's package sets, by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

BUNDLES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "datascience": ("pandas", "scipy", "scikit-learn", "matplotlib", "seaborn"),
        "ml": ("xgboost", "lightgbm", "catboost", "optuna", "shap"),
        "cv": ("timm", "albumentations", "opencv-python-headless", "kornia", "ultralytics"),
        "nlp": (
            "transformers",
            "datasets",
            "tokenizers",
            "accelerate",
            "sentencepiece",
            "peft",
            "safetensors",
            "evaluate",
        ),
        "rl": ("gymnasium", "stable-baselines3"),
        "audio": ("librosa", "soundfile", "audiomentations"),
        "ts": ("statsmodels", "prophet", "darts"),
        "llm": ("vllm", "bitsandbytes", "langchain", "einops"),
    }
)
