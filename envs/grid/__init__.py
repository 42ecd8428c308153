"""The grid engine: what all substrates share, so that each is a short file of its own rules.

* cells: positions, headings and look-ups           * movement: steps in a random order, without overlap
* maps: worlds drawn as text                        * beams: footprints, hits and recharging
* views: egocentric windows                         * spawning: starts and returns
* neighbours: density-dependent growth              * scripted: path finding in views, for scripted players
* state: what worlds keep                           * board: what agents can do and see
* drawing: states as pictures                       * growth: chance at many sites of which hardly any matters
* world: `GridWorld`, the environment that a substrate subclasses
"""
