"""Environment names and the classes behind them, imported only when one is made."""

import dataclasses
import importlib
import types
import typing
from typing import Any

from marl_suite.envs.environment import Environment, static_settings
from marl_suite.envs.errors import InputError, unknown_name
from marl_suite.envs.plugins import Registry

_REGISTRY = Registry("environment", "marl_suite.environments", Environment)
register, registered = _REGISTRY.register, _REGISTRY.names


def make(name: str, **settings: Any) -> Environment:
    """Builds the environment called `name`.

    Args:
        name: a registered name, "gymnax:ID" for a gymnax environment as a one-agent game, "jaxmarl:ID" for one of
            JaxMARL's, or "cheap_talk:ID" for a game with a round of talk before each action, with `symbols` and
            `talk_graph` as further settings.
        **settings: static settings, those that fix a shape, such as `num_agents`.

    Raises:
        InputError: for an unknown name or setting, or a value that the environment refuses.
    """
    library, _, env_id = name.partition(":")
    if library in ("gymnax", "jaxmarl"):
        adapter = importlib.import_module(f"marl_suite.envs.adapters.{library}")
        return getattr(adapter, f"from_{library}")(env_id, **settings)
    if name.startswith("cheap_talk:"):
        from marl_suite.envs.cheap_talk import CheapTalk

        talk = {key: settings.pop(key) for key in ("symbols", "talk_graph") if key in settings}
        _check_settings(name, CheapTalk, talk)
        return CheapTalk(make(name.removeprefix("cheap_talk:"), **settings), **talk)
    cls, defaults = _REGISTRY.find(name)
    if not dataclasses.is_dataclass(cls):
        raise InputError(f"environment {name!r}: {cls.__name__} must be a dataclass, @dataclass(frozen=True)")
    _check_settings(name, cls, settings)
    named = {"name": name} if "name" in static_settings(cls) else {}
    return cls(**named, **{**defaults, **settings})


def _check_settings(name: str, cls: type, settings: dict[str, Any]) -> None:
    settable = {key: field for key, field in static_settings(cls).items() if key != "name"}
    hints = typing.get_type_hints(cls)
    for key, value in settings.items():
        if key not in settable:
            raise unknown_name(f"setting of {name}", key, settable)
        if not _fits(value, hints[key]):
            raise InputError(f"{name}: setting {key} must be {_spell(hints[key])}, got {value!r}")


def _fits(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(hint))
    if hint is bool or hint is type(None):
        return isinstance(value, bool if hint is bool else type(None))
    if hint in (int, float):
        return isinstance(value, (int, float) if hint is float else int) and not isinstance(value, bool)
    return isinstance(value, origin or hint) if isinstance(origin or hint, type) else True


def _spell(hint: Any) -> str:
    return {int: "a whole number", float: "a number", str: "a word", bool: "true or false"}.get(hint, str(hint))


def describe(name: str) -> str:
    """The environment in one sentence.

    Raises:
        InputError: for an unknown name.
    """
    return make(name).summary


def listing() -> dict[str, str]:
    """Every name with the environment in one sentence, or with why it cannot be made."""
    return _REGISTRY.listing(describe)


def working() -> dict[str, Environment]:
    """Every registered environment that can be made, with its default settings."""
    return _REGISTRY.working(make)


for _name in (
    "prisoners_dilemma",
    "stag_hunt",
    "chicken",
    "bach_stravinsky",
    "matching_pennies",
    "rock_paper_scissors",
    "pure_coordination",
    "climbing",
    "penalty",
    "matrix_game",
):
    register(_name, "marl_suite.envs.matrix_games:MatrixGame")
for _name in ("public_goods", "n_player_prisoners_dilemma", "volunteers_dilemma"):
    register(_name, f"marl_suite.envs.n_player_dilemmas:{''.join(part.title() for part in _name.split('_'))}")
register("two_step", "marl_suite.envs.two_step_game:TwoStepGame")
register("coin_game", "marl_suite.envs.coin_game:CoinGame")
register("coin_game_two_coins", "marl_suite.envs.coin_game:CoinGame", rules="two_coins")
_SUBSTRATES = "marl_suite.envs.substrates"
for _name in ("open", "closed", "partnership"):
    register(f"commons_harvest_{_name}", f"{_SUBSTRATES}.commons_harvest:CommonsHarvest", variant=_name)
register("clean_up", f"{_SUBSTRATES}.clean_up:CleanUp")
register("coins", f"{_SUBSTRATES}.coins:Coins")
register("coop_mining", f"{_SUBSTRATES}.coop_mining:CoopMining")
register("gift_refinements", f"{_SUBSTRATES}.gift_refinements:GiftRefinements")
register("externality_mushrooms", f"{_SUBSTRATES}.externality_mushrooms:ExternalityMushrooms")
for _name in ("open", "rooms"):
    register(f"territory_{_name}", f"{_SUBSTRATES}.territory:Territory", variant=_name)
register("allelopathic_harvest", f"{_SUBSTRATES}.allelopathic_harvest:AllelopathicHarvest")
for _name in (
    "prisoners_dilemma",
    "stag_hunt",
    "chicken",
    "bach_stravinsky",
    "pure_coordination",
    "running_with_scissors",
):
    _target = f"{_SUBSTRATES}.in_the_matrix:InTheMatrix"
    register(f"{_name}_in_the_matrix_arena", _target, game=_name)
    _view = {"view_ahead": 3, "view_behind": 1, "view_sides": 2}
    register(f"{_name}_in_the_matrix_repeated", _target, game=_name, variant="repeated", num_agents=2, **_view)
register("level_based_foraging", f"{_SUBSTRATES}.level_based_foraging:LevelBasedForaging")
register("bertrand_pricing", "marl_suite.envs.markets.bertrand:Bertrand")
register("cournot", "marl_suite.envs.markets.cournot:Cournot")
register("negotiation", "marl_suite.envs.markets.negotiation:Negotiation")
register("split_no_press", "marl_suite.envs.markets.negotiation:SplitNoPress")
register("trust_and_split", "marl_suite.envs.markets.trust_and_split:TrustAndSplit")
register("threshold_public_goods", "marl_suite.envs.commons.threshold_public_goods:ThresholdPublicGoods")
for _name in ("fishery", "pasture", "pollution"):
    register(_name, "marl_suite.envs.commons.govsim:GovSim")
register("trash", "marl_suite.envs.commons.trash:Trash")
register("cost_sharing", "marl_suite.envs.markets.cost_sharing:CostSharing")
register("congestion", "marl_suite.envs.markets.congestion:Congestion")
register("networked_commons", "marl_suite.envs.commons.networked_commons:NetworkedCommons")
register("harvest_dynamics", "marl_suite.envs.commons.harvest_dynamics:HarvestDynamics")
register("governed_harvest", "marl_suite.envs.commons.governed_harvest:GovernedHarvest")
register("appropriation", "marl_suite.envs.commons.appropriation:Appropriation")
register("appropriation_with_sanctions", "marl_suite.envs.commons.sanctioned_appropriation:SanctionedAppropriation")
register("public_goods_with_punishment", "marl_suite.envs.commons.punishment:PublicGoodsWithPunishment")
register("donor_game", "marl_suite.envs.commons.donor_game:DonorGame")
register("beach", "marl_suite.envs.markets.beach:Beach")
