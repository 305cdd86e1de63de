"""Encoders of other packages, by name: ``torchvision:…``, ``timm:…``, ``hf:…``.

Each file imports stock packages alone: an export includes a copy of it. Networks are made without
dropout and the like, so that a training which goes on after a kill takes the same steps.
"""
