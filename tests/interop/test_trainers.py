"""Other people's training loops over a store's data set: Lightning, and the Trainer of Hugging Face.

Run by ``make test-interop``, in an environment that has them; skipped where they are missing.
"""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from mettle_cache import LCD, LayerTokens, LCDOptions, TokenBatch, TokenDataset, TokenStore
from mettle_cache.layers import LayerSpec
from tests.store.tiny import make_spec, raw_tokens, write_store

# the warnings of others are theirs
pytestmark = [pytest.mark.interop, pytest.mark.filterwarnings("default")]

LAYERS = tuple(
    LayerSpec(modality="visual", stage=stage, block=1, grid=(2, 2), tokens=4, width=8 * stage) for stage in (1, 2)
)
CLIPS = 8


class MeanTask:
    """The mean of a layer's tokens, a segment: LCD's token-mixing branch can tell it."""

    layers = LAYERS

    def targets(self, rows):
        return torch.stack([raw_tokens(row % CLIPS, LAYERS)[LAYERS[0].name].mean((-2, -1)) for row in rows])


class Head(nn.Module):
    """LCD and a linear; its arguments are the keys of a batch, as the Trainer of Hugging Face wants them."""

    def __init__(self):
        super().__init__()
        self.lcd = LCD(LAYERS, LCDOptions(dim=16))
        self.linear = nn.Linear(16, 1)

    def forward(self, tokens, targets, rows=None):
        assert isinstance(tokens, TokenBatch)
        assert all(isinstance(layer, LayerTokens) for layer in tokens.layers.values())
        return {"loss": nn.functional.mse_loss(self.linear(self.lcd(tokens.layers)).squeeze(-1), targets)}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("interop") / "s.zarr"
    write_store(path, make_spec(clips=CLIPS, layers=LAYERS))
    return TokenDataset(TokenStore.open(path), "train", task=MeanTask())


def loss_of(head, dataset):
    batch = dataset.collate([dataset[index] for index in range(len(dataset))])
    with torch.no_grad():
        return head(batch["tokens"], batch["targets"])["loss"].item()


def test_lightning_trains_on_it(dataset, tmp_path):
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.head = Head()

        def training_step(self, batch, _):
            return self.head(batch["tokens"], batch["targets"])["loss"]

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.01)

    torch.manual_seed(0)
    module = Module()
    before = loss_of(module.head, dataset)
    trainer = lightning.Trainer(
        max_epochs=15,
        accelerator="cpu",
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(module, DataLoader(dataset, batch_size=4, shuffle=True, collate_fn=dataset.collate))
    assert loss_of(module.head, dataset) < before / 2


def test_the_trainer_of_hugging_face_trains_on_it(dataset, tmp_path):
    pytest.importorskip("accelerate")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    head = Head()
    before = loss_of(head, dataset)
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        num_train_epochs=15,
        per_device_train_batch_size=4,
        learning_rate=0.01,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        # the data set's samples have more than the model's arguments; collate() leaves those
        remove_unused_columns=False,
    )
    transformers.Trainer(head, arguments, train_dataset=dataset, data_collator=dataset.collate).train()
    assert loss_of(head, dataset) < before / 2
