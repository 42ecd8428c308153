"""Exact opponent shaping: each rule against finite differences of its objective, and where its players end up."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marl_suite import rollout
from marl_suite.algorithm import env_spec
from marl_suite.baselines.exact import RULES, ExactShaping, policies
from marl_suite.baselines.scripted import Scripted
from marl_suite.composition import Composition
from marl_suite.envs import InputError, make
from marl_suite.games.repeated import average_value, discounted_value, finite_horizon_value
from marl_suite.training import Fit, compiled

DILEMMA = np.array([[[-1, -3], [0, -2]], [[-1, 0], [-3, -2]]], np.float32)
PENNIES = np.array([[[1, -1], [-1, 1]], [[-1, 1], [1, -1]]], np.float32)
LOPSIDED = np.array([[[2, -1], [1, 0]], [[0, 3], [-2, 1]]], np.float32)


# ---------------------------------------------------------------------- games, and their derivatives by differences
def memory_one_values(x, y, payoffs, discount):
    """V1 and V2 of two-action memory-one logits [5], by the textbook: four states, the second player's swapped."""
    p = 1 / (1 + np.exp(-x.ravel()))
    q = (1 / (1 + np.exp(-y.ravel())))[[0, 2, 1, 3, 4]]
    rows = np.stack([p * q, p * (1 - q), (1 - p) * q, (1 - p) * (1 - q)], axis=1)
    visits = np.linalg.solve(np.eye(4) - discount * rows[:4].T, rows[4])
    return [visits @ np.asarray(table, float).ravel() for table in payoffs]


def smooth_values(x, y, sin=np.sin):
    """A game without symmetry: two parameters against three, of different shapes."""
    both = x[0] * y[0, 0] - 2 * x[1] * y[1, 0] + x[0] * y[2, 0]
    first = sin(both) + x[0] * x[1] - (x * x).sum() + 0.5 * sin(x[1] * y[2, 0]) + 0.3 * (y * y).sum()
    return first, 0.7 * sin(2 * both) - (y * y * y).sum() / 3 + x[0] * y[1, 0]


def slope(function, z, step=1e-4):
    """Central differences of a function of an array, which may itself return one: [*z.shape, ...]."""
    bumps = step * np.eye(z.size).reshape(z.size, *z.shape)
    rises = [(np.asarray(function(z + b)) - np.asarray(function(z - b))) / (2 * step) for b in bumps]
    return np.stack(rises).reshape(z.shape + rises[0].shape)


def swapped(values):
    return lambda y, x: tuple(values(x, y))[::-1]


def direction(rule, values, x, y, eta, lookaheads):
    """The first player's direction: differences of what the rule says that it climbs."""

    def harm(x, y):  # grad_2 V1
        return slope(lambda y: values(x, y)[0], y)

    def step(x, y):  # grad_2 V2
        return slope(lambda y: values(x, y)[1], y)

    def after(x):
        z = y
        for _ in range(lookaheads):
            z = z + eta * step(x, z)
        return z

    fixed, now = harm(x, y), after(x)
    objective = {
        "naive": lambda x: values(x, y)[0],
        "lookahead": lambda x: values(x, now)[0],
        "lola_a": lambda x: values(x, y)[0] + eta * np.sum(step(x, y) * fixed),
        "lola_b": lambda x: values(x, y)[0] + eta * np.sum(step(x, y) * harm(x, y)),
        "lola_c": lambda x: values(x, after(x))[0],
    }[rule]
    return slope(objective, x)


def sos_direction(values, x, y, alpha, a=0.5, b=0.1):
    """Letcher et al. (2019), algorithm 1 as printed, on losses and with the whole Jacobian; and which case it was."""
    cut = x.size

    def gradients(theta):  # [player, parameter]
        return slope(lambda t: -np.array(values(t[:cut].reshape(x.shape), t[cut:].reshape(y.shape))), theta).T

    def simultaneous(theta):
        first, second = gradients(theta)
        return np.concatenate([first[:cut], second[cut:]])

    theta = np.concatenate([x.ravel(), y.ravel()])
    hessian = slope(simultaneous, theta).T
    hessian[:cut, :cut] = hessian[cut:, cut:] = 0
    xi, losses = simultaneous(theta), gradients(theta)
    xi_0 = xi - alpha * hessian @ xi
    chi = np.concatenate([(hessian.T @ losses[0])[:cut], (hessian.T @ losses[1])[cut:]])
    along = -alpha * chi @ xi_0
    p1 = 1.0 if along >= 0 else min(1.0, -a * (xi_0 @ xi_0) / along)
    p2 = xi @ xi if np.linalg.norm(xi) < b else 1.0
    case = "near" if p2 < p1 else "turned" if p1 < 1 else "free"
    ascent = -(xi_0 - min(p1, p2) * alpha * chi)
    return [ascent[:cut].reshape(x.shape), ascent[cut:].reshape(y.shape)], case


def expected_directions(rule, values, x, y, eta, lookaheads):
    if rule == "sos":
        return sos_direction(values, x, y, eta)[0]
    return [
        direction(rule, values, x, y, eta, lookaheads),
        direction(rule, swapped(values), y, x, eta, lookaheads),
    ]


def exact_values(x, y):
    return tuple(discounted_value(policies(jnp.stack([x, y])), DILEMMA, 0.96))


GAMES = {
    # values in jax and in numpy, shapes of x and y, eta
    "smooth": (functools.partial(smooth_values, sin=jnp.sin), smooth_values, ((2,), (3, 1)), 0.5),
    "dilemma": (exact_values, functools.partial(memory_one_values, payoffs=DILEMMA, discount=0.96), ((5, 1),) * 2, 0.3),
}
VARIANTS = [*((rule, 1) for rule in RULES), ("lookahead", 2), ("lola_c", 2)]


def points(game, num=8):
    """Parameters [num, ...] of both players, the first half of them close to the origin."""
    random = np.random.default_rng(0)
    scale = np.where(np.arange(num) < num // 2, 0.02, 1.0)
    return [random.normal(size=(num, *s)) * scale.reshape(-1, *(1,) * len(s)) for s in GAMES[game][2]]


@pytest.fixture(scope="module", params=["smooth", pytest.param("dilemma", marks=pytest.mark.slow)])
def directions(request):
    """The game's name, and eta -> every rule's directions at its points, from one compiled program."""
    values = GAMES[request.param][0]

    @compiled
    def everything(x, y, eta):
        return {
            (rule, lookaheads): jax.vmap(lambda x, y: RULES[rule](values, x, y, eta, lookaheads))(x, y)  # noqa: B023
            for rule, lookaheads in VARIANTS
        }

    x, y = (jnp.asarray(z, jnp.float32) for z in points(request.param))
    return request.param, lambda eta: everything(x, y, eta)


def test_directions_are_slopes_of_the_objectives_at_the_old_parameters_of_both(directions):
    game, found = directions
    _, values, _, eta = GAMES[game]
    found = found(eta)
    for rule, lookaheads in VARIANTS:
        pairs = [expected_directions(rule, values, x, y, eta, lookaheads) for x, y in zip(*points(game), strict=True)]
        for player in range(2):
            expected = np.stack([pair[player] for pair in pairs])
            close = 2e-3 * (np.abs(expected).max() if game == "dilemma" else np.abs(expected) + 1e-2)
            error = np.abs(found[rule, lookaheads][player] - expected)
            assert np.all(error < close), (rule, lookaheads, player, error.max())


@pytest.mark.parametrize("directions", ["smooth"], indirect=True)  # SOS is lola_b at the dilemma's points
def test_the_rules_part_wherever_the_others_step_matters(directions):
    game, found = directions
    everything = found(GAMES[game][3])
    for first in VARIANTS:
        for second in VARIANTS[: VARIANTS.index(first)]:
            one, other = (np.asarray(everything[name][0]).reshape(len(points(game)[0]), -1) for name in (first, second))
            apart = np.linalg.norm(one - other, axis=1) / np.linalg.norm(one, axis=1)
            assert apart.max() > 0.02, (first, second)


def test_all_rules_are_naive_against_opponents_that_do_not_move(directions):
    found = directions[1](0.0)
    for variant in VARIANTS:
        for player in range(2):
            expected = found["naive", 1][player]
            np.testing.assert_allclose(found[variant][player], expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_the_points_show_sos_in_all_three_of_its_cases():
    values, eta = GAMES["smooth"][1], GAMES["smooth"][3]
    cases = {sos_direction(values, x, y, eta)[1] for x, y in zip(*points("smooth"), strict=True)}
    assert cases == {"near", "turned", "free"}


# ---------------------------------------------------------------------- the tandem game
@pytest.fixture(scope="module")
def tandem():
    """Mean loss of every rule after 300 steps of 0.1 with eta 0.1."""

    def values(x, y):
        return 2 * x - jnp.square(x + y), 2 * y - jnp.square(x + y)

    def play(rule):
        def step(parameters, _):
            return tuple(z + 0.1 * d for z, d in zip(parameters, rule(values, *parameters, 0.1, 1), strict=True)), None

        end, _ = jax.lax.scan(step, (jnp.float32(0.9), jnp.float32(-0.4)), length=300)
        return -sum(values(*end)) / 2

    return compiled(lambda: {name: play(rule) for name, rule in RULES.items()})()


@pytest.mark.parametrize(
    ("rule", "loss"),
    # s = x + y gives the mean loss s^2 - s. Steps vanish at s = 1 for the first two. With Hessian entries of 2 the
    # others solve (2 - 2s) + 0.1 (4s) = 0: s = 5/4; with 0.1 (2s 2 + 2 (2s - 2)) = 0.1 (8s - 4): s = 4/3;
    # with s' = s + 0.1 (2 - 2s) for s and the step's slope 1 - 0.2: 2 - 1.6 s' = 0 gives s' = 5/4, s = 1.3125.
    [("naive", 0), ("lookahead", 0), ("lola_a", 0.3125), ("lola_b", 4 / 9), ("lola_c", 0.41016), ("sos", 0)],
)
def test_the_tandem_game_tells_the_rules_apart(tandem, rule, loss):
    np.testing.assert_allclose(tandem[rule], loss, atol=1e-3)


# ---------------------------------------------------------------------- one update, as the loop makes it
LANES = [(DILEMMA, 0.96), (PENNIES, 0.5), (LOPSIDED, 0.9)]


@pytest.fixture(scope="module")
def one_update():
    """Logits [3, 2, 5] before and after an update with a rate of 0.25 under three payoffs and discounts; metrics."""
    env = make("prisoners_dilemma")
    payoffs, discounts = zip(*LANES, strict=True)
    config = ExactShaping(lr=0.25, lookahead_lr=0.5, rollout_length=1).replace(gamma=np.array(discounts))
    params = env.default_params.replace(payoffs=np.stack(payoffs))
    nowhere = [jax.tree.map(lambda _: None, tree) for tree in (config, params)]
    axes = (nowhere[0].replace(gamma=0), nowhere[1].replace(payoffs=0))
    fit = Fit(env, config, range(len(LANES)), 1, params, chunks=1, axes=axes)
    before = np.array(fit.start().learner.logits)[..., 0]
    (chunk,) = fit
    return before, np.array(chunk.state.learner.logits)[..., 0], chunk.logs["learner"]


@pytest.mark.parametrize("lane", range(len(LANES)))
def test_payoffs_and_discounts_of_one_program_may_differ_and_both_players_step_at_once(one_update, lane):
    before, after, metrics = one_update
    values = functools.partial(memory_one_values, payoffs=LANES[lane][0], discount=LANES[lane][1])
    x, y = before[lane].astype(float)
    expected = np.stack(expected_directions("lola_a", values, x, y, 0.5, 1))
    naive = np.stack(expected_directions("naive", values, x, y, 0.5, 1))
    close = 2e-3 * np.abs(expected).max()
    np.testing.assert_allclose((after[lane] - before[lane]) / 0.25, expected, atol=close)
    assert np.linalg.norm(expected - naive) > 10 * close
    np.testing.assert_allclose(metrics["shaping_norm"][lane], np.linalg.norm(expected - naive), atol=5 * close)
    average = (1 - LANES[lane][1]) * np.mean(values(x, y))
    np.testing.assert_allclose(metrics["value"][lane], average, atol=1e-4)


def test_first_logits_are_normal_with_the_scale_that_was_asked_for():
    spec = env_spec(make("prisoners_dilemma"), make("prisoners_dilemma").default_params)
    keys = jax.random.split(jax.random.key(0), 1000)
    for scale in (0.0, 0.5):
        logits = jax.vmap(ExactShaping(initial_scale=scale).build(spec).init)(keys).logits
        assert logits.shape == (1000, 2, 5, 1)
        np.testing.assert_allclose(logits.std(), scale, rtol=0.03)


# ---------------------------------------------------------------------- acting
@pytest.mark.parametrize("greedy", [False, True])
def test_what_is_played_is_what_the_value_is_of(greedy):
    # Two different deterministic policies with three actions: one episode is worth its finite-horizon value.
    env = make("rock_paper_scissors")
    payoffs = np.random.default_rng(2).normal(size=(2, 3, 3)).astype(np.float32)
    params = env.default_params.replace(payoffs=payoffs)
    learner = ExactShaping().build(env_spec(env, params))
    large = 30.0
    tables = np.random.default_rng(1).integers(3, size=(4, 2, 10))
    logits = (large * np.eye(3)[tables])[..., :2] - large * (tables == 2)[..., None]

    @jax.jit
    @jax.vmap
    def play(logits):
        state = learner.init(jax.random.key(0)).replace(logits=logits)
        return rollout.simulate(env, params, learner, learner.policy(state, greedy), jax.random.key(1)).reward[:, 0]

    rewards = play(jnp.asarray(logits, jnp.float32))
    worth = jax.vmap(lambda x: finite_horizon_value(policies(x), payoffs, 1.0, 50))(jnp.asarray(logits, jnp.float32))
    assert rewards.shape == (4, 50, 2)
    assert np.ptp(worth) > 5
    np.testing.assert_allclose(rewards.sum(1), worth, atol=1e-3)


def test_actions_are_drawn_from_the_row_of_the_state_that_is_seen():
    env = make("matrix_game", num_actions=3)
    learner = ExactShaping().build(env_spec(env, env.default_params))
    state = learner.init(jax.random.key(3))
    probabilities = np.exp(np.concatenate([state.logits, np.zeros((2, 10, 1))], -1))
    probabilities /= probabilities.sum(-1, keepdims=True)
    seen = jnp.eye(10)[jnp.array([7, 2])]  # the first player's state, the second's
    observation = jnp.broadcast_to(seen, (20000, 2, 10))
    actions, memory, _ = learner.act(state, (), observation, jax.random.key(4), None)
    assert actions.shape == (20000, 2) and memory == ()
    shares = np.eye(3)[actions].mean(0)
    np.testing.assert_allclose(shares, [probabilities[0, 7], probabilities[1, 2]], atol=0.015)
    greedy, _, _ = learner.policy(state, True)((), observation[:1], jax.random.key(5), None)
    np.testing.assert_array_equal(greedy[0], [probabilities[0, 7].argmax(), probabilities[1, 2].argmax()])


def test_a_state_shown_by_its_index_is_the_one_shown_one_hot():
    market = make("bertrand_pricing", num_prices=3)
    learner = ExactShaping().build(env_spec(market, market.default_params))
    state = learner.init(jax.random.key(3))
    seen = jnp.tile(jnp.arange(10)[:, None], (1, 2))
    actions, _, _ = learner.policy(state, True)((), seen, jax.random.key(4))
    logits = np.concatenate([state.logits, np.zeros((2, 10, 1))], -1)
    np.testing.assert_array_equal(actions, logits.argmax(-1).T)


# ---------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("game", "settings"),
    [
        ("coin_game", {}),
        ("public_goods", {}),
        ("prisoners_dilemma", {"one_shot": True}),
        ("bertrand_pricing", {"num_agents": 3, "num_prices": 3}),
    ],
)
def test_games_without_a_closed_form_are_refused(game, settings):
    env = make(game, **settings)
    with pytest.raises(InputError, match=f"not one-shot.*{game} has no closed form"):
        Fit(env, ExactShaping(), [0], 1)


def test_parts_of_a_composition_are_refused():
    config = Composition(parts=(ExactShaping(), Scripted(player="always_defect")), assignment=(0, 1))
    with pytest.raises(InputError, match="cannot be part of a composition"):
        Fit(make("prisoners_dilemma"), config, [0], 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "lola_d"}, "exact.rule .*'lola_d'"),
        ({"optimiser": "adamw"}, "exact.optimiser .*'adamw'; closest: 'adam'"),
        ({"gamma": 1.0}, "exact.gamma must be below 1.*got 1.0"),
        ({"gamma": -0.1}, "exact.gamma must be at least 0"),
        ({"lr": -1.0}, "exact.lr must be at least 0"),
        ({"lookahead_lr": -1.0}, "exact.lookahead_lr must be at least 0"),
        ({"initial_scale": -1.0}, "exact.initial_scale must be at least 0"),
        ({"lookaheads": 0, "rule": "lola_c"}, "exact.lookaheads must be at least 1"),
        ({"lookaheads": 2}, "exact.lookaheads must be 1 for lola_a"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        ExactShaping(**settings).check()


def test_every_rule_says_what_it_is():
    assert len({ExactShaping(rule=rule).summary for rule in RULES}) == len(RULES)


# ---------------------------------------------------------------------- where players end up
def learned(game, updates, seeds, rates=None, **settings):
    """Average values [S] (of both players' mean), values [S, 2] and P(first action) [S, 2, 5] after `updates`.

    `rates` [S] are of the step that is foreseen, where seeds differ in them.
    """
    env, config = make(game), ExactShaping(rollout_length=1, **settings)
    axes = (None, None)
    if rates is not None:
        axes = (jax.tree.map(lambda _: None, config).replace(lookahead_lr=0), None)
        config = config.replace(lookahead_lr=rates)
    (chunk,) = Fit(env, config, seeds, updates, chunks=1, axes=axes)
    play = policies(jnp.asarray(chunk.state.learner.logits))
    worth = np.asarray(jax.vmap(lambda p: average_value(p, env.default_params.payoffs, config.gamma))(play))
    return worth.mean(1), worth, np.asarray(play[..., 0])


@pytest.fixture(scope="module")
def dilemma():
    """LOLA's 200 seeds, then the same with opponents that are thought to stand still."""
    return learned("prisoners_dilemma", 200, [*range(200)] * 2, np.repeat([1.0, 0.0], 200))


def test_lola_learns_to_cooperate_and_to_retaliate(dilemma):
    # Foerster et al. (2018), table 3: -1.06 with a standard deviation of 0.19 over runs.
    value, _, play = (x[:200] for x in dilemma)
    np.testing.assert_allclose(value.mean(), -1.065, atol=0.05)
    assert np.mean(value > -1.1) >= 0.8
    after_cc, after_cd, _, after_dd, _ = play.mean((0, 1))
    assert after_cc > 0.9 and after_cd < 0.3 and after_dd < 0.2


def test_the_same_seeds_without_the_shaping_term_defect(dilemma):
    value = dilemma[0][200:]
    assert value.mean() <= -1.97 and np.mean(value > -1.1) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("rule", "expected"), [("lola_b", -1.05), ("sos", -1.07)])
def test_other_rules_that_shape_cooperate(rule, expected):
    # Letcher et al. (2019), iterated prisoner's dilemma: losses of 1.05 and 1.07.
    value, _, _ = learned("prisoners_dilemma", 200, range(200), rule=rule)
    np.testing.assert_allclose(value.mean(), expected, atol=0.05)
    assert np.mean(value > -1.1) >= 0.8


@pytest.mark.slow
def test_in_ci_foreseeing_without_shaping_defects():
    value, _, _ = learned("prisoners_dilemma", 200, range(200), rule="lookahead")
    assert value.mean() < -1.88 and np.mean(value > -1.1) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lookaheads", "expected", "play"),
    [(1, -1.005, [1, 0.26, 1, 0.06, 0.99]), (2, -1.013, None), (3, -1.022, None)],
)
def test_in_ci_lookaheads_from_uniform_play_end_close_to_full_cooperation(lookaheads, expected, play):
    settings = {"lr": 0.2, "lookahead_lr": 0.3, "optimiser": "adam", "initial_scale": 0.0}
    value, _, found = learned("prisoners_dilemma", 50, [0], rule="lola_c", lookaheads=lookaheads, **settings)
    np.testing.assert_allclose(value, expected, atol=0.005)
    if play is not None:
        np.testing.assert_allclose(found[0], [play, play], atol=0.05)


@pytest.mark.slow
def test_matching_pennies_is_mixed_by_lola_and_circled_by_naive_players():
    # Foerster et al. (2018), table 3: 98.8 % of LOLA's runs and none of the naive ones play the equilibrium.
    rates = np.repeat([1.0, 0.0], 200)
    _, worth, play = learned("matching_pennies", 1000, [*range(200)] * 2, rates, gamma=0.9)
    mixed = np.all(np.abs(play - 0.5) < 0.05, axis=(1, 2))
    assert mixed[:200].mean() >= 0.85
    assert mixed[200:].mean() == 0 and worth[200:, 0].std() > 0.3
