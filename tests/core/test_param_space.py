import pytest
import torch
from tests.networks import cnn, tied, with_unused
from torch import nn

from thalweg.core.param_space import ParamSpace


def named(model):
    return {k: p.detach() for k, p in model.named_parameters()}


@pytest.mark.parametrize("build", [cnn, tied, with_unused])
def test_flatten_and_unflatten_are_inverse(build):
    model = build()
    space = ParamSpace.of(model)
    flat = space.flatten(named(model))
    assert flat.shape == (space.dim,)
    back = space.unflatten(flat)
    assert list(back) == list(space.names)
    for name, tensor in back.items():
        assert torch.equal(tensor, named(model)[name])
        assert tensor.shape == named(model)[name].shape


def test_flat_order_is_that_of_torch():
    model = cnn()
    vector = nn.utils.parameters_to_vector(p for p in model.parameters() if p.requires_grad)
    assert torch.equal(ParamSpace.of(model).flatten(named(model)), vector.detach())


def test_frozen_parameters_are_left_out():
    space = ParamSpace.of(cnn())
    assert not [n for n in space.names if n.startswith("0.")]
    assert space.dim == sum(p.numel() for p in cnn().parameters() if p.requires_grad)


def test_tied_parameters_count_once_under_their_first_name():
    space = ParamSpace.of(tied())
    assert space.names == ("embed.weight", "inner.weight", "inner.bias")
    assert space.dim == 7 * 4 + 16 + 4


def test_flatten_copies_and_unflatten_gives_views():
    model = nn.Linear(3, 1, bias=False)
    space = ParamSpace.of(model)
    flat = space.flatten(named(model))
    before = model.weight.detach().clone()
    flat.zero_()
    assert torch.equal(model.weight, before), "even a single tensor is copied"
    space.unflatten(flat)["weight"].fill_(2.0)
    assert (flat == 2).all()


def test_unflatten_takes_a_column_of_a_block():
    model = with_unused()
    space = ParamSpace.of(model)
    block = torch.randn(space.dim, 3, dtype=torch.float64)
    assert torch.equal(space.flatten(space.unflatten(block[:, 1])), block[:, 1])


@pytest.mark.parametrize("shape", [(27,), (29,), (28, 1), ()])
def test_a_vector_of_another_shape_is_refused(shape):
    space = ParamSpace.of(nn.Linear(6, 4))
    assert space.dim == 28
    with pytest.raises(ValueError, match=r"`vector` must have shape \(28,\)"):
        space.unflatten(torch.zeros(shape))


def test_slots_know_their_layer_and_filters():
    space = ParamSpace.of(nn.Sequential(nn.Conv2d(2, 3, 5), nn.BatchNorm2d(3)))
    weight, bias, scale, shift = space
    assert (weight.name, weight.layer, weight.num_filters) == ("0.weight", "0", 3)
    assert (bias.num_filters, scale.num_filters, shift.layer) == (1, 1, "1")
    assert [s.stop - s.start for s in space] == [150, 3, 3, 3]
    assert [s.start for s in space] == [0, 150, 153, 156]


def test_a_parameter_of_the_root_has_no_layer():
    scale = next(s for s in ParamSpace.of(with_unused()) if s.name == "scale")
    assert scale.layer == ""
    assert scale.num_filters == 1


def test_filters_are_rows_of_weights_and_whole_vectors():
    model = nn.Sequential(nn.Conv2d(2, 3, 5), nn.Linear(4, 2))
    space = ParamSpace.of(model)
    flat = space.flatten(named(model))
    shapes = {slot.name: tuple(view.shape) for slot, view in space.filters(flat)}
    assert shapes == {"0.weight": (3, 50), "0.bias": (1, 3), "1.weight": (2, 4), "1.bias": (1, 2)}
    views = {slot.name: view for slot, view in space.filters(flat)}
    norms = views["0.weight"].norm(dim=1)
    assert torch.allclose(norms, model[0].weight.detach().flatten(1).norm(dim=1))
    views["1.bias"].zero_()
    assert float(flat[-2:].abs().sum()) == 0, "filters are views"


def test_select_by_pattern_by_module_and_by_list():
    space = ParamSpace.of(cnn())
    assert space.select("7.*").names == ("7.weight", "7.bias")
    assert space.select("7").names == ("7.weight", "7.bias")
    assert space.select("*.bias").names == ("1.bias", "3.bias", "4.bias", "7.bias")
    assert space.select(["7.bias", "1"]).names == ("1.weight", "1.bias", "7.bias"), "the order is the space's"
    assert space.select("*") == space
    part = space.select("7")
    assert (part.slots[0].start, part.dim) == (0, 51), "a sub-space is laid out anew"


def test_a_tied_parameter_is_matched_by_all_its_names():
    model = nn.ModuleDict({"encoder": nn.Linear(4, 4), "decoder": nn.Linear(4, 4)})
    model["decoder"].weight = model["encoder"].weight
    space = ParamSpace.of(model)
    assert space.names == ("encoder.weight", "encoder.bias", "decoder.bias")
    assert space.select("decoder").names == ("encoder.weight", "decoder.bias")
    assert space.select("decoder.weight").names == ("encoder.weight",)
    assert space.select("decoder").select("decoder.w*").names == ("encoder.weight",), "a sub-space knows them"
    with pytest.raises(ValueError, match="matches none"):
        space.select("decoder.bias").select("decoder.weight")
    model["encoder"].weight.requires_grad_(False)
    assert ParamSpace.of(model).select("decoder").names == ("decoder.bias",), "frozen under all its names"


def test_a_module_name_is_no_prefix_of_another():
    model = nn.ModuleDict({"fc1": nn.Linear(1, 1), "fc10": nn.Linear(1, 1)})
    assert ParamSpace.of(model).select("fc1").names == ("fc1.weight", "fc1.bias")


@pytest.mark.parametrize("pattern", ["layer9", "0.weight", ["7", "typo"]])
def test_a_pattern_that_matches_nothing_is_refused(pattern):
    with pytest.raises(ValueError, match=r"matches none; names are 1\.weight"):
        ParamSpace.of(cnn()).select(pattern)


def test_no_pattern_is_refused():
    with pytest.raises(ValueError, match="at least one pattern"):
        ParamSpace.of(cnn()).select([])


def test_equality_hash_and_repr():
    a, b = ParamSpace.of(cnn(0)), ParamSpace.of(cnn(1))
    assert a == b
    assert hash(a) == hash(b)
    assert a != ParamSpace.of(tied())
    assert a != "a"
    assert repr(a) == f"ParamSpace({len(a)} tensors, P = {a.dim:,})"


def test_an_empty_space_has_an_empty_vector():
    space = ParamSpace({})
    assert space.flatten({}).shape == (0,)
    assert space.unflatten(torch.zeros(0)) == {}
