"""The Coin Game against hand-played steps, plain Python, an exact Markov chain and JaxMARL's implementation."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marl_suite.envs import InputError, make
from marl_suite.envs.coin_game import CoinGame, CoinGameState

RIGHT, LEFT, DOWN, UP, STAY = range(5)
STEPS = {RIGHT: (0, 1), LEFT: (0, -1), DOWN: (1, 0), UP: (-1, 0), STAY: (0, 0)}
CELLS = range(9)
# The board, for reading the cases below:   0 1 2
#                                           3 4 5
#                                           6 7 8


def walk(cell, action, size=3):
    row, column = divmod(cell, size)
    return (row + STEPS[action][0]) % size * size + (column + STEPS[action][1]) % size


@functools.cache
def distance(a, b):
    """Moves between two cells of the 3x3 board, by breadth-first search."""
    reached, steps = {a}, 0
    while b not in reached:
        reached |= {walk(cell, action) for cell in reached for action in range(4)}
        steps += 1
    return steps


def at(agents, coins, time=0):
    return CoinGameState(jnp.asarray(agents, jnp.int32), jnp.asarray(coins, jnp.int32), jnp.asarray(time, jnp.int32))


@functools.partial(jax.jit, static_argnums=0)
def step(env, state, actions, params, key=0):
    return env.step(jax.random.key(key), state, actions, params)


def play(env, state, actions):
    """One step from `state`: next state, reward and metrics as numpy."""
    _, state, reward, _, _, info = step(env, state, jnp.asarray(actions), env.default_params)
    return jax.tree.map(np.asarray, (state, reward, info["metrics"]))


C, D, R = "always_cooperate", "always_defect", "random"


def rollout(env, players, start, key, pair, steps):
    """One game between the two `players` that `pair` indexes: (rewards, coins, own coins), each [T, N]."""
    params = env.default_params

    def turn(carry, key):
        state, observation = carry
        act_key, step_key = jax.random.split(key)
        act_keys = jax.random.split(act_key)
        choices = jnp.stack([jax.vmap(env.players[name])(observation, act_keys) for name in players])
        observation, state, reward, _, _, info = env.step_env(step_key, state, choices[pair, np.arange(2)], params)
        return (state, observation), (reward, info["metrics"]["coins"], info["metrics"]["own_coins"])

    return jax.lax.scan(turn, (start, env.observe(start, params)), jax.random.split(key, steps))[1]


@functools.cache
def league(env, players=(C, D), episodes=2_000, steps=50):
    """Per pair of players the rewards, coins and own coins of independent episodes, each [T, E, N]."""

    def game(key, pair):
        reset_key, key = jax.random.split(key)
        return rollout(env, players, env.reset(reset_key)[1], key, pair, steps)

    pairs = list(itertools.product(range(len(players)), repeat=2))
    keys = jax.random.split(jax.random.key(0), (len(pairs), episodes))
    games = jax.jit(jax.vmap(jax.vmap(game, (0, None), 1), (0, 0)))(keys, jnp.array(pairs))
    return {(players[a], players[b]): [np.asarray(x[i]) for x in games] for i, (a, b) in enumerate(pairs)}


# ------------------------------------------------------------------ rules, by hand
ONE_COIN_STEPS = [
    pytest.param("both", (0, 8), (1, -1), (RIGHT, UP), (1, 0), (1, 0), (1, 0), id="red takes its own coin"),
    pytest.param("both", (0, 8), (-1, 1), (RIGHT, UP), (1, -2), (1, 0), (0, 0), id="red takes the blue coin"),
    pytest.param("both", (8, 4), (-1, 5), (LEFT, RIGHT), (0, 1), (0, 1), (0, 1), id="blue takes its own coin"),
    pytest.param("both", (8, 4), (5, -1), (LEFT, RIGHT), (-2, 1), (0, 1), (0, 0), id="blue takes the red coin"),
    pytest.param("both", (0, 8), (4, -1), (RIGHT, UP), (0, 0), (0, 0), (0, 0), id="nobody moves onto the coin"),
    pytest.param("both", (0, 2), (1, -1), (RIGHT, LEFT), (-1, 1), (1, 1), (1, 0), id="both reach red's coin"),
    pytest.param("both", (0, 2), (-1, 1), (RIGHT, LEFT), (1, -1), (1, 1), (0, 1), id="both reach blue's coin"),
    pytest.param("red", (0, 2), (1, -1), (RIGHT, LEFT), (1, 0), (1, 0), (1, 0), id="red wins the tie for its coin"),
    pytest.param("red", (0, 2), (-1, 1), (RIGHT, LEFT), (1, -2), (1, 0), (0, 0), id="red wins the tie for blue's coin"),
    pytest.param(
        "red", (8, 2), (1, -1), (UP, LEFT), (-2, 1), (0, 1), (0, 0), id="blue takes alone although red wins ties"
    ),
]


@pytest.mark.parametrize(("tie", "agents", "coins", "actions", "reward", "taken", "own"), ONE_COIN_STEPS)
def test_one_coin_pays_as_played_by_hand(tie, agents, coins, actions, reward, taken, own):
    state, got, metrics = play(make("coin_game", tie=tie), at(agents, coins), actions)
    np.testing.assert_array_equal(got, np.float32(reward))
    np.testing.assert_array_equal(metrics["coins"], taken)
    np.testing.assert_array_equal(metrics["own_coins"], own)
    np.testing.assert_array_equal(state.agents, [walk(c, a) for c, a in zip(agents, actions, strict=True)])
    assert state.time == 1
    if sum(taken):  # a new coin of the other colour
        assert (state.coins[0] >= 0) == (coins[0] < 0) and (state.coins[1] >= 0) == (coins[1] < 0)
    else:
        np.testing.assert_array_equal(state.coins, coins)


TWO_COIN_STEPS = [
    pytest.param((0, 8), (1, 5), (RIGHT, UP), (1, 1), (1, 1), (1, 1), id="each takes its own"),
    pytest.param((0, 8), (5, 1), (RIGHT, UP), (-1, -1), (1, 1), (0, 0), id="each takes the other's"),
    pytest.param((0, 2), (1, 7), (RIGHT, LEFT), (-1, 1), (1, 1), (1, 0), id="both reach red's coin"),
    pytest.param((0, 8), (1, 1), (RIGHT, UP), (2, -2), (2, 0), (1, 0), id="red takes both coins on one cell"),
    pytest.param((0, 2), (1, 1), (RIGHT, LEFT), (0, 0), (2, 2), (1, 1), id="both reach both coins on one cell"),
    pytest.param((4, 8), (4, 0), (STAY, STAY), (1, 0), (1, 0), (1, 0), id="staying takes the coin underfoot"),
    pytest.param((4, 8), (4, 0), (UP, STAY), (0, 0), (0, 0), (0, 0), id="leaving the coin underfoot does not take it"),
]


@pytest.mark.parametrize(("agents", "coins", "actions", "reward", "taken", "own"), TWO_COIN_STEPS)
def test_two_coins_pay_as_played_by_hand(agents, coins, actions, reward, taken, own):
    state, got, metrics = play(make("coin_game_two_coins"), at(agents, coins), actions)
    np.testing.assert_array_equal(got, np.float32(reward))
    np.testing.assert_array_equal(metrics["coins"], taken)
    np.testing.assert_array_equal(metrics["own_coins"], own)
    assert (state.coins >= 0).all()
    untouched = ~np.isin(coins, state.agents)
    np.testing.assert_array_equal(state.coins[untouched], np.asarray(coins)[untouched])


def test_the_board_wraps_around():
    env = CoinGame(rules="two_coins")
    cells, actions = np.meshgrid(CELLS, range(5), indexing="ij")
    expected = [[walk(c, a) for a in range(5)] for c in CELLS]
    np.testing.assert_array_equal(env.move(jnp.asarray(cells), jnp.asarray(actions)), expected)
    assert [walk(0, a) for a in (RIGHT, LEFT, DOWN, UP, STAY)] == [1, 2, 3, 6, 0]


def test_reward_is_linear_in_traced_payoffs():
    env, state, actions = make("coin_game"), at((0, 8), (-1, 1)), jnp.array([RIGHT, UP])

    params = env.default_params.replace(take_reward=jnp.array([1.0, 3.0]), mismatch_penalty=jnp.array([-2.0, 0.5]))
    axes = env.default_params.replace(take_reward=0, mismatch_penalty=0, max_steps=None)
    reward = jax.vmap(step, (None, None, None, axes))(env, state, actions, params)[2]
    np.testing.assert_array_equal(reward, [[1, -2], [3, 0.5]])


# ------------------------------------------------------------------ where coins appear
def assert_uniform(draws, support):
    """Every value of `support` appears, within five standard deviations of uniform, and nothing else does."""
    values, counts = np.unique(draws, return_counts=True)
    assert values.tolist() == sorted(support)
    p = 1 / len(support)
    assert np.abs(counts - len(draws) * p).max() <= 5 * np.sqrt(len(draws) * p * (1 - p))


def coins_after(env, agents, coins, actions, samples=20_000):
    draw = jax.vmap(step, (None, None, None, None, 0))
    state = draw(env, at(agents, coins), jnp.array(actions), env.default_params, jnp.arange(samples))[1]
    return np.asarray(state.coins)


@pytest.mark.parametrize(("agents", "actions"), [((0, 8), (RIGHT, UP)), ((0, 2), (RIGHT, LEFT)), ((4, 7), (UP, UP))])
def test_one_coin_reappears_uniformly_on_cells_without_an_agent(agents, actions):
    coins = coins_after(make("coin_game"), agents, (1, -1), actions)
    assert (coins[:, 0] == -1).all()
    assert_uniform(coins[:, 1], set(CELLS) - {walk(c, a) for c, a in zip(agents, actions, strict=True)})


def test_random_colour_is_a_fair_flip_independent_of_the_cell():
    coins = coins_after(make("coin_game", colour="random"), (0, 8), (1, -1), (RIGHT, UP))
    red = coins[:, 0] >= 0
    assert (red != (coins[:, 1] >= 0)).all()
    assert_uniform(coins.max(axis=1) + 9 * red, {c + 9 * r for c in CELLS for r in (0, 1)} - {1, 5, 10, 14})


def test_two_coins_reappear_on_any_cell_independently():
    coins = coins_after(make("coin_game_two_coins"), (0, 8), (1, 5), (RIGHT, UP), samples=40_000)
    assert_uniform(coins[:, 0] * 9 + coins[:, 1], range(81))


def test_one_coin_starts_apart_and_two_coins_start_anywhere():
    def starts(name, samples):
        env = make(name)
        keys = jax.random.split(jax.random.key(2), samples)
        state = jax.jit(jax.vmap(lambda key: env.reset(key)[1]))(keys)
        return np.asarray(state.agents), np.asarray(state.coins)

    agents, coins = starts("coin_game", 40_000)
    assert_uniform(agents[:, 0] * 9 + agents[:, 1], {a * 9 + b for a in CELLS for b in CELLS if a != b})
    assert_uniform(coins[:, 0] >= 0, {False, True})
    assert ((coins >= 0).sum(axis=1) == 1).all()
    assert not (agents == coins.max(axis=1)[:, None]).any()
    agents, coins = starts("coin_game_two_coins", 150_000)
    assert_uniform(np.hstack([agents, coins]) @ 9 ** np.arange(4), range(9**4))


# ------------------------------------------------------------------ against other implementations
class PlainGame:
    """The same rules in plain Python, told where new coins appear."""

    def __init__(self, env, agents, coins):
        self.env, self.agents, self.coins = env, list(agents), list(coins)

    def step(self, actions, coins_after):
        size = self.env.grid_size
        self.agents = [walk(cell, action, size) for cell, action in zip(self.agents, actions, strict=True)]
        reward, taken, own = [0, 0], [0, 0], [0, 0]
        gone = [colour for colour in (0, 1) if self.coins[colour] in self.agents]
        for colour in gone:
            takers = [i for i in (0, 1) if self.agents[i] == self.coins[colour]]
            for taker in takers[:1] if self.env.tie == "red" else takers:
                reward[taker] += 1
                taken[taker] += 1
                own[taker] += taker == colour
                reward[colour] -= 2 * (taker != colour)
        self.replace(gone, coins_after)
        return reward, taken, own

    def replace(self, gone, coins_after):
        if self.env.rules == "two_coins":
            self.coins = [coins_after[c] if c in gone else self.coins[c] for c in (0, 1)]
        elif gone:
            colour = 1 - gone[0] if self.env.colour == "alternate" else int(coins_after[1] >= 0)
            self.coins = [-1, -1]
            self.coins[colour] = coins_after[colour]
            assert self.coins[colour] not in (-1, *self.agents)

    def observation(self, agent):
        size, order = self.env.grid_size, (agent, 1 - agent)
        view = np.zeros((size, size, 4), np.uint8)
        shift = np.subtract(size // 2, divmod(self.agents[agent], size)) if self.env.egocentric else (0, 0)
        for plane, cell in enumerate([self.agents[i] for i in order] + [self.coins[i] for i in order]):
            if cell >= 0:
                row, column = divmod(cell, size)
                view[(row + shift[0]) % size, (column + shift[1]) % size, plane] = 1
        return view


@pytest.mark.parametrize(
    "env",
    [
        CoinGame(),
        CoinGame(tie="red", colour="random", egocentric=True),
        CoinGame(rules="two_coins", egocentric=True),
        CoinGame(rules="two_coins", grid_size=4),
        CoinGame(grid_size=2),
    ],
    ids=["one_coin", "red_random_egocentric", "two_coins_egocentric", "two_coins_4x4", "one_coin_2x2"],
)
def test_agrees_step_by_step_with_plain_python(env):
    params, steps = env.default_params, 400

    def turn(state, key):
        act_key, step_key = jax.random.split(key)
        actions = jax.random.randint(act_key, (2,), 0, env.action_space().n)
        observation, state, reward, _, _, info = env.step_env(step_key, state, actions, params)
        return state, (actions, observation, state, reward, info["metrics"])

    observation, start = env.reset(jax.random.key(3))
    trajectory = jax.jit(lambda s, k: jax.lax.scan(turn, s, k))(start, jax.random.split(jax.random.key(4), steps))[1]
    actions, observations, states, rewards, metrics = jax.tree.map(np.asarray, trajectory)
    game = PlainGame(env, np.asarray(start.agents), np.asarray(start.coins))
    np.testing.assert_array_equal(observation, [game.observation(i) for i in (0, 1)])
    for t in range(steps):
        reward, taken, own = game.step(actions[t], states.coins[t])
        np.testing.assert_array_equal(states.agents[t], game.agents)
        np.testing.assert_array_equal(states.coins[t], game.coins)
        np.testing.assert_array_equal(rewards[t], reward)
        np.testing.assert_array_equal(metrics["coins"][t], taken)
        np.testing.assert_array_equal(metrics["own_coins"][t], own)
        np.testing.assert_array_equal(observations[t], [game.observation(i) for i in (0, 1)])
    assert metrics["coins"].sum() > steps / 10


@pytest.mark.parametrize("egocentric", [False, True])
def test_two_coins_agree_with_jaxmarl(egocentric):
    jaxmarl = pytest.importorskip("jaxmarl.environments.coin_game.coin_game")
    ours = make("coin_game_two_coins", egocentric=egocentric)
    theirs = jaxmarl.CoinGame(cnn=True, egocentric=egocentric)
    params, samples = ours.default_params, 4_000
    keys = jax.random.split(jax.random.key(5), samples)
    cells = jax.random.randint(jax.random.key(6), (samples, 4), 0, 9)
    actions = jax.random.randint(jax.random.key(7), (samples, 2), 0, 5)

    def our_step(key, cells, actions):
        state = at(cells[:2], cells[2:])
        _, state, reward, _, _, _ = ours.step_env(key, state, actions, params)
        return state.agents, state.coins, reward

    def their_step(key, cells, actions):
        names = ("red_pos", "blue_pos", "red_coin_pos", "blue_coin_pos")
        pairs = {name: jnp.stack([cell // 3, cell % 3]) for name, cell in zip(names, cells, strict=True)}
        _, state = theirs.reset(key)
        view, state, reward, _, _ = theirs.step_env(key, state.replace(**pairs), {"0": actions[0], "1": actions[1]})
        after = jnp.stack([getattr(state, name)[0] * 3 + getattr(state, name)[1] for name in names])
        return after, jnp.stack([reward["0"], reward["1"]]), jnp.stack([view["0"], view["1"]])

    agents, coins, reward = jax.jit(jax.vmap(our_step))(keys, cells, actions)
    their_cells, their_reward, their_view = jax.jit(jax.vmap(their_step))(keys, cells, actions)
    np.testing.assert_array_equal(agents, their_cells[:, :2])
    np.testing.assert_array_equal(reward, their_reward)
    untaken = (cells[:, None, 2:] != agents[:, :, None]).all(axis=1)
    np.testing.assert_array_equal(jnp.where(untaken, coins, 0), jnp.where(untaken, their_cells[:, 2:], 0))
    observe = jax.vmap(lambda cells: ours.observe(at(cells[:2], cells[2:]), params))
    np.testing.assert_array_equal(observe(their_cells), their_view)


# ------------------------------------------------------------------ scripted players
def plain_choices(player, rules, me, mine, others):
    """The actions that a player may choose, from its cell and the coins' (None where there is no such coin)."""
    actions = range(4 if rules == "one_coin" else 5)
    reached = {a: walk(me, a) for a in actions}
    if player == "random":
        return set(actions)
    if player == "always_defect":
        cost = {a: min(distance(reached[a], coin) for coin in (mine, others) if coin is not None) for a in actions}
    elif mine is None:
        cost = {a: -distance(reached[a], others) for a in actions}
    else:
        cost = {a: distance(reached[a], mine) for a in actions if reached[a] == mine or reached[a] != others}
        cost = {a: c for a, c in cost.items() if a != STAY or c == 0}
    return {a for a in cost if cost[a] == min(cost.values())}


@pytest.mark.parametrize("rules", ["one_coin", "two_coins"])
def test_scripted_players_choose_uniformly_what_plain_python_allows(rules):
    spots = [-1, *CELLS] if rules == "one_coin" else CELLS
    boards = [(me, mine, others) for me in CELLS for mine in spots for others in spots]
    if rules == "one_coin":
        boards = [b for b in boards if (b[1] < 0) != (b[2] < 0) and b[0] not in b[1:]]
    keys = jax.random.split(jax.random.key(8), 300)

    @jax.jit
    @jax.vmap
    def choices(board):
        state, envs = at([board[0], 0], board[1:]), [CoinGame(rules=rules, egocentric=ego) for ego in (False, True)]
        views = [env.observe(state, env.default_params)[0] for env in envs]
        act = [[jax.vmap(env.players[name], (None, 0)) for name in (C, D)] for env in envs]
        return jnp.stack([jnp.stack([f(view, keys) for f in row]) for row, view in zip(act, views, strict=True)])

    chosen = np.asarray(choices(jnp.asarray(boards)))  # [boards, view, player, keys]
    np.testing.assert_array_equal(chosen[:, 0], chosen[:, 1])  # the view's frame does not matter
    for board, by_player in zip(boards, chosen[:, 0], strict=True):
        me, mine, others = (cell if cell >= 0 else None for cell in board)
        for name, actions in zip((C, D), by_player, strict=True):
            assert_uniform(actions, plain_choices(name, rules, me, mine, others))


def test_a_cooperator_walks_around_the_coin_of_the_other():
    """On a wide board the only shortest way may lead over the other's coin: 0, then blue's coin, then red's."""
    env, keys = CoinGame(rules="two_coins", grid_size=7), jax.random.split(jax.random.key(10), 100)
    start, pair = at((0, 0), (2, 1)), jnp.zeros(2, jnp.int32)
    game = jax.jit(jax.vmap(lambda key: rollout(env, (C,), start, key, pair, steps=40)))
    _, coins, own = jax.tree.map(np.asarray, game(keys))  # [E, T, N]
    assert (own[:, :, 0].max(axis=1) == 1).all()
    first = own[:, :, 0].argmax(axis=1)
    assert (first >= 3).all() and coins[:, :, 0][np.arange(40) < first[:, None]].sum() == 0


@functools.cache
def exact_rewards(players, tie="both", colour="alternate", steps=50):
    """Mean reward per step of red and blue, from the Markov chain over (red, blue, coin, owner)."""
    boards = list(itertools.product(CELLS, CELLS, CELLS, (0, 1)))
    index: dict[tuple[int, ...], int] = {board: i for i, board in enumerate(boards)}
    flow, reward = np.zeros((len(boards), len(boards))), np.zeros((len(boards), 2))
    for i, (red, blue, coin, owner) in enumerate(boards):
        seen = [(coin, None) if owner == i else (None, coin) for i in (0, 1)]
        choices = [plain_choices(p, "one_coin", me, *s) for p, me, s in zip(players, (red, blue), seen, strict=True)]
        chance = 1 / len(choices[0]) / len(choices[1])
        for moves in itertools.product(*choices):
            agents = walk(red, moves[0]), walk(blue, moves[1])
            takers = [i for i in (0, 1) if agents[i] == coin][: 1 if tie == "red" else 2]
            for taker in takers:
                reward[i, taker] += chance
                reward[i, owner] -= 2 * chance * (taker != owner)
            owners = (owner,) if not takers else (1 - owner,) if colour == "alternate" else (0, 1)
            cells = [c for c in CELLS if c not in agents] if takers else [coin]
            for after in itertools.product(cells, owners):
                flow[i, index[(*agents, *after)]] += chance / len(cells) / len(owners)
    now = np.array([float(len({red, blue, coin}) == 3) for red, blue, coin, _ in boards])
    now, total = now / now.sum(), np.zeros(2)
    for _ in range(steps):
        total, now = total + now @ reward, now @ flow
    return total / steps


@pytest.mark.parametrize(
    ("players", "published", "tolerance"),
    [((C, C), (0.347, 0.347), 0.02), ((D, D), (0, 0), 0.02), ((D, C), (0.631, -0.269), 0.03), ((R, R), (0, 0), 0.02)],
)
def test_scripted_pairs_earn_the_exact_and_the_published_rewards(players, published, tolerance):
    rewards, coins, own = league(CoinGame(), (C, D, R))[players]
    exact = exact_rewards(players)
    returns = rewards.mean(axis=0)
    np.testing.assert_array_less(np.abs(returns.mean(axis=0) - exact), 5 * returns.std(axis=0) / np.sqrt(len(returns)))
    np.testing.assert_allclose(exact, published, atol=tolerance)
    np.testing.assert_allclose(returns.mean(axis=0), published, atol=tolerance)
    share = own.sum(axis=(0, 1)) / coins.sum(axis=(0, 1))
    for player, part in zip(players, share, strict=True):
        if player == C:
            assert part == 1
        elif players[0] == players[1]:
            assert part == pytest.approx(0.5, abs=0.01)


def test_cooperators_find_a_coin_every_ten_sevenths_of_a_step():
    long, longer = exact_rewards((C, C), steps=100), exact_rewards((C, C), steps=101)
    np.testing.assert_allclose(longer * 101 - long * 100, 0.35, atol=1e-9)


@pytest.mark.parametrize(
    ("settings", "players", "documented"),
    [
        ({}, (C, C), (0.3486, 0.3486)),
        ({}, (D, C), (0.6367, -0.2657)),
        ({"colour": "random"}, (D, C), (0.6500, -0.2886)),
        ({"tie": "red"}, (D, D), (0.6454, -0.6454)),
        ({"tie": "red"}, (D, C), (0.6367, -0.4248)),
        ({"tie": "red"}, (R, R), (0.0126, -0.0126)),
    ],
)
def test_the_documented_table_is_what_the_chain_says(settings, players, documented):
    np.testing.assert_allclose(exact_rewards(players, **settings), documented, atol=5e-5)


def test_two_coins_are_a_dilemma():
    mean = {pair: rewards.mean(axis=(0, 1)) for pair, (rewards, _, _) in league(CoinGame(rules="two_coins")).items()}
    np.testing.assert_allclose(mean[D, D], 0, atol=0.02)  # greedy play ignores colour
    np.testing.assert_allclose(mean[C, C], 0.61, atol=0.02)
    np.testing.assert_allclose(mean[D, C], (0.71, -0.15), atol=0.02)
    assert mean[D, C][0] > mean[C, C][0] and mean[D, C][1] < mean[D, D][1]


# ------------------------------------------------------------------ the contract
def test_own_agent_is_in_the_middle_of_an_egocentric_view():
    env = make("coin_game", egocentric=True, grid_size=5)
    red, blue = np.asarray(env.observe(at((0, 24), (7, -1)), env.default_params))
    assert [tuple(np.argwhere(view[..., 0])[0]) for view in (red, blue)] == [(2, 2), (2, 2)]
    assert np.argwhere(red[..., 1]).tolist() == [[1, 1]]  # blue, diagonally behind across both edges
    assert np.argwhere(red[..., 2]).tolist() == [[3, 4]] and not red[..., 3].any()
    assert np.argwhere(blue[..., 3]).tolist() == [[4, 0]] and not blue[..., 2].any()


def test_an_episode_is_truncated_after_max_steps_and_starts_anew():
    env, params = make("coin_game"), make("coin_game").make_params(max_steps=7)
    actions = jnp.array([RIGHT, UP])
    state = at((0, 8), (1, -1), time=6)
    observation, after, reward, terminated, truncated, info = step(env, state, actions, params)
    last = env.observe(play(env, state, actions)[0], params)  # of the default 50 steps this is not the last
    assert truncated and not terminated and after.time == 0
    np.testing.assert_array_equal(reward, [1, 0])
    np.testing.assert_array_equal(info["final_observation"], last)
    np.testing.assert_array_equal(observation, env.observe(after, params))
    assert not step(env, state.replace(time=5), actions, params)[4]


@pytest.mark.parametrize("name", ["coin_game", "coin_game_two_coins"])
def test_jit_equals_eager_without_reusing_keys(name):
    env = make(name)

    def game(key):
        reset_key, step_key = jax.random.split(key)
        _, state = env.reset(reset_key)
        return env.step(step_key, state.replace(time=state.time + 49), jnp.array([RIGHT, UP]))

    with jax.debug_key_reuse(True):
        jitted = jax.jit(game)(jax.random.key(9))
    with jax.disable_jit():
        eager = game(jax.random.key(9))
    jax.tree.map(np.testing.assert_array_equal, jitted, eager)
    assert all(env.observation_space().contains(view) for view in jitted[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_agents": 3}, "num_agents=3"),
        ({"rules": "two_coin"}, "closest: 'two_coins'"),
        ({"tie": "rde"}, "closest: 'red'"),
        ({"colour": "alternating"}, "closest: 'alternate'"),
        ({"grid_size": 1}, "grid_size must be at least 2, got 1"),
        ({"rules": "two_coins", "tie": "red"}, "tie='red' needs rules='one_coin'"),
        ({"rules": "two_coins", "colour": "random"}, "colour='random' needs rules='one_coin'"),
    ],
)
def test_bad_settings_are_refused_in_one_line(settings, message):
    with pytest.raises(InputError, match=message) as error:
        make("coin_game", **settings)
    assert "\n" not in str(error.value)


def test_bad_parameters_are_refused():
    with pytest.raises(InputError, match="max_steps must be at least 1, got 0"):
        make("coin_game").make_params(max_steps=0)
