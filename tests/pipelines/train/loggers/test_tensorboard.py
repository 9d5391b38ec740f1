"""Event files as TensorBoard itself reads them: curves, pictures, and the view of hyper-parameters."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing import plugin_event_multiplexer
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, backend_context, get_experiment, list_session_groups

from mettle_cache.pipelines.train.loggers.protocol import LoggedRun
from mettle_cache.pipelines.train.loggers.tensorboard import TensorBoard


def board(folder, **settings):
    folder.mkdir(exist_ok=True, parents=True)
    return TensorBoard(LoggedRun(folder=folder, name=folder.name, group="", settings=settings))


def read(folder):
    return EventAccumulator(str(folder / "events")).Reload()


def scalars(folder, tag):
    return [(event.step, event.value) for event in read(folder).Scalars(tag)]


def test_curves_and_pictures(tmp_path):
    log = board(tmp_path)
    picture = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    log.scalars({"step/loss": 2.5}, step=0)
    log.scalars({"epoch/loss": 1.25, "epoch/val_accuracy": 50.0}, step=2)
    log.images({"val/a clip": picture}, step=2)
    log.close({}, "finished")
    assert scalars(tmp_path, "step/loss") == [(0, 2.5)]
    assert scalars(tmp_path, "epoch/val_accuracy") == [(2, 50.0)]
    (shown,) = read(tmp_path).Images("val/a clip")
    assert (shown.step, shown.width, shown.height) == (2, 6, 4)
    assert np.array_equal(np.asarray(Image.open(BytesIO(shown.encoded_image_string))), picture)


def test_events_of_steps_that_are_run_again_are_hidden(tmp_path):
    for start, losses in ((0, (3.0, 2.0, 9.0)), (2, (1.0,))):
        log = board(tmp_path)
        for number, loss in enumerate(losses):
            log.scalars({"step/loss": loss}, step=start + number)
        log.close({}, "stopped")
    assert scalars(tmp_path, "step/loss") == [(0, 3.0), (1, 2.0), (2, 1.0)]


def test_nothing_is_made_before_there_is_something_to_record(tmp_path):
    board(tmp_path, seed=1).close({}, "finished")
    assert list(tmp_path.iterdir()) == []


def test_the_view_of_hyper_parameters_has_every_run_with_its_settings_and_scores(tmp_path):
    for seed, method, score in ((0, "lcd", 50.0), (1, "linear", 40.0)):
        log = board(tmp_path / f"seed-{seed}", seed=seed, method=method, norm=True)
        log.scalars({"epoch/loss": 1.0}, step=2)
        log.close({"best/accuracy": score}, "finished" if seed == 0 else "failed")
    multiplexer = plugin_event_multiplexer.EventMultiplexer().AddRunsFromDirectory(str(tmp_path))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(tmp_path))
    context = backend_context.Context(TBContext(data_provider=provider, logdir=str(tmp_path)))
    experiment = get_experiment.Handler(RequestContext(), context, "", api_pb2.GetExperimentRequest()).run()
    assert {info.name for info in experiment.hparam_infos} == {"seed", "method", "norm"}
    assert "best/accuracy" in {info.name.tag for info in experiment.metric_infos}
    request = api_pb2.ListSessionGroupsRequest(
        start_index=0,
        slice_size=10,
        allowed_statuses=[api_pb2.STATUS_SUCCESS, api_pb2.STATUS_FAILURE],
        col_params=[api_pb2.ColParams(metric=info.name) for info in experiment.metric_infos],
    )
    groups = list_session_groups.Handler(RequestContext(), context, "", request).run().session_groups
    seen = {
        (group.hparams["seed"].number_value, group.hparams["method"].string_value): (
            group.sessions[0].status,
            {value.name.tag: value.value for value in group.sessions[0].metric_values}["best/accuracy"],
        )
        for group in groups
    }
    assert seen == {(0, "lcd"): (api_pb2.STATUS_SUCCESS, 50.0), (1, "linear"): (api_pb2.STATUS_FAILURE, 40.0)}


def test_a_disk_that_refuses_is_an_error_for_the_loggers_keeper(tmp_path):
    (tmp_path / "events").write_text("")
    with pytest.raises(FileExistsError):
        board(tmp_path).scalars({"loss": 1.0}, step=0)
