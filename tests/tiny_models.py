"""A tiny embedder and a tiny cross-encoder with random weights: what sentence-transformers loads within a second."""

from __future__ import annotations

from pathlib import Path

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz0123456789.,?!"]
WORDS += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz0123456789"]


def make_embedder(folder: Path) -> Path:
    """A BERT of 2 layers and width 32; sentence-transformers takes the mean over its tokens."""
    from transformers import BertModel

    _make_bert(folder / "embedder", BertModel)
    return folder / "embedder"


def make_cross_encoder(folder: Path, labels: int = 1) -> Path:
    """A BERT of the same size with a head of so many scores."""
    from transformers import BertForSequenceClassification

    _make_bert(folder / "cross-encoder", BertForSequenceClassification, labels)
    return folder / "cross-encoder"


def _make_bert(folder: Path, kind: type, labels: int = 2) -> None:
    import torch
    from transformers import BertConfig, BertTokenizerFast

    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        num_labels=labels,
    )
    kind(config).save_pretrained(folder)
