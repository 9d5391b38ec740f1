"""What this package brings to mettle. The rows are data: what they name loads when somebody uses it."""

from mettle_cache.registry import BackboneRow, CodecRow, DatasetRow, DecoderRow, MethodRow, TaskRow

DATASET = DatasetRow("birds", "mettle_birds.dataset:BIRDS", task="species")
BACKBONE = BackboneRow("patches", "mettle_birds.backbone:PATCHES")
CODEC = CodecRow("six-bit", "mettle_birds.codec:SIX_BIT")
METHOD = MethodRow("means", "mettle_birds.method:MEANS")
DECODER = DecoderRow("late-sum", "mettle_birds.decoder:LateSum", task="species")
TASK = TaskRow("species", "mettle_birds.task:SpeciesTask", recipe="mettle_birds:species.toml")
