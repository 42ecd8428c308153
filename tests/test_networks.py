"""Features, sequence networks and policy distributions against what they are defined to be."""

import re
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marl_suite.envs.spaces import Box, Dict, Discrete, MultiDiscrete
from marl_suite.learning.distributions import num_outputs, policy_distribution
from marl_suite.learning.networks import (
    ENCODERS,
    SequenceNetwork,
    features,
    holds_categories,
    num_features,
    patches,
    planes,
)

T, B, F, H = 7, 3, 4, 6


def vectors(size: int) -> Box:
    return Box(-9, 9, (size,))


# ---------------------------------------------------------------------- features
def test_discrete_observations_are_one_hot():
    np.testing.assert_array_equal(features(Discrete(3), jnp.array([[0, 2]])), [[[1, 0, 0], [0, 0, 1]]])


def test_boxes_are_flattened_floats():
    pixels = np.arange(2 * 5 * 2 * 3, dtype=np.uint8).reshape(2, 5, 2, 3)
    found = features(Box(0, 255, (2, 3), np.uint8), jnp.asarray(pixels))
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, pixels.reshape(2, 5, 6))


def test_scalar_boxes_are_one_feature():
    assert features(Box(0, 1, ()), jnp.zeros((4, 5))).shape == (4, 5, 1)


def test_dictionaries_are_their_parts_in_the_spaces_order():
    space = Dict({"what": Discrete(2), "where": Box(-1, 1, (2,)), "inner": Dict({"deep": Discrete(3)})})
    observation = {"inner": {"deep": jnp.array([2])}, "where": jnp.array([[0.5, -0.5]]), "what": jnp.array([1])}
    np.testing.assert_array_equal(features(space, observation), [[0, 1, 0.5, -0.5, 0, 0, 1]])


@pytest.mark.parametrize(
    "space", [Discrete(4), Box(0, 1, ()), Box(0, 1, (2, 3)), Dict({"a": Discrete(2), "b": Box(0, 1, (3,))})]
)
def test_the_number_of_features_is_what_features_gives(space):
    sample = jax.tree.map(lambda x: jnp.stack([x, x]), space.sample(jax.random.key(0)))
    assert features(space, sample).shape == (2, num_features(space))


# ---------------------------------------------------------------------- sequences
@pytest.fixture(scope="module", params=[False, True], ids=["feedforward", "recurrent"])
def sequence(request):
    """A network, its parameters, inputs [T, B, F] and reset masks [T, B] with a first row that is not reset."""
    network = SequenceNetwork(vectors(F), 2, (H,), recurrent=request.param)
    keys = jax.random.split(jax.random.key(0), 3)
    inputs = jax.random.normal(keys[0], (T, B, F))
    reset = jax.random.bernoulli(keys[1], 0.3, (T, B)).at[0].set(False)
    params = jax.jit(network.init)(keys[2], network.initial_memory(B), inputs, reset)
    return network, params, inputs, reset


def test_step_by_step_equals_the_whole_sequence(sequence):
    network, params, inputs, reset = sequence
    apply = jax.jit(network.apply)
    memory = jax.tree.map(lambda m: m + 0.3, network.initial_memory(B))
    outputs, memories = apply(params, memory, inputs, reset)
    for t in range(T):
        output, memory = apply(params, memory, inputs[t : t + 1], reset[t : t + 1])
        np.testing.assert_allclose(output[0], outputs[t], rtol=1e-5, atol=1e-6)
        memory = jax.tree.map(lambda m: m[0], memory)
        jax.tree.map(lambda m, all_rows, t=t: np.testing.assert_allclose(m, all_rows[t], atol=1e-6), memory, memories)


def test_nothing_before_a_reset_matters_and_everything_else_does(sequence):
    network, params, inputs, _ = sequence
    reset = jnp.zeros((T, B), bool).at[3, 0].set(True)
    apply = jax.jit(network.apply)
    base, _ = apply(params, network.initial_memory(B), inputs, reset)
    other, _ = apply(params, network.initial_memory(B), inputs.at[:3].add(1.0), reset)
    np.testing.assert_array_equal(base[3:, 0], other[3:, 0])
    assert (np.abs(base[3:, 1:] - other[3:, 1:]).max() > 1e-4) == network.recurrent


def test_a_recurrent_step_is_a_gated_unit():
    """Cho et al. (2014) with the reset gate inside, as flax's: h' = (1 - z) n + z h."""
    network = SequenceNetwork(vectors(F), 2, (H,), recurrent=True)
    inputs, memory = jax.random.normal(jax.random.key(1), (1, B, F)), jnp.full((B, H), 0.4)
    params: Any = jax.jit(network.init)(jax.random.key(2), memory, inputs, jnp.zeros((1, B), bool))
    weights = params["params"]
    (cell,) = [value for name, value in weights.items() if "Recurrence" in name or "GRU" in name]
    cell = cell.get("GRUCell_0", cell)
    dense = lambda layer, x: x @ layer["kernel"] + layer.get("bias", 0.0)  # noqa: E731
    x = np.tanh(dense(weights["Dense_0"], inputs[0]))
    gate = lambda name: jax.nn.sigmoid(dense(cell[f"i{name}"], x) + dense(cell[f"h{name}"], memory))  # noqa: E731
    new = np.tanh(dense(cell["in"], x) + gate("r") * dense(cell["hn"], memory))
    wanted = (1 - gate("z")) * new + gate("z") * memory
    outputs, after = cast(Any, network.apply)(params, memory, inputs, jnp.zeros((1, B), bool))
    np.testing.assert_allclose(after[0], wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(outputs[0], dense(weights["Dense_1"], wanted), rtol=1e-5, atol=1e-6)


def test_weights_have_the_stated_gains():
    network = SequenceNetwork(vectors(64), 128, (256, 256), head_gain=0.01)
    params = jax.jit(network.init)(jax.random.key(0), (), jnp.zeros((1, 1, 64)), jnp.zeros((1, 1), bool))["params"]
    for name, gain, inputs in (("Dense_0", np.sqrt(2), 64), ("Dense_1", np.sqrt(2), 256), ("Dense_2", 0.01, 256)):
        kernel = np.asarray(params[name]["kernel"])
        # The spread of a sample of n normal numbers is within 4 / sqrt(2 n) of theirs, all but surely.
        np.testing.assert_allclose(kernel.std(), gain / np.sqrt(inputs), rtol=4 / np.sqrt(2 * kernel.size))
        np.testing.assert_array_equal(params[name]["bias"], 0)


def test_no_matrix_is_decomposed_to_draw_weights():
    # Batched decompositions can deadlock on XLA's CPU backend.
    network = SequenceNetwork(vectors(4), 3, (8,), recurrent=True)
    decomposition = re.compile(r"= (qr|geqrf|householder_product)\b")
    orthogonal = jax.make_jaxpr(jax.nn.initializers.orthogonal(), static_argnums=1)(jax.random.key(0), (4, 4))
    assert decomposition.search(str(orthogonal)), "what is looked for is what an orthogonal draw does"
    inputs = (network.initial_memory(1), jnp.zeros((1, 1, 4)), jnp.zeros((1, 1), bool))
    assert not decomposition.search(str(jax.make_jaxpr(network.init)(jax.random.key(0), *inputs)))


@pytest.mark.parametrize("recurrent", [False, True])
def test_successors_are_valued_alike_whether_or_not_an_episode_ends_inside_the_rollout(recurrent):
    network = SequenceNetwork(vectors(4), 3, (H,), recurrent=recurrent)
    rows, last, ends = (jax.random.normal(jax.random.key(i), (n, B, 4)) for i, n in enumerate((T, 1, T)))
    params, memory = jax.jit(network.fresh)(jax.random.key(1)), network.initial_memory(B)
    memory = jax.tree.map(lambda m: m + 0.3, memory)
    look = jax.jit(jax.vmap(network.rows_and_successors, (0, None, None, None, 0)))  # two lanes, as two seeds
    twice = jax.tree.map(lambda x: jnp.stack([x, x]), params)
    going_on = jnp.concatenate([rows[1:], last])
    reset = jnp.zeros((2, T, B), bool).at[:, 0, 1].set(True)
    outputs, following, _ = look(twice, memory, rows, going_on, reset)
    np.testing.assert_allclose(following[:, :-1], outputs[:, 1:], atol=1e-6)  # the short way, and what it must give
    # In one lane an episode ends after row 1: both lanes now take the long way, and the other's values stay the same.
    ended = reset.at[1, 2, 0].set(True)
    long_outputs, long_following, _ = look(twice, memory, rows, going_on, ended)
    np.testing.assert_allclose(long_following[0], following[0], atol=1e-6)
    np.testing.assert_allclose(long_following[1, :2], following[1, :2], atol=1e-6)
    true_last = going_on.at[1, 0].set(ends[1, 0])
    _, cut, _ = look(twice, memory, rows, true_last, ended)
    changed = np.abs(np.asarray(cut - long_following)).max(axis=-1) > 1e-4
    assert np.argwhere(changed).tolist() == [[0, 1, 0], [1, 1, 0]]  # the true last observation is what is valued
    if recurrent:  # from the memory before the reset
        assert not np.allclose(long_outputs[1, 2, 0], long_following[1, 1, 0], atol=1e-4)


def test_a_value_head_is_one_more_output_with_weights_of_its_own():
    network = SequenceNetwork(vectors(4), 3, (H,), head_gain=0.01, value_head=True)
    params: Any = jax.jit(network.fresh)(jax.random.key(0))
    assert params["params"]["value"]["kernel"].shape == (H, 1)
    outputs, _ = network.apply(params, (), jnp.ones((T, B, 4)), jnp.zeros((T, B), bool))
    assert outputs.shape == (T, B, 4)
    params["params"]["value"]["bias"] += 2
    moved, _ = network.apply(params, (), jnp.ones((T, B, 4)), jnp.zeros((T, B), bool))
    np.testing.assert_allclose(moved - outputs, np.broadcast_to([0, 0, 0, 2], outputs.shape), atol=1e-6)


# ---------------------------------------------------------------------- grids
TILES = Box(0, np.array([4, 1, 2]), (5, 6, 3), np.uint8)
"""Three planes: five kinds of tile, a mark, three headings."""


def test_planes_of_whole_numbers_are_one_hot_up_to_their_bound_and_nothing_is_all_zeros():
    grid = np.asarray(TILES.sample(jax.random.key(0)))
    found = np.asarray(planes(TILES, jnp.asarray(grid[None])))[0]
    assert found.shape == (5, 6, 4 + 1 + 2)
    for i, j in np.ndindex(5, 6):
        tile, mark, heading = grid[i, j]
        wanted = [tile == 1, tile == 2, tile == 3, tile == 4, mark == 1, heading == 1, heading == 2]
        np.testing.assert_array_equal(found[i, j], wanted)


@pytest.mark.parametrize("window", [1, 3, 5])
def test_a_product_with_patches_is_a_convolution(window):
    x, kernel = (
        jax.random.normal(jax.random.key(i), shape) for i, shape in ((0, (2, 5, 6, 3)), (1, (window, window, 3, 4)))
    )
    wanted = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    found = patches(x, window) @ kernel.reshape(-1, 4)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_categories_are_encoded_and_planes_of_zeros_and_ones_taken_as_they_are_unless_told_otherwise():
    binary = Box(0, 1, (3, 3, 4), np.uint8)
    assert holds_categories(TILES) and not holds_categories(binary) and not holds_categories(Box(0, 9, (3, 3, 4)))
    for space, same in ((TILES, "small"), (binary, "flat"), (vectors(4), "flat")):
        shapes = [
            jax.tree.map(jnp.shape, jax.eval_shape(SequenceNetwork(space, 2, encoder=e).fresh, jax.random.key(0)))
            for e in ("auto", same)
        ]
        assert shapes[0] == shapes[1]


def test_the_standard_encoder_has_the_published_sizes():
    network = SequenceNetwork(TILES, 7, (64,), encoder="standard")
    shapes: Any = jax.eval_shape(network.fresh, jax.random.key(0))["params"]["encoder"]
    kernels = [shapes[f"Dense_{i}"]["kernel"].shape for i in range(4)]
    assert kernels == [(25 * 7, 32), (9 * 32, 32), (9 * 32, 32), (5 * 6 * 32, 64)]


@pytest.mark.parametrize("encoder", ["auto", *ENCODERS])
def test_an_encoder_sees_grids_inside_dictionaries_and_flattens_the_rest(encoder):
    space = Dict({"view": TILES, "inventory": Box(0, 9, (2,)), "role": Discrete(3)})
    network = SequenceNetwork(space, 2, (H,), recurrent=True, encoder=encoder)
    keys = jax.random.split(jax.random.key(0), T * B)
    observation = jax.tree.map(lambda x: x.reshape(T, B, *x.shape[1:]), jax.vmap(space.sample)(keys))
    reset = jnp.zeros((T, B), bool)
    params = jax.jit(network.fresh)(jax.random.key(1))
    apply = jax.jit(cast(Any, network.apply))
    outputs, memory = apply(params, network.initial_memory(B), observation, reset)
    assert outputs.shape == (T, B, 2) and memory.shape == (T, B, H)
    for name in space.spaces:  # every part of the observation matters
        changed = observation | {name: jnp.roll(observation[name], 1, axis=0)}
        assert not np.allclose(apply(params, network.initial_memory(B), changed, reset)[0], outputs), name


# ---------------------------------------------------------------------- categorical policies
def own_categorical(logits: np.ndarray, mask: np.ndarray):
    """Log-probabilities, entropy and mode, by the definitions."""
    weights = np.exp(np.asarray(logits, np.float64) - logits.max()) * mask
    probs = weights / weights.sum(-1, keepdims=True)
    log_probs = np.log(np.where(mask, probs, 1))
    return np.where(mask, log_probs, -np.inf), -(probs * log_probs).sum(-1), np.where(mask, logits, -np.inf).argmax(-1)


@pytest.fixture(scope="module", params=[False, True], ids=["all", "masked"])
def categorical(request):
    """Logits [20, 5] of quite different sizes and the mask: all, or some with at least one action."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (20, 5)).astype(np.float32)
    mask = rng.random((20, 5)) < 0.5 if request.param else np.ones((20, 5), bool)
    mask[np.arange(20), rng.integers(5, size=20)] = True
    return logits, mask, policy_distribution(Discrete(5), jnp.asarray(logits), jnp.asarray(mask))


def test_a_discrete_policy_is_the_categorical_of_its_allowed_logits(categorical):
    logits, mask, policy = categorical
    log_probs, entropy, mode = own_categorical(logits, mask)
    np.testing.assert_allclose(policy.probs, np.exp(log_probs), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(policy.entropy(), entropy, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(policy.mode(), mode)
    for action in range(5):
        allowed = mask[:, action]
        found = np.asarray(policy.log_prob(jnp.full(20, action)))
        np.testing.assert_allclose(found[allowed], log_probs[allowed, action], rtol=1e-4, atol=1e-5)
        assert np.all(found[~allowed] < -1e30) and np.all(np.asarray(policy.probs)[~allowed, action] == 0)


def test_samples_come_with_their_log_probability_and_are_allowed(categorical):
    _, mask, policy = categorical
    actions, log_prob = policy.sample_and_log_prob(seed=jax.random.key(0), sample_shape=(200,))
    np.testing.assert_allclose(log_prob, policy.log_prob(actions), rtol=1e-5)
    assert mask[np.arange(20), np.asarray(actions)].all()


def test_no_mask_is_a_mask_that_allows_everything():
    logits = jnp.array([[1.0, -2.0, 0.5]])
    plain, masked = (policy_distribution(Discrete(3), logits, mask) for mask in (None, jnp.ones((1, 3), bool)))
    for action in range(3):
        np.testing.assert_array_equal(plain.log_prob(jnp.array([action])), masked.log_prob(jnp.array([action])))


def test_gradients_through_a_mask_are_finite_and_leave_forbidden_logits_alone():
    mask = jnp.array([True, False, True])

    def loss(logits: jax.Array) -> jax.Array:
        policy = policy_distribution(Discrete(3), logits, mask)
        return jnp.asarray(policy.entropy() + policy.log_prob(jnp.int32(0)))

    gradient = jax.grad(loss)(jnp.array([0.3, 5.0, -0.2]))
    assert np.isfinite(gradient).all() and gradient[1] == 0 and np.all(gradient[jnp.array([0, 2])] != 0)


def test_a_certain_policy_has_no_entropy_and_no_nan():
    policy = policy_distribution(Discrete(3), jnp.array([1e4, 0.0, -1e4]))
    np.testing.assert_allclose(policy.entropy(), 0, atol=1e-6)
    assert np.isfinite(policy.log_prob(jnp.int32(1)))


# ---------------------------------------------------------------------- Gaussian policies
@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
def test_a_continuous_policy_is_a_gaussian_per_number_of_the_action(shape):
    space, size = Box(-1, 1, shape), int(np.prod(shape))
    outputs = np.random.default_rng(0).normal(size=(4, 2 * size)).astype(np.float32)
    policy = policy_distribution(space, jnp.asarray(outputs))
    assert num_outputs(space) == 2 * size
    mean, scale = outputs[:, :size], np.exp(outputs[:, size:])
    action = np.random.default_rng(1).normal(size=(4, size)).astype(np.float32)
    log_prob = -0.5 * ((action - mean) / scale) ** 2 - np.log(scale) - 0.5 * np.log(2 * np.pi)
    entropy = 0.5 + 0.5 * np.log(2 * np.pi) + np.log(scale)
    np.testing.assert_allclose(policy.log_prob(action.reshape(4, *shape)), log_prob.sum(-1), rtol=1e-4)
    np.testing.assert_allclose(policy.entropy(), entropy.sum(-1), rtol=1e-4)
    np.testing.assert_allclose(policy.mode(), mean.reshape(4, *shape))
    sample, sample_log_prob = policy.sample_and_log_prob(seed=jax.random.key(0))
    assert sample.shape == (4, *shape)
    np.testing.assert_allclose(sample_log_prob, policy.log_prob(sample), rtol=1e-4)


def test_a_gaussians_scale_is_kept_within_bounds():
    for log_scale, kept in ((-50.0, -5.0), (50.0, 2.0)):
        policy = policy_distribution(Box(-1, 1, (1,)), jnp.array([0.0, log_scale]))
        np.testing.assert_allclose(policy.entropy(), 0.5 + 0.5 * np.log(2 * np.pi) + kept, rtol=1e-5)


def test_components_are_chosen_independently_and_masked_apart():
    space = MultiDiscrete((2, 3))
    logits = np.random.default_rng(0).normal(size=5).astype(np.float32)
    mask = np.array([True, False, True, True, False])  # the first component cannot choose, the second has two values
    pairs = np.array([(i, j) for i in range(2) for j in range(3)], np.int32)
    for allowed in (np.ones(5, bool), mask):
        weights = np.exp(logits) * allowed
        first, second = weights[:2] / weights[:2].sum(), weights[2:] / weights[2:].sum()
        joint = np.outer(first, second).ravel()
        policy = policy_distribution(space, jnp.asarray(logits), None if allowed.all() else jnp.asarray(allowed))
        np.testing.assert_allclose(np.exp(jax.vmap(policy.log_prob)(pairs)), joint, atol=1e-6)
        np.testing.assert_allclose(policy.entropy(), -np.sum(joint * np.log(np.maximum(joint, 1e-30))), rtol=1e-5)
        np.testing.assert_array_equal(policy.mode(), pairs[joint.argmax()])
        drawn = policy.sample(seed=jax.random.key(1), sample_shape=(4000,))
        assert drawn.shape == (4000, 2) and drawn.dtype == np.int32
        counts = np.bincount(np.asarray(drawn) @ (3, 1), minlength=6) / 4000
        np.testing.assert_allclose(counts, joint, atol=0.03)
    assert num_outputs(space) == 5


def test_a_space_of_several_choices_knows_its_members_and_its_masks():
    space = MultiDiscrete((2, 3))
    drawn = np.asarray(jax.vmap(space.sample)(jax.random.split(jax.random.key(0), 200)))
    assert {*map(tuple, drawn)} == {(i, j) for i in range(2) for j in range(3)}
    assert jax.vmap(space.contains)(drawn).all()
    for wrong in ((2, 0), (0, 3), (-1, 0), (0, 0, 0), (0.0, 1.0)):
        assert not space.contains(np.array(wrong))
    rows = space.by_component(jnp.arange(5), -1)
    np.testing.assert_array_equal(rows, [[0, 1, -1], [2, 3, 4]])
    assert space == MultiDiscrete([2, 3]) != MultiDiscrete((3, 2)) and space.num_choices == 5
    with pytest.raises(ValueError, match="at least one value for each component"):
        MultiDiscrete((2, 0))


def test_a_space_without_a_policy_is_refused():
    with pytest.raises(TypeError, match="no policy distribution for actions in Dict"):
        num_outputs(Dict({"a": Discrete(2)}))
