"""An environment, a learner and a reward view for marl_suite, which finds them by the entry points of this package."""
