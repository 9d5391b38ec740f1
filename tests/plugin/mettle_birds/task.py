"""One species a clip, scored by accuracy."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from mettle_cache.decoders.registry import create_decoder, decoder_problems
from mettle_cache.options import Options
from mettle_cache.tasks.model import AudioVisualModel, common_width
from mettle_cache.tasks.protocol import Task


@dataclass(frozen=True, kw_only=True)
class SpeciesOptions(Options):
    """``decoder`` is the name of a registered decoder."""

    decoder: str = "late-sum"

    def problems(self):
        return decoder_problems(self.decoder, "species")


class SpeciesTask(Task):
    """See :class:`mettle_cache.tasks.protocol.Task`."""

    sample_schema = pa.schema([("clip", pa.string()), ("species", pa.string())])
    options_type = SpeciesOptions
    metric = "accuracy"

    def __init__(self, layers, *, samples, vocabulary, segments, method, options):
        self.layers = method.layers(layers)
        self.method = method
        self.options = options
        self.samples = samples
        self.species = tuple(vocabulary["species"])
        self.labels = np.array([self.species.index(name) for name in samples["species"].to_pylist()])

    def build_model(self):
        method = self.method.build(self.layers)
        decoder = create_decoder(self.options.decoder, common_width(method), len(self.species), offered={})
        return AudioVisualModel(method, decoder)

    def targets(self, rows):
        return torch.from_numpy(self.labels[list(rows)])

    def loss(self, model, outputs, targets):
        return model.decoder.loss(outputs, targets)

    def interpret(self, outputs):
        logits = outputs["logits"].float().cpu()
        return {"species": logits.argmax(-1).numpy(), "probabilities": logits.softmax(-1).numpy()}

    def score(self, predictions, rows):
        return {"accuracy": 100 * float(np.mean(predictions["species"] == self.labels[list(rows)]))}

    def floors(self, rows):
        commonest = np.bincount(self.labels).argmax()
        return {"always the commonest": self.score({"species": np.full(len(rows), commonest)}, rows)["accuracy"]}

    def prediction_table(self, predictions, rows):
        return pa.table(
            {
                "clip": self.samples["clip"].take(pa.array(list(rows))),
                "prediction": [self.species[label] for label in predictions["species"]],
                "scores": predictions["probabilities"].tolist(),
            }
        )
