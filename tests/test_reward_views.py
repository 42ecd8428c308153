"""Reward views: every formula against a plain loop, and what each makes rational in games worked out by hand."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from probes import PROBES, Counter, Probe, Tagged

from marl_suite.baselines.exact import ExactShaping, policies
from marl_suite.baselines.ppo import IPPO
from marl_suite.envs import InputError, make
from marl_suite.envs.reward_views import REWARD_VIEWS, FehrSchmidt, InequityAversion, SelfInterest, read_view
from marl_suite.envs.testing import check_environment
from marl_suite.envs.wrappers import RewardView, ViewedParams, reward_view, viewed_params
from marl_suite.training import Fit


# ---------------------------------------------------------------------- the formulas
def mean_of_others(payoffs, i):
    others = [p for j, p in enumerate(payoffs) if j != i]
    return sum(others) / len(others)


def inequity(standing, i, alpha, beta):
    """What agent i pays for standing where it does."""
    total = 0.0
    for j, other in enumerate(standing):
        if j != i:
            total += alpha * (other - standing[i]) if other > standing[i] else beta * (standing[i] - other)
    return total / (len(standing) - 1)


def split_cost(payoffs, i, angle, weight):
    """What agent i pays for a split away from its angle."""
    own, others = payoffs[i], mean_of_others(payoffs, i)
    if own == 0 and others == 0:
        return 0.0
    apart = abs(math.degrees(math.atan2(others, own)) - angle)
    return weight * math.radians(360 - apart if apart > 180 else apart)


def expected(name, payoffs, numbers):
    """The reward of every agent in the first step of an episode."""
    agents = range(len(payoffs))
    if name in ("fehr_schmidt", "inequity_aversion"):
        return [payoffs[i] - inequity(payoffs, i, numbers["alpha"], numbers["beta"]) for i in agents]
    if name == "social_value_orientation":
        return [payoffs[i] - split_cost(payoffs, i, **numbers) for i in agents]
    if name == "self_interest":
        return [numbers["s"] * payoffs[i] + (1 - numbers["s"]) * mean_of_others(payoffs, i) for i in agents]
    total = sum(payoffs)
    return [{"individual": payoffs[i], "team": total, "team_mean": total / len(payoffs)}[name] for i in agents]


def rewards(view, payoffs):
    return view(jnp.asarray(payoffs, jnp.float32), view.initial(len(payoffs)))[0]


# Quarters add up without rounding, so that no angle hangs on the last bit of a sum that is zero.
payoff_lists = st.lists(st.integers(-40, 40).map(lambda x: x / 4), min_size=2, max_size=6)
shares, weights = st.floats(0, 1, width=32), st.floats(0, 8, width=32)
RANGES = {
    "individual": {},
    "team": {},
    "team_mean": {},
    "self_interest": {"s": shares},
    "social_value_orientation": {"angle": st.floats(-180, 180, width=32), "weight": weights},
    "fehr_schmidt": {"alpha": weights, "beta": weights},
    "inequity_aversion": {"alpha": weights, "beta": weights, "decay": shares},
}


@pytest.mark.parametrize("name", RANGES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_every_view_is_its_formula(name, data):
    payoffs, numbers = data.draw(payoff_lists), data.draw(st.fixed_dictionaries(RANGES[name]))
    view = read_view(":".join([name, *(f"{key}={value!r}" for key, value in numbers.items())]))
    given_rewards = rewards(view, payoffs)
    assert given_rewards.dtype == jnp.float32
    np.testing.assert_allclose(given_rewards, expected(name, payoffs, numbers), rtol=1e-5, atol=2e-4)


def test_every_view_is_listed_with_its_formula_and_says_whether_interests_are_common():
    assert list(RANGES) == list(REWARD_VIEWS)
    for name, view in REWARD_VIEWS.items():
        line = (view.__doc__ or "").splitlines()[0]
        assert "r_i = " in line and view.name == name
        assert (len(set(rewards(view(), [1.0, -2.0, 4.0]).tolist())) == 1) == view.common


@settings(max_examples=20, deadline=None)
@given(payoffs=payoff_lists, s=shares)
def test_what_is_transferred_is_received(payoffs, s):
    np.testing.assert_allclose(rewards(SelfInterest(s=s), payoffs).sum(), sum(payoffs), atol=1e-3)
    np.testing.assert_allclose(rewards(SelfInterest(s=1.0), payoffs), payoffs)
    mean = rewards(read_view("team_mean"), payoffs)
    np.testing.assert_allclose(rewards(SelfInterest(s=1 / len(payoffs)), payoffs), mean, atol=1e-4)


@pytest.mark.parametrize(
    ("payoffs", "angle", "degrees"),  # by how much agent 0's split is off
    [
        ((2, 2), 45, 0),
        ((2, 0), 45, 45),
        ((0, 2), 45, 45),
        ((0, 2), 0, 90),
        ((1, 4, 4, -5), 45, 0),  # others get 1 on average
        ((-1, 1), 45, 90),
        ((-1, -1), 45, 180),
        ((1, -1), 45, 90),
        ((-1, -1), 180, 45),  # -135 and 180 degrees: the shorter way round
        ((-3, 0), 0, 180),
        ((0, 3, -3), 45, 0),  # no angle
    ],
)
def test_a_split_costs_the_weight_for_every_radian_that_it_is_off(payoffs, angle, degrees):
    view = read_view(f"social_value_orientation:angle={angle}:weight=2")
    np.testing.assert_allclose(rewards(view, payoffs)[0], payoffs[0] - 2 * math.radians(degrees), atol=1e-5)


@pytest.mark.parametrize("name", REWARD_VIEWS)
@pytest.mark.parametrize("num_agents", [2, 5])
def test_an_idle_step_costs_nothing(name, num_agents):
    np.testing.assert_array_equal(rewards(read_view(name), np.zeros(num_agents)), 0)


@pytest.mark.parametrize("view", [FehrSchmidt(alpha=5.0, beta=0.05), InequityAversion()])
def test_alpha_is_envy_and_beta_is_guilt(view):
    np.testing.assert_allclose(rewards(view, [0.0, 1.0]), [0 - 5, 1 - 0.05], rtol=1e-6)
    np.testing.assert_allclose(rewards(view, [0.0, 0.0, 1.0]), [-2.5, -2.5, 0.95], rtol=1e-6)


# ---------------------------------------------------------------------- memory
def test_smoothed_payoffs_are_those_of_the_episode_and_of_nothing_before_it():
    env = reward_view(Tagged(), "inequity_aversion:alpha=0.5:beta=0.25:decay=0.75")
    params, num_envs, num_steps = env.default_params, 6, 14

    def step(state, key):
        action_key, step_key = jax.random.split(key)
        actions = jax.random.randint(action_key, (num_envs, 3), 0, 5)
        keys = jax.random.split(step_key, num_envs)
        _, state, reward, terminated, truncated, info = jax.vmap(env.step, (0, 0, 0, None))(
            keys, state, actions, params
        )
        return state, (reward, info["payoff"], terminated, truncated, state.trace)

    def play(key):
        start_key, key = jax.random.split(key)
        _, state = jax.vmap(env.reset, (0, None))(jax.random.split(start_key, num_envs), params)
        return state.trace, jax.lax.scan(step, state, jax.random.split(key, num_steps))[1]

    start, played = jax.jit(play)(jax.random.key(0))
    reward, payoff, terminated, truncated, trace = map(np.asarray, played)
    assert terminated.any() and truncated.any() and len(set((terminated | truncated).argmax(0))) > 1
    np.testing.assert_array_equal(start, 0)
    for env_number in range(num_envs):
        smoothed = [0.0] * 3
        for t in range(num_steps):
            paid = payoff[t, env_number].tolist()
            smoothed = [0.75 * e + p for e, p in zip(smoothed, paid, strict=True)]
            wanted = [paid[i] - inequity(smoothed, i, 0.5, 0.25) for i in range(3)]
            np.testing.assert_allclose(reward[t, env_number], wanted, rtol=1e-5)
            if terminated[t, env_number] or truncated[t, env_number]:
                smoothed = [0.0] * 3
            np.testing.assert_allclose(trace[t, env_number], smoothed, rtol=1e-5)


# ---------------------------------------------------------------------- what is rational
GRID = np.linspace(0, 1, 21, dtype=np.float32)
SLACK = 1e-5


def swept(game, view, **numbers):
    """The parameters of `game` under `view` with many values of some of its numbers, and their axes."""
    nowhere = jax.tree.map(lambda _: None, view)
    axes = ViewedParams(None, nowhere.replace(**dict.fromkeys(numbers, 0)))
    return ViewedParams(game.default_params, view.replace(**numbers)), axes


def test_prisoners_cooperate_without_regret_up_to_a_self_interest_of_three_fifths():
    game = make("prisoners_dilemma", payoffs="melting_pot")  # 3, 0, 5, 1
    env = reward_view(game, "self_interest")
    params, axes = swept(game, SelfInterest(), s=GRID)
    traced = []

    @jax.jit
    def tables(params):
        def table(params):
            traced.append(params)
            return env.stage_payoffs(params)

        return jax.vmap(table, (axes,))(params)

    games = np.asarray(tables(params))  # [S, 2, A, A]
    assert games.shape == (21, 2, 2, 2) and len(traced) == 1
    weakly_dominant = np.all(games[:, 0, 0] >= games[:, 0, 1] - SLACK, axis=-1)
    np.testing.assert_array_equal(weakly_dominant, GRID <= 0.6 + SLACK)
    np.testing.assert_allclose(games[:, 1], games[:, 0].swapaxes(1, 2), atol=1e-6)


@pytest.mark.parametrize(("num_agents", "factor"), [(2, 1.5), (5, 2.0)])
def test_public_goods_are_provided_up_to_a_self_interest_of_their_marginal_return(num_agents, factor):
    game = make("public_goods", num_agents=num_agents)
    env = reward_view(game, "self_interest")
    params, axes = swept(game, SelfInterest(), s=GRID)
    params = params.replace(game=params.game.replace(multiplication_factor=factor))
    _, state = env.reset(jax.random.key(0))
    joint = np.array(list(itertools.product(range(2), repeat=num_agents)), np.int32)

    def play(actions, params):
        return env.step(jax.random.key(0), state, actions, params)[2]

    lanes = jax.vmap(jax.vmap(play, (0, None)), (None, axes))
    reward = np.asarray(jax.jit(lanes)(joint, params)).reshape(21, *[2] * num_agents, num_agents)
    for agent in range(num_agents):
        own = np.moveaxis(reward[..., agent], 1 + agent, 1)  # [S, own action, others' actions]
        dominant = np.all(own[:, 0] >= own[:, 1] - SLACK, axis=tuple(range(1, num_agents)))
        np.testing.assert_array_equal(dominant, params.view.s <= factor / num_agents + SLACK)


@pytest.mark.parametrize("alpha", [0.0, 4.0])
def test_guilt_of_two_fifths_makes_mutual_cooperation_an_equilibrium(alpha):
    game = make("prisoners_dilemma", payoffs="melting_pot")
    env = reward_view(game, "fehr_schmidt")
    params, axes = swept(game, FehrSchmidt(alpha=alpha), beta=GRID)
    games = np.asarray(jax.vmap(env.stage_payoffs, (axes,))(params))
    for first, second in itertools.product(range(2), repeat=2):
        stays = (games[:, 0, first, second] >= games[:, 0, 1 - first, second] - SLACK) & (
            games[:, 1, first, second] >= games[:, 1, first, 1 - second] - SLACK
        )
        # Exploiting pays 5 (1 - beta) against 3; being exploited pays -5 alpha against 1 for both defecting.
        wanted = {(0, 0): GRID >= 0.4 - SLACK, (1, 1): np.ones(21, bool)}.get((first, second), np.zeros(21, bool))
        np.testing.assert_array_equal(stays, wanted, err_msg=f"{first, second}")


def test_exact_learners_turn_from_cooperation_to_defection_at_the_threshold():
    # Payoffs -1, -3, 0, -2: cooperating pays -1 against -3 (1 - s), and -3 s against -2, so both turn at s = 2/3. At
    # a discount of 0.05 the future is worth less than 0.08, and these gains of 0.2 and 0.25 decide in every state.
    env, seeds = make("prisoners_dilemma"), 5
    params, axes = swept(env, SelfInterest(), s=np.repeat(np.array([0.6, 0.75], np.float32), seeds))
    config = ExactShaping(rule="naive", gamma=0.05, lr=20.0, rollout_length=1, num_envs=1, reward_view="self_interest")
    (chunk,) = Fit(env, config, [*range(seeds)] * 2, 2000, params, chunks=1, axes=(None, axes))
    play = np.asarray(policies(jnp.asarray(chunk.state.learner.logits)))[..., 0]  # P(cooperate) [S, 2, 5]
    started = play[:, :, 4]
    assert np.all(started[:seeds] > 0.99) and np.all(started[seeds:] < 0.01), started
    assert np.all(play[:seeds, :, 0] > 0.95)  # after both cooperated
    assert np.all(play[seeds:, :, 3] < 0.05)  # after both defected


def test_a_view_with_memory_has_no_stage_game():
    env = make("prisoners_dilemma")
    assert reward_view(env, "inequity_aversion").stage_payoffs() is None
    assert reward_view(env, "fehr_schmidt").stage_payoffs() is not None
    assert reward_view(make("public_goods"), "team").stage_payoffs() is None
    with pytest.raises(InputError, match="no closed form"):
        Fit(env, ExactShaping(reward_view="inequity_aversion"), [0], 1)


@pytest.mark.slow
def test_public_goods_are_provided_below_the_self_interest_level_and_not_above_it():
    # N = 5 and r = 2: the level is 0.4. What is given now changes nothing later, so a short horizon spares noise.
    env, seeds = make("public_goods"), 10
    config = IPPO(hidden_sizes=(16,), num_envs=32, rollout_length=25, minibatches=1, lr=0.01, gamma=0.5)
    config = config.replace(gae_lambda=0.8, reward_view="self_interest")
    params, axes = swept(env, SelfInterest(), s=np.repeat(np.array([0.25, 0.6], np.float32), seeds))
    *_, chunk = Fit(env, config, [*range(seeds)] * 2, 40_000, params, chunks=5, axes=(None, axes))
    given_share = chunk.logs["metrics"]["cooperation"]
    assert np.all(given_share[:seeds] > 0.95) and np.all(given_share[seeds:] < 0.05), given_share


# ---------------------------------------------------------------------- around environments and in runs
@pytest.mark.parametrize("view", ["team", "inequity_aversion"])  # without and with a memory of its own
def test_an_environment_keeps_the_contract_under_every_view(view):
    env = reward_view(Tagged(num_agents=2), view)
    check_environment(env, num_steps=8)


def test_runs_take_the_games_parameters_and_axes_and_log_what_is_material():
    scale = np.array([[1.0, 1.0, 1.0], [0.0, 2.0, -1.0]], np.float32)
    params = Tagged().default_params.replace(scale=scale)
    config = Counter(reward_view="self_interest:s=0.25", rollout_length=24)
    fit = Fit(Tagged(), config, [0, 0], 1, params, axes=(None, 0))
    (chunk,) = fit
    payoff = chunk.logs["payoff"]
    np.testing.assert_allclose(payoff[1], payoff[0] * scale[1], rtol=1e-5)
    for lane in range(2):
        wanted = expected("self_interest", payoff[lane].tolist(), {"s": 0.25})  # it is linear, so true of means
        np.testing.assert_allclose(chunk.logs["learner"]["reward"][lane], wanted, rtol=1e-4)


def test_numbers_of_a_view_may_differ_between_the_lanes_of_one_run():
    s = np.array([0.0, 0.25, 1.0], np.float32)
    params, axes = swept(Tagged(), SelfInterest(), s=s)
    config = Counter(reward_view="self_interest", rollout_length=24)
    (chunk,) = Fit(Tagged(), config, [0] * 3, 1, params, axes=(None, axes))
    for lane in range(3):
        np.testing.assert_array_equal(chunk.logs["payoff"][lane], chunk.logs["payoff"][0])
        wanted = expected("self_interest", chunk.logs["payoff"][lane].tolist(), {"s": s[lane]})
        np.testing.assert_allclose(chunk.logs["learner"]["reward"][lane], wanted, rtol=1e-4)


def test_parameters_of_a_game_are_wrapped_with_the_numbers_of_the_text():
    game, params = Tagged(), Tagged().default_params
    env = reward_view(game, "self_interest:s=0.25")
    assert viewed_params(game, params) is params
    wanted = ViewedParams(params, SelfInterest(s=0.25))
    for given_params in (None, params, wanted, reward_view(game, "team").default_params):
        jax.tree.map(np.testing.assert_array_equal, viewed_params(env, given_params), wanted)
    other = ViewedParams(params, SelfInterest(s=0.75))
    assert viewed_params(env, other) is other


def test_parameters_of_the_game_and_numbers_of_the_view_are_made_and_checked_together():
    env = reward_view(make("public_goods"), "inequity_aversion:alpha=2")
    params = env.make_params(endowment=3, beta=1)
    assert (params.game.endowment, params.view.alpha, params.view.beta) == (3.0, 2.0, 1.0)
    assert env.default_params.view.beta == 0.05
    for bad, message in [
        ({"endowmnt": 1}, "did you mean 'endowment'"),
        ({"alfa": 1}, "did you mean 'alpha'"),
        ({"endowment": -1}, "endowment must be at least 0"),
        ({"decay": 1.5}, "decay must be at most 1, got 1.5"),
        ({"beta": [1, 2]}, "beta must be a number"),
    ]:
        with pytest.raises(InputError, match=message):
            env.make_params(**bad)
    env.check_params(params)
    with pytest.raises(InputError, match="beta must be at least 0"):
        env.check_params(params.replace(view=params.view.replace(beta=-1.0)))
    with pytest.raises(InputError, match="endowment must be at least 0"):
        env.check_params(params.replace(game=params.game.replace(endowment=-1.0)))


def test_a_lone_agent_has_nobody_to_be_compared_with():
    env = Probe()
    assert reward_view(env, "self_interest") is env
    with pytest.raises(InputError, match="needs two agents or more, probe has 1"):
        RewardView(env, "self_interest")
    Fit(env, Counter(reward_view="team"), [0], 1, PROBES["constant"])


# ---------------------------------------------------------------------- text
def test_text_gives_the_numbers_that_differ_from_defaults():
    view = read_view("inequity_aversion:alpha=2:decay=5e-1")
    assert view == InequityAversion(alpha=2.0, beta=0.05, decay=0.5)
    assert read_view("inequity_aversion") == InequityAversion(alpha=5.0, beta=0.05, decay=0.99 * 0.975)
    assert read_view("fehr_schmidt:beta=0") == FehrSchmidt(alpha=0.85, beta=0.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "unknown reward view ''"),
        ("teams", "unknown reward view 'teams'; did you mean 'team'"),
        ("selfinterest:s=1", "did you mean 'self_interest'"),
        ("team:s=1", "unknown number of reward view team: 's'; there are none"),
        ("inequity_aversion:betta=1", "unknown number of reward view inequity_aversion: 'betta'; did you mean 'beta'"),
        ("self_interest:", "written name=value, got ''"),
        ("self_interest:0.3", "written name=value, got '0.3'"),
        ("self_interest:s=", "s must be a number, got ''"),
        ("self_interest:s=half", "s must be a number, got 'half'"),
        ("self_interest:s=nan", "s must be finite, got 'nan'"),
        ("self_interest:s=0.1:s=0.2", "s is given twice"),
        ("self_interest:s=1.1", "s must be at most 1, got 1.1"),
        ("self_interest:s=-0.1", "s must be at least 0, got -0.1"),
        ("social_value_orientation:weight=-1", "weight must be at least 0"),
        ("social_value_orientation:angle=181", "angle must be at most 180"),
        ("social_value_orientation:angle=-181", "angle must be at least -180"),
        ("fehr_schmidt:alpha=-1", "fehr_schmidt: alpha must be at least 0"),
        ("fehr_schmidt:beta=-1", "fehr_schmidt: beta must be at least 0"),
        ("inequity_aversion:alpha=-1", "inequity_aversion: alpha must be at least 0"),
        ("inequity_aversion:decay=-0.1", "decay must be at least 0"),
        ("inequity_aversion:decay=1.1", "decay must be at most 1"),
    ],
)
def test_bad_text_is_refused_in_one_line_with_the_nearest_valid_name(text, message):
    with pytest.raises(InputError) as error:
        read_view(text)
    assert message in str(error.value) and "\n" not in str(error.value)
