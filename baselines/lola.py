"""LOLA: two agents, each of which takes the other's learning into account, by sampling.

Foerster et al. (2018), "Learning with Opponent-Learning Awareness", and (2018), "DiCE". Every update, agent i, from the
old parameters of both, imagines how the other would learn from K batches of play and improves what it gets afterwards:

    theta~_j <- theta_j
    K times:   theta~_j <- theta~_j + eta grad_{theta~_j} J_j(theta_i, theta~_j)       sampled under theta_i, theta~_j
    theta_i <- theta_i + lr d/d theta_i J_i(theta_i, theta~_j(theta_i))                sampled under theta_i, theta~_j

The last derivative runs through the K steps: that is the shaping. J are Loaded DiCE objectives (see
`marl_suite.learning.dice`), whose advantages come from a critic per agent. Games are sampled, never differentiated:
log-probabilities of what was played are recomputed under the parameters in question.

Without DiCE (`form="policy_gradient"`) the step is expanded to first order and everything comes from the one batch of
play that was collected, as in the first of the papers:

    theta_i <- theta_i + lr [grad_i J_i + eta grad_i <grad_j J_j, stop(grad_j J_i)>].
"""

import dataclasses
from functools import partial
from typing import ClassVar

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from marl_suite.algorithm import Act, ActResult, Configuration, EnvSpec, Learner, Metrics, Simulate, Trajectory, static
from marl_suite.envs.environment import PyTree, at_least, at_most, one_of
from marl_suite.envs.errors import InputError
from marl_suite.envs.spaces import Discrete
from marl_suite.learning import returns
from marl_suite.learning.dice import loaded_dice, num_episodes
from marl_suite.learning.distributions import Distribution, policy_distribution
from marl_suite.learning.networks import ACTIVATIONS, SequenceNetwork
from marl_suite.policies import NetworkPolicy


class LOLA(Configuration):
    """Learning with opponent-learning awareness: both agents anticipate, and shape, the other's learning.

    For two agents with discrete actions. An agent whose opponent is somebody else's learner, in a composition, cannot
    see its parameters and plays against a model of it, as with `opponent_modelling`; it sees what was observed, done
    and paid on both sides. With `lookaheads=0` this is the policy gradient with the same estimator, with
    `shaping=False` the other's step is foreseen but not influenced: two controls.
    """

    group: ClassVar[str] = "lola"

    lr: float = 0.2  # of the policies
    inner_lr: float = 0.3  # eta, the other's learning rate as each agent imagines it; always plain gradient ascent
    value_lr: float = 0.1  # of the critics, Adam
    model_lr: float = 0.1  # of the models of opponents, Adam
    gamma: float = 0.96  # discount
    gae_lambda: float = 1.0
    initial_scale: float = 1.0  # standard deviation of the last layer's weights, times the root of its inputs
    lookaheads: int = static(1)  # K, the other's imagined steps
    shaping: bool = static(True)  # whether the other's imagined steps are differentiated through
    form: str = static("dice")  # or "policy_gradient"
    optimiser: str = static("sgd")  # of the policies; or "adam"
    opponent_modelling: bool = static(False)  # whether the other's parameters are unknown and estimated from its play
    model_steps: int = static(10)  # of the models' maximum likelihood, per update
    num_envs: int = static(128)
    rollout_length: int = static(50)  # steps per batch of play
    hidden_sizes: tuple[int, ...] = static(())  # none: a table, logits linear in the observation
    activation: str = static("tanh")
    recurrent: bool = static(False)  # a GRU after the dense layers

    def build(self, spec: EnvSpec) -> Learner:
        return OpponentShaping(self, spec).learner()

    def check(self) -> None:
        one_of("lola.activation", self.activation, ACTIVATIONS)
        one_of("lola.form", self.form, ("dice", "policy_gradient"))
        one_of("lola.optimiser", self.optimiser, ("sgd", "adam"))
        at_least("lola.num_envs", self.num_envs, 2)  # each is the baseline of the others
        for field in ("rollout_length", "model_steps"):
            at_least(f"lola.{field}", getattr(self, field), 1)
        for field in ("lr", "inner_lr", "value_lr", "model_lr", "initial_scale", "lookaheads"):
            at_least(f"lola.{field}", getattr(self, field), 0)
        for field in ("gamma", "gae_lambda"):
            at_least(f"lola.{field}", getattr(self, field), 0)
            at_most(f"lola.{field}", getattr(self, field), 1)
        if min(self.hidden_sizes, default=1) < 1:
            raise InputError(f"lola.hidden_sizes needs positive sizes, got {self.hidden_sizes}")
        if self.recurrent and not self.hidden_sizes:
            raise InputError("lola.recurrent needs lola.hidden_sizes, the last of which is the size of the memory")
        if self.form == "policy_gradient" and self.lookaheads > 1:
            raise InputError(f"lola.lookaheads must be 0 or 1 with form policy_gradient, got {self.lookaheads}")


class LOLAState(struct.PyTreeNode):
    """Parameters with a leading axis of S own seats, or of both seats of the game."""

    policy: PyTree  # [S, ...]
    optimiser: PyTree  # [S, ...]
    model: PyTree  # [S, ...] what each own seat takes its opponent's policy for; empty when that is known
    model_optimiser: PyTree  # [S, ...]
    critic: PyTree  # [2, ...]
    critic_optimiser: PyTree  # [2, ...]
    critic_memory: PyTree  # [E, 2, H] before the next rollout, empty when feed-forward


class Batch(struct.PyTreeNode):
    """A batch of play and what its actions were worth."""

    trajectory: Trajectory  # [T, E, 2, ...] of the whole game
    advantage: jax.Array  # float32 [T, E, 2]


@dataclasses.dataclass(frozen=True)
class OpponentShaping:
    """The algorithm for one game; its methods are the learner's pure functions. `config` may hold traced numbers."""

    config: LOLA
    spec: EnvSpec

    # ------------------------------------------------------------------ who plays
    @property
    def seats(self) -> np.ndarray:
        """int [S]: the own seats in the game."""
        return np.asarray(self.spec.slots)

    @property
    def modelled(self) -> bool:
        """Whether opponents' parameters are unknown."""
        return self.config.opponent_modelling or len(self.seats) == 1

    @property
    def simulations(self) -> int:
        """Batches of play that one update imagines, for all own seats.

        The first is the collected one where that was played by the very policies in question.
        """
        if self.config.form == "policy_gradient" or not self.config.lookaheads:
            return 0
        return len(self.seats) * (self.config.lookaheads + self.modelled)

    def whole(self, trajectory: Trajectory) -> Trajectory:
        """The whole game's trajectory; models of others, whose memory nobody kept, begin it with a cleared one."""
        if trajectory.joint is None:
            return trajectory
        cleared = self.actor.initial_memory(self.config.num_envs, 2)
        memory = jax.tree.map(lambda both, own: both.at[:, self.seats].set(own), cleared, trajectory.memory)
        return trajectory.joint.replace(memory=memory)

    # ------------------------------------------------------------------ parts
    def network(self, num_outputs: int, scale: float) -> SequenceNetwork:
        config = self.config
        space, sizes = self.spec.observation_space, config.hidden_sizes
        return SequenceNetwork(
            space, num_outputs, sizes, config.recurrent, config.activation, scale, use_bias=bool(sizes)
        )

    @property
    def actor(self) -> SequenceNetwork:
        """Gives logits relative to the last action's: of two actions one logit, whose sigmoid is the first's chance."""
        assert isinstance(self.spec.action_space, Discrete)
        return self.network(self.spec.action_space.n - 1, self.config.initial_scale)

    @property
    def critic(self) -> SequenceNetwork:
        """Gives values divided by the discounted number of steps in a rollout: discounted averages of rewards."""
        return self.network(1, 0.0)

    @property
    def optimisers(self) -> tuple[optax.GradientTransformation, ...]:
        """Of policies, models and critics. All act on each number by itself, hence on each seat by itself."""
        config = self.config
        make = optax.adam if config.optimiser == "adam" else optax.sgd
        return make(config.lr), optax.adam(config.model_lr), optax.adam(config.value_lr)

    def apply(self, network: SequenceNetwork, params: PyTree, memory: PyTree, observation: PyTree, reset: jax.Array):
        """Outputs [T, E, S, ...] and memory [T, E, S, H] of S networks, each on its column of [T, E, S, ...]."""
        # A lookahead keeps the graphs of all its batches; what fills them is rather computed again.
        apply = jax.checkpoint(network.apply) if self.config.recurrent else network.apply
        return jax.vmap(apply, in_axes=(0, 1, 2, None), out_axes=2)(params, memory, observation, reset)

    def distribution(
        self, policies: PyTree, memory: PyTree, observation: PyTree, reset: jax.Array, mask: jax.Array | None
    ) -> tuple[Distribution, PyTree]:
        """Policies [T, E, S] of S seats on observations [T, E, S, ...], and their memory after every row."""
        outputs, memory = self.apply(self.actor, policies, memory, observation, reset)
        logits = jnp.concatenate([outputs, jnp.zeros_like(outputs[..., :1])], axis=-1)
        return policy_distribution(self.spec.action_space, logits, mask), memory

    # ------------------------------------------------------------------ acting
    def init(self, key: jax.Array) -> LOLAState:
        keys = jax.random.split(key, 3)
        policy_optimiser, model_optimiser, critic_optimiser = self.optimisers

        def params(network: SequenceNetwork, key: jax.Array, number: int) -> PyTree:
            return jax.vmap(network.fresh)(jax.random.split(key, number))

        policy = params(self.actor, keys[0], len(self.seats))
        model = params(self.actor, keys[1], len(self.seats)) if self.modelled else ()
        critic = params(self.critic, keys[2], 2)
        return LOLAState(
            policy=policy,
            optimiser=policy_optimiser.init(policy),
            model=model,
            model_optimiser=model_optimiser.init(model),
            critic=critic,
            critic_optimiser=critic_optimiser.init(critic),
            critic_memory=self.critic.initial_memory(self.config.num_envs, 2),
        )

    def memory(self, num_envs: int) -> PyTree:
        return self.actor.initial_memory(num_envs, len(self.seats))

    def acting(self, policies: PyTree) -> Act:
        """The act function of S policies [S, ...]."""

        def act(memory: PyTree, observation: PyTree, key: jax.Array, mask=None) -> ActResult:
            row, mask = jax.tree.map(lambda x: x[None], (observation, mask))
            reset = jnp.zeros(jax.tree.leaves(row)[0].shape[:2], bool)  # the loop has cleared the memory already
            distribution, memory = self.distribution(policies, memory, row, reset, mask)
            return distribution.sample(seed=key)[0], jax.tree.map(lambda m: m[0], memory), ()

        return act

    def act(self, state: LOLAState, *args) -> ActResult:
        return self.acting(state.policy)(*args)

    def export(self, state: LOLAState) -> NetworkPolicy:
        return NetworkPolicy.of(self.spec, self.actor, with_last_logit(state.policy, len(self.config.hidden_sizes)))

    # ------------------------------------------------------------------ what play was worth
    def values(self, critic: PyTree, memory: PyTree, trajectory: Trajectory) -> tuple[jax.Array, jax.Array, PyTree]:
        """V(o_t) and V of the true successor [T, E, 2], and the critics' memory after the last row [E, 2, H]."""
        scale = jnp.sum(self.config.gamma ** jnp.arange(self.config.rollout_length))
        apply = jax.vmap(self.critic.rows_and_successors, in_axes=(0, 1, 2, 2, None), out_axes=2)
        rows, successors = trajectory.observation, trajectory.next_observation
        v_tm1, v_t, memories = apply(critic, memory, rows, successors, trajectory.reset)
        return scale * v_tm1[..., 0], scale * v_t[..., 0], jax.tree.map(lambda m: m[-1], memories)

    def evaluate(self, critic: PyTree, memory: PyTree, trajectory: Trajectory) -> tuple[Batch, jax.Array, PyTree]:
        """A batch of play with its advantages, lambda returns [T, E, 2] and the critics' memory after it."""
        v_tm1, v_t, memory = self.values(critic, memory, trajectory)
        discount_t = self.config.gamma * (1.0 - trajectory.terminated.astype(jnp.float32))
        discount_t, cut_t = (jnp.broadcast_to(x[..., None], v_tm1.shape) for x in (discount_t, trajectory.done))
        advantage = returns.generalised_advantages(
            trajectory.reward, discount_t, v_tm1, v_t, cut_t, self.config.gae_lambda
        )
        # A second baseline, the mean of the other environments at each step, which needs no learning: higher
        # derivatives are noisy, and an untrained critic would decide which equilibrium is found.
        scale = self.config.num_envs / (self.config.num_envs - 1)
        centred = scale * (advantage - advantage.mean(1, keepdims=True))
        return Batch(trajectory, centred), advantage + v_tm1, memory

    # ------------------------------------------------------------------ looking ahead
    def log_prob(self, policies: PyTree, trajectory: Trajectory) -> jax.Array:
        """[T, E, 2]: of what both seats did, under their `policies` [2, ...]."""
        distribution, _ = self.distribution(
            policies, trajectory.memory, trajectory.observation, trajectory.reset, trajectory.action_mask
        )
        return jnp.asarray(distribution.log_prob(trajectory.action))

    def objectives(self, policies: PyTree, batch: Batch) -> jax.Array:
        """J [2]: both seats' Loaded DiCE objective per episode; only its derivatives mean anything."""
        reset = batch.trajectory.reset
        log_prob = self.log_prob(policies, batch.trajectory)
        return loaded_dice(log_prob, batch.advantage, reset, self.config.gamma).sum(0) / num_episodes(reset)

    def imagine(self, policies: PyTree, critic: PyTree, key: jax.Array, simulate: Simulate) -> Batch:
        """A batch of play of the whole game under hypothetical `policies` [2, ...]."""
        cleared = self.actor.initial_memory(self.config.num_envs, 2)
        trajectory = simulate(self.acting(policies), key, cleared)
        return self.evaluate(critic, self.critic.initial_memory(self.config.num_envs, 2), trajectory)[0]

    def learned(self, mine: PyTree, theirs: PyTree, seat: jax.Array, batch: Batch) -> PyTree:
        """theta~_j after one more step of its own gradient, which depends on theta_i = `mine`."""
        gradient = jax.grad(lambda theirs: self.objectives(in_seats(mine, theirs, seat), batch)[1 - seat])(theirs)
        return ascend(theirs, gradient, self.config.inner_lr)

    def rehearse(
        self, mine: PyTree, theirs: PyTree, seat: jax.Array, key: jax.Array, critic: PyTree, batch: Batch, simulate
    ) -> list[Batch]:
        """The batches of play before each of the K steps and after the last."""
        batches = []
        for step, fresh in enumerate(jax.random.split(key, self.config.lookaheads + 1)):
            # The collected batch serves while nobody has moved, unless it was played by others than is assumed.
            collected = step == 0 and not (self.modelled and self.simulations)
            policies = in_seats(mine, theirs, seat)
            batches.append(batch if collected else self.imagine(policies, critic, fresh, simulate))
            if step < self.config.lookaheads:
                theirs = self.learned(mine, theirs, seat, batches[-1])
        return batches

    def foreseen(self, mine: PyTree, theirs: PyTree, seat: jax.Array, batches: list[Batch]) -> tuple[jax.Array, PyTree]:
        """J_i(theta_i, theta~_j(theta_i)), to be differentiated in theta_i = `mine`, and theta~_j."""
        *before, after = batches
        for batch in before:
            theirs = self.learned(mine, theirs, seat, batch)
        if not self.config.shaping:
            theirs = jax.lax.stop_gradient(theirs)
        return self.objectives(in_seats(mine, theirs, seat), after)[seat], theirs

    def expanded(self, mine: PyTree, theirs: PyTree, seat: jax.Array, batch: Batch) -> tuple[jax.Array, PyTree]:
        """J_i + eta <grad_j J_j, stop(grad_j J_i)>, to be differentiated in theta_i = `mine`, and theta~_j."""

        # Not one `jacrev`: its program crashes on XLA's CPU backend (jax 0.10.2, 50 steps of 128 environments).
        def gradient(of: jax.Array) -> PyTree:
            return jax.grad(lambda theirs: self.objectives(in_seats(mine, theirs, seat), batch)[of])(theirs)

        own, step = gradient(seat), gradient(1 - seat)
        if not self.config.shaping:
            step = jax.lax.stop_gradient(step)
        products = jax.tree.map(lambda a, b: jnp.vdot(a, jax.lax.stop_gradient(b)), step, own)
        value = self.objectives(in_seats(mine, theirs, seat), batch)[seat]
        value = value + self.config.lookaheads * self.config.inner_lr * sum(jax.tree.leaves(products))
        return value, ascend(theirs, step, self.config.lookaheads * self.config.inner_lr)

    def direction(
        self, mine: PyTree, theirs: PyTree, seat: jax.Array, key: jax.Array, critic: PyTree, batch: Batch, simulate
    ) -> tuple[PyTree, jax.Array]:
        """The ascent direction of one seat, and how far it expects the other's parameters to move."""
        if self.config.form == "policy_gradient":
            value = partial(self.expanded, theirs=theirs, seat=seat, batch=batch)
        else:  # sampled first, then differentiated: nothing is traced through the game
            batches = self.rehearse(mine, theirs, seat, key, critic, batch, simulate)
            value = partial(self.foreseen, theirs=theirs, seat=seat, batches=batches)
        gradient, after = jax.grad(value, has_aux=True)(mine)
        return gradient, optax.global_norm(jax.tree.map(jnp.subtract, after, theirs))

    # ------------------------------------------------------------------ learning
    def fit_critic(self, state: LOLAState, trajectory: Trajectory, target: jax.Array) -> tuple[LOLAState, jax.Array]:
        """One step towards the lambda returns."""

        def loss(critic: PyTree) -> jax.Array:
            value, _, _ = self.values(critic, state.critic_memory, trajectory)
            return 0.5 * jnp.square(value - target).mean()

        error, gradient = jax.value_and_grad(loss)(state.critic)
        updates, optimiser = self.optimisers[2].update(gradient, state.critic_optimiser)
        return state.replace(critic=optax.apply_updates(state.critic, updates), critic_optimiser=optimiser), error

    def fit_model(self, state: LOLAState, trajectory: Trajectory) -> tuple[LOLAState, jax.Array]:
        """Makes what opponents did likelier under the models of them."""
        theirs = 1 - self.seats
        names = ("observation", "action", "action_mask", "memory")
        columns = {
            name: jax.tree.map(lambda x, axis=axis: jnp.take(x, theirs, axis), getattr(trajectory, name))
            for name, axis in zip(names, (2, 2, 2, 1), strict=True)
        }
        seen = trajectory.replace(**columns)

        def loss(model: PyTree) -> jax.Array:
            return -self.log_prob(model, seen).mean()

        def descend(carry: tuple[PyTree, PyTree], _: None):
            model, optimiser = carry
            error, gradient = jax.value_and_grad(loss)(model)
            updates, optimiser = self.optimisers[1].update(gradient, optimiser)
            return (optax.apply_updates(model, updates), optimiser), error

        carry = (state.model, state.model_optimiser)
        (model, optimiser), errors = jax.lax.scan(descend, carry, None, length=self.config.model_steps)
        return state.replace(model=model, model_optimiser=optimiser), errors[-1]

    def update(
        self, state: LOLAState, trajectory: Trajectory, key: jax.Array, simulate: Simulate
    ) -> tuple[LOLAState, Metrics]:
        """Both seats move at once, from the parameters of before."""
        game = self.whole(trajectory)
        chex.assert_shape(game.reward, (self.config.rollout_length, self.config.num_envs, 2))
        batch, target, critic_memory = self.evaluate(state.critic, state.critic_memory, game)
        metrics = {}
        if self.modelled:
            state, metrics["model_loss"] = self.fit_model(state, game)
        theirs = state.model if self.modelled else jax.tree.map(lambda x: x[::-1], state.policy)

        def direct(mine: PyTree, theirs: PyTree, seat: jax.Array, key: jax.Array) -> tuple[PyTree, jax.Array]:
            return self.direction(mine, theirs, seat, key, state.critic, batch, simulate)

        keys = jax.random.split(key, len(self.seats))
        gradient, distance = jax.vmap(direct)(state.policy, theirs, jnp.asarray(self.seats), keys)
        descent = jax.tree.map(jnp.negative, gradient)
        updates, optimiser = self.optimisers[0].update(descent, state.optimiser, state.policy)
        state = state.replace(policy=optax.apply_updates(state.policy, updates), optimiser=optimiser)
        state, metrics["critic_loss"] = self.fit_critic(state, game, target)
        metrics["lookahead_norm"] = distance.mean()
        return state.replace(critic_memory=critic_memory), metrics

    def learner(self) -> Learner:
        """The record of these functions.

        Raises:
            InputError: for another number of players than two, and for actions that are not discrete.
        """
        spec, game = self.spec, self.spec.whole
        if game.num_agents != 2:
            raise InputError(f"LOLA shapes one opponent, {spec.name} has {game.num_agents} agents")
        if not isinstance(spec.action_space, Discrete):
            raise InputError(f"LOLA needs discrete actions, those of {spec.name} are in {spec.action_space}")
        return Learner.of(
            self,
            num_envs=self.config.num_envs,
            rollout_length=self.config.rollout_length,
            simulations=self.simulations,
        )


def with_last_logit(policies: PyTree, num_hidden: int) -> PyTree:
    """Policies [S, ...] of `num_hidden` layers whose heads give the last action's logit too, which is 0."""
    layers, head = dict(policies["params"]), f"Dense_{num_hidden}"
    layers[head] = jax.tree.map(lambda x: jnp.concatenate([x, jnp.zeros_like(x[..., :1])], -1), layers[head])
    return {"params": layers}


def in_seats(mine: PyTree, theirs: PyTree, seat: jax.Array) -> PyTree:
    """[2, ...]: the parameters of both in the order of the game, when mine is `seat`."""
    return jax.tree.map(lambda a, b: jnp.stack([a, b])[jnp.stack([seat, 1 - seat])], mine, theirs)


def ascend(params: PyTree, gradient: PyTree, rate: jax.Array | float) -> PyTree:
    """One step of gradient ascent."""
    return jax.tree.map(lambda p, g: p + rate * g, params, gradient)
