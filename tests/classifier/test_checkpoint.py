import resource
import stat
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from classifier.checkpoint import NEW_NAMES, Checkpoint, CheckpointError, build, describe, load, save
from classifier.networks import ConvNet, Net

SHIPPED = Path(__file__).parents[2] / "models/model_scratch.pt"


@pytest.fixture
def checkpoint() -> Checkpoint:
    torch.manual_seed(1)
    return Checkpoint(
        "ConvNet",
        {"widths": (3, 4), "dropout": 0.25},
        ConvNet((3, 4)).state_dict(),
        calibration={"temperature": 1.25},
        metrics={"test_accuracy": 0.9251, "validation_loss": 0.2},
        training={"recipe": "round-trip_1", "seed": 3, "history": [{"training_loss": 1.0}]},
    )


def test_load_returns_what_save_wrote(tmp_path: Path, checkpoint: Checkpoint) -> None:
    path = tmp_path / "model.pt"
    sha256 = save(checkpoint, path)
    loaded = load(path)
    for field in ("architecture", "arguments", "calibration", "metrics", "training"):
        assert asdict(loaded)[field] == asdict(checkpoint)[field]
    assert loaded.sha256 == sha256
    assert loaded.model == f"round-trip_1-{sha256[:8]}"
    assert loaded.state_dict.keys() == checkpoint.state_dict.keys()
    assert all(torch.equal(tensor, checkpoint.state_dict[name]) for name, tensor in loaded.state_dict.items())


def test_loading_and_saving_again_changes_no_weight(tmp_path: Path, checkpoint: Checkpoint) -> None:
    save(checkpoint, tmp_path / "first.pt")
    save(load(tmp_path / "first.pt"), tmp_path / "second.pt")
    assert asdict(load(tmp_path / "second.pt"))["training"] == checkpoint.training
    first, second = build(load(tmp_path / "first.pt")), build(load(tmp_path / "second.pt"))
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_a_checkpoint_is_a_plain_dict_for_torch_load(tmp_path: Path, checkpoint: Checkpoint) -> None:
    save(checkpoint, tmp_path / "model.pt")
    found = torch.load(tmp_path / "model.pt", weights_only=True)
    assert set(found) == {"format", "architecture", "state_dict", "classes", "calibration", "metrics", "training"}
    assert all(type(found[key]) is dict for key in ("architecture", "state_dict", "calibration", "metrics", "training"))


def test_a_tensor_that_is_a_view_is_saved_without_the_rest_of_its_storage(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    large = torch.zeros(1_000_000)
    for name, tensor in checkpoint.state_dict.items():
        checkpoint.state_dict[name] = large[: tensor.numel()].view(tensor.shape).to(tensor.dtype)
    save(checkpoint, tmp_path / "model.pt")
    assert (tmp_path / "model.pt").stat().st_size < 50_000


def test_describe_names_model_architecture_parameters_and_accuracy(tmp_path: Path, checkpoint: Checkpoint) -> None:
    save(checkpoint, tmp_path / "model.pt")
    loaded = load(tmp_path / "model.pt")
    parameters = sum(parameter.numel() for parameter in build(loaded).parameters())
    assert describe(loaded) == f"{loaded.model}, ConvNet, {parameters:,} parameters, 92.51% on the test set"


def test_build_returns_the_network_with_its_weights_in_evaluation_mode(checkpoint: Checkpoint) -> None:
    network = build(checkpoint)
    assert not network.training
    assert all(torch.equal(tensor, checkpoint.state_dict[name]) for name, tensor in network.state_dict().items())


def test_a_state_dict_of_the_tutorial_loads_as_net_with_sigmoid(tutorial_state_dict: Path) -> None:
    loaded = load(tutorial_state_dict)
    assert (loaded.architecture, loaded.arguments, loaded.recipe) == ("Net", {"sigmoid": True}, "tutorial")
    assert loaded.calibration == {"temperature": 1.0}
    assert loaded.parameters == 11_252
    pixels = torch.zeros(1, 1, 28, 28, dtype=torch.uint8)
    original = Net().eval()
    original.load_state_dict(torch.load(tutorial_state_dict, weights_only=True))
    assert torch.equal(build(loaded)(pixels), original(pixels))


def test_a_state_dict_of_another_network_is_refused(tmp_path: Path) -> None:
    torch.save(ConvNet((3, 4)).state_dict(), tmp_path / "other.pt")
    with pytest.raises(
        CheckpointError, match=r"^other\.pt is not the .* has no 'conv1\.weight' and has 'filters\.weight'"
    ):
        load(tmp_path / "other.pt")


def test_save_replaces_the_file_and_leaves_no_temporary_file(tmp_path: Path, checkpoint: Checkpoint) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"old")
    save(checkpoint, path)
    assert load(path).recipe == "round-trip_1"
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_of_the_old_file_can_go_on_reading_it(tmp_path: Path, checkpoint: Checkpoint) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"old")
    with path.open("rb") as reader:
        save(checkpoint, path)
        assert reader.read() == b"old"


def test_a_saved_file_has_the_mode_of_the_umask(tmp_path: Path, checkpoint: Checkpoint) -> None:
    (tmp_path / "ordinary").touch()
    save(checkpoint, tmp_path / "model.pt")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ordinary", "model.pt")]
    assert modes[0] == modes[1]


def test_saving_to_a_missing_folder_is_an_error_of_one_sentence(tmp_path: Path, checkpoint: Checkpoint) -> None:
    with pytest.raises(CheckpointError) as caught:
        save(checkpoint, tmp_path / "missing" / "model.pt")
    assert str(caught.value) == "model.pt could not be written: No such file or directory."


def test_a_failed_save_changes_nothing_and_leaves_no_temporary_file(tmp_path: Path, checkpoint: Checkpoint) -> None:
    path = tmp_path / "model.pt"
    path.mkdir()
    (path / "inside").write_bytes(b"old")
    with pytest.raises(CheckpointError, match=r"^model\.pt could not be written: [^/]+\.$"):
        save(checkpoint, path)
    assert list(tmp_path.iterdir()) == [path]
    assert (path / "inside").read_bytes() == b"old"


def test_a_full_disk_leaves_the_old_file_and_no_temporary_file(tmp_path: Path, checkpoint: Checkpoint) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limits[1]))  # a longer write fails, as on a full disk
    try:
        with pytest.raises(CheckpointError, match=r"^model\.pt could not be written: [^/]+\.$"):
            save(checkpoint, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"


def test_a_small_file_that_describes_a_huge_network_is_refused(tmp_path: Path, tiny_checkpoint: Path) -> None:
    path = tmp_path / "huge.pt"
    found = torch.load(tiny_checkpoint, weights_only=True)
    found["architecture"]["arguments"] = {"widths": (4096, 4096), "blocks": (64, 64)}
    torch.save(found, path)
    assert path.stat().st_size < 2**20
    with pytest.raises(
        CheckpointError, match=r"^huge\.pt describes a network of \d+,.* bytes, over the limit of 134,217,728\.$"
    ):
        load(path)


def test_a_checkpoint_with_old_names_shows_the_new_ones_and_predicts_the_same(tmp_path: Path) -> None:
    network = ConvNet((3, 4), tta_views=6).eval()
    arguments = {"widths": (3, 4), "views": 6}
    settings = {
        "arguments": arguments,
        "held_out": 2_000,
        "kept": "lowest loss",
        "schedule": "triangle",
        "warm_up": 0.001,
        "filter_learning_rate": 0.03,
        "filter_momentum": 0.6,
        "taught": 0.9,
        "softness": 4.0,
        "teacher": "best-dc937903",
        "spared": 0.5,
        "spared_until": 0.875,
        "flip": True,
        "shift": 1,
        "erase": 0.5,
        "epochs": 16,
    }
    training = {"recipe": "old", "settings": settings, "seed": 3}
    save(Checkpoint("ConvNet", arguments, network.state_dict(), training=training), tmp_path / "old.pt")
    loaded = load(tmp_path / "old.pt")
    assert loaded.arguments == {"widths": (3, 4), "tta_views": 6}
    assert loaded.training == {
        "recipe": "old",
        "seed": 3,
        "settings": {
            "arguments": {"widths": (3, 4), "tta_views": 6},
            "validation_images": 2_000,
            "keep": "best",
            "schedule": "triangular",
            "warmup_fraction": 0.001,
            "muon_learning_rate": 0.03,
            "muon_momentum": 0.6,
            "distillation_weight": 0.9,
            "distillation_temperature": 4.0,
            "teacher": "best-dc937903",
            "prune_ratio": 0.5,
            "prune_until": 0.875,
            "flip": True,
            "shift_pixels": 1,
            "erase_probability": 0.5,
            "epochs": 16,
        },
    }
    pixels = torch.randint(0, 256, (5, 1, 28, 28), dtype=torch.uint8)
    assert torch.equal(build(loaded)(pixels), network(pixels))


def test_the_shipped_checkpoint_loads_with_the_new_names() -> None:
    settings = load(SHIPPED).training["settings"]
    assert NEW_NAMES.keys().isdisjoint(settings)
    assert (settings["keep"], settings["schedule"], settings["prune_ratio"]) == ("last", "triangular", 0.5)


@pytest.mark.parametrize("settings", [[1], {"kept": [1]}, {"schedule": torch.ones(2)}, {"arguments": 5}, {1: 2}])
def test_settings_of_another_shape_do_not_stop_a_checkpoint(tmp_path: Path, settings: object) -> None:
    weights = ConvNet((3, 4)).state_dict()
    training = {"recipe": "odd", "settings": settings}
    save(Checkpoint("ConvNet", {"widths": (3, 4)}, weights, training=training), tmp_path / "odd.pt")
    assert load(tmp_path / "odd.pt").recipe == "odd"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_read_as_float32(tmp_path: Path, checkpoint: Checkpoint, dtype: torch.dtype) -> None:
    expected = {
        name: each.to(dtype) if each.is_floating_point() else each for name, each in checkpoint.state_dict.items()
    }
    save(replace(checkpoint, state_dict=expected), tmp_path / "model.pt")
    loaded = load(tmp_path / "model.pt")
    assert all(
        torch.equal(loaded.state_dict[name], each.to(loaded.state_dict[name].dtype)) for name, each in expected.items()
    )
    assert loaded.state_dict["filters.weight"].dtype == torch.float32


def test_the_path_may_be_a_text_and_logs_have_it_in_full(tmp_path: Path, checkpoint: Checkpoint) -> None:
    save(checkpoint, tmp_path / "model.pt")
    assert load(str(tmp_path / "model.pt")).recipe == "round-trip_1"
    with pytest.raises(CheckpointError) as caught:
        load("nowhere/typo.pt")
    assert str(caught.value) == "typo.pt does not exist: train it with `python -m training.run`."
    assert caught.value.with_path() == "nowhere/typo.pt does not exist: train it with `python -m training.run`."
